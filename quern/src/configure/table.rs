//! [`Table`]: every combination of choices with its answer, so that the page decides nothing itself.
//!
//! An answer is a list of sections, and each section depends on few of the choices. A section's cells lie in
//! row-major order over its axes and point into its distinct texts: a third of a million combinations take a
//! hundred kilobytes.

use std::{cell::RefCell, collections::HashMap};

use clap::ValueEnum;
use quern_model::Parallelism;
use serde::Serialize;

use super::{
    cookbook::{Platform, Quantization, Recipe, Size, Tools},
    fitting::Fitting,
    hardware::Hardware,
    network::Weights,
    plan::{self, Note, Room, Tone, grouped},
};
use crate::machine::Machine;

/// What the page is made from.
#[derive(Clone, Debug, Serialize)]
pub struct Table {
    /// The two forms.
    pub forms: Vec<OptionForm>,
}

/// A set of options and what they answer.
#[derive(Clone, Debug, Serialize)]
pub struct OptionForm {
    /// Its name in the address.
    pub id: &'static str,
    /// Its name on the page.
    pub title: &'static str,
    /// The options, the first choice of each its default unless `default` says otherwise.
    pub axes: Vec<OptionAxis>,
    /// What is taken of some options while others are chosen.
    pub proposals: Option<Proposals>,
    /// The parts of the answer, in order.
    pub sections: Vec<Section>,
}

/// Choices that stand where none is made, by those of other options: what fits.
#[derive(Clone, Debug, Serialize)]
pub struct Proposals {
    /// The options that they depend on, as indices into the form's axes, ascending.
    pub axes: Vec<usize>,
    /// The options that they are of.
    pub of: Vec<usize>,
    /// For each combination of `axes`, the last axis fastest, a choice of each of `of`.
    pub cells: Vec<Vec<usize>>,
}

/// An option.
#[derive(Clone, Debug, Serialize)]
pub struct OptionAxis {
    /// Its name in the address, and its flag in the terminal.
    pub id: &'static str,
    /// Its name on the page.
    pub title: &'static str,
    /// Index of the choice that is taken when none is.
    pub default: usize,
    /// Its choices.
    pub choices: Vec<AxisChoice>,
}

/// One choice of an option.
#[derive(Clone, Debug, Serialize)]
pub struct AxisChoice {
    /// Its name in the address and in the terminal.
    pub id: String,
    /// Its name on the page.
    pub title: String,
    /// Why it cannot be run yet.
    pub unsupported: Option<&'static str>,
}

/// What a section's text is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum OutputKind {
    /// A line of the command, or nothing; lines are joined by ` \`, a line end and two spaces.
    Line,
    /// The whole output.
    Output,
    /// A remark beside the command, or nothing.
    Note,
}

/// A part of the answer.
#[derive(Clone, Debug, Serialize)]
pub struct Section {
    /// What its texts are.
    pub kind: OutputKind,
    /// The options it depends on, as indices into the form's axes, ascending.
    pub axes: Vec<usize>,
    /// Its distinct texts.
    pub texts: Vec<Note>,
    /// For each combination of `axes`, the last axis fastest, an index into `texts`.
    pub cells: Vec<usize>,
}

/// Context lengths on offer, tokens.
const CONTEXTS: &[u64] = &[8192, 16_384, 32_768, 65_536, 131_072, 262_144];
/// Tokens of a page on offer.
const PAGES: &[u64] = &[16, 32, 64, 128];
/// Requests at once on offer.
const CONCURRENCIES: &[u64] = &[1, 4, 16, 64, 256];
/// Ranks on offer.
const TP: &[u64] = &[1, 2, 4, 8, 16];
/// Groups of experts on offer.
const EP: &[u64] = &[1, 2, 4, 8];
const SIZES: [Size; 2] = [Size::B30, Size::B480];

impl Table {
    /// All answers, `machine` being this one.
    pub fn of(machine: &Machine) -> Self {
        Self { forms: vec![quern(machine), sglang()] }
    }

    /// All answers for the machine this is, as JSON.
    pub fn json() -> String {
        serde_json::to_string(&Self::of(&Machine::probe())).expect("a table is plain data")
    }
}

