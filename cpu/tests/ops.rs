//! Every operation against the reference, and against itself: other threads, other batches, other
//! instruction sets. Under Miri, which has the scalar ones alone, on shapes that it gets through in seconds.

use std::sync::Arc;

use quern_backend::{
    AttentionSpec, Backend, HeadLayout, KvFormat, KvSpec, PackedMatrix, PagedBatch, Precision, QuantFormat, RefBackend,
    SharedBytes, Span,
    conformance::{self, Grid, Rng, attention_error, input_errors, matrix, step_over},
};
use quern_cpu::{CpuBackend, CpuConfig, Isa};

fn available() -> impl Iterator<Item = Isa> {
    Isa::ALL.into_iter().filter(|isa| isa.is_available())
}

fn backend(isa: Isa, precision: Precision, threads: usize) -> CpuBackend {
    CpuBackend::new(CpuConfig { threads: Some(threads), isa: Some(isa), precision }).unwrap()
}

fn filled<B: Backend>(b: &B, values: &[f32], cols: usize) -> B::Buffer {
    let mut buffer = b.alloc(values.len() / cols, cols);
    b.write(&mut buffer, values);
    buffer
}

fn linear<B: Backend>(b: &B, x: &[f32], parts: &[PackedMatrix]) -> Vec<f32> {
    let cols = parts[0].cols();
    let rows = parts.iter().map(PackedMatrix::rows).sum();
    let mut out = b.alloc(x.len() / cols, rows);
    b.linear(&filled(b, x, cols), &b.uploader().weight(parts).unwrap(), &mut out);
    b.read(&out)
}

/// The classical bound of a dot product: `terms · ε · Σ |aᵢ bᵢ|` (Higham 2002, ch. 3), doubled because both
/// sides round. `magnitudes` are of the products, and of what the rounding of inputs makes of them.
fn assert_close(ours: &[f32], theirs: &[f32], magnitudes: &[(f32, f32)], terms: usize, what: &str) {
    assert_eq!(ours.len(), theirs.len(), "{what}");
    for (i, ((a, b), (products, off))) in ours.iter().zip(theirs).zip(magnitudes).enumerate() {
        let bound = 2.0 * terms as f32 * f32::EPSILON * products + off + f32::MIN_POSITIVE;
        assert!((a - b).abs() <= bound, "{what}: element {i} is {a}, reference {b}, bound {bound}");
    }
}

/// `Σ |aᵢ bᵢ|` of each output of a linear, and the same with the errors of inputs.
fn magnitudes(x: &[f32], parts: &[PackedMatrix], precision: Precision) -> Vec<(f32, f32)> {
    let cols = parts[0].cols();
    let mut row = vec![0.0; cols];
    let mut out = Vec::new();
    for x in x.chunks(cols) {
        let errors = input_errors(precision, parts[0].format(), x);
        for part in parts {
            for r in 0..part.rows() {
                part.decode_row(r, &mut row);
                let sum = |x: &[f32]| row.iter().zip(x).map(|(a, b)| (a * b).abs()).sum();
                out.push((sum(x), sum(&errors)));
            }
        }
    }
    out
}

#[test]
#[cfg_attr(miri, ignore = "takes hours")]
fn every_instruction_set_conforms() {
    for isa in available() {
        // Each thread count once; that they agree to the bit is the business of the tests below.
        for (precision, threads) in [(Precision::F32, 1), (Precision::F32, 3), (Precision::Bf16, 2)] {
            eprintln!("{isa}, {precision}, {threads} threads");
            conformance::run(&backend(isa, precision, threads), &Grid::whole(precision));
        }
    }
}

