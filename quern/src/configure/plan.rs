//! [`Plan`]: a `quern serve` command, and the arithmetic that says whether it can work.
//!
//! Every answer is a function of no more choices than it depends on, so that the page's table
//! ([`table`](super::table)) stays small: what a rank weighs does not depend on the context length.

use clap::ValueEnum as _;
use quern_model::Parallelism;
use serde::Serialize;

use super::{
    cookbook::{Size, Tools},
    hardware::Hardware,
    network::{FP8_BLOCK, Network, Weights},
};
use crate::{
    defaults::{MAX_RUNNING_REQUESTS, MEM_FRACTION},
    machine::Machine,
    memory::gib,
};

/// Less context than this, tokens, is of no use to anybody who writes code.
pub const MIN_CONTEXT: u64 = 8192;

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
    pub split: Parallelism,
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
            device_line(self.hardware),
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
            verdict(
                |weights| Room::of(hardware, machine, size, weights, split),
                weights,
                unsupported_hardware(hardware).is_none(),
                context_length,
                concurrency,
            ),
            split_note(size, weights, split),
            context_note(size, context_length),
            unsupported(unsupported_hardware(hardware)),
            weight_note(size, weights, split),
            quantization_note(weights),
            room_note(hardware, machine, size, weights, split),
            demand_note(context_length, concurrency),
            kv_note(size, split.tp as u64),
            page_note(size, split.tp as u64, self.page_size),
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

/// `--device`, where it isn't the CPU.
pub fn device_line(hardware: Hardware) -> String {
    hardware.device().map_or_else(String::new, |device| format!("--device {device}"))
}

/// `--tp` or `--ep`, where it isn't 1.
pub fn rank_line(flag: &str, ranks: usize) -> String {
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
    hardware.is_gpu().then_some("Not supported yet: several GPUs. One computes with --device cuda or hip, so far on emulated devices only. The figures are projected.")
}

/// What quantising on load means for the download.
pub fn quantization_note(weights: Weights) -> Note {
    plain(match weights {
        Weights::Bf16 | Weights::Fp8 => String::new(),
        Weights::FourBit => "The BF16 checkpoint is downloaded, and quantised as it is loaded.".into(),
    })
}

/// The rule that this way of dividing the network breaks, or what it costs.
pub fn split_note(size: Size, weights: Weights, split: Parallelism) -> Note {
    let parts = match Network::of(size).divided(weights, split) {
        Ok((parts, _)) => parts,
        Err(error) => return bad(format!("{error}.")),
    };
    let mut notes = parts[0].notes();
    if weights == Weights::Fp8 {
        notes.extend(cut_block(size, split));
    }
    warn(notes.join(" "))
}

