//! [`LiveView`]: what the page draws of the last hour, measured whether or not anybody looks.
//!
//! The last minutes are kept second by second, the rest of the hour in coarser steps: some hundred kilobytes.

use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard, PoisonError},
};

use serde::Serialize;

/// Samples that are kept: five minutes.
const MOST_FINE: usize = 300;
/// So many samples make one of the coarse ones.
pub(crate) const COARSENESS: usize = 10;
/// Coarse samples that are kept: an hour.
const MOST_COARSE: usize = 360;

/// What the live view draws at one time. Rates are those since the sample before.
#[derive(Clone, Debug, Serialize)]
pub struct Sample {
    /// Milliseconds since 1970.
    pub(crate) time: u64,
    pub(crate) running: usize,
    pub(crate) waiting: usize,
    /// Prompt tokens computed a second.
    pub(crate) prefill_rate: f64,
    /// Tokens sampled a second.
    pub(crate) decode_rate: f64,
    /// Tokens of the KV pool: in use, cached and to be had, all.
    pub(crate) used_tokens: usize,
    pub(crate) cached_tokens: usize,
    pub(crate) pool_tokens: usize,
    /// Share of prompt tokens found in the cache: since the start, and of what was admitted just now.
    pub(crate) hit_rate: Option<f64>,
    pub(crate) recent_hit_rate: Option<f64>,
    /// Seconds.
    pub(crate) ttft: Option<Percentiles>,
    pub(crate) itl: Option<Percentiles>,
    /// Share of the time in which a step was computed.
    pub(crate) busy: f64,
    /// The least time that the machine would have needed for those steps, as a share of what they took; nothing
    /// where no step was computed or the machine is not measured, or not yet.
    pub(crate) of_peak: Option<f64>,
    pub(crate) finished: u64,
    pub(crate) aborted: u64,
    pub(crate) failed: u64,
}

/// Of the times since the sample before.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Percentiles {
    pub(crate) p50: f64,
    pub(crate) p90: f64,
    pub(crate) p99: f64,
}

/// The samples of the last hour.
#[derive(Debug, Default)]
pub struct LiveView(Mutex<Rings>);

#[derive(Debug, Default)]
struct Rings {
    /// The latest samples.
    fine: VecDeque<Sample>,
    /// Longer ago as well, each over [`COARSENESS`] of the others.
    coarse: VecDeque<Sample>,
    /// Fine samples so far: the number of the next.
    num_fine: u64,
}

impl LiveView {
    /// The samples from number `from` on, the oldest first, and the number of the sample after them. From 0 on: the
    /// whole hour, coarse before what is kept second by second.
    pub fn since(&self, from: u64) -> (Vec<Sample>, u64) {
        let rings = self.rings();
        let first = rings.num_fine - rings.fine.len() as u64;
        let mut samples = Vec::new();
        if from == 0 {
            let begin = rings.fine.front().map_or(u64::MAX, |sample| sample.time);
            samples.extend(rings.coarse.iter().take_while(|sample| sample.time < begin).cloned());
        }
        samples.extend(rings.fine.iter().skip(from.saturating_sub(first) as usize).cloned());
        (samples, rings.num_fine)
    }

    /// Keep a sample, and the coarse one that it ends.
    pub(crate) fn push(&self, fine: Sample, coarse: Option<Sample>) {
        let mut rings = self.rings();
        push_bounded(&mut rings.fine, fine, MOST_FINE);
        if let Some(coarse) = coarse {
            push_bounded(&mut rings.coarse, coarse, MOST_COARSE);
        }
        rings.num_fine += 1;
    }

    /// Rings are whole whenever the lock is free.
    fn rings(&self) -> MutexGuard<'_, Rings> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn push_bounded(ring: &mut VecDeque<Sample>, sample: Sample, most: usize) {
    if ring.len() == most {
        ring.pop_front();
    }
    ring.push_back(sample);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(time: u64) -> Sample {
        Sample {
            time,
            running: 0,
            waiting: 0,
            prefill_rate: 0.0,
            decode_rate: 0.0,
            used_tokens: 0,
            cached_tokens: 0,
            pool_tokens: 1,
            hit_rate: None,
            recent_hit_rate: None,
            ttft: None,
            itl: None,
            busy: 0.0,
            of_peak: None,
            finished: 0,
            aborted: 0,
            failed: 0,
        }
    }

    #[test]
    fn a_viewer_gets_an_hour_and_then_what_is_new() {
        let view = LiveView::default();
        assert!(view.since(0).0.is_empty());
        let seconds: u64 = 5000;
        for second in 1..=seconds {
            let coarse = second.is_multiple_of(COARSENESS as u64).then(|| at(second));
            view.push(at(second), coarse);
        }
        let (samples, next) = view.since(0);
        let times: Vec<u64> = samples.iter().map(|sample| sample.time).collect();
        assert!(times.is_sorted_by(|a, b| a < b), "no moment twice");
        assert_eq!(times[0], seconds - (MOST_COARSE * COARSENESS) as u64 + COARSENESS as u64);
        assert_eq!((times.last(), next), (Some(&seconds), seconds));
        assert!(times.ends_with(&(seconds - MOST_FINE as u64 + 1..=seconds).collect::<Vec<_>>()));
        assert!(times.windows(2).all(|pair| pair[1] - pair[0] <= COARSENESS as u64), "no gaps");
        let json = serde_json::to_vec(&samples).unwrap();
        assert!(json.len() < 300_000, "{} bytes", json.len());

        assert_eq!(view.since(next).0.len(), 0);
        view.push(at(seconds + 1), None);
        let (samples, next) = view.since(next);
        assert_eq!((samples.len(), samples[0].time, next), (1, seconds + 1, seconds + 1));
        // One that was away for long misses what is no longer kept.
        assert_eq!(view.since(1).0.len(), MOST_FINE);
    }
}
