//! [`EngineMetrics`]: counters and gauges of the engine's thread, read by any thread.

use std::{
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering},
    },
    time::Instant,
};

use quern_model::Work;

use crate::stats::SchedulerStats;

/// Figures of a running engine. Written by its thread once a step, read by any other.
#[derive(Debug)]
pub struct EngineMetrics {
    stats: Mutex<MetricsSnapshot>,
    state: AtomicU8,
    restarts: AtomicU64,
    invariant_violations: AtomicU64,
    started: Instant,
    /// Milliseconds after `started` at which a step last began or ended.
    progress_ms: AtomicU64,
    /// Whether the engine's thread waits for something to do.
    idle: AtomicBool,
}

/// Whether an engine takes work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum EngineState {
    /// It does.
    Serving,
    /// It has failed and starts anew.
    Restarting,
    /// It has failed for good.
    Down,
}

/// One consistent set of figures.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct MetricsSnapshot {
    /// The scheduler's counters and state.
    pub scheduler: SchedulerStats,
    /// Tokens generated a second, over the last log interval.
    pub gen_throughput: f64,
    /// Seconds of the last step.
    pub last_step_s: f64,
    /// Tokens of the sequences that run.
    pub running_tokens: usize,
    /// Seconds of all steps.
    pub busy_s: f64,
    /// What all steps had to read and to compute at least.
    pub work: Work,
}

impl Default for EngineMetrics {
    fn default() -> Self {
        Self {
            stats: Mutex::default(),
            state: AtomicU8::new(EngineState::Serving as u8),
            restarts: AtomicU64::new(0),
            invariant_violations: AtomicU64::new(0),
            started: Instant::now(),
            progress_ms: AtomicU64::new(0),
            idle: AtomicBool::new(true),
        }
    }
}

impl EngineMetrics {
    /// The present figures.
    pub fn snapshot(&self) -> MetricsSnapshot {
        *self.lock()
    }

    /// Whether the engine takes work.
    pub fn state(&self) -> EngineState {
        match self.state.load(Ordering::Acquire) {
            0 => EngineState::Serving,
            1 => EngineState::Restarting,
            _ => EngineState::Down,
        }
    }

    /// Whether the engine takes work: false while it restarts, and after repeated failures.
    pub fn is_healthy(&self) -> bool {
        self.state() == EngineState::Serving
    }

    /// How often the engine was restarted.
    pub fn num_restarts(&self) -> u64 {
        self.restarts.load(Ordering::Relaxed)
    }

    /// Seconds since the engine began or ended a step; 0 while it has nothing to do.
    pub fn seconds_since_progress(&self) -> f64 {
        if self.idle.load(Ordering::Acquire) {
            return 0.0;
        }
        let last = self.progress_ms.load(Ordering::Relaxed) as f64 / 1e3;
        (self.started.elapsed().as_secs_f64() - last).max(0.0)
    }

    pub(crate) fn publish(&self, snapshot: MetricsSnapshot) {
        *self.lock() = snapshot;
        self.note_progress();
    }

    pub(crate) fn note_progress(&self) {
        self.progress_ms.store(self.started.elapsed().as_millis() as u64, Ordering::Relaxed);
        self.idle.store(false, Ordering::Release);
    }

    pub(crate) fn note_idle(&self) {
        self.idle.store(true, Ordering::Release);
    }

    /// How often pages or locks did not add up. Each time the engine is restarted.
    pub fn num_invariant_violations(&self) -> u64 {
        self.invariant_violations.load(Ordering::Relaxed)
    }

    pub(crate) fn note_invariant_violation(&self) {
        self.invariant_violations.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn set_state(&self, state: EngineState) {
        if state == EngineState::Restarting {
            self.restarts.fetch_add(1, Ordering::Relaxed);
        }
        self.state.store(state as u8, Ordering::Release);
    }

    /// The figures are plain numbers: a panic while they were held leaves nothing half done.
    fn lock(&self) -> MutexGuard<'_, MetricsSnapshot> {
        self.stats.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
