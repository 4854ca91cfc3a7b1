//! [`Stall`]: a time in which running answers stood still. Means and even 99th percentiles hide it: one pause
//! of half a minute among forty thousand tokens is the 99.99th.

use crate::metrics::RequestOutcome;

/// Shorter pauses are no stalls.
const SHORTEST_S: f64 = 1.0;
/// A pause is one only if it is this many times the usual time between chunks.
const TIMES_USUAL: f64 = 20.0;

/// A time in which running answers stood still.
#[derive(Clone, Debug, PartialEq)]
pub struct Stall {
    /// Seconds from the run's beginning.
    pub start_s: f64,
    /// Its length.
    pub length_s: f64,
    /// Indices of the requests that stood still.
    pub requests: Vec<usize>,
}

impl Stall {
    /// All stalls of a run, longest first. Pauses that overlap are one stall.
    pub fn find(outcomes: &[RequestOutcome]) -> Vec<Self> {
        let mut gaps = Vec::new();
        let mut lengths = Vec::new();
        for (index, outcome) in outcomes.iter().enumerate() {
            for pair in outcome.recording.arrivals.windows(2) {
                let length_s = pair[1].at_s - pair[0].at_s;
                lengths.push(length_s);
                if length_s >= SHORTEST_S {
                    gaps.push((pair[0].at_s, pair[1].at_s, index));
                }
            }
        }
        lengths.sort_by(f64::total_cmp);
        let usual_s = lengths.get(lengths.len() / 2).copied().unwrap_or(0.0);
        gaps.retain(|(start_s, end_s, _)| end_s - start_s >= TIMES_USUAL * usual_s);
        gaps.sort_by(|a, b| a.0.total_cmp(&b.0));
        let mut stalls: Vec<Self> = Vec::new();
        for (start_s, end_s, index) in gaps {
            match stalls.last_mut() {
                Some(stall) if start_s < stall.start_s + stall.length_s => {
                    stall.length_s = stall.length_s.max(end_s - stall.start_s);
                    stall.requests.push(index);
                }
                _ => stalls.push(Self { start_s, length_s: end_s - start_s, requests: vec![index] }),
            }
        }
        stalls.sort_by(|a, b| b.length_s.total_cmp(&a.length_s));
        stalls
    }

    /// As a sentence.
    pub fn describe(&self) -> String {
        let who = match self.requests.as_slice() {
            [one] => format!("request {one} stood still"),
            many => format!("{} requests stood still", many.len()),
        };
        format!("{:.1} s into the run, {who} for {:.1} s", self.start_s, self.length_s)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::tests::outcome;

    #[test]
    fn a_pause_that_all_share_is_one_stall() {
        let steady = |start: f64| -> Vec<f64> { (1..=50).map(|i| start + 0.01 * f64::from(i)).collect() };
        let mut first = steady(0.0);
        first.extend([37.4, 37.41]);
        let mut second = steady(0.1);
        second.extend([37.42, 37.43]);
        let stalls = Stall::find(&[outcome(0.0, &first), outcome(0.1, &second)]);
        assert_eq!(stalls.len(), 1);
        assert_eq!(stalls[0].requests, [0, 1]);
        assert_eq!(stalls[0].describe(), "0.5 s into the run, 2 requests stood still for 36.9 s");
    }

    #[test]
    fn a_slow_server_does_not_stall_at_every_token() {
        let slow: Vec<f64> = (1..=20).map(|i| 1.5 * f64::from(i)).collect();
        assert_eq!(Stall::find(&[outcome(0.0, &slow)]), []);
    }
}