#[test]
fn linear_is_near_the_reference_and_equal_on_every_instruction_set() {
    const SHAPES: &[(usize, usize, usize)] = if cfg!(miri) {
        &[(5, 5, 31)]
    } else {
        &[(1, 1, 1), (1, 5, 31), (2, 7, 33), (3, 64, 128), (5, 13, 127), (6, 130, 129), (11, 9, 300), (64, 70, 256)]
    };
    for format in QuantFormat::ALL {
        for (seed, &(tokens, rows, cols)) in SHAPES.iter().enumerate() {
            let cols = usize::next_multiple_of(cols, format.block_elements());
            let mut random = Rng(seed as u64);
            let parts = [matrix(&mut random, format, rows, cols), matrix(&mut random, format, 3, cols)];
            let x = random.values(tokens * cols);
            let reference = linear(&RefBackend, &x, &parts);
            for precision in [Precision::F32, Precision::Bf16] {
                let magnitudes = magnitudes(&x, &parts, precision);
                let scalar = linear(&backend(Isa::Scalar, precision, 1), &x, &parts);
                let what = format!("{format} {precision} {tokens}×{rows}×{cols}, seed {seed}");
                assert_close(&scalar, &reference, &magnitudes, cols, &what);
                for isa in available() {
                    assert_eq!(linear(&backend(isa, precision, 2), &x, &parts), scalar, "{isa} {what}");
                }
            }
        }
    }
}

#[test]
fn every_fp8_code_is_expanded_exactly() {
    for code in (0..=255).step_by(if cfg!(miri) { 51 } else { 1 }) {
        let matrix = PackedMatrix::fp8(1, 1, SharedBytes::new(Arc::new(vec![code])), Arc::new([1.0]));
        for isa in available() {
            for precision in [Precision::F32, Precision::Bf16] {
                let out = linear(&backend(isa, precision, 1), &[1.0], std::slice::from_ref(&matrix));
                let want = quern_backend::quant::fp8::E4M3[code as usize];
                let same = out[0] == want || out[0].is_nan() && want.is_nan();
                assert!(same, "{isa} {precision} {code:#x}: {} for {want}", out[0]);
            }
        }
    }
}

#[test]
fn a_row_has_the_same_bits_alone_and_in_a_batch_and_at_any_thread_count() {
    let mut random = Rng(7);
    let (rows, tokens, cols) = if cfg!(miri) { (5, 3, 32usize) } else { (300, 23, 200) };
    for format in QuantFormat::ALL.into_iter().filter(|format| !cfg!(miri) || format.block_elements() <= cols) {
        let cols = cols.next_multiple_of(format.block_elements());
        let parts = [matrix(&mut random, format, rows, cols)];
        let x = random.values(tokens * cols);
        for isa in available() {
            let alone: Vec<f32> = {
                let b = backend(isa, Precision::Bf16, 1);
                x.chunks(cols).flat_map(|row| linear(&b, row, &parts)).collect()
            };
            for threads in [1, 2, 3] {
                assert_eq!(
                    linear(&backend(isa, Precision::Bf16, threads), &x, &parts),
                    alone,
                    "{isa} {format} {threads}"
                );
            }
        }
    }
}

struct MoeCase {
    gate: Vec<PackedMatrix>,
    up: Vec<PackedMatrix>,
    down: Vec<PackedMatrix>,
    x: Vec<f32>,
    logits: Vec<f32>,
    hidden: usize,
    top_k: usize,
}

impl MoeCase {
    fn new(seed: u64, format: QuantFormat, tokens: usize, experts: usize, top_k: usize) -> Self {
        let mut random = Rng(seed);
        let shape = if cfg!(miri) { [32, 32] } else { [96usize, 40] };
        let [hidden, inner] = shape.map(|n| n.next_multiple_of(format.block_elements()));
        let mut all = |rows, cols| (0..experts).map(|_| matrix(&mut random, format, rows, cols)).collect::<Vec<_>>();
        let (gate, up, down) = (all(inner, hidden), all(inner, hidden), all(hidden, inner));
        Self {
            gate,
            up,
            down,
            x: random.values(tokens * hidden),
            logits: random.values(tokens * experts),
            hidden,
            top_k,
        }
    }

