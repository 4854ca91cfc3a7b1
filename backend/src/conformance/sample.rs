//! From logits to tokens.

use super::{Rng, fixtures::filled};
use crate::{
    Backend, ForwardBatch, LogitFault, LogitTask, RefBackend, RowOutput, RowTask, SampleBatch, SamplingParams,
};

/// Rows of every kind; the backend must choose the same tokens as the scalar twin, alone and together, in one round
/// and in several.
pub(super) fn sample<B: Backend>(backend: &B, rng: &mut Rng) {
    for vocab in [2, 33, 1000] {
        let rows = 24;
        let values: Vec<f32> = rng.values(rows * vocab).iter().map(|x| x * 8.0).collect();
        let tasks: Vec<LogitTask> = (0..rows).map(|row| sample_task(rng, row, vocab)).collect();
        let got = sampled(backend, vocab, &values, &tasks, rows);
        agree(&format!("sample, vocabulary of {vocab}"), &got, &sampled(&RefBackend, vocab, &values, &tasks, rows));
        let rounds = sampled(backend, vocab, &values, &tasks, 7);
        assert_eq!(rounds, got, "sample, vocabulary of {vocab}: seven rows at a time");
        for row in [0, 7, 23] {
            let logits = &values[row * vocab..(row + 1) * vocab];
            let alone = sampled(backend, vocab, logits, &tasks[row..=row], 1);
            assert_eq!(alone[0], got[row], "sample, vocabulary of {vocab}: row {row} alone");
        }
    }
    let faulty = sampled(backend, 2, &[f32::NAN, 0.0], &[sample_task(rng, 0, 2)], 1);
    assert_eq!(faulty[0].fault, Some(LogitFault::NotFinite), "sample: a NaN is a fault");
    assert_eq!(sampled(backend, 2, &[], &[], 1), [], "sample: a step without logits has no outputs");
}

/// A step's outputs, `most` rows of logits at a time.
fn sampled<B: Backend>(b: &B, vocab: usize, logits: &[f32], tasks: &[LogitTask], most: usize) -> Vec<RowOutput> {
    let batch = ForwardBatch { logit_rows: vec![0; tasks.len()], ..ForwardBatch::default() };
    let mut step = b.begin(&batch, &SampleBatch { tasks: tasks.to_vec() });
    for (round, logits) in logits.chunks(most * vocab).enumerate() {
        let first = round * most;
        b.sample(&mut filled(b, vocab, logits), &mut step, first..first + logits.len() / vocab);
    }
    b.launch(&mut step);
    b.finish(step).unwrap_or_else(|fault| panic!("{fault}"))
}

fn sample_task(rng: &mut Rng, row: usize, vocab: usize) -> LogitTask {
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
    LogitTask {
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
