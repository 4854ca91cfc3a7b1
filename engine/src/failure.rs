//! [`FailureReport`]: an internal error with all that its replay needs, and no token of any prompt.

use quern_model::ForwardBatch;

use crate::{sequence::SequenceReport, step_plan::StepMix};

/// Receives internal errors, on the engine's thread: must not block.
pub type FailureObserver = Box<dyn Fn(FailureReport) + Send>;

/// Most seeds that a log line names.
const LOGGED_SEQUENCES: usize = 8;

/// What failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailureKind {
    /// The model could not compute a step, or panicked in it: the sequences of its batch fail.
    Step,
    /// Logits were not finite: their own sequence fails.
    Numerical,
    /// A grammar failed: its own sequence fails.
    Grammar,
    /// The scheduler panicked: the sequences that ran fail, and the engine is restarted.
    Scheduler,
}

impl FailureKind {
    /// As it is written in records.
    pub fn name(self) -> &'static str {
        match self {
            Self::Step => "step",
            Self::Numerical => "numerical",
            Self::Grammar => "grammar",
            Self::Scheduler => "scheduler",
        }
    }
}

/// An internal error: where it happened, and what was being computed.
#[derive(Clone, Debug)]
pub struct FailureReport {
    /// What failed.
    pub kind: FailureKind,
    /// The step's number, from 1 on; every step that is begun has one.
    pub step: u64,
    /// What the model, the device or the panic said.
    pub cause: String,
    /// What the step was made of.
    pub mix: StepMix,
    /// The whole batch, a span a sequence, in the order of its rows; empty where it is not known any more.
    pub batch: Vec<SpanShape>,
    /// The sequences that fail with it.
    pub sequences: Vec<SequenceReport>,
}

/// A sequence's part of a batch, in tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpanShape {
    /// Tokens computed in the step.
    pub q_len: usize,
    /// Tokens of keys and values after it.
    pub kv_len: usize,
}

impl FailureReport {
    /// The line for the log: step, cause, and the seeds of those who fail.
    pub fn line(&self) -> String {
        let named = self.sequences.iter().take(LOGGED_SEQUENCES);
        let mut seeds: Vec<_> = named.map(|sequence| format!("{} seed={}", sequence.id, sequence.seed)).collect();
        if self.sequences.len() > LOGGED_SEQUENCES {
            seeds.push(format!("and {} more", self.sequences.len() - LOGGED_SEQUENCES));
        }
        let Self { kind, step, cause, .. } = self;
        format!("{} failure in step {step}: {cause}; requests: [{}]", kind.name(), seeds.join(", "))
    }
}

/// The lengths of a batch.
pub(crate) fn shapes(batch: &ForwardBatch) -> Vec<SpanShape> {
    batch.paged.spans.iter().map(|span| SpanShape { q_len: span.q_len, kv_len: span.kv_len }).collect()
}
