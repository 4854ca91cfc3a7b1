//! What every backend must do: each operation against [`RefBackend`] over a grid of shapes, formats and
//! raggedness, and against itself for invariance.
//!
//! The grid is chosen to be awkward: sizes that are no multiples of any register, blocks with ragged
//! edges, experts with no token and with one, pages of 1 and of 33 tokens, spans that begin anywhere.
//! Invariance (I7 in ARCHITECTURE.md) is compared bit by bit: a row alone, in a batch, in chunks, over
//! other pages.
//!
//! Tolerances follow from the arithmetic. A sum of `n` products in f32, in any order, is off by at most
//! `n · ε · Σ|aᵢ·bᵢ|` (Higham 2002, §3.1); where a backend rounds inputs to bf16, each product is off by
//! another `2⁻⁸` of itself at most; where it rounds them to 8-bit integers, each input by half a step, a
//! 254th of the largest among its 32.

use half::{bf16, f16};

use crate::{
    Backend, Fault, HeadLayout, KvFormat, KvSpec, LogitRow, PackedMatrix, PagedBatch, QuantFormat, RefBackend,
    RowOutput, RowTask, SamplingParams, SharedBytes, Span,
    quant::fp8,
    reference::{project, silu},
};

/// How a backend multiplies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precision {
    /// Everything in f32.
    F32,
    /// Inputs of products with bf16 and fp8 weights are rounded to bf16, those of products with blocks to
    /// 8-bit integers that share a scale among 32; queries and weights of attention over bf16 and fp8 are rounded
    /// to bf16.
    Bf16,
}

/// Rows of a batch.
const ROWS: [usize; 7] = [1, 2, 3, 5, 16, 17, 33];

/// Hold `backend` to the reference and to itself.
///
/// # Panics
/// At the first disagreement, naming operation, shape, format and place.
pub fn run<B: Backend>(backend: &B, precision: Precision) {
    let mut rng = Rng(0x5eed);
    linear(backend, precision, &mut rng);
    embed(backend, &mut rng);
    add_rms_norm(backend, &mut rng);
    qk_norm_rope(backend, &mut rng);
    bias_rope(backend, &mut rng);
    silu_mul(backend, &mut rng);
    attention(backend, precision, &mut rng);
    route_and_moe(backend, precision, &mut rng);
    gather_rows(backend, &mut rng);
    sample(backend, &mut rng);
}

/// Deterministic numbers for shapes and values.
pub struct Rng(pub u64);

impl Rng {
    /// The next 64 bits (SplitMix64).
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `n`.
    pub fn below(&mut self, n: usize) -> usize {
        (self.bits() % n as u64) as usize
    }

