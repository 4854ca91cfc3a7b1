//! [`Plan`]: a `quern serve` command, and the arithmetic that says whether it can work.
//!
//! Every answer is a function of no more choices than it depends on, so that the page's table
//! ([`table`](super::table)) stays small: what a rank weighs does not depend on the context length.

use serde::Serialize;

use super::{
    cookbook::{Size, Tools},
    hardware::Hardware,
    network::{FP8_BLOCK, Network, Split, Weights},
};
use crate::{
    defaults::{MAX_RUNNING_REQUESTS, MEM_FRACTION},
    machine::Machine,
    memory::gib,
};

/// How a sentence is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Tone {
    /// It explains.
    Plain,
    /// All is well.
    Good,
    /// It works, less well than asked for.
    Warn,
    /// It cannot work.
    Bad,
}

/// A sentence about a choice.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct Note {
    /// How it is meant.
    pub tone: Tone,
    /// The sentence; empty if there is nothing to say.
    pub text: String,
}

/// All choices of Quern's own form.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Where it runs.
    pub hardware: Hardware,
    /// Which model.
    pub size: Size,
    /// How its weights are stored.
    pub weights: Weights,
    /// Whether tool calls are parsed.
    pub tools: Tools,
    /// Ranks.
    pub split: Split,
    /// Most tokens of a sequence.
    pub context_length: u64,
    /// Tokens of a KV page.
    pub page_size: u64,
    /// Requests that are expected at once.
    pub concurrency: u64,
}

impl Plan {
    /// The command.
    pub fn command(&self) -> String {
        let lines = [
            "quern serve".to_owned(),
            model_line(self.size, self.weights),
            quantization_line(self.weights),
            rank_line("tp", self.split.tp),
            rank_line("ep", self.split.ep),
            tools_line(self.tools),
            format!("--context-length {}", self.context_length),
            page_line(self.page_size),
            concurrency_line(self.concurrency),
        ];
        lines.into_iter().filter(|line| !line.is_empty()).collect::<Vec<_>>().join(" \\\n  ")
    }

    /// What there is to say about it, the verdict first. Nothing to say leaves no note.
    pub fn notes(&self, machine: &Machine) -> Vec<Note> {
        let Self { hardware, size, weights, split, context_length, concurrency, .. } = *self;
        let mut notes = vec![
            verdict(Room::of(hardware, machine, size, weights, split), context_length, concurrency),
            split_note(size, weights, split),
            context_note(size, context_length),
            unsupported(unsupported_hardware(hardware)),
            unsupported(unsupported_ranks(split.tp.max(split.ep))),
            weight_note(size, weights, split),
            quantization_note(weights),
            room_note(hardware, machine, size, weights, split),
            demand_note(context_length, concurrency),
            kv_note(size, split.tp),
            page_note(size, split.tp, self.page_size),
        ];
        notes.retain(|note| !note.text.is_empty());
        notes
    }
}

/// `--model`.
pub fn model_line(size: Size, weights: Weights) -> String {
    match weights {
        Weights::Bf16 | Weights::FourBit => format!("--model Qwen/{}", size.model()),
        Weights::Fp8 => format!("--model Qwen/{}-FP8", size.model()),
    }
}

/// `--quantization`, where the checkpoint holds something else.
pub fn quantization_line(weights: Weights) -> String {
    match weights {
        Weights::Bf16 | Weights::Fp8 => String::new(),
        Weights::FourBit => "--quantization q4_k_m".into(),
    }
}

/// `--tp` or `--ep`, where it isn't 1.
pub fn rank_line(flag: &str, ranks: u64) -> String {
    if ranks == 1 { String::new() } else { format!("--{flag} {ranks}") }
}

/// Calls are parsed unless that is turned off.
pub fn tools_line(tools: Tools) -> String {
    match tools {
        Tools::Enabled => String::new(),
        Tools::Disabled => "--tool-call-parser none".into(),
    }
}

/// `--page-size`.
pub fn page_line(page_size: u64) -> String {
    format!("--page-size {page_size}")
}

