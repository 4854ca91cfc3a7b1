//! A greedy driver over [`Model`] and readers for golden files, shared by the tests.
#![allow(dead_code, unreachable_pub, reason = "each test file uses its own part")]

#[path = "../../../tests/reference.rs"]
pub(crate) mod reference;
#[path = "../../../tests/skip.rs"]
mod skip;

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::Arc,
};

use quern_backend::{
    Backend, ForwardBatch, KvFormat, LogitTask, PagedBatch, RowOutput, RowTask, SampleBatch, SamplingParams, Span,
};
use quern_model::{Checkpoint, CheckpointOptions, Model, StepLimits, load};

/// A row of a step and what to make of its logits.
pub type LogitRow = (usize, LogitTask);

/// Checkpoints that lie in the repository.
const OWN: [&str; 6] = ["tiny-dense", "tiny-fp8-ragged", "tiny-mixed", "tiny-yarn", "tiny-qwen2", "tiny-qwen2-yarn"];

/// A checkpoint and its goldens: one of the repository, or one of the reference fixtures; `None` where those are absent.
pub fn open(name: &str) -> Option<(PathBuf, Golden)> {
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("../model/tests/golden");
    if OWN.contains(&name) {
        return Some((own.join(name), Golden::open(&own.join(format!("{name}.safetensors")))));
    }
    let oracle = reference::folder("oracle")?;
    Some((oracle.join("models").join(name), Golden::open(&oracle.join(format!("goldens/{name}.safetensors")))))
}

/// Sequences in progress over one model: their tokens, pages and how much is computed.
pub struct Driver {
    model: Box<dyn Model>,
    page_size: usize,
    free: Vec<u32>,
    pub sequences: Vec<Progress>,
}

#[derive(Clone, Default)]
pub struct Progress {
    pub tokens: Vec<u32>,
    pub computed: usize,
    pub pages: Vec<u32>,
}

/// One sequence's share of a step: which one, and how many tokens.
pub type Share = (usize, usize);

impl Driver {
    /// Every greedy continuation of 64 tokens, all prompts in one ragged batch, must be the oracle's.
    pub fn assert_greedy(mut self, golden: &Golden, chunk: usize, what: &str) {
        let prompts = golden.prompts();
        for prompt in &prompts {
            self.add(&golden.ids(&format!("{prompt}.ids")));
        }
        for (prompt, tokens) in prompts.iter().zip(self.greedy(64, chunk)) {
            assert_eq!(tokens, golden.ids(&format!("{prompt}.greedy_ids")), "{what}, prompt {prompt}");
        }
    }

    /// The last position's logits of every prompt must be within 1e-3 (compared as log-probabilities, which differ from
    /// logits by one constant a row).
    pub fn assert_logits(mut self, golden: &Golden, what: &str) {
        for prompt in golden.prompts() {
            let ids = golden.ids(&format!("{prompt}.ids"));
            let logits = golden.floats(&format!("{prompt}.last_logits"));
            let index = self.add(&ids);
            let out = self.step(&[(index, ids.len())], |rows| vec![full_row(rows[0], logits.len())]);
            let max = logits.iter().copied().fold(f64::MIN, f64::max);
            let normaliser = max + logits.iter().map(|x| (x - max).exp()).sum::<f64>().ln();
            for ((token, logprob), logit) in out[0].requested.iter().zip(logits) {
                let difference = (f64::from(*logprob) - (logit - normaliser)).abs();
                assert!(difference < 1e-3, "{what}, prompt {prompt}, token {token}: off by {difference}");
            }
        }
    }

    pub fn new<B: Backend>(dir: &Path, backend: Arc<B>, limits: StepLimits) -> Self {
        let checkpoint = Checkpoint::open(dir, &CheckpointOptions::default()).unwrap_or_else(|e| panic!("{e}"));
        checkpoint.scan(2, &mut |_| {}).unwrap_or_else(|e| panic!("{e}"));
        let model = load(&checkpoint, backend, limits, &mut |_| {}).unwrap_or_else(|e| panic!("{e}"));
        Self::over(model, limits)
    }