impl OptionForm {
    /// Fill in a section: `text` gets the chosen index of each of `axes`.
    fn add(&mut self, kind: OutputKind, axes: &[&str], text: impl Fn(&[usize]) -> Note) {
        let find = |id: &&str| self.axes.iter().position(|axis| axis.id == *id).expect("an axis of this form");
        let axes: Vec<usize> = axes.iter().map(find).collect();
        let sizes: Vec<usize> = axes.iter().map(|&axis| self.axes[axis].choices.len()).collect();
        let (mut texts, mut known, mut cells) = (Vec::new(), HashMap::new(), Vec::new());
        let mut picks = vec![0; sizes.len()];
        for cell in 0..sizes.iter().product() {
            let mut rest: usize = cell;
            for (pick, size) in picks.iter_mut().zip(&sizes).rev() {
                *pick = rest % size;
                rest /= size;
            }
            let text = text(&picks);
            cells.push(*known.entry(text.clone()).or_insert_with(|| {
                texts.push(text);
                texts.len() - 1
            }));
        }
        self.sections.push(Section { kind, axes, texts, cells });
    }

    fn line(&mut self, axes: &[&str], line: impl Fn(&[usize]) -> String) {
        self.add(OutputKind::Line, axes, |picks| Note { tone: Tone::Plain, text: line(picks) });
    }
}

fn sglang() -> OptionForm {
    let platform = |p: &Platform| (p.title().to_owned(), None);
    let size = |s: &Size| (s.model().replace("-Instruct", ""), None);
    let quantization = |q: &Quantization| (value_name(q).to_uppercase(), None);
    let tools = |t: &Tools| (capitalised(value_name(t)), None);
    let mut form = OptionForm {
        id: "sglang",
        title: "SGLang",
        axes: vec![
            axis("hardware", "Hardware", Platform::value_variants(), platform),
            axis("model-size", "Model", Size::value_variants(), size),
            axis("quantization", "Weights", Quantization::value_variants(), quantization),
            axis("tools", "Tool calls", Tools::value_variants(), tools),
        ],
        proposals: None,
        sections: Vec::new(),
    };
    form.add(OutputKind::Output, &["hardware", "model-size", "quantization", "tools"], |picks| {
        let recipe = Recipe {
            platform: Platform::value_variants()[picks[0]],
            size: Size::value_variants()[picks[1]],
            quantization: Quantization::value_variants()[picks[2]],
            tools: Tools::value_variants()[picks[3]],
        };
        let text = recipe.output();
        Note { tone: if text.starts_with('#') { Tone::Bad } else { Tone::Plain }, text }
    });
    form
}