/// The most requests computed together, where that isn't the default.
pub fn concurrency_line(concurrency: u64) -> String {
    if concurrency == MAX_RUNNING_REQUESTS as u64 {
        String::new()
    } else {
        format!("--max-running-requests {concurrency}")
    }
}

/// A remark about what cannot be run yet.
pub fn unsupported(reason: Option<&str>) -> Note {
    warn(reason.unwrap_or_default().into())
}

/// Why Quern cannot run there yet.
pub fn unsupported_hardware(hardware: Hardware) -> Option<&'static str> {
    hardware.is_gpu().then_some("Not supported yet: Quern computes on CPUs only. The figures are projected.")
}

/// What quantising on load means for the download.
pub fn quantization_note(weights: Weights) -> Note {
    plain(match weights {
        Weights::Bf16 | Weights::Fp8 => String::new(),
        Weights::FourBit => "The BF16 checkpoint is downloaded, and quantised as it is loaded.".into(),
    })
}

/// Why Quern cannot have more than one rank yet.
pub fn unsupported_ranks(ranks: u64) -> Option<&'static str> {
    (ranks > 1).then_some("Not supported yet: Quern runs one rank (--tp 1, --ep 1). The figures are projected.")
}

/// The rule that this way of cutting the network breaks, with its arithmetic.
pub fn split_note(size: Size, weights: Weights, split: Split) -> Note {
    let network = Network::of(size);
    let Split { tp, ep } = split;
    if !tp.is_multiple_of(ep) {
        return bad(format!("--ep {ep} must divide --tp {tp}: the ranks form {ep} equal groups of experts."));
    }
    if !network.heads.is_multiple_of(tp) {
        return bad(format!("--tp {tp} must divide the {} query heads.", network.heads));
    }
    let kv_heads = network.kv_heads;
    if !kv_heads.is_multiple_of(tp) && !tp.is_multiple_of(kv_heads) {
        return bad(format!("--tp {tp} must divide the {kv_heads} key and value heads, or be a multiple of them."));
    }
    if !network.experts.is_multiple_of(ep) {
        return bad(format!("--ep {ep} must divide the {} experts.", network.experts));
    }
    match broken_block(&network, weights, split) {
        None => plain(String::new()),
        Some(broken) => {
            let fits =
                |ep: &u64| tp.is_multiple_of(*ep) && broken_block(&network, weights, Split { tp, ep: *ep }).is_none();
            let advice = match (1..=tp).find(fits) {
                Some(ep) => format!("hence --ep {ep}."),
                None => "and no --ep helps.".into(),
            };
            bad(format!("{broken}, {advice}"))
        }
    }
}

/// `2560/8 = 320 is no multiple of 128 (a block of FP8 weights)`.
fn broken_block(network: &Network, weights: Weights, split: Split) -> Option<String> {
    let cuts = split.tp / split.ep;
    match network.expert_inner(split) {
        Some(inner) if weights != Weights::Fp8 || inner.is_multiple_of(FP8_BLOCK) => None,
        Some(inner) => Some(format!(
            "{}/{cuts} = {inner} is no multiple of {FP8_BLOCK}, the side of a block of FP8 weights",
            network.moe_inner
        )),
        None => Some(format!("{} inner features of an expert cannot be cut into {cuts}", network.moe_inner)),
    }
}

fn is_possible(size: Size, weights: Weights, split: Split) -> bool {
    split_note(size, weights, split).text.is_empty()
}

/// Whether the model knows such long contexts.
pub fn context_note(size: Size, context_length: u64) -> Note {
    let most = Network::of(size).max_context;
    if context_length <= most {
        return plain(String::new());
    }
    bad(format!("--context-length {} exceeds the model's {}.", grouped(context_length), grouped(most)))
}

/// What a rank's share of the weights weighs.
pub fn weight_note(size: Size, weights: Weights, split: Split) -> Note {
    if !is_possible(size, weights, split) {
        return plain(String::new());
    }
    let bytes = Network::of(size).weight_bytes(weights, split);
    let Split { tp, ep } = split;
    plain(match tp {
        1 => format!("{} of weights.", gib(bytes)),
        _ => format!(
            "{} of weights on each of {tp} ranks ({} experts cut in {}).",
            gib(bytes),
            Network::of(size).experts / ep,
            tp / ep
        ),
    })
}