    /// A value of [-1, 1).
    pub fn value(&mut self) -> f32 {
        (self.bits() >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }

    /// `count` values of [-1, 1).
    pub fn values(&mut self, count: usize) -> Vec<f32> {
        (0..count).map(|_| self.value()).collect()
    }
}

/// A random matrix in `format`.
pub fn matrix(rng: &mut Rng, format: QuantFormat, rows: usize, cols: usize) -> PackedMatrix {
    let values = rng.values(rows * cols);
    let shared = |bytes: Vec<u8>| SharedBytes::new(std::sync::Arc::new(bytes));
    match format {
        QuantFormat::F32 => {
            let bytes = values.iter().flat_map(|x| x.to_le_bytes()).collect();
            PackedMatrix::plain(format, rows, cols, shared(bytes))
        }
        QuantFormat::F16 => {
            let bytes = values.iter().flat_map(|&x| f16::from_f32(x).to_le_bytes()).collect();
            PackedMatrix::plain(format, rows, cols, shared(bytes))
        }
        QuantFormat::BF16 => {
            let bytes = values.iter().flat_map(|&x| bf16::from_f32(x).to_le_bytes()).collect();
            PackedMatrix::plain(format, rows, cols, shared(bytes))
        }
        QuantFormat::Fp8Block128 => {
            // Every finite code occurs, the subnormal ones among them.
            let code = |x: &f32| fp8::encode_e4m3(x.powi(7) * fp8::E4M3_MAX);
            let codes = values.iter().map(code).collect();
            let blocks = rows.div_ceil(QuantFormat::FP8_BLOCK) * cols.div_ceil(QuantFormat::FP8_BLOCK);
            let scales: Vec<f32> = (0..blocks).map(|_| 0.001 + rng.value().abs() * 0.01).collect();
            PackedMatrix::fp8(rows, cols, shared(codes), scales.into())
        }
        _ => {
            let blocks = format.blocks().expect("every other format has blocks");
            // Every code and every scale of a group occurs; scales of blocks keep values below 2 or so.
            let span = if blocks.group < blocks.elements { 0.0003 } else { 0.01 };
            let mut bytes: Vec<u8> = (0..rows * format.row_bytes(cols)).map(|_| rng.bits() as u8).collect();
            for block in bytes.chunks_exact_mut(blocks.bytes) {
                for &at in blocks.halves {
                    block[at..at + 2].copy_from_slice(&f16::from_f32(rng.value() * span).to_le_bytes());
                }
                if format == QuantFormat::Mxfp4 {
                    block[0] = 118 + block[0] % 8;
                }
            }
            PackedMatrix::plain(format, rows, cols, shared(bytes))
        }
    }
}

fn upload<B: Backend>(backend: &B, parts: &[PackedMatrix]) -> B::Weight {
    backend.upload_weight(parts).unwrap_or_else(|e| panic!("{e}"))
}

fn filled<B: Backend>(backend: &B, cols: usize, values: &[f32]) -> B::Buffer {
    let mut buffer = backend.alloc((values.len() / cols).max(1), cols);
    backend.write(&mut buffer, values);
    buffer
}

/// How far each input of a product with `format` may be off.
pub fn input_errors(precision: Precision, format: QuantFormat, x: &[f32]) -> Vec<f32> {
    match (precision, format) {
        (Precision::F32, _) | (_, QuantFormat::F32 | QuantFormat::F16) => vec![0.0; x.len()],
        (_, QuantFormat::BF16 | QuantFormat::Fp8Block128) => x.iter().map(|x| x.abs() / 256.0).collect(),
        _ => {
            let largest = |x: &[f32]| x.iter().fold(0.0f32, |a, b| a.max(b.abs()));
            // A little over half a step: the step itself is rounded.
            x.chunks(32).flat_map(|x| vec![largest(x) * 0.5001 / 127.0; x.len()]).collect()
        }
    }
}

/// `got` against `want`, element by element, with a bound for each.
fn close(what: &str, cols: usize, got: &[f32], want: &[f32], bound: impl Fn(usize) -> f32) {
    assert_eq!(got.len(), want.len(), "{what}: number of values");
    for (i, (g, w)) in got.iter().zip(want).enumerate() {
        let (row, col, bound) = (i / cols, i % cols, bound(i));
        assert!((g - w).abs() <= bound, "{what}, row {row}, col {col}: {g} for {w}, allowed ±{bound:e}");
    }
}

/// Bit by bit.
fn same(what: &str, cols: usize, got: &[f32], want: &[f32]) {
    assert_eq!(got.len(), want.len(), "{what}: number of values");
    for (i, (g, w)) in got.iter().zip(want).enumerate() {
        assert!(g.to_bits() == w.to_bits(), "{what}, row {}, col {}: {g:?} is not {w:?}", i / cols, i % cols);
    }
}

/// The bound for `matrix · x`, for each output; `errors` are those of `x`.
fn product_bounds(parts: &[PackedMatrix], x: &[f32], errors: &[f32]) -> Vec<f32> {
    let mut row = vec![0.0; parts[0].cols()];
    let mut bounds = Vec::new();
    for part in parts {
        for r in 0..part.rows() {
            part.decode_row(r, &mut row);
            let sum: f32 = row.iter().zip(x).map(|(w, x)| (w * x).abs()).sum();
            let off: f32 = row.iter().zip(errors).map(|(w, error)| w.abs() * error).sum();
            // One rounding more: an fp8 block's scale, which may meet the weight or the sum.
            bounds.push(sum * (x.len() + 1) as f32 * f32::EPSILON + off + 1e-30);
        }
    }
    bounds
}

fn linear<B: Backend>(backend: &B, precision: Precision, rng: &mut Rng) {
    let reference = RefBackend;
    let shapes: [(&[usize], usize); 8] = [
        (&[1], 1),
        (&[7], 31),
        (&[16, 3], 64),
        (&[33], 127),
        (&[130], 128),
        (&[64, 1, 17], 129),
        (&[5], 257),
        (&[96, 96], 320),
    ];
    for format in QuantFormat::ALL {
        for (parts, cols) in shapes {
            let cols = cols.next_multiple_of(format.block_elements());
            let parts: Vec<_> = parts.iter().map(|&rows| matrix(rng, format, rows, cols)).collect();
            let out_cols: usize = parts.iter().map(PackedMatrix::rows).sum();
            let (weight, ref_weight) = (upload(backend, &parts), upload(&reference, &parts));
            for rows in ROWS {
                let what = format!("linear, {format}, {rows} × {cols} → {out_cols}");
                let values = rng.values(rows * cols);
                let (x, mut out) = (filled(backend, cols, &values), backend.alloc(rows, out_cols));
                let (ref_x, mut ref_out) = (filled(&reference, cols, &values), reference.alloc(rows, out_cols));
                backend.linear(&x, &weight, &mut out);
                reference.linear(&ref_x, &ref_weight, &mut ref_out);
                let (got, want) = (backend.read(&out), reference.read(&ref_out));
                let bounds: Vec<f32> = values
                    .chunks(cols)
                    .flat_map(|x| product_bounds(&parts, x, &input_errors(precision, format, x)))
                    .collect();
                close(&what, out_cols, &got, &want, |i| bounds[i]);
                for row in [0, rows / 2, rows - 1] {
                    let alone = filled(backend, cols, &values[row * cols..(row + 1) * cols]);
                    backend.linear(&alone, &weight, &mut out);
                    let batched = &got[row * out_cols..(row + 1) * out_cols];
                    same(&format!("{what}: row {row} alone"), out_cols, &backend.read(&out), batched);
                }
            }
        }
    }
}

fn embed<B: Backend>(backend: &B, rng: &mut Rng) {
    for format in QuantFormat::ALL {
        let cols = 70usize.next_multiple_of(format.block_elements());
        let table = matrix(rng, format, 150, cols);
        let ids: Vec<u32> = (0..33).map(|_| rng.below(150) as u32).collect();
        let mut out = backend.alloc(33, cols);
        backend.embed(&upload(backend, std::slice::from_ref(&table)), &ids, &mut out);
        let mut want = vec![0.0; cols * ids.len()];
        for (row, &id) in want.chunks_exact_mut(cols).zip(&ids) {
            table.decode_row(id as usize, row);
        }
        same(&format!("embed, {format}"), cols, &backend.read(&out), &want);
    }
}

fn add_rms_norm<B: Backend>(backend: &B, rng: &mut Rng) {
    let reference = RefBackend;
    for cols in [1, 7, 64, 129, 2048] {
        for rows in ROWS {
            let what = format!("add_rms_norm, {rows} × {cols}");
            let (residual, delta) = (rng.values(rows * cols), rng.values(rows * cols));
            let gain = rng.values(cols);
            let got = norm_of(backend, cols, &residual, &delta, &gain);
            let want = norm_of(&reference, cols, &residual, &delta, &gain);
            same(&format!("{what}: the residual"), cols, &got.0, &want.0);
            close(&what, cols, &got.1, &want.1, |i| want.1[i].abs() * cols as f32 * f32::EPSILON + 1e-6);
            let last = (rows - 1) * cols..;
            let alone = norm_of(backend, cols, &residual[last.clone()], &delta[last.clone()], &gain);
            same(&format!("{what}: the last row alone"), cols, &alone.1, &got.1[last]);
        }
    }
}

fn norm_of<B: Backend>(b: &B, cols: usize, residual: &[f32], delta: &[f32], gain: &[f32]) -> (Vec<f32>, Vec<f32>) {
    let mut residual = filled(b, cols, residual);
    let (delta, gain, mut out) = (filled(b, cols, delta), filled(b, cols, gain), b.alloc(64, cols));
    b.add_rms_norm(&mut residual, &delta, &gain, 1e-6, &mut out);
    (b.read(&residual), b.read(&out))
}

const HEADS: [HeadLayout; 6] = [
    HeadLayout { num_heads: 1, num_kv_heads: 1, head_dim: 2 },
    HeadLayout { num_heads: 4, num_kv_heads: 2, head_dim: 16 },
    HeadLayout { num_heads: 8, num_kv_heads: 1, head_dim: 32 },
    HeadLayout { num_heads: 6, num_kv_heads: 6, head_dim: 80 },
    HeadLayout { num_heads: 4, num_kv_heads: 1, head_dim: 64 },
    HeadLayout { num_heads: 16, num_kv_heads: 2, head_dim: 128 },
];

fn qk_norm_rope<B: Backend>(backend: &B, rng: &mut Rng) {
    let reference = RefBackend;
    for heads in HEADS {
        let (cols, dim) = (heads.qkv_dim(), heads.head_dim);
        let (q_gain, k_gain) = (rng.values(dim), rng.values(dim));
        for rows in ROWS {
            let what = format!("qk_norm_rope, {rows} rows, {heads:?}");
            let (qkv, rotation) = (rng.values(rows * cols), rng.values(rows * dim));
            let got = rope_of(backend, &heads, &qkv, &q_gain, &k_gain, &rotation);
            let want = rope_of(&reference, &heads, &qkv, &q_gain, &k_gain, &rotation);
            close(&what, cols, &got, &want, |_| dim as f32 * 8.0 * f32::EPSILON * (dim as f32).sqrt());
            let values_from = cols - heads.kv_dim();
            for row in 0..rows {
                let place = row * cols + values_from..(row + 1) * cols;
                same(&format!("{what}: values of row {row}"), cols, &got[place.clone()], &qkv[place]);
            }
            let last = (rows - 1) * cols;
            let alone = rope_of(backend, &heads, &qkv[last..], &q_gain, &k_gain, &rotation[(rows - 1) * dim..]);
            same(&format!("{what}: the last row alone"), cols, &alone, &got[last..]);
        }
    }
}

fn rope_of<B: Backend>(
    b: &B,
    heads: &HeadLayout,
    qkv: &[f32],
    q_gain: &[f32],
    k_gain: &[f32],
    rotation: &[f32],
) -> Vec<f32> {
    let mut qkv = filled(b, heads.qkv_dim(), qkv);
    let [q_gain, k_gain, rotation] = [q_gain, k_gain, rotation].map(|v| filled(b, heads.head_dim, v));
    b.qk_norm_rope(&mut qkv, heads, &q_gain, &k_gain, 1e-6, &rotation);
    b.read(&qkv)
}

fn bias_rope<B: Backend>(backend: &B, rng: &mut Rng) {
    let reference = RefBackend;
    for heads in HEADS {
        let (cols, dim) = (heads.qkv_dim(), heads.head_dim);
        let bias = rng.values(cols);
        for rows in ROWS {
            let what = format!("bias_rope, {rows} rows, {heads:?}");
            let (qkv, rotation) = (rng.values(rows * cols), rng.values(rows * dim));
            let got = biased(backend, &heads, &qkv, &bias, &rotation);
            let want = biased(&reference, &heads, &qkv, &bias, &rotation);
            // Two products of numbers below 2, and their sum.
            close(&what, cols, &got, &want, |_| 8.0 * f32::EPSILON);
            let last = (rows - 1) * cols;
            let alone = biased(backend, &heads, &qkv[last..], &bias, &rotation[(rows - 1) * dim..]);
            same(&format!("{what}: the last row alone"), cols, &alone, &got[last..]);
        }
    }
}

fn biased<B: Backend>(b: &B, heads: &HeadLayout, qkv: &[f32], bias: &[f32], rotation: &[f32]) -> Vec<f32> {
    let [mut qkv, bias] = [qkv, bias].map(|values| filled(b, heads.qkv_dim(), values));
    b.bias_rope(&mut qkv, heads, &bias, &filled(b, heads.head_dim, rotation));
    b.read(&qkv)
}

fn silu_mul<B: Backend>(backend: &B, rng: &mut Rng) {
    let reference = RefBackend;
    for inner in [1, 15, 64, 129] {
        for rows in ROWS {
            let what = format!("silu_mul, {rows} × {inner}");
            // Wide enough to see both tails of the sigmoid.
            let values: Vec<f32> = rng.values(rows * 2 * inner).iter().map(|x| x * 30.0).collect();
            let mut out = backend.alloc(rows, inner);
            let mut ref_out = reference.alloc(rows, inner);
            backend.silu_mul(&filled(backend, 2 * inner, &values), &mut out);
            reference.silu_mul(&filled(&reference, 2 * inner, &values), &mut ref_out);
            let (got, want) = (backend.read(&out), reference.read(&ref_out));
            close(&what, inner, &got, &want, |i| want[i].abs() * 64.0 * f32::EPSILON + 1e-30);
            let last = filled(backend, 2 * inner, &values[(rows - 1) * 2 * inner..]);
            backend.silu_mul(&last, &mut out);
            same(&format!("{what}: the last row alone"), inner, &backend.read(&out), &got[(rows - 1) * inner..]);
        }
    }
}

/// A step of attention: for each sequence, how many tokens it has and how many of them are new.
struct AttentionCase {
    heads: HeadLayout,
    page_size: usize,
    format: KvFormat,
    sequences: Vec<(usize, usize)>,
}

fn attention<B: Backend>(backend: &B, precision: Precision, rng: &mut Rng) {
    let mixes: [&[(usize, usize)]; 5] = [
        &[(1, 1)],
        &[(17, 17), (1, 1), (40, 1)],
        &[(300, 2), (33, 33)],
        &[(64, 64), (65, 1), (5, 3), (129, 16)],
        &[(530, 1)],
    ];
    const PAGE_SIZES: [usize; 5] = [1, 2, 16, 32, 33];
    for (h, heads) in HEADS.into_iter().enumerate() {
        for (m, sequences) in mixes.into_iter().enumerate() {
            // Two Latin squares across each other: each head layout and each mix meets each size and each format
            // of pages, and these meet one another.
            let (page_size, format) = (PAGE_SIZES[(h + m) % 5], KvFormat::ALL[(h + 2 * m) % 5]);
            let case = AttentionCase { heads, page_size, format, sequences: sequences.to_vec() };
            attention_case(backend, precision, rng, &case);
        }
    }
}

/// How far attention over values within ±1 may be off where its queries and weights are rounded.
pub fn attention_error(precision: Precision, format: KvFormat, head_dim: usize) -> f32 {
    if precision == Precision::F32 || !format.is_in_bf16() {
        return 0.0;
    }
    // Half a unit of bfloat16, 2^-9, of each query: √head_dim times that in a score, a relative error of its weight
    // as of the sum it is divided by. Then the weight's own.
    (2.0 * (head_dim as f32).sqrt() + 2.0) / 512.0
}

fn attention_case<B: Backend>(backend: &B, precision: Precision, rng: &mut Rng, case: &AttentionCase) {
    let heads = case.heads;
    let what = format!("attention, {heads:?}, pages of {} {}, {:?}", case.page_size, case.format, case.sequences);
    // One qkv row for every token of every sequence; earlier tokens are stored in a step of their own.
    let tokens: Vec<Vec<f32>> = case.sequences.iter().map(|&(len, _)| rng.values(len * heads.qkv_dim())).collect();
    let together: Vec<(usize, Vec<usize>)> =
        case.sequences.iter().enumerate().map(|(i, &(len, new))| (i, vec![len - new, new])).collect();
    let got = attend(backend, case, &tokens, &together, false);
    let want = attend(&RefBackend, case, &tokens, &together, false);
    for (i, (got, want)) in got.iter().zip(&want).enumerate() {
        // Weights sum to 1 and values lie in [-1, 1]: a relative error of the scores is an absolute one here.
        let bound = 1e-5 * (heads.head_dim as f32).sqrt() + attention_error(precision, case.format, heads.head_dim);
        close(&format!("{what}: sequence {i}"), heads.q_dim(), got, want, |_| bound);
    }
    for (i, &(len, new)) in case.sequences.iter().enumerate() {
        let tail = |rows: &[f32]| rows[rows.len() - new * heads.q_dim()..].to_vec();
        let alone = attend(backend, case, &tokens, &[(i, vec![len - new, new])], true);
        same(&format!("{what}: sequence {i} alone, other pages"), heads.q_dim(), &alone[0], &got[i]);
        let third = (len / 3).max(1);
        let mut chunks = vec![third; len / third];
        chunks.push(len % third);
        let chunked = attend_all(backend, case, &tokens, i, &chunks);
        same(&format!("{what}: sequence {i} in chunks of {third}"), heads.q_dim(), &tail(&chunked), &got[i]);
    }
}

/// Run the chunks of the named sequences, one step for each round of chunks, all sequences together;
/// returns the rows of each sequence's last chunk.
fn attend<B: Backend>(
    b: &B,
    case: &AttentionCase,
    tokens: &[Vec<f32>],
    plan: &[(usize, Vec<usize>)],
    reversed: bool,
) -> Vec<Vec<f32>> {
    let rounds = run_rounds(b, case, tokens, plan, reversed);
    rounds.into_iter().map(|mut rounds| rounds.pop().expect("at least one chunk")).collect()
}

/// All rows of one sequence computed in `chunks`.
fn attend_all<B: Backend>(
    b: &B,
    case: &AttentionCase,
    tokens: &[Vec<f32>],
    index: usize,
    chunks: &[usize],
) -> Vec<f32> {
    run_rounds(b, case, tokens, &[(index, chunks.to_vec())], false).remove(0).concat()
}

fn run_rounds<B: Backend>(
    b: &B,
    case: &AttentionCase,
    tokens: &[Vec<f32>],
    plan: &[(usize, Vec<usize>)],
    reversed: bool,
) -> Vec<Vec<Vec<f32>>> {
    let (heads, page_size) = (case.heads, case.page_size);
    let pages_of: Vec<usize> = plan.iter().map(|(i, _)| case.sequences[*i].0.div_ceil(page_size)).collect();
    let num_pages: usize = pages_of.iter().sum();
    let spec = KvSpec { num_layers: 2, heads, page_size, num_pages: num_pages + 3, format: case.format };
    let mut kv = b.alloc_kv(&spec).unwrap_or_else(|e| panic!("{e}"));
    // Tables interleave, so that no sequence has neighbouring pages.
    let mut next = 0u32;
    let mut tables = vec![Vec::new(); plan.len()];
    while tables.iter().zip(&pages_of).any(|(table, &n)| table.len() < n) {
        for (table, &n) in tables.iter_mut().zip(&pages_of) {
            if table.len() < n {
                table.push(if reversed { num_pages as u32 + 2 - next } else { next });
                next += 1;
            }
        }
    }
    let mut done = vec![0; plan.len()];
    let mut outputs = vec![Vec::new(); plan.len()];
    let rounds = plan.iter().map(|(_, chunks)| chunks.len()).max().unwrap_or(0);
    for round in 0..rounds {
        let (mut batch, mut rows, mut members) = (PagedBatch::default(), Vec::new(), Vec::new());
        for (member, (index, chunks)) in plan.iter().enumerate() {
            let count = chunks.get(round).copied().unwrap_or(0);
            if count == 0 {
                continue;
            }
            let (start, end) = (done[member], done[member] + count);
            let first = batch.pages.len();
            batch.pages.extend(&tables[member][..end.div_ceil(page_size)]);
            batch.spans.push(Span {
                q_start: rows.len() / heads.qkv_dim(),
                q_len: count,
                kv_len: end,
                pages: first..batch.pages.len(),
            });
            rows.extend_from_slice(&tokens[*index][start * heads.qkv_dim()..end * heads.qkv_dim()]);
            done[member] = end;
            members.push(member);
        }
        if members.is_empty() {
            continue;
        }
        let qkv = filled(b, heads.qkv_dim(), &rows);
        let mut out = b.alloc(batch.num_rows(), heads.q_dim());
        // The other layer holds other values: a kernel that mixes layers up shows here.
        let noise: Vec<f32> = rows.iter().map(|x| 1.0 - x).collect();
        b.attention(&filled(b, heads.qkv_dim(), &noise), &heads, &mut kv, 0, &batch, &mut out);
        b.attention(&qkv, &heads, &mut kv, 1, &batch, &mut out);
        let got = b.read(&out);
        for (span, member) in batch.spans.iter().zip(members) {
            let place = span.q_start * heads.q_dim()..(span.q_start + span.q_len) * heads.q_dim();
            outputs[member].push(got[place].to_vec());
        }
    }
    outputs
}

fn route_and_moe<B: Backend>(backend: &B, precision: Precision, rng: &mut Rng) {
    let shapes = [(4, 1, 16, 8), (8, 3, 96, 40), (16, 4, 130, 65), (1, 1, 64, 129)];
    for format in QuantFormat::ALL {
        // What surrounds the products is the same for all formats; those of blocks have larger matrices.
        let blocks = format.blocks().is_some();
        let shapes = if blocks { &shapes[1..2] } else { &shapes[..] };
        for &(num_experts, top_k, hidden, inner) in shapes {
            let [hidden, inner] = [hidden, inner].map(|n: usize| n.next_multiple_of(format.block_elements()));
            for &renormalise in if blocks { &[true][..] } else { &[true, false] } {
                let mut all = |rows, cols| -> Vec<PackedMatrix> {
                    (0..num_experts).map(|_| matrix(rng, format, rows, cols)).collect()
                };
                let weights = [all(inner, hidden), all(inner, hidden), all(hidden, inner)];
                for &rows in if blocks { &[1, 3, 17][..] } else { &ROWS } {
                    let what =
                        format!("moe, {format}, {rows} rows, {num_experts} experts top {top_k}, {hidden} × {inner}");
                    let x: Vec<f32> = rng.values(rows * hidden).iter().map(|v| v * 0.1).collect();
                    // Skewed, so that some experts get many tokens and some none; ties go to the lower index.
                    let logits: Vec<f32> =
                        (0..rows * num_experts).map(|i| rng.value() * 3.0 - (i % num_experts) as f32 * 0.5).collect();
                    let run = |x: &[f32], logits: &[f32]| moe_of(backend, &weights, top_k, renormalise, x, logits);
                    let got = run(&x, &logits);
                    let want = moe_of(&RefBackend, &weights, top_k, renormalise, &x, &logits);
                    let mut routing = RefBackend.alloc_routing(rows, top_k);
                    RefBackend.route(&filled(&RefBackend, num_experts, &logits), renormalise, &mut routing);
                    let rows_of = x.chunks(hidden).zip(RefBackend::routing_rows(&routing));
                    let bounds: Vec<f32> =
                        rows_of.flat_map(|(x, routing)| moe_bounds(&weights, routing, x, precision)).collect();
                    close(&what, hidden, &got, &want, |i| bounds[i]);
                    let last = rows - 1;
                    let alone = run(&x[last * hidden..], &logits[last * num_experts..]);
                    same(&format!("{what}: the last row alone"), hidden, &alone, &got[last * hidden..]);
                }
            }
        }
    }
}

/// The bound for one row of `moe`: the errors of both products before the gate pass through it, whose slope
/// is at most 1.1, and meet the errors of the product behind it.
fn moe_bounds(
    [gate, up, down]: &[Vec<PackedMatrix>; 3],
    routing: &[(usize, f32)],
    x: &[f32],
    precision: Precision,
) -> Vec<f32> {
    let format = gate[0].format();
    let errors = input_errors(precision, format, x);
    let mut bounds = vec![1e-6; x.len()];
    for &(e, weight) in routing {
        let off = |matrix: &PackedMatrix| product_bounds(std::slice::from_ref(matrix), x, &errors);
        let (gates, ups) = (project(&gate[e], x), project(&up[e], x));
        let (gates_off, ups_off) = (off(&gate[e]), off(&up[e]));
        let inner: Vec<f32> = gates.iter().zip(&ups).map(|(&g, &u)| silu(g) * u).collect();
        let inputs_off = input_errors(precision, format, &inner);
        let inner_off: Vec<f32> = (0..inner.len())
            .map(|i| {
                let gated = 1.1 * gates_off[i] * (ups[i].abs() + ups_off[i]) + silu(gates[i]).abs() * ups_off[i];
                // A hundredth more: where its largest is off, the step of 32 inputs is too.
                gated * 1.01 + inputs_off[i] + 64.0 * f32::EPSILON * inner[i].abs()
            })
            .collect();
        let down_off = product_bounds(std::slice::from_ref(&down[e]), &inner, &inner_off);
        bounds.iter_mut().zip(down_off).for_each(|(bound, off)| *bound += weight * off * 1.001);
    }
    bounds
}

fn moe_of<B: Backend>(
    b: &B,
    [gate, up, down]: &[Vec<PackedMatrix>; 3],
    top_k: usize,
    renormalise: bool,
    x: &[f32],
    logits: &[f32],
) -> Vec<f32> {
    let (hidden, num_experts) = (gate[0].cols(), gate.len());
    let rows = x.len() / hidden;
    let experts = b.upload_experts(gate, up, down).unwrap_or_else(|e| panic!("{e}"));
    let (mut routing, mut out) = (b.alloc_routing(rows, top_k), b.alloc(rows, hidden));
    b.route(&filled(b, num_experts, logits), renormalise, &mut routing);
    b.moe(&filled(b, hidden, x), &routing, &experts, &mut out);
    b.read(&out)
}

fn gather_rows<B: Backend>(backend: &B, rng: &mut Rng) {
    let values = rng.values(9 * 37);
    let x = filled(backend, 37, &values);
    let mut out = backend.alloc(4, 37);
    let rows = [8, 0, 3, 3];
    backend.gather_rows(&x, &rows, &mut out);
    let want: Vec<f32> = rows.iter().flat_map(|&r| values[r * 37..(r + 1) * 37].to_vec()).collect();
    same("gather_rows", 37, &backend.read(&out), &want);
}

/// Rows of every kind; the backend must choose the same tokens as the scalar twin, alone and together.
fn sample<B: Backend>(backend: &B, rng: &mut Rng) {
    for vocab in [2, 33, 1000] {
        let rows = 24;
        let values: Vec<f32> = rng.values(rows * vocab).iter().map(|x| x * 8.0).collect();
        let tasks: Vec<LogitRow> = (0..rows).map(|row| sample_task(rng, row, vocab)).collect();
        let mut got = Vec::new();
        backend.sample(&mut filled(backend, vocab, &values), &tasks, &mut got);
        let mut want = Vec::new();
        RefBackend.sample(&mut filled(&RefBackend, vocab, &values), &tasks, &mut want);
        agree(&format!("sample, vocabulary of {vocab}"), &got, &want);
        for row in [0, 7, 23] {
            let mut alone = Vec::new();
            let logits = &values[row * vocab..(row + 1) * vocab];
            backend.sample(&mut filled(backend, vocab, logits), &tasks[row..=row], &mut alone);
            assert_eq!(alone[0], got[row], "sample, vocabulary of {vocab}: row {row} alone");
        }
    }
    let mut faulty = Vec::new();
    let mut logits = filled(backend, 2, &[f32::NAN, 0.0]);
    backend.sample(&mut logits, &[sample_task(rng, 0, 2)], &mut faulty);
    assert_eq!(faulty[0].fault, Some(Fault::NotFinite), "sample: a NaN is a fault");
}

fn sample_task(rng: &mut Rng, row: usize, vocab: usize) -> LogitRow {
    let params = SamplingParams {
        temperature: [0.0, 0.7, 1.0][row % 3],
        top_k: (row % 4 == 1).then_some(1 + rng.below(vocab) as u32),
        top_p: if row % 5 == 2 { 0.8 } else { 1.0 },
        min_p: if row % 7 == 3 { 0.1 } else { 0.0 },
        ..SamplingParams::default()
    };
    let sampled = RowTask::Sample {
        params: params.into(),
        seed: rng.bits(),
        step: row as u64,
        counts: None,
        banned: Vec::new().into(),
        mask: None,
    };
    LogitRow {
        row: 0,
        task: if row % 6 == 5 { RowTask::Score { target: rng.below(vocab) as u32 } } else { sampled },
        want_logprob: row.is_multiple_of(2),
        top_logprobs: if row.is_multiple_of(3) { 5 } else { 0 },
        logprob_ids: vec![1].into(),
    }
}

fn agree(what: &str, got: &[RowOutput], want: &[RowOutput]) {
    for (row, (got, want)) in got.iter().zip(want).enumerate() {
        let tokens = |o: &RowOutput| (o.token, o.fault, o.top.iter().map(|t| t.0).collect::<Vec<_>>());
        assert_eq!(tokens(got), tokens(want), "{what}, row {row}");
        assert!((got.logprob - want.logprob).abs() < 1e-4, "{what}, row {row}: {} for {}", got.logprob, want.logprob);
    }
    assert_eq!(got.len(), want.len(), "{what}: number of rows");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reference_keeps_its_own_promises() {
        run(&RefBackend, Precision::F32);
    }
}
