//! `quern bench kernels`: every kernel as a fraction of what the machine allows, in the shapes of
//! Qwen3-Coder-30B-A3B.
//!
//! Weights are far larger than any cache and each call takes other ones.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use quern_backend::{
    AttentionSpec, Backend, ForwardBatch, HeadLayout, KvFormat, KvSpec, LogitTask, MachinePeaks, PackedMatrix,
    PagedBatch, Precision, QuantFormat, RowTask, SampleBatch, SamplingParams, SharedBytes, Span,
};
use quern_bench::BenchError;
use quern_model::Work;

use super::table::BenchTable;
use crate::roofline::Roofline;

const HIDDEN: usize = 2048;
const INNER: usize = 768;
const EXPERTS: usize = 128;
const TOP_K: usize = 8;
const VOCAB: usize = 151_936;
const HEADS: HeadLayout = HeadLayout { num_heads: 32, num_kv_heads: 4, head_dim: 128 };

/// How long each operation is measured.
const MEASURE: Duration = Duration::from_millis(1500);

/// Bytes that weights are cut from; the last-level cache must be small beside it.
const ARENA: usize = VOCAB * HIDDEN * 2;

struct KernelBench<'a, B: Backend> {
    backend: &'a B,
    peaks: MachinePeaks,
    only: Option<&'a str>,
    table: &'a mut BenchTable,
    arena: SharedBytes,
}

/// Measure those whose name holds `only`.
///
/// # Errors
/// If a row cannot be printed.
pub(super) fn run<B: Backend>(
    backend: &B,
    peaks: MachinePeaks,
    only: Option<&str>,
    table: &mut BenchTable,
) -> Result<(), BenchError> {
    // Small bf16 values (exponent below one, every mantissa), which read as finite in every format.
    let mut state = 1u64;
    let arena: Vec<u8> = (0..ARENA / 2)
        .flat_map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            ((state >> 48) as u16 & 0x807f | 0x3c00).to_le_bytes()
        })
        .collect();
    let mut bench = KernelBench { backend, peaks, only, table, arena: SharedBytes::new(Arc::new(arena)) };

    // Those that a Q4_K_M, a Q4_0 or a Q8_0 file holds in every step, then one of each other kind of code.
    let blocks = [QuantFormat::Q4K, QuantFormat::Q6K, QuantFormat::Q8_0, QuantFormat::Q4_0];
    let others = [QuantFormat::Q2K, QuantFormat::Q3K, QuantFormat::Q5K, QuantFormat::Iq4Xs, QuantFormat::Iq2Xxs];
    for format in [QuantFormat::BF16, QuantFormat::Fp8Block128].into_iter().chain(blocks) {
        for tokens in [1, 4, 8, 64, 512] {
            bench.linear(format, tokens, "qkv_proj", HIDDEN, HEADS.qkv_dim())?;
        }
        bench.upload(format, "qkv_proj", HIDDEN, HEADS.qkv_dim())?;
        bench.linear(format, 1, "o_proj", HEADS.q_dim(), HIDDEN)?;
        for tokens in [1, 8, 512] {
            bench.moe(format, tokens)?;
        }
    }
    for format in others {
        for tokens in [1, 512] {
            bench.linear(format, tokens, "qkv_proj", HIDDEN, HEADS.qkv_dim())?;
        }
    }
    bench.linear(QuantFormat::F32, 1, "gate", HIDDEN, EXPERTS)?;
    bench.linear(QuantFormat::BF16, 1, "lm_head", HIDDEN, VOCAB)?;
    for format in [KvFormat::BF16, KvFormat::Q8_0, KvFormat::F8E4M3] {
        bench.attention(format, 1, 4096)?;
        bench.attention(format, 1, 32768)?;
        bench.attention(format, 512, 512)?;
        bench.attention(format, 512, 4096)?;
    }
    bench.norm(1)?;
    bench.norm(512)?;
    bench.argmax()
}