/// What a token's keys and values weigh.
pub fn kv_note(size: Size, tp: u64) -> Note {
    let network = Network::of(size);
    let heads = network.kv_heads_per_rank(tp);
    let copies = if tp > network.kv_heads {
        format!("; {} ranks hold the same head", tp / network.kv_heads)
    } else {
        String::new()
    };
    plain(format!(
        "{} of keys and values per token{}: 2 × {} layers × {heads} {} × {} × 2 bytes{copies}.",
        gib(network.kv_bytes_per_token(tp)),
        if tp > 1 { " and rank" } else { "" },
        network.layers,
        if heads == 1 { "head" } else { "heads" },
        network.head_dim,
    ))
}

/// What a page weighs.
pub fn page_note(size: Size, tp: u64, page_size: u64) -> Note {
    let bytes = Network::of(size).kv_bytes_per_token(tp) * page_size;
    plain(format!("A page of {page_size} tokens is {}; prefixes are reused in whole pages.", gib(bytes)))
}

/// What the memory beside the weights holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Room {
    /// The network cannot be cut like this.
    Impossible,
    /// This machine does not say how much memory it has.
    Unknown,
    /// Not even the weights fit.
    None,
    /// The largest KV pool, in tokens.
    Tokens(u64),
}

impl Room {
    /// What is left on the fullest rank.
    pub fn of(hardware: Hardware, machine: &Machine, size: Size, weights: Weights, split: Split) -> Self {
        /// Whole pages of any size on offer.
        const STEP: u64 = 128;
        if !is_possible(size, weights, split) {
            return Room::Impossible;
        }
        let Some(memory) = hardware.bytes_per_rank(machine, split.tp) else { return Room::Unknown };
        let network = Network::of(size);
        match budget_bytes(memory).checked_sub(network.weight_bytes(weights, split)) {
            None => Room::None,
            Some(left) => Room::Tokens(left / network.kv_bytes_per_token(split.tp) / STEP * STEP),
        }
    }
}

fn budget_bytes(memory: u64) -> u64 {
    (memory as f64 * MEM_FRACTION) as u64
}

/// How much context the memory beside the weights holds.
pub fn room_note(hardware: Hardware, machine: &Machine, size: Size, weights: Weights, split: Split) -> Note {
    let memory = hardware.bytes_per_rank(machine, split.tp).unwrap_or_default();
    let share = format!("{MEM_FRACTION} × {}", gib(memory));
    match Room::of(hardware, machine, size, weights, split) {
        Room::Impossible => plain(String::new()),
        Room::Unknown => plain("This machine does not say how much memory is available.".into()),
        Room::Tokens(tokens) => {
            plain(format!("{share} less the weights leaves room for {} tokens of context.", grouped(tokens)))
        }
        Room::None => {
            let needed = gib(Network::of(size).weight_bytes(weights, split));
            bad(format!("The weights do not fit: {needed} and {share} = {}.", gib(budget_bytes(memory))))
        }
    }
}

/// What is asked for.
pub fn demand_note(context_length: u64, concurrency: u64) -> Note {
    let tokens = grouped(context_length.saturating_mul(concurrency));
    plain(match concurrency {
        1 => format!("One request of full length wants {tokens} tokens."),
        _ => format!("{concurrency} requests of {} tokens want {tokens} tokens.", grouped(context_length)),
    })
}

/// Whether it fits.
pub fn verdict(room: Room, context_length: u64, concurrency: u64) -> Note {
    let tokens = match room {
        Room::Impossible => return bad("This cannot be served.".into()),
        Room::Unknown => return warn("Whether it fits is not known.".into()),
        Room::None => return bad("It does not fit.".into()),
        Room::Tokens(tokens) => tokens,
    };
    match tokens / context_length.max(1) {
        0 => bad("It does not fit: there is no room for one request of full length.".into()),
        whole if whole < concurrency => warn(format!(
            "It fits: {whole} of {concurrency} requests at full length, more if they are shorter; the rest wait."
        )),
        _ => Note { tone: Tone::Good, text: "It fits, all requests at full length.".into() },
    }
}

