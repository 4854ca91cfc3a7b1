//! [`GgufChoice`]: the models among the GGUF files of a folder or a repository, told by their names.

use std::{
    cmp::Ordering,
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use quern_model::gguf::FilePiece;

/// Quantisations in the order in which one is taken when none is named: four bits first, then fewer, since what does not
/// fit is passed over. Those whose blocks hold indices come last: in memory they are larger than Q2_K.
const PREFERRED: [&str; 30] = [
    "Q4_K_M",
    "UD-Q4_K_XL",
    "Q4_K_S",
    "IQ4_XS",
    "IQ4_NL",
    "Q4_0",
    "MXFP4_MOE",
    "Q4_1",
    "UD-Q3_K_XL",
    "Q3_K_L",
    "Q3_K_M",
    "Q3_K_S",
    "UD-Q2_K_XL",
    "Q2_K_L",
    "Q2_K",
    "IQ3_M",
    "IQ3_S",
    "IQ3_XS",
    "UD-IQ3_XXS",
    "IQ3_XXS",
    "UD-IQ2_M",
    "IQ2_M",
    "IQ2_S",
    "IQ2_XS",
    "UD-IQ2_XXS",
    "IQ2_XXS",
    "UD-IQ1_M",
    "IQ1_M",
    "UD-IQ1_S",
    "IQ1_S",
];

/// How much larger models are in memory than their files, by what their quantisations' names begin with: at most, since
/// files are mixtures. Of others it is little.
const GROWTH: [(&str, f64); 7] =
    [("IQ1", 2.04), ("TQ1", 2.04), ("TQ2", 1.61), ("IQ2", 1.61), ("IQ3", 1.41), ("Q2_K", 1.2), ("NVFP4", 1.12)];

/// One model: a file, or several that follow one another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GgufChoice {
    /// `Q4_K_M`, or the file's name where that says nothing of the kind.
    pub quantisation: String,
    /// Its files, the first one first.
    pub files: Vec<String>,
}

impl GgufChoice {
    /// The models among the files `names`: without importance matrices and projectors of images, and with files that
    /// follow a first one, or are pieces of one, counted to it.
    pub fn among<'n>(names: impl IntoIterator<Item = &'n str>) -> Vec<Self> {
        let mut models: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for name in names.into_iter().filter(|name| is_gguf(name) && !is_beside(name)) {
            let stem = stem(FilePiece::of(name).map_or(name, |piece| piece.whole()));
            let model = split(stem).map_or(stem, |(model, ..)| model);
            models.entry(model.to_owned()).or_default().push(name.to_owned());
        }
        let choice = |(model, mut files): (String, Vec<String>)| {
            files.sort_unstable_by(|a, b| match (FilePiece::of(a), FilePiece::of(b)) {
                (Some(one), Some(other)) => one.place().cmp(&other.place()),
                // A whole file beside its pieces is the model.
                (None, Some(_)) => Ordering::Less,
                (Some(_), None) => Ordering::Greater,
                (None, None) => a.cmp(b),
            });
            if FilePiece::of(&files[0]).is_none() {
                files.retain(|name| FilePiece::of(name).is_none());
            }
            Self { quantisation: quantisation(&model), files }
        };
        models.into_iter().map(choice).collect()
    }

    /// The one that `wanted` names, by its quantisation or the end of it; letters' case does not matter.
    pub fn named<'c>(choices: &'c [Self], wanted: &str) -> Option<&'c Self> {
        let wanted = wanted.to_ascii_uppercase();
        let upper = |choice: &Self| choice.quantisation.to_ascii_uppercase();
        let exact = choices.iter().find(|choice| upper(choice) == wanted);
        let end = format!("-{wanted}");
        exact.or_else(|| choices.iter().find(|choice| upper(choice).ends_with(&end)))
    }

    /// Bytes of it in memory at most, where its files have `bytes`.
    pub fn held_bytes(&self, bytes: u64) -> u64 {
        let kind = self.quantisation.to_ascii_uppercase();
        let kind = kind.strip_prefix("UD-").unwrap_or(&kind);
        let growth = GROWTH.iter().find(|(begin, _)| kind.starts_with(begin)).map_or(1.06, |(_, growth)| *growth);
        (bytes as f64 * growth) as u64
    }

    /// All of them, in the order in which one would be taken.
    pub fn by_preference(choices: &[Self]) -> Vec<&Self> {
        let place = |choice: &Self| PREFERRED.iter().position(|known| *known == choice.quantisation);
        let mut sorted: Vec<&Self> = choices.iter().collect();
        sorted.sort_by_key(|choice| place(choice).unwrap_or(PREFERRED.len()));
        sorted
    }
}