fn quern(machine: &Machine) -> OptionForm {
    // The smaller model, and tool calls, first: what most people run.
    let (sizes, tools) = (SIZES, [Tools::Enabled, Tools::Disabled]);
    let (hardware, weights) = (Hardware::value_variants(), Weights::value_variants());
    let fitting = Fitting::DEFAULT;
    let mut form = OptionForm {
        id: "quern",
        title: "Quern",
        axes: vec![
            axis("hardware", "Hardware", hardware, |h| (h.title().into(), plan::unsupported_hardware(*h))),
            axis("model-size", "Model", &sizes, |s| (s.model().replace("-Instruct", ""), None)),
            weights_axis(fitting.weights),
            axis("tools", "Tool calls", &tools, |t| (capitalised(value_name(t)), None)),
            numbers("tp", "Tensor parallel", TP, 1, |_| None),
            numbers("ep", "Expert parallel", EP, 1, |_| None),
            numbers("context-length", "Context length", CONTEXTS, fitting.context_length, |_| None),
            numbers("page-size", "Page size", PAGES, 32, |_| None),
            numbers("concurrency", "Requests at once", CONCURRENCIES, fitting.concurrency, |_| None),
        ],
        proposals: None,
        sections: Vec::new(),
    };
    form.proposals = Some(proposals(&form, machine));
    let split = |tp: usize, ep: usize| Parallelism { tp: TP[tp] as usize, ep: EP[ep] as usize };
    form.line(&[], |_| "quern serve".into());
    form.line(&["model-size", "quantization"], |p| plan::model_line(sizes[p[0]], weights[p[1]]));
    form.line(&["quantization"], |p| plan::quantization_line(weights[p[0]]));
    form.line(&["hardware"], |p| plan::device_line(hardware[p[0]]));
    form.line(&["tp"], |p| plan::rank_line("tp", TP[p[0]] as usize));
    form.line(&["ep"], |p| plan::rank_line("ep", EP[p[0]] as usize));
    form.line(&["tools"], |p| plan::tools_line(tools[p[0]]));
    form.line(&["context-length"], |p| format!("--context-length {}", CONTEXTS[p[0]]));
    form.line(&["page-size"], |p| plan::page_line(PAGES[p[0]]));
    form.line(&["concurrency"], |p| plan::concurrency_line(CONCURRENCIES[p[0]]));

    let everything = ["hardware", "model-size", "quantization", "tp", "ep", "context-length", "concurrency"];
    // Rooms once for each way of placing the weights, and not again for each context length.
    let rooms = RefCell::new(HashMap::<_, Room>::new());
    form.add(OutputKind::Note, &everything, |p| {
        let room = |weights| {
            let fresh = || Room::of(hardware[p[0]], machine, sizes[p[1]], weights, split(p[3], p[4]));
            *rooms.borrow_mut().entry((p[0], p[1], weights, p[3], p[4])).or_insert_with(fresh)
        };
        let is_supported = plan::unsupported_hardware(hardware[p[0]]).is_none();
        plan::verdict(room, weights[p[2]], is_supported, CONTEXTS[p[5]], CONCURRENCIES[p[6]])
    });
    let cut = ["model-size", "quantization", "tp", "ep"];
    form.add(OutputKind::Note, &cut, |p| plan::split_note(sizes[p[0]], weights[p[1]], split(p[2], p[3])));
    form.add(OutputKind::Note, &["model-size", "context-length"], |p| plan::context_note(sizes[p[0]], CONTEXTS[p[1]]));
    form.add(OutputKind::Note, &["hardware"], |p| plan::unsupported(plan::unsupported_hardware(hardware[p[0]])));
    form.add(OutputKind::Note, &cut, |p| plan::weight_note(sizes[p[0]], weights[p[1]], split(p[2], p[3])));
    form.add(OutputKind::Note, &["quantization"], |p| plan::quantization_note(weights[p[0]]));
    form.add(OutputKind::Note, &["hardware", "model-size", "quantization", "tp", "ep"], |p| {
        plan::room_note(hardware[p[0]], machine, sizes[p[1]], weights[p[2]], split(p[3], p[4]))
    });
    form.add(OutputKind::Note, &["context-length", "concurrency"], |p| {
        plan::demand_note(CONTEXTS[p[0]], CONCURRENCIES[p[1]])
    });
    form.add(OutputKind::Note, &["model-size", "tp"], |p| plan::kv_note(sizes[p[0]], TP[p[1]]));
    form.add(OutputKind::Note, &["model-size", "tp", "page-size"], |p| {
        plan::page_note(sizes[p[0]], TP[p[1]], PAGES[p[2]])
    });
    form
}

