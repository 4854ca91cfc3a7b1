//! Attention over pages.

use super::{
    Grid, Rng,
    bounds::{attention_error, close, same},
    fixtures::{filled, step_over},
    rows::HEADS,
};
use crate::{AttentionSpec, Backend, HeadLayout, KvFormat, KvSpec, PagedBatch, Precision, RefBackend, Span};

/// A step of attention: for each sequence, how many tokens it has and how many of them are new.
struct AttentionCase {
    heads: HeadLayout,
    page_size: usize,
    format: KvFormat,
    window: Option<usize>,
    sequences: Vec<(usize, usize)>,
}

pub(super) fn attention<B: Backend>(backend: &B, grid: &Grid<'_>, rng: &mut Rng) {
    let mixes: [&[(usize, usize)]; 5] = [
        &[(1, 1)],
        &[(17, 17), (1, 1), (40, 1)],
        &[(300, 2), (33, 33)],
        &[(64, 64), (65, 1), (5, 3), (129, 16)],
        &[(530, 1)],
    ];
    // Narrower than a page, wider than one, and across two partitions of any size below 300.
    let windowed: [(usize, &[(usize, usize)]); 4] = [
        (1, &[(40, 40), (17, 3)]),
        (7, &[(129, 129), (300, 1)]),
        (40, &[(530, 1), (65, 16)]),
        (300, &[(600, 33), (64, 2)]),
    ];
    const PAGE_SIZES: [usize; 5] = [1, 2, 16, 32, 33];
    let pages = |i: usize| grid.pages[i % grid.pages.len()];
    for (h, heads) in HEADS.into_iter().enumerate() {
        for (m, sequences) in mixes.into_iter().enumerate() {
            // Two Latin squares across each other: each head layout and each mix meets each size and each format
            // of pages, and these meet one another.
            let (page_size, format) = (PAGE_SIZES[(h + m) % 5], pages(h + 2 * m));
            let case = AttentionCase { heads, page_size, format, window: None, sequences: sequences.to_vec() };
            attention_case(backend, grid.precision, rng, &case);
        }
        let (window, sequences) = windowed[h % windowed.len()];
        let (page_size, format) = (PAGE_SIZES[(h + 3) % 5], pages(h + 3));
        let case = AttentionCase { heads, page_size, format, window: Some(window), sequences: sequences.to_vec() };
        attention_case(backend, grid.precision, rng, &case);
    }
}

fn attention_case<B: Backend>(backend: &B, precision: Precision, rng: &mut Rng, case: &AttentionCase) {
    let heads = case.heads;
    let what = format!(
        "attention, {heads:?}, window {:?}, pages of {} {}, {:?}",
        case.window, case.page_size, case.format, case.sequences
    );
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
        let [other, spec] =
            [0, 1].map(|layer| AttentionSpec { window: case.window, ..AttentionSpec::causal(layer, heads) });
        let step = step_over(b, &batch);
        b.attention(&filled(b, heads.qkv_dim(), &noise), &other, &mut kv, &step, &mut out);
        b.attention(&qkv, &spec, &mut kv, &step, &mut out);
        let got = b.read(&out);
        for (span, member) in batch.spans.iter().zip(members) {
            let place = span.q_start * heads.q_dim()..(span.q_start + span.q_len) * heads.q_dim();
            outputs[member].push(got[place].to_vec());
        }
    }
    outputs
}