/// The files of `dir` and of the folders in it, by their path from there.
pub fn files(dir: &Path) -> Vec<String> {
    let list = |dir: &Path| -> Vec<PathBuf> {
        fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
    };
    let deeper = list(dir).into_iter().flat_map(|path| if path.is_dir() { list(&path) } else { vec![path] });
    let relative = |path: PathBuf| Some(path.strip_prefix(dir).ok()?.to_str()?.replace('\\', "/"));
    let mut names: Vec<String> = deeper.filter(|path| path.is_file()).filter_map(relative).collect();
    names.sort_unstable();
    names
}

/// Whether `name` ends as GGUF files do, or as pieces of them.
pub fn is_gguf(name: &str) -> bool {
    Path::new(name).extension().is_some_and(|suffix| suffix.eq_ignore_ascii_case("gguf"))
        || FilePiece::of(name).is_some()
}

/// Files beside models that are none.
fn is_beside(name: &str) -> bool {
    let file = name.rsplit('/').next().unwrap_or(name).to_ascii_lowercase();
    file.starts_with("mmproj") || file.contains("imatrix")
}

fn stem(name: &str) -> &str {
    &name[..name.len() - ".gguf".len()]
}

/// Model, number and count of a file of several: `m-00002-of-00003`.
pub fn split(stem: &str) -> Option<(&str, usize, usize)> {
    let (before, count) = stem.rsplit_once("-of-")?;
    let (model, number) = before.rsplit_once('-')?;
    let digits = |text: &str| (text.len() == 5).then(|| text.parse().ok()).flatten();
    Some((model, digits(number)?, digits(count)?))
}