impl<B: Backend> KernelBench<'_, B> {
    /// Run `f` for a while and add its row. `format` says what multiplies.
    fn row(
        &mut self,
        name: &str,
        bytes: usize,
        ops: usize,
        format: QuantFormat,
        mut f: impl FnMut(usize),
    ) -> Result<(), BenchError> {
        if self.is_left_out(name) {
            return Ok(());
        }
        f(0);
        let mut seconds = Vec::new();
        let begin = Instant::now();
        for i in 1.. {
            let start = Instant::now();
            f(i);
            seconds.push(start.elapsed().as_secs_f64());
            if begin.elapsed() > MEASURE && seconds.len() >= 5 {
                break;
            }
        }
        let work = Work { bytes: bytes as f64, ops: ops as f64 };
        let roofline = Roofline::of(&self.peaks, &[format], Precision::Bf16);
        self.table.add(name.to_owned(), None, work, seconds, roofline)
    }

    /// Whether `--only` names something else. Asked before weights are made where that takes long.
    fn is_left_out(&self, name: &str) -> bool {
        self.only.is_some_and(|only| !name.contains(only))
    }

    /// The `index`-th matrix of this shape in the arena, wrapping around.
    fn matrix(&self, format: QuantFormat, rows: usize, cols: usize, index: usize) -> PackedMatrix {
        let bytes = rows * format.row_bytes(cols);
        let places = self.arena.len() / bytes;
        let start = index % places * bytes;
        let data = self.arena.slice(start..start + bytes).expect("inside the arena");
        match format {
            QuantFormat::Fp8Block128 => {
                PackedMatrix::fp8(rows, cols, data, vec![0.01; rows.div_ceil(128) * cols.div_ceil(128)].into())
            }
            // Pairs of small bfloat16 are small f32 as well. What blocks of them are does not matter to the
            // time: integers have no slow values, and as binary16 scales they are near 1. (As exponents of
            // MXFP4 they would be far from it, and subnormal sums are slow.)
            _ => PackedMatrix::plain(format, rows, cols, data),
        }
    }

    fn filled(&self, rows: usize, cols: usize) -> B::Buffer {
        let backend = self.backend;
        let mut buffer = backend.alloc(rows, cols);
        let values: Vec<f32> = (0..rows * cols).map(|i| (i * 37 % 101) as f32 / 50.0 - 1.0).collect();
        backend.write(&mut buffer, &values);
        buffer
    }

    fn linear(
        &mut self,
        format: QuantFormat,
        tokens: usize,
        name: &str,
        cols: usize,
        rows: usize,
    ) -> Result<(), BenchError> {
        let backend = self.backend;
        let name = format!("linear {name} {format}, {tokens} tok");
        if self.is_left_out(&name) {
            return Ok(());
        }
        let bytes = rows * format.held_row_bytes(cols);
        let weights: Vec<_> = (0..(ARENA / bytes).clamp(1, 32))
            .map(|i| backend.uploader().weight(&[self.matrix(format, rows, cols, i)]).expect("supported"))
            .collect();
        let x = self.filled(tokens, cols);
        let mut out = backend.alloc(tokens, rows);
        self.row(&name, bytes, 2 * tokens * rows * cols, format, |i| {
            backend.linear(&x, &weights[i % weights.len()], &mut out);
        })
    }

    /// What start-up pays for weights that are repacked.
    fn upload(&mut self, format: QuantFormat, name: &str, cols: usize, rows: usize) -> Result<(), BenchError> {
        let backend = self.backend;
        if format.blocks().is_none() {
            return Ok(());
        }
        let matrices: Vec<_> = (0..8).map(|i| self.matrix(format, rows, cols, i)).collect();
        self.row(&format!("upload {name} {format}"), rows * format.row_bytes(cols), 0, format, |i| {
            backend.uploader().weight(&matrices[i % matrices.len()..][..1]).expect("supported");
        })
    }

    fn moe(&mut self, format: QuantFormat, tokens: usize) -> Result<(), BenchError> {
        let backend = self.backend;
        let name = format!("moe {format}, {tokens} tok");
        if self.is_left_out(&name) {
            return Ok(());
        }
        let all = |rows, cols, first| -> Vec<_> {
            (0..EXPERTS).map(|e| self.matrix(format, rows, cols, first + e)).collect()
        };
        let (gate, up, down) = (all(INNER, HIDDEN, 0), all(INNER, HIDDEN, EXPERTS), all(HIDDEN, INNER, 2 * EXPERTS));
        let experts = backend.uploader().experts(0, &gate, &up, &down).expect("supported");
        let x = self.filled(tokens, HIDDEN);
        let mut out = backend.alloc(tokens, HIDDEN);
        // Uniform routing, which touches the most experts, other ones in each call.
        let chosen = |call: usize, t: usize, k: usize| (call * 8 + t * 29 + k * 17) % EXPERTS;
        let routings: Vec<_> = (0..16)
            .map(|call| {
                let mut routing = backend.alloc_routing(tokens, TOP_K);
                let mut logits = vec![0.0; tokens * EXPERTS];
                for (t, row) in logits.chunks_exact_mut(EXPERTS).enumerate() {
                    (0..TOP_K).for_each(|k| row[chosen(call, t, k)] = 1.0);
                }
                let mut buffer = backend.alloc(tokens, EXPERTS);
                backend.write(&mut buffer, &logits);
                backend.route(&buffer, true, &mut routing);
                routing
            })
            .collect();
        let mut touched: Vec<_> = (0..tokens * TOP_K).map(|i| chosen(0, i / TOP_K, i % TOP_K)).collect();
        touched.sort_unstable();
        touched.dedup();
        let bytes = touched.len() * 3 * INNER * format.held_row_bytes(HIDDEN);
        self.row(&name, bytes, 2 * tokens * TOP_K * 3 * INNER * HIDDEN, format, |i| {
            backend.moe(&x, &routings[i % routings.len()], &experts, &mut out);
        })
    }

    fn attention(&mut self, format: KvFormat, rows: usize, kv_len: usize) -> Result<(), BenchError> {
        let backend = self.backend;
        let name = format!("attention {format} kv, {rows} rows at {kv_len}");
        if self.is_left_out(&name) {
            return Ok(());
        }
        const PAGE: usize = 64;
        // Several layers, so that one call's keys are not the last one's.
        let bytes = kv_len * 2 * HEADS.num_kv_heads * format.head_bytes(HEADS.head_dim);
        let num_layers = (64 << 20) / bytes + 1;
        let num_pages = kv_len.div_ceil(PAGE);
        let spec = KvSpec { num_layers, heads: HEADS, page_size: PAGE, num_pages, format };
        let mut kv = backend.alloc_kv(&spec).expect("room for pages");
        let qkv = self.filled(rows, HEADS.qkv_dim());
        let mut out = backend.alloc(rows, HEADS.q_dim());
        let begin = |q_len: usize, kv_len: usize| {
            let spans = vec![Span { q_start: 0, q_len, kv_len, pages: 0..num_pages }];
            let paged = PagedBatch { spans, pages: (0..num_pages as u32).rev().collect() };
            backend.begin(&ForwardBatch { paged, ..ForwardBatch::default() }, &SampleBatch::default())
        };
        let spec = |layer: usize| AttentionSpec::causal(layer, HEADS);
        // Touch every page, so that the first measured call does not pay for it.
        for layer in 0..num_layers {
            for start in (0..kv_len).step_by(rows) {
                if rows > 1 {
                    backend.attention(&qkv, &spec(layer), &mut kv, &begin(rows, start + rows), &mut out);
                } else if start % PAGE == 0 {
                    backend.attention(&qkv, &spec(layer), &mut kv, &begin(1, start + 1), &mut out);
                }
            }
        }
        let step = begin(rows, kv_len);
        let pairs: usize = (kv_len - rows + 1..=kv_len).sum();
        // What fits bfloat16 is multiplied as weights in bfloat16 are.
        let like = if format.is_in_bf16() { QuantFormat::BF16 } else { QuantFormat::F32 };
        self.row(&name, bytes, 4 * pairs * HEADS.q_dim(), like, |i| {
            backend.attention(&qkv, &spec(i % num_layers), &mut kv, &step, &mut out);
        })
    }

    fn norm(&mut self, rows: usize) -> Result<(), BenchError> {
        let backend = self.backend;
        let (mut residual, delta) = (self.filled(rows, HIDDEN), self.filled(rows, HIDDEN));
        let gain = self.filled(1, HIDDEN);
        let mut out = backend.alloc(rows, HIDDEN);
        let name = format!("add_rms_norm, {rows} rows");
        self.row(&name, rows * HIDDEN * 4 * 4, rows * HIDDEN * 5, QuantFormat::F32, |_| {
            backend.add_rms_norm(&mut residual, &delta, &gain, 1e-6, &mut out);
        })
    }

    fn argmax(&mut self) -> Result<(), BenchError> {
        let backend = self.backend;
        let mut logits = self.filled(1, VOCAB);
        let params = SamplingParams { temperature: 0.0, ..SamplingParams::default() };
        let task = RowTask::Sample {
            params: Arc::new(params),
            seed: 0,
            step: 0,
            counts: None,
            banned: Arc::new([]),
            mask: None,
        };
        let task = LogitTask { task, want_logprob: false, top_logprobs: 0, logprob_ids: Arc::new([]) };
        let (batch, samples) =
            (ForwardBatch { logit_rows: vec![0], ..ForwardBatch::default() }, SampleBatch { tasks: vec![task] });
        self.row("sample, greedy, 1 row", VOCAB * 4, VOCAB * 2, QuantFormat::F32, |_| {
            let mut step = backend.begin(&batch, &samples);
            backend.sample(&mut logits, &mut step, 0..1);
            backend.launch(&mut step);
            backend.finish(step).expect("a step on this CPU");
        })
    }
}