    pub fn over(model: Box<dyn Model>, limits: StepLimits) -> Self {
        // Pages are handed out in a scattered order, so that nothing depends on neighbours.
        let mut free: Vec<u32> = (0..limits.num_pages as u32).collect();
        free.sort_by_key(|page| page.wrapping_mul(2_654_435_761));
        Self { model, page_size: limits.page_size, free, sequences: Vec::new() }
    }

    pub fn add(&mut self, tokens: &[u32]) -> usize {
        self.sequences.push(Progress { tokens: tokens.to_vec(), ..Progress::default() });
        self.sequences.len() - 1
    }

    /// A sequence that shares the first whole pages of `other` up to `shared` tokens.
    pub fn add_sharing(&mut self, tokens: &[u32], other: usize, shared: usize) -> usize {
        let computed = shared / self.page_size * self.page_size;
        let pages = self.sequences[other].pages[..computed / self.page_size].to_vec();
        assert_eq!(&tokens[..computed], &self.sequences[other].tokens[..computed]);
        self.sequences.push(Progress { tokens: tokens.to_vec(), computed, pages });
        self.sequences.len() - 1
    }

    /// Compute the next tokens of each share; report what `rows` (indices into the step's rows) ask for.
    pub fn step(&mut self, shares: &[Share], rows: impl Fn(&[usize]) -> Vec<LogitRow>) -> Vec<RowOutput> {
        let mut batch = ForwardBatch { paged: PagedBatch::default(), ..ForwardBatch::default() };
        let mut last_rows = Vec::new();
        for &(index, count) in shares {
            let sequence = &mut self.sequences[index];
            let (start, end) = (sequence.computed, sequence.computed + count);
            while sequence.pages.len() * self.page_size < end {
                sequence.pages.push(self.free.pop().expect("the test's pool is large enough"));
            }
            let first_page = batch.paged.pages.len();
            batch.paged.pages.extend(&sequence.pages);
            batch.paged.spans.push(Span {
                q_start: batch.token_ids.len(),
                q_len: count,
                kv_len: end,
                pages: first_page..batch.paged.pages.len(),
            });
            batch.token_ids.extend(&sequence.tokens[start..end]);
            batch.positions.extend(start as u32..end as u32);
            sequence.computed = end;
            last_rows.push(batch.token_ids.len() - 1);
        }
        let (logit_rows, tasks) = rows(&last_rows).into_iter().unzip();
        batch.logit_rows = logit_rows;
        self.model.launch(&batch, &SampleBatch { tasks });
        self.model.wait().expect("the step is computed").rows
    }

    /// Greedy continuation of every sequence by `count` tokens, prompts in one step (or in chunks), then
    /// all together.
    pub fn greedy(&mut self, count: usize, chunk: usize) -> Vec<Vec<u32>> {
        let outputs = self.continued(count, chunk, greedy_row);
        outputs.iter().map(|rows| rows.iter().map(|out| out.token).collect()).collect()
    }

    /// The same, each token with the bits of its log-probability, to which every logit of its row contributes.
    pub fn greedy_bits(&mut self, count: usize, chunk: usize) -> Vec<Vec<(u32, u32)>> {
        let scored = |row: usize| {
            let (row, task) = greedy_row(row);
            (row, LogitTask { want_logprob: true, ..task })
        };
        let outputs = self.continued(count, chunk, scored);
        outputs.iter().map(|rows| rows.iter().map(|out| (out.token, out.logprob.to_bits())).collect()).collect()
    }