fn axis<T: ValueEnum>(
    id: &'static str,
    title: &'static str,
    choices: &[T],
    describe: impl Fn(&T) -> (String, Option<&'static str>),
) -> OptionAxis {
    let choice = |value: &T| {
        let (title, unsupported) = describe(value);
        AxisChoice { id: value_name(value), title, unsupported }
    };
    OptionAxis { id, title, default: 0, choices: choices.iter().map(choice).collect() }
}

fn weights_axis(default: Weights) -> OptionAxis {
    let axis = axis("quantization", "Weights", Weights::value_variants(), |w| (w.title().into(), None));
    OptionAxis { default: index_of(Weights::value_variants(), &default), ..axis }
}

/// What fits each machine.
fn proposals(form: &OptionForm, machine: &Machine) -> Proposals {
    let find = |id: &str| form.axes.iter().position(|axis| axis.id == id).expect("an axis of this form");
    let combinations = Hardware::value_variants().iter().flat_map(|&hardware| SIZES.map(|size| (hardware, size)));
    let cell = |(hardware, size)| {
        let Fitting { weights, context_length, concurrency } = Fitting::of(hardware, machine, size);
        vec![
            index_of(Weights::value_variants(), &weights),
            index_of(CONTEXTS, &context_length),
            index_of(CONCURRENCIES, &concurrency),
        ]
    };
    Proposals {
        axes: ["hardware", "model-size"].map(find).into(),
        of: ["quantization", "context-length", "concurrency"].map(find).into(),
        cells: combinations.map(cell).collect(),
    }
}

fn index_of<T: PartialEq>(choices: &[T], choice: &T) -> usize {
    choices.iter().position(|each| each == choice).expect("the choice is on offer")
}

fn numbers(
    id: &'static str,
    title: &'static str,
    choices: &[u64],
    default: u64,
    unsupported: impl Fn(u64) -> Option<&'static str>,
) -> OptionAxis {
    let default = index_of(choices, &default);
    let choice = |&n: &u64| AxisChoice { id: n.to_string(), title: grouped(n), unsupported: unsupported(n) };
    OptionAxis { id, title, default, choices: choices.iter().map(choice).collect() }
}

fn value_name<T: ValueEnum>(value: &T) -> String {
    value.to_possible_value().expect("no choice is hidden").get_name().to_owned()
}

fn capitalised(word: String) -> String {
    let mut letters = word.chars();
    letters.next().map(|first| first.to_uppercase().collect::<String>() + letters.as_str()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the page does: look each section's text up.
    fn answer(form: &OptionForm, picks: &[usize]) -> (String, Vec<Note>) {
        let (mut lines, mut notes) = (Vec::new(), Vec::new());
        for section in &form.sections {
            let cell = section.axes.iter().fold(0, |cell, &axis| cell * form.axes[axis].choices.len() + picks[axis]);
            let text = section.texts[section.cells[cell]].clone();
            match section.kind {
                _ if text.text.is_empty() => {}
                OutputKind::Line | OutputKind::Output => lines.push(text.text),
                OutputKind::Note => notes.push(text),
            }
        }
        (lines.join(" \\\n  "), notes)
    }

    #[test]
    fn the_table_says_what_the_rules_say_for_every_combination() {
        let machine = Machine { available_bytes: Some(48 << 30), cores: 4 };
        let table = Table::of(&machine);
        let form = &table.forms[0];
        let sizes: Vec<usize> = form.axes.iter().map(|axis| axis.choices.len()).collect();
        let combinations: usize = sizes.iter().product();
        // 316,800 of them; a stride without a common factor meets every choice of every axis with every other.
        for combination in (0..combinations).step_by(37) {
            let mut rest = combination;
            let mut picks = vec![0; sizes.len()];
            for (pick, size) in picks.iter_mut().zip(&sizes).rev() {
                *pick = rest % size;
                rest /= size;
            }
            let plan = plan::Plan {
                hardware: Hardware::value_variants()[picks[0]],
                size: [Size::B30, Size::B480][picks[1]],
                weights: Weights::value_variants()[picks[2]],
                tools: [Tools::Enabled, Tools::Disabled][picks[3]],
                split: Parallelism { tp: TP[picks[4]] as usize, ep: EP[picks[5]] as usize },
                context_length: CONTEXTS[picks[6]],
                page_size: PAGES[picks[7]],
                concurrency: CONCURRENCIES[picks[8]],
            };
            assert_eq!(answer(form, &picks), (plan.command(), plan.notes(&machine)), "{plan:?}");
        }
    }

    #[test]
    fn it_opens_on_what_fits() {
        let machine = Machine { available_bytes: Some(24 << 30), cores: 4 };
        let form = &Table::of(&machine).forms[0];
        let mut picks: Vec<usize> = form.axes.iter().map(|axis| axis.default).collect();
        let Proposals { axes, of, cells } = form.proposals.as_ref().unwrap();
        let cell = axes.iter().fold(0, |cell, &axis| cell * form.axes[axis].choices.len() + picks[axis]);
        of.iter().zip(&cells[cell]).for_each(|(&axis, &choice)| picks[axis] = choice);
        let (command, notes) = answer(form, &picks);
        assert!(command.contains("--quantization q4_k_m"), "{command}");
        assert_eq!(notes[0].tone, Tone::Good, "{notes:?}");
    }

    #[test]
    fn it_is_small() {
        let table = Table::of(&Machine { available_bytes: Some(48 << 30), cores: 4 });
        let json = serde_json::to_vec(&table).unwrap();
        assert!(json.len() < 400_000, "{} bytes", json.len());
    }
}