    fn run<B: Backend>(&self, b: &B, tokens: std::ops::Range<usize>) -> Vec<f32> {
        let experts = self.gate.len();
        let mut routing = b.alloc_routing(tokens.len(), self.top_k);
        let logits = &self.logits[tokens.start * experts..tokens.end * experts];
        b.route(&filled(b, logits, experts), true, &mut routing);
        let weights = b.uploader().experts(0, &self.gate, &self.up, &self.down).unwrap();
        let mut out = b.alloc(tokens.len(), self.hidden);
        let x = &self.x[tokens.start * self.hidden..tokens.end * self.hidden];
        b.moe(&filled(b, x, self.hidden), &routing, &weights, &mut out);
        b.read(&out)
    }
}

// Here and not beside the kernels: a test of the library that reaches them compiles all of them a second time.
#[test]
#[cfg_attr(miri, ignore = "takes hours")]
fn both_ways_through_panels_give_the_same_bits() {
    for isa in available() {
        let with = |wide| backend(isa, Precision::Bf16, 2).with_wide_panels(wide);
        let (Some(wide), Some(narrow)) = (with(true), with(false)) else { continue };
        for format in QuantFormat::ALL.into_iter().filter(|format| format.blocks().is_some()) {
            for (tokens, rows) in [(9, 16), (48, 80), (61, 37)] {
                let mut random = Rng(tokens as u64);
                let parts = [matrix(&mut random, format, rows, 512)];
                let x = random.values(tokens * 512);
                let bits = |b: &CpuBackend| linear(b, &x, &parts).iter().map(|v| v.to_bits()).collect::<Vec<_>>();
                assert_eq!(bits(&wide), bits(&narrow), "{isa} {format}, {tokens} tokens × {rows} rows");
            }
        }
    }
}

#[test]
fn experts_agree_with_the_reference_whether_idle_shared_or_alone() {
    // Many experts for few tokens leave most idle; few for many make groups.
    const CASES: &[(usize, usize, usize)] =
        if cfg!(miri) { &[(2, 2, 1)] } else { &[(1, 8, 2), (3, 32, 4), (70, 4, 2), (5, 3, 3)] };
    const FORMATS: &[QuantFormat] =
        if cfg!(miri) { &[QuantFormat::BF16, QuantFormat::Q4_0] } else { &QuantFormat::ALL };
    for &format in FORMATS {
        for &(tokens, experts, top_k) in CASES {
            let case = MoeCase::new(tokens as u64, format, tokens, experts, top_k);
            let reference = case.run(&RefBackend, 0..tokens);
            let scale = reference.iter().fold(0.0f32, |m, v| m.max(v.abs()));
            let scalar = case.run(&backend(Isa::Scalar, Precision::F32, 1), 0..tokens);
            for (a, b) in scalar.iter().zip(&reference) {
                // Three sums of at most `hidden` terms, one after the other, relative to the largest output.
                assert!((a - b).abs() <= 3.0 * case.hidden as f32 * f32::EPSILON * scale.max(1.0), "{format}: {a} {b}");
            }
            for isa in available() {
                let three = backend(isa, Precision::F32, 3);
                assert_eq!(case.run(&three, 0..tokens), scalar, "{isa} {format}");
                for precision in [Precision::F32, Precision::Bf16] {
                    let three = backend(isa, precision, 3);
                    let together = case.run(&three, 0..tokens);
                    let alone: Vec<f32> = (0..tokens).flat_map(|t| case.run(&three, t..t + 1)).collect();
                    assert_eq!(alone, together, "{isa} {format} {precision}, one by one");
                }
            }
        }
    }
}

/// One sequence's attention computed in chunks of the given lengths, beside a second sequence.
struct AttentionCase {
    heads: HeadLayout,
    qkv: Vec<f32>,
    len: usize,
    format: KvFormat,
}

impl AttentionCase {
    fn new(seed: u64, heads: HeadLayout, len: usize, format: KvFormat) -> Self {
        Self { heads, qkv: Rng(seed).values(len * heads.qkv_dim()), len, format }
    }

