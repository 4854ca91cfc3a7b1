//! Takes the samples of the live view, one a second.

use std::{sync::Arc, time::Duration};

use quern_engine::{EngineHandle, MetricsSnapshot, Work};
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::{
    clock::{since_1970, wall_clock},
    latency::Counts,
    live_view::{COARSENESS, Percentiles, Sample},
    metrics::used_tokens,
    state::AppState,
};

/// Time between two samples.
const EVERY: Duration = Duration::from_secs(1);

/// Take samples for as long as it is polled.
pub(crate) async fn record(state: Arc<AppState>) {
    let mut clock = interval(EVERY);
    clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
    clock.tick().await;
    let mut before = Reading::of(&state);
    let mut long_before = before.clone();
    for number in 1.. {
        clock.tick().await;
        let now = Reading::of(&state);
        let fine = sample(&state, &before, &now);
        let coarse = (number % COARSENESS == 0).then(|| sample(&state, &long_before, &now));
        if coarse.is_some() {
            long_before = now.clone();
        }
        state.live_view.push(fine, coarse);
        before = now;
    }
}

/// Counters at one time, to take differences of.
#[derive(Clone)]
struct Reading {
    at: Instant,
    prefill: u64,
    generated: u64,
    prompt: u64,
    cached: u64,
    ttft: Counts,
    itl: Counts,
    busy_s: f64,
    work: Work,
}

impl Reading {
    fn of(state: &AppState) -> Self {
        let MetricsSnapshot { scheduler, busy_s, work, .. } = state.engine.metrics().snapshot();
        Self {
            at: Instant::now(),
            prefill: scheduler.prefill_tokens,
            generated: scheduler.generated_tokens,
            prompt: scheduler.prompt_tokens,
            cached: scheduler.cached_tokens,
            ttft: state.metrics.first_tokens(),
            itl: state.metrics.next_tokens(),
            busy_s,
            work,
        }
    }
}

fn sample(state: &AppState, before: &Reading, now: &Reading) -> Sample {
    let engine: &EngineHandle = &state.engine;
    let (scheduler, config) = (engine.metrics().snapshot().scheduler, engine.config());
    let seconds = (now.at - before.at).as_secs_f64();
    let rate = |now: u64, before: u64| if seconds > 0.0 { now.saturating_sub(before) as f64 / seconds } else { 0.0 };
    let share = |part: u64, whole: u64| (whole > 0).then(|| part as f64 / whole as f64);
    let busy_s = now.busy_s - before.busy_s;
    let work = Work { bytes: now.work.bytes - before.work.bytes, ops: now.work.ops - before.work.ops };
    Sample {
        time: since_1970(wall_clock()).as_millis() as u64,
        running: scheduler.running,
        waiting: engine.num_queued(),
        prefill_rate: rate(now.prefill, before.prefill),
        decode_rate: rate(now.generated, before.generated),
        used_tokens: used_tokens(engine),
        cached_tokens: scheduler.evictable_pages * config.page_size,
        pool_tokens: config.pool_tokens(),
        hit_rate: share(now.cached, now.prompt),
        recent_hit_rate: share(now.cached.saturating_sub(before.cached), now.prompt.saturating_sub(before.prompt)),
        ttft: percentiles(&now.ttft.since(&before.ttft)),
        itl: percentiles(&now.itl.since(&before.itl)),
        // A step counts when it ends, so that one which began before this second may fill more than all of it.
        busy: if seconds > 0.0 { (busy_s / seconds).min(1.0) } else { 0.0 },
        of_peak: state.peaks.get().filter(|_| busy_s > 0.0).map(|peaks| peaks.least_s(work) / busy_s),
        finished: scheduler.finished,
        aborted: scheduler.aborted,
        failed: scheduler.failed,
    }
}

fn percentiles(counts: &Counts) -> Option<Percentiles> {
    let at = |share| counts.percentile(share);
    Some(Percentiles { p50: at(0.5)?, p90: at(0.9)?, p99: at(0.99)? })
}
