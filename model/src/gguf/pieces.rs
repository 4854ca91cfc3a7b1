//! [`FilePiece`]: files that were cut to be joined again, as `split` does, told by their names.

/// One piece of a file: `m.gguf.part1of2`, `m.gguf-split-a`, `m.gguf.part-aa`, `m.gguf.001`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FilePiece<'n> {
    whole: &'n str,
    /// What stands between it and the place: `.part`, `-split-`.
    marker: &'n str,
    place: usize,
    /// Letters or digits of the place.
    width: usize,
    is_lettered: bool,
    count: Option<usize>,
}

/// Most pieces of a file.
const MAX_PIECES: usize = 1000;

impl<'n> FilePiece<'n> {
    /// What `name` says, if it is the name of a piece.
    pub fn of(name: &'n str) -> Option<Self> {
        let end = name.to_ascii_lowercase().rfind(".gguf")? + ".gguf".len();
        let (whole, rest) = name.split_at(end);
        let lower = rest.to_ascii_lowercase();
        let after = lower.strip_prefix(['.', '-'])?;
        let (after, is_named) = match ["part", "split"].iter().find_map(|word| after.strip_prefix(word)) {
            Some(after) => (after.strip_prefix(['-', '_', '.']).unwrap_or(after), true),
            None => (after, false),
        };
        let marker = &rest[..rest.len() - after.len()];
        let (place, count) = match after.split_once("of") {
            Some((place, count)) => (place, Some(count.parse().ok()?)),
            None => (after, None),
        };
        let (digits, letters) = (|c: char| c.is_ascii_digit(), |c: char| c.is_ascii_lowercase());
        let is_lettered = is_named && count.is_none() && (1..=3).contains(&place.len()) && place.chars().all(letters);
        let is_numbered = place.chars().all(digits) && (if is_named { 1 } else { 3 }..=4).contains(&place.len());
        let width = place.len();
        let place = match (is_lettered, is_numbered) {
            (true, _) => place.bytes().fold(0, |place, letter| 26 * place + usize::from(letter - b'a')),
            (_, true) => place.parse().ok()?,
            _ => return None,
        };
        let counted = count.is_none_or(|count| (1..=count).contains(&place) && count <= MAX_PIECES);
        (counted && place <= MAX_PIECES).then_some(Self { whole, marker, place, width, is_lettered, count })
    }

    /// The name of the whole file.
    pub fn whole(&self) -> &'n str {
        self.whole
    }

    /// Its place among the others.
    pub fn place(&self) -> usize {
        self.place
    }

    /// Whether `other` is a piece of the same cut.
    pub fn goes_with(&self, other: &Self) -> bool {
        let cut = |of: &Self| (of.is_lettered, of.count, if of.is_lettered { of.width } else { 0 });
        (self.whole, self.marker, cut(self)) == (other.whole, other.marker, cut(other))
    }

    /// Of `names`, all that go with this one, in order.
    ///
    /// # Errors
    /// The name of one that is missing. Whether the last one is there, the file's own header says.
    pub fn all_among<'a>(&self, names: impl Iterator<Item = &'a str>) -> Result<Vec<String>, String> {
        let found = names.filter_map(|name| Some((FilePiece::of(name)?, name)));
        let mut found: Vec<_> = found.filter(|(piece, _)| self.goes_with(piece)).collect();
        found.sort_unstable_by_key(|(piece, _)| piece.place);
        // Numbers begin with 1, or with 0 where `split -d` wrote them.
        let begins = usize::from(!self.is_lettered && found.first().is_none_or(|(piece, _)| piece.place > 0));
        let end = self.count.map_or(begins + found.len(), |count| begins + count);
        for place in begins..end {
            if !found.iter().any(|(piece, _)| piece.place == place) {
                return Err(self.named(place));
            }
        }
        Ok(found.into_iter().map(|(_, name)| name.to_owned()).collect())
    }

    /// The name of the piece at `place` of the same cut.
    fn named(&self, place: usize) -> String {
        let Self { whole, marker, width, .. } = *self;
        let count = self.count.map_or_else(String::new, |count| format!("of{count}"));
        if !self.is_lettered {
            return format!("{whole}{marker}{place:0width$}{count}");
        }
        let letter = |at: usize| char::from(b'a' + (place / 26usize.pow((width - 1 - at) as u32) % 26) as u8);
        format!("{whole}{marker}{}", (0..width).map(letter).collect::<String>())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_told_by_their_names_and_put_in_order() {
        for names in [
            &["m.gguf.part1of3", "m.gguf.part2of3", "m.gguf.part3of3"][..],
            &["m.gguf-split-a", "m.gguf-split-b"],
            &["m.gguf.part-aa", "m.gguf.part-ab", "m.gguf.part-ac"],
            &["M.GGUF.part_00", "M.GGUF.part_01"],
            &["d/m.gguf.part9", "d/m.gguf.part10"],
            &["m.gguf.001", "m.gguf.002"],
            &["m.gguf.splitaa"],
        ] {
            let names: Vec<&str> = match names {
                // Numbers that begin elsewhere are not whole.
                ["d/m.gguf.part9", _] => (1..=10).map(|n| &*format!("d/m.gguf.part{n}").leak()).collect(),
                names => names.to_vec(),
            };
            let mut mixed = names.clone();
            mixed.rotate_left(1);
            mixed.extend(["other.gguf.part1of3", "m.gguf", "m.gguf.part1of2", "m.gguf.bak"]);
            for name in &names {
                let found = FilePiece::of(name).unwrap_or_else(|| panic!("{name}"));
                assert_eq!(found.all_among(mixed.iter().copied()).unwrap(), names, "{name}");
                assert!(found.whole().to_ascii_lowercase().ends_with("m.gguf"));
            }
        }
    }

    #[test]
    fn what_is_no_piece_or_missing_is_said() {
        for name in
            ["m.gguf", "m.part1of2", "m.gguf.part3of2", "m.gguf.partXof2", "m.gguf.gz", "m.gguf.bak", "m.gguf.7"]
        {
            assert_eq!(FilePiece::of(name), None, "{name}");
        }
        let missing = |names: &[&str]| FilePiece::of(names[0]).unwrap().all_among(names.iter().copied()).unwrap_err();
        assert_eq!(missing(&["m.gguf.part1of2"]), "m.gguf.part2of2");
        assert_eq!(missing(&["m.gguf-split-b", "m.gguf-split-c"]), "m.gguf-split-a");
        assert_eq!(missing(&["m.gguf.part-aa", "m.gguf.part-ac"]), "m.gguf.part-ab");
        assert_eq!(missing(&["m.gguf.part_00", "m.gguf.part_02"]), "m.gguf.part_01");
        assert_eq!(missing(&["m.gguf.002"]), "m.gguf.001");
    }
}