    fn run<B: Backend>(
        &self,
        b: &B,
        page_size: usize,
        chunks: impl Iterator<Item = usize>,
        neighbour: bool,
    ) -> Vec<f32> {
        let per_sequence = self.len.div_ceil(page_size);
        let num_pages = 2 * per_sequence;
        let spec = KvSpec { num_layers: 2, heads: self.heads, page_size, num_pages, format: self.format };
        let mut kv = b.alloc_kv(&spec).unwrap();
        // Even pages for the sequence, backwards; odd ones for the neighbour.
        let mine = (0..per_sequence).map(|i| 2 * (per_sequence - 1 - i) as u32);
        let pages: Vec<u32> = mine.chain((0..per_sequence).map(|i| 2 * i as u32 + 1)).collect();
        let width = self.heads.qkv_dim();
        let mut result = Vec::new();
        let mut done = 0;
        for chunk in chunks.map(|c| c.max(1)) {
            if done == self.len {
                break;
            }
            let chunk = chunk.min(self.len - done);
            let kv_len = done + chunk;
            let mut spans = vec![Span { q_start: 0, q_len: chunk, kv_len, pages: 0..per_sequence }];
            let mut rows = self.qkv[done * width..kv_len * width].to_vec();
            if neighbour {
                spans.push(Span { q_start: chunk, q_len: chunk, kv_len, pages: per_sequence..2 * per_sequence });
                rows.extend(self.qkv[done * width..kv_len * width].iter().map(|v| 0.5 - v));
            }
            let batch = PagedBatch { spans, pages: pages.clone() };
            let mut out = b.alloc(batch.num_rows(), self.heads.q_dim());
            let spec = AttentionSpec::causal(1, self.heads);
            b.attention(&filled(b, &rows, width), &spec, &mut kv, &step_over(b, &batch), &mut out);
            result.extend_from_slice(&b.read(&out)[..chunk * self.heads.q_dim()]);
            done = kv_len;
        }
        result
    }
}

#[test]
fn attention_is_near_the_reference() {
    const CASES: &[(usize, usize, usize, usize)] = if cfg!(miri) {
        &[(2, 1, 8, 3)]
    } else {
        &[(1, 1, 2, 1), (8, 1, 128, 70), (6, 2, 64, 300), (4, 4, 24, 33), (5, 1, 80, 20)]
    };
    for (seed, &(num_heads, num_kv_heads, head_dim, len)) in CASES.iter().enumerate() {
        for format in KvFormat::ALL {
            let case = AttentionCase::new(seed as u64, HeadLayout { num_heads, num_kv_heads, head_dim }, len, format);
            let reference = case.run(&RefBackend, 16, std::iter::repeat(len), false);
            for (isa, precision) in
                available().flat_map(|isa| [Precision::F32, Precision::Bf16].map(|precision| (isa, precision)))
            {
                let ours = case.run(&backend(isa, precision, 2), 16, std::iter::repeat(len), false);
                for (a, b) in ours.iter().zip(&reference) {
                    // Outputs are means of values within ±1; scores of `head_dim` terms within ±√head_dim
                    // round in f32, and the exponential carries their error over.
                    let rounding = 4.0 * (head_dim as f32 + len as f32) * f32::EPSILON;
                    let bound = rounding + attention_error(precision, format, head_dim);
                    assert!((a - b).abs() <= bound, "{isa} {num_heads}/{num_kv_heads}×{head_dim}, {len}: {a} {b}");
                }
            }
        }
    }
}

#[test]
#[cfg_attr(miri, ignore = "takes hours")]
fn attention_has_the_same_bits_for_any_chunks_pages_threads_and_neighbours() {
    for (num_heads, num_kv_heads, head_dim) in [(6, 2, 32), (8, 1, 80), (24, 2, 32)] {
        same_bits_anyhow(HeadLayout { num_heads, num_kv_heads, head_dim });
    }
}