fn warn(text: String) -> Note {
    Note { tone: Tone::Warn, text }
}

fn plain(text: String) -> Note {
    Note { tone: Tone::Plain, text }
}

fn bad(text: String) -> Note {
    Note { tone: Tone::Bad, text }
}

/// `262144` as `262,144`.
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reason(size: Size, weights: Weights, tp: u64, ep: u64) -> String {
        split_note(size, weights, Split { tp, ep }).text
    }

    #[test]
    fn fp8_blocks_oblige_to_expert_groups() {
        // Contract: SGLang's check of block_n, for both models.
        let big = "2560/8 = 320 is no multiple of 128, the side of a block of FP8 weights, hence --ep 2.";
        assert_eq!(reason(Size::B480, Weights::Fp8, 8, 1), big);
        let fine =
            [(Size::B480, 8, 2), (Size::B480, 8, 4), (Size::B480, 8, 8), (Size::B480, 4, 1), (Size::B480, 16, 4)];
        let small = [(Size::B30, 1, 1), (Size::B30, 2, 1), (Size::B30, 4, 2), (Size::B30, 8, 4)];
        for (size, tp, ep) in fine.into_iter().chain(small) {
            assert_eq!(reason(size, Weights::Fp8, tp, ep), "", "{size:?} tp {tp} ep {ep}");
        }
        let broken = [(Size::B480, 16, 1, "--ep 4"), (Size::B480, 16, 2, "--ep 4"), (Size::B30, 4, 1, "--ep 2")];
        let more = [(Size::B30, 8, 1, "--ep 4"), (Size::B30, 8, 2, "--ep 4")];
        for (size, tp, ep, advice) in broken.into_iter().chain(more) {
            let text = reason(size, Weights::Fp8, tp, ep);
            assert!(text.ends_with(&format!("hence {advice}.")), "{size:?} tp {tp} ep {ep}: {text}");
        }
        assert_eq!(reason(Size::B480, Weights::Bf16, 8, 1), "");
        assert!(reason(Size::B480, Weights::Bf16, 2, 4).contains("--ep 4 must divide --tp 2"));
    }

    #[test]
    fn what_fits_is_what_the_memory_leaves() {
        let machine = Machine { available_bytes: Some(16 << 30), cores: 2 };
        let mut plan = Plan {
            hardware: Hardware::ThisMachine,
            size: Size::B30,
            weights: Weights::Fp8,
            tools: Tools::Enabled,
            split: Split { tp: 1, ep: 1 },
            context_length: 8192,
            page_size: 32,
            concurrency: 16,
        };
        assert_eq!(plan.notes(&machine)[0].tone, Tone::Bad);
        plan.hardware = Hardware::Cpu64;
        assert_eq!(plan.notes(&machine)[0].tone, Tone::Good);
        plan.concurrency = 256;
        let verdict = plan.notes(&machine).swap_remove(0);
        assert_eq!(verdict.tone, Tone::Warn);
        let room = Room::of(plan.hardware, &machine, plan.size, plan.weights, plan.split);
        let Room::Tokens(tokens) = room else { panic!("{room:?}") };
        assert!(verdict.text.starts_with(&format!("It fits: {} of 256", tokens / 8192)), "{}", verdict.text);
        plan.hardware = Hardware::H200;
        plan.split = Split { tp: 8, ep: 1 };
        assert!(plan.notes(&machine).iter().any(|note| note.text.starts_with("Not supported yet")));
        assert_eq!(
            plan.command(),
            "quern serve \\\n  --model Qwen/Qwen3-Coder-30B-A3B-Instruct-FP8 \\\n  --tp 8 \\\n  \
             --context-length 8192 \\\n  --page-size 32"
        );
        assert_eq!(grouped(262_144), "262,144");
    }
}
