//! Takes the samples of the live view, one a second.

use std::time::Duration;

use quern_engine::{MetricsSnapshot, Work, stats::SchedulerStats};
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::{
    latency::Counts,
    live_view::{COARSENESS, Percentiles, Sample},
    metrics::used_tokens,
    state::AppState,
};

/// Time between two samples.
const EVERY: Duration = Duration::from_secs(1);

/// Take samples for as long as it is polled.
pub(crate) async fn record(state: &AppState) {
    let mut clock = interval(EVERY);
    clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
    clock.tick().await;
    let mut before = Reading::of(state);
    let mut long_before = before.clone();
    for number in 1.. {
        clock.tick().await;
        let now = Reading::of(state);
        let fine = sample(state, &before, &now);
        let coarse = (number % COARSENESS == 0).then(|| sample(state, &long_before, &now));
        if coarse.is_some() {
            long_before = now.clone();
        }
        state.live_view.push(fine, coarse);
        before = now;
    }
}

/// Figures at one time; of its counters differences are taken.
#[derive(Clone)]
struct Reading {
    at: Instant,
    engine: MetricsSnapshot,
    ttft: Counts,
    itl: Counts,
}

impl Reading {
    fn of(state: &AppState) -> Self {
        Self {
            at: Instant::now(),
            engine: state.engine.metrics().snapshot(),
            ttft: state.metrics.first_tokens(),
            itl: state.metrics.next_tokens(),
        }
    }
}

fn sample(state: &AppState, before: &Reading, now: &Reading) -> Sample {
    let (config, scheduler, earlier) = (state.engine.config(), &now.engine.scheduler, &before.engine.scheduler);
    let seconds = (now.at - before.at).as_secs_f64();
    let since = |counter: fn(&SchedulerStats) -> u64| counter(scheduler).saturating_sub(counter(earlier));
    let rate = |tokens: u64| if seconds > 0.0 { tokens as f64 / seconds } else { 0.0 };
    let share = |part: u64, whole: u64| (whole > 0).then(|| part as f64 / whole as f64);
    let busy_s = now.engine.busy_s - before.engine.busy_s;
    let (work, done) = (now.engine.work, before.engine.work);
    let work = Work { bytes: work.bytes - done.bytes, ops: work.ops - done.ops };
    Sample {
        time: state.clock.since_1970().as_millis() as u64,
        running: scheduler.running,
        waiting: state.engine.num_queued(),
        prefill_rate: rate(since(|stats| stats.prefill_tokens)),
        decode_rate: rate(since(|stats| stats.generated_tokens)),
        used_tokens: used_tokens(&state.engine),
        cached_tokens: scheduler.evictable_pages * config.page_size,
        pool_tokens: config.pool_tokens(),
        hit_rate: share(scheduler.cached_tokens, scheduler.prompt_tokens),
        recent_hit_rate: share(since(|stats| stats.cached_tokens), since(|stats| stats.prompt_tokens)),
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