/// `2560/8 = 320 is no multiple of 128, …`: what SGLang refuses, and GPUs compute less well than whole blocks.
fn cut_block(size: Size, Parallelism { tp, ep }: Parallelism) -> Option<String> {
    let moe_inner = Network::of(size).moe_inner;
    let whole = |ep: usize| moe_inner.is_multiple_of(FP8_BLOCK * (tp / ep) as u64);
    if whole(ep) {
        return None;
    }
    let cuts = tp / ep;
    let advice = match (1..=tp).find(|&ep| tp.is_multiple_of(ep) && whole(ep)) {
        Some(ep) => format!("--ep {ep} divides whole blocks."),
        None => "No --ep divides whole blocks.".into(),
    };
    let inner = moe_inner as f64 / cuts as f64;
    Some(format!(
        "{moe_inner}/{cuts} = {inner} is no multiple of {FP8_BLOCK}, the side of a block of FP8 weights. Quern's CPUs compute \
         with parts of blocks; SGLang refuses them. {advice}"
    ))
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
pub fn weight_note(size: Size, weights: Weights, split: Parallelism) -> Note {
    let Ok((_, bytes)) = Network::of(size).divided(weights, split) else { return plain(String::new()) };
    let Parallelism { tp, ep } = split;
    plain(match tp {
        1 => format!("{} of weights.", gib(bytes)),
        _ => format!(
            "{} of weights on each of {tp} ranks ({} experts cut in {}).",
            gib(bytes),
            Network::of(size).experts / ep as u64,
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
    pub fn of(hardware: Hardware, machine: &Machine, size: Size, weights: Weights, split: Parallelism) -> Self {
        /// Whole pages of any size on offer.
        const STEP: u64 = 128;
        let network = Network::of(size);
        let Ok((_, weight_bytes)) = network.divided(weights, split) else { return Room::Impossible };
        let Some(memory) = hardware.bytes_per_rank(machine, split.tp as u64) else { return Room::Unknown };
        match budget_bytes(memory).checked_sub(weight_bytes) {
            None => Room::None,
            Some(left) => Room::Tokens(left / network.kv_bytes_per_token(split.tp as u64) / STEP * STEP),
        }
    }
}

fn budget_bytes(memory: u64) -> u64 {
    (memory as f64 * MEM_FRACTION) as u64
}

/// How much context the memory beside the weights holds.
pub fn room_note(hardware: Hardware, machine: &Machine, size: Size, weights: Weights, split: Parallelism) -> Note {
    let memory = hardware.bytes_per_rank(machine, split.tp as u64).unwrap_or_default();
    let share = format!("{MEM_FRACTION} × {}", gib(memory));
    match Room::of(hardware, machine, size, weights, split) {
        Room::Impossible => plain(String::new()),
        Room::Unknown => plain("This machine does not say how much memory is available.".into()),
        Room::Tokens(tokens) => {
            plain(format!("{share} less the weights leaves room for {} tokens of context.", grouped(tokens)))
        }
        Room::None => {
            let needed =
                Network::of(size).divided(weights, split).map_or_else(|_| String::new(), |(_, bytes)| gib(bytes));
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

/// Whether it fits; if not, what does. `room` is what the memory holds beside such weights; where Quern does not run yet
/// (`is_supported`) nothing is promised.
pub fn verdict(
    room: impl Fn(Weights) -> Room,
    weights: Weights,
    is_supported: bool,
    context_length: u64,
    concurrency: u64,
) -> Note {
    let tokens = match room(weights) {
        Room::Impossible => return bad("This cannot be served.".into()),
        Room::Unknown => return warn("Whether it fits is not known.".into()),
        Room::None => 0,
        Room::Tokens(tokens) => tokens,
    };
    let fits = if is_supported { "It fits" } else { "It would fit" };
    match tokens / context_length.max(1) {
        0 => bad(format!("It does not fit{}.", what_fits(room, weights, context_length))),
        whole if whole < concurrency => warn(format!(
            "{fits}: {whole} of {concurrency} requests at full length, more if they are shorter; the rest wait."
        )),
        _ => {
            let tone = if is_supported { Tone::Good } else { Tone::Warn };
            Note { tone, text: format!("{fits}, all requests at full length.") }
        }
    }
}

/// The least change that makes room: a shorter context, or smaller weights.
fn what_fits(room: impl Fn(Weights) -> Room, weights: Weights, context_length: u64) -> String {
    let tokens = |weights| match room(weights) {
        Room::Tokens(tokens) if tokens >= MIN_CONTEXT => Some(tokens),
        _ => None,
    };
    let smaller = Weights::value_variants().iter().skip_while(|&&each| each != weights).skip(1);
    match (tokens(weights), smaller.filter_map(|&each| Some((each, tokens(each)?))).next()) {
        (None, None) => String::new(),
        (Some(tokens), _) => {
            format!(": there is no room for one request of full length. A context of {} tokens fits", grouped(tokens))
        }
        (None, Some((smaller, tokens))) if tokens < context_length => {
            format!("; {} weights do, with a context of up to {} tokens", smaller.title(), grouped(tokens))
        }
        (None, Some((smaller, tokens))) => {
            format!("; {} weights do, with room for {} tokens of context", smaller.title(), grouped(tokens))
        }
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

    fn reason(size: Size, weights: Weights, tp: usize, ep: usize) -> Note {
        split_note(size, weights, Parallelism { tp, ep })
    }

    #[test]
    fn parts_of_fp8_blocks_are_told_with_their_arithmetic() {
        let fine =
            [(Size::B480, 8, 2), (Size::B480, 8, 4), (Size::B480, 8, 8), (Size::B480, 4, 1), (Size::B480, 16, 4)];
        let small = [(Size::B30, 1, 1), (Size::B30, 2, 1), (Size::B30, 4, 2), (Size::B30, 8, 4)];
        for (size, tp, ep) in fine.into_iter().chain(small) {
            assert_eq!(reason(size, Weights::Fp8, tp, ep).text, "", "{size:?} tp {tp} ep {ep}");
        }
        // Contract: SGLang's check of block_n, for both models.
        let cut = [(Size::B480, 8, 1, "--ep 2"), (Size::B480, 16, 1, "--ep 4"), (Size::B480, 16, 2, "--ep 4")];
        let more = [(Size::B30, 4, 1, "--ep 2"), (Size::B30, 8, 1, "--ep 4"), (Size::B30, 8, 2, "--ep 4")];
        for (size, tp, ep, advice) in cut.into_iter().chain(more) {
            let note = reason(size, Weights::Fp8, tp, ep);
            assert_eq!(note.tone, Tone::Warn, "{size:?} tp {tp} ep {ep}");
            let told = note.text.contains("is no multiple of 128") && note.text.contains(&format!("{advice} divides"));
            assert!(told, "{size:?} tp {tp} ep {ep}: {}", note.text);
        }
        assert!(reason(Size::B480, Weights::Fp8, 8, 1).text.starts_with("2560/8 = 320 is no multiple"));
        assert_eq!(reason(Size::B480, Weights::Bf16, 8, 1).text, "");
    }

    #[test]
    fn what_cannot_be_divided_is_told_in_the_loaders_words() {
        let groups = reason(Size::B480, Weights::Bf16, 2, 4);
        assert_eq!((groups.tone, groups.text.as_str()), (Tone::Bad, "tp_size = 2 is not divisible by ep_size = 4."));
        // 768 = 3 superblocks of 256.
        let blocks = reason(Size::B30, Weights::FourBit, 4, 1);
        assert!(
            blocks.tone == Tone::Bad && blocks.text.ends_with("ep_size = 4 divides the experts instead."),
            "{blocks:?}"
        );
        let uneven = reason(Size::B30, Weights::FourBit, 2, 1);
        assert!(
            uneven.tone == Tone::Warn && uneven.text.contains("256 to 512") && uneven.text.contains("1.33"),
            "{uneven:?}"
        );
    }

    #[test]
    fn what_does_not_fit_is_told_with_what_does() {
        let said = |gibibytes: u64, weights, context_length| {
            let machine = Machine { available_bytes: Some(gibibytes << 30), cores: 2 };
            let room = |weights| Room::of(Hardware::ThisMachine, &machine, Size::B30, weights, Parallelism::NONE);
            let note = verdict(room, weights, true, context_length, 1);
            assert_eq!(note.tone, Tone::Bad, "{note:?}");
            note.text
        };
        assert!(said(24, Weights::Fp8, 16_384).starts_with("It does not fit; 4-bit weights do, with room for "));
        assert!(
            said(24, Weights::Bf16, 262_144).starts_with("It does not fit; 4-bit weights do, with a context of up to")
        );
        assert!(said(24, Weights::FourBit, 262_144).contains("no room for one request of full length. A context of"));
        assert_eq!(said(8, Weights::Fp8, 8192), "It does not fit.");
    }

    #[test]
    fn what_fits_is_what_the_memory_leaves() {
        let machine = Machine { available_bytes: Some(16 << 30), cores: 2 };
        let mut plan = Plan {
            hardware: Hardware::ThisMachine,
            size: Size::B30,
            weights: Weights::Fp8,
            tools: Tools::Enabled,
            split: Parallelism::NONE,
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
        plan.concurrency = 16;
        let verdict = plan.notes(&machine).swap_remove(0);
        assert_eq!((verdict.tone, verdict.text.as_str()), (Tone::Warn, "It would fit, all requests at full length."));
        plan.concurrency = 256;
        plan.split = Parallelism { tp: 8, ep: 1 };
        assert!(plan.notes(&machine).iter().any(|note| note.text.starts_with("Not supported yet")));
        assert_eq!(
            plan.command(),
            "quern serve \\\n  --model Qwen/Qwen3-Coder-30B-A3B-Instruct-FP8 \\\n  --device cuda \\\n  --tp 8 \\\n  \
             --context-length 8192 \\\n  --page-size 32"
        );
        assert_eq!(grouped(262_144), "262,144");
    }
}