fn same_bits_anyhow(heads: HeadLayout) {
    let case = AttentionCase::new(3, heads, 600, KvFormat::BF16);
    let expected = case.run(&backend(Isa::Scalar, Precision::Bf16, 1), 16, std::iter::repeat(600), false);
    for isa in available() {
        for threads in [1, 2, 3] {
            let b = backend(isa, Precision::Bf16, threads);
            for (page_size, seed) in [(1, 1), (16, 2), (7, 3), (256, 4)] {
                let mut random = Rng(seed);
                let chunks = std::iter::repeat_with(move || if random.below(2) == 0 { 1 } else { random.below(250) });
                let ours = case.run(&b, page_size, chunks, seed % 2 == 0);
                let differing = ours.iter().zip(&expected).filter(|(a, b)| a != b).count();
                assert_eq!(differing, 0, "{isa}, {threads} threads, pages of {page_size}, seed {seed}");
            }
        }
    }
}

#[test]
fn rows_of_any_length_are_normalised_rotated_and_gated_alike_everywhere() {
    const COLS: &[usize] = if cfg!(miri) { &[6, 34] } else { &[2, 6, 16, 30, 64, 130] };
    for (seed, &cols) in COLS.iter().enumerate() {
        let mut random = Rng(seed as u64);
        let (residual, delta, gain) = (random.values(3 * cols), random.values(3 * cols), random.values(cols));
        let heads = HeadLayout { num_heads: 3, num_kv_heads: 1, head_dim: cols };
        let (qkv, rotation) = (random.values(3 * heads.qkv_dim()), random.values(3 * cols));
        fn run<B: Backend>(
            b: &B,
            heads: &HeadLayout,
            [residual, delta, gain, qkv, rotation]: [&[f32]; 5],
        ) -> Vec<Vec<f32>> {
            let cols = heads.head_dim;
            let (mut residual, delta, gain) =
                (filled(b, residual, cols), filled(b, delta, cols), filled(b, gain, cols));
            let mut out = b.alloc(3, cols);
            b.add_rms_norm(&mut residual, &delta, &gain, 1e-6, &mut out);
            let mut qkv = filled(b, qkv, heads.qkv_dim());
            let rotation = filled(b, rotation, cols);
            let bias = filled(b, &b.read(&qkv)[..heads.qkv_dim()], heads.qkv_dim());
            b.qk_norm_rope(&mut qkv, heads, &gain, &gain, 1e-6, &rotation);
            let normed = b.read(&qkv);
            b.bias_rope(&mut qkv, heads, &bias, &rotation);
            let mut gated = b.alloc(3, cols / 2);
            b.silu_mul(&delta, &mut gated);
            vec![b.read(&residual), b.read(&out), normed, b.read(&qkv), b.read(&gated)]
        }
        let inputs = [&residual[..], &delta, &gain, &qkv, &rotation];
        let reference = run(&RefBackend, &heads, inputs);
        let scalar = run(&backend(Isa::Scalar, Precision::F32, 1), &heads, inputs);
        for (ours, theirs) in scalar.iter().flatten().zip(reference.iter().flatten()) {
            let bound = (cols + 8) as f32 * f32::EPSILON * theirs.abs().max(1.0);
            assert!((ours - theirs).abs() <= bound, "{cols} columns: {ours} {theirs}");
        }
        for isa in available() {
            assert_eq!(run(&backend(isa, Precision::F32, 2), &heads, inputs), scalar, "{isa}, {cols} columns");
        }
    }
}

#[test]
fn an_instruction_set_the_cpu_lacks_is_named_with_what_is_missing() {
    // No CPU is both.
    let foreign = if cfg!(target_arch = "aarch64") { Isa::Avx2 } else { Isa::Neon };
    let needed = if cfg!(target_arch = "aarch64") { "an x86-64 CPU" } else { "a 64-bit Arm CPU" };
    let refusal = |isa| CpuBackend::new(CpuConfig { isa: Some(isa), ..CpuConfig::default() }).err().expect("refused");
    assert_eq!(refusal(foreign).to_string(), format!("this CPU cannot run `{foreign}` kernels: it lacks {needed}"));
    for isa in Isa::ALL.into_iter().filter(|isa| !isa.is_available()) {
        let error = refusal(isa).to_string();
        let missing = error.rsplit_once("lacks ").expect("what is missing").1;
        assert!(missing.split(", ").all(|feature| feature.len() > 2), "{error}");
    }
}