/// `Qwen3-Coder-30B-A3B-Instruct-UD-Q4_K_XL` is `UD-Q4_K_XL`.
fn quantisation(model: &str) -> String {
    let file = model.rsplit('/').next().unwrap_or(model);
    let begins = |part: &str| {
        let upper = part.to_ascii_uppercase();
        let bits = upper.trim_start_matches("IQ").trim_start_matches(['Q', 'T']);
        let numbered = upper.len() > bits.len() && bits.starts_with(|c: char| c.is_ascii_digit());
        numbered || ["BF16", "F16", "F32"].contains(&upper.as_str()) || upper.starts_with("MXFP4") || upper == "NVFP4"
    };
    let parts: Vec<&str> = file.split(['-', '.']).collect();
    match parts.iter().rposition(|part| begins(part)) {
        Some(at) if at > 0 && parts[at - 1].eq_ignore_ascii_case("ud") => format!("{}-{}", parts[at - 1], parts[at]),
        Some(at) => parts[at].to_owned(),
        None => file.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use quern_backend::QuantFormat;

    use super::*;

    fn labels(names: &[&str]) -> Vec<(String, usize)> {
        let choices = GgufChoice::among(names.iter().copied());
        choices.into_iter().map(|choice| (choice.quantisation, choice.files.len())).collect()
    }

    #[test]
    fn models_are_told_by_their_names() {
        let found = labels(&[
            "Qwen3-Coder-30B-A3B-Instruct-Q4_K_M.gguf",
            "Qwen3-Coder-30B-A3B-Instruct-UD-Q2_K_XL.gguf",
            "Qwen3-Coder-30B-A3B-Instruct-MXFP4_MOE.GGUF",
            "Qwen3-Coder-30B-A3B-Instruct.i1-IQ3_XXS.gguf",
            "BF16/Qwen3-Coder-30B-A3B-Instruct-BF16-00001-of-00002.gguf",
            "BF16/Qwen3-Coder-30B-A3B-Instruct-BF16-00002-of-00002.gguf",
            "mmproj-F16.gguf",
            "Qwen3-Coder.imatrix.gguf",
            "imatrix.gguf",
            "plain.gguf",
            "README.md",
            "m.i1-Q6_K.gguf.part10of10",
            "m.i1-Q6_K.gguf.part2of10",
            "m-Q8_0.gguf",
            "m-Q8_0.gguf-split-a",
        ]);
        let expected = [
            ("BF16", 2),
            ("MXFP4_MOE", 1),
            ("Q4_K_M", 1),
            ("UD-Q2_K_XL", 1),
            ("IQ3_XXS", 1),
            ("Q8_0", 1),
            ("Q6_K", 2),
            ("plain", 1),
        ];
        assert_eq!(found, expected.map(|(name, count)| (name.to_owned(), count)));
    }

    #[test]
    fn the_one_asked_for_is_found_and_four_bits_come_first() {
        let names = ["m-Q8_0.gguf", "m-UD-Q4_K_XL.gguf", "m-Q4_K_M.gguf", "m-Q2_K.gguf", "m-Q4_K_S.gguf"];
        let choices = GgufChoice::among(names);
        let named = |wanted: &str| GgufChoice::named(&choices, wanted).map(|choice| choice.files[0].as_str());
        assert_eq!((named("q4_k_m"), named("Q4_K_XL")), (Some("m-Q4_K_M.gguf"), Some("m-UD-Q4_K_XL.gguf")));
        assert_eq!(named("Q5_K_M"), None);
        let order: Vec<&str> =
            GgufChoice::by_preference(&choices).iter().map(|choice| choice.quantisation.as_str()).collect();
        assert_eq!(order, ["Q4_K_M", "UD-Q4_K_XL", "Q4_K_S", "Q2_K", "Q8_0"]);
        let few = GgufChoice::among(["m-UD-IQ1_M.gguf", "m-UD-IQ2_M.gguf", "m-UD-IQ3_XXS.gguf", "m-UD-TQ1_0.gguf"]);
        let order: Vec<&str> = GgufChoice::by_preference(&few).iter().map(|c| c.quantisation.as_str()).collect();
        assert_eq!(order, ["UD-IQ3_XXS", "UD-IQ2_M", "UD-IQ1_M", "UD-TQ1_0"]);
    }

    #[test]
    fn no_type_grows_more_in_memory_than_its_name_says() {
        for blocks in QuantFormat::ALL.into_iter().filter_map(QuantFormat::blocks) {
            let choice = GgufChoice { quantisation: blocks.name.into(), files: Vec::new() };
            let (bytes, held) = (1000 * blocks.bytes as u64, 1000 * blocks.held_bytes as u64);
            assert!(choice.held_bytes(bytes) >= held, "{}: {held} for {bytes}", blocks.name);
        }
        let held =
            |quantisation: &str| GgufChoice { quantisation: quantisation.into(), files: Vec::new() }.held_bytes(100);
        assert_eq!(["UD-IQ2_M", "ud-iq2_m", "UD-Q2_K_XL", "Q4_K_M"].map(held), [161, 161, 120, 106]);
    }

    #[test]
    fn splits_are_told_by_their_names() {
        assert_eq!(split("m-00002-of-00003"), Some(("m", 2, 3)));
        assert_eq!(split("m-2-of-3"), None);
    }
}
