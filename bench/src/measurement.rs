//! [`Measurement`]: one measurement of a run, for its report and its record.

use crate::{
    metrics::{LoadMetrics, RequestOutcome},
    run_file::RunRecord,
    stall::Stall,
};

/// One measurement of a run.
pub struct Measurement {
    /// The limit of concurrency, if there was one.
    pub max_concurrency: Option<usize>,
    /// What became of each request.
    pub outcomes: Vec<RequestOutcome>,
    /// The figures.
    pub metrics: LoadMetrics,
    /// Times in which answers stood still.
    pub stalls: Vec<Stall>,
    /// As results carry it.
    pub record: RunRecord,
}