    fn continued(&mut self, count: usize, chunk: usize, row_of: impl Fn(usize) -> LogitRow) -> Vec<Vec<RowOutput>> {
        let n = self.sequences.len();
        let mut outputs = vec![Vec::new(); n];
        while outputs.iter().any(|o: &Vec<RowOutput>| o.len() < count) {
            let mut budget = chunk;
            let mut shares = Vec::new();
            for (i, s) in self.sequences.iter().enumerate() {
                let behind = if outputs[i].len() < count { (s.tokens.len() - s.computed).min(budget) } else { 0 };
                if behind > 0 {
                    shares.push((i, behind));
                    budget -= behind;
                }
            }
            let done: Vec<bool> = shares
                .iter()
                .map(|&(i, behind)| self.sequences[i].computed + behind == self.sequences[i].tokens.len())
                .collect();
            let outs = self.step(&shares, |rows| {
                rows.iter().zip(&done).filter(|(_, done)| **done).map(|(&row, _)| row_of(row)).collect()
            });
            let finished = shares.iter().zip(&done).filter(|(_, done)| **done);
            for (((index, _), _), out) in finished.zip(outs) {
                self.sequences[*index].tokens.push(out.token);
                outputs[*index].push(out);
            }
        }
        outputs
    }
}

pub fn greedy_row(row: usize) -> LogitRow {
    let params = SamplingParams { temperature: 0.0, ..SamplingParams::default() };
    let task = LogitTask {
        task: RowTask::Sample {
            params: params.into(),
            seed: 0,
            step: 0,
            counts: None,
            banned: Vec::new().into(),
            mask: None,
        },
        want_logprob: false,
        top_logprobs: 0,
        logprob_ids: Vec::new().into(),
    };
    (row, task)
}

/// A row that reports the log-probability of every token of the vocabulary, by id.
pub fn full_row(row: usize, vocab: usize) -> LogitRow {
    let task = LogitTask {
        task: RowTask::Score { target: 0 },
        want_logprob: true,
        top_logprobs: 0,
        logprob_ids: (0..vocab as u32).collect::<Vec<_>>().into(),
    };
    (row, task)
}

pub fn limits(page_size: usize, kv_format: KvFormat) -> StepLimits {
    StepLimits { max_tokens: 2048, max_logit_rows: 64, page_size, num_pages: 8192 / page_size, kv_format }
}

/// The tensors of a golden file as f64 (ids fit).
pub struct Golden {
    tensors: HashMap<String, Vec<f64>>,
}

impl Golden {
    pub fn open(path: &Path) -> Self {
        let bytes = std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let length = u64::from_le_bytes(bytes[..8].try_into().expect("8 bytes")) as usize;
        let header: serde_json::Map<String, serde_json::Value> =
            serde_json::from_slice(&bytes[8..8 + length]).expect("a header");
        let data = &bytes[8 + length..];
        let mut tensors = HashMap::new();
        for (name, entry) in header.iter().filter(|(name, _)| *name != "__metadata__") {
            let at = |i: usize| entry["data_offsets"][i].as_u64().expect("an offset") as usize;
            let words = data[at(0)..at(1)].chunks_exact(4).map(|b| b.try_into().expect("4 bytes"));
            let values = match entry["dtype"].as_str() {
                Some("F32") => words.map(|b| f64::from(f32::from_le_bytes(b))).collect(),
                Some("I32") => words.map(|b| f64::from(i32::from_le_bytes(b))).collect(),
                other => panic!("{name}: dtype {other:?}"),
            };
            tensors.insert(name.clone(), values);
        }
        Self { tensors }
    }

    pub fn floats(&self, name: &str) -> &[f64] {
        self.tensors.get(name).unwrap_or_else(|| panic!("no golden {name}"))
    }

    pub fn ids(&self, name: &str) -> Vec<u32> {
        self.floats(name).iter().map(|&x| x as u32).collect()
    }

    /// Names of the prompts, in a fixed order.
    pub fn prompts(&self) -> Vec<String> {
        let mut names: Vec<String> =
            self.tensors.keys().filter_map(|k| k.strip_suffix(".greedy_ids")).map(str::to_string).collect();
        names.sort();
        names
    }

    /// Those of at most 64 tokens, which an emulated device has soon computed.
    pub fn short_prompts(&self) -> Vec<String> {
        let mut prompts = self.prompts();
        prompts.retain(|prompt| self.ids(&format!("{prompt}.ids")).len() <= 64);
        prompts
    }
}
