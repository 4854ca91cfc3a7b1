//! [`LoadMetrics`]: the figures of a run, by the formulas of SGLang's client.

use crate::{record::Recording, statistics::Distribution};

/// The figures of a run.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LoadMetrics {
    /// Requests answered to the end.
    pub completed: usize,
    /// The others.
    pub failed: usize,
    /// Tokens of the prompts of completed requests.
    pub total_input: usize,
    /// Tokens generated.
    pub total_output: usize,
    /// Tokens of the answers' texts, counted by the client.
    pub total_output_retokenized: usize,
    /// Wall time.
    pub duration_s: f64,
    /// Tokens in the best second.
    pub peak_output_per_s: f64,
    /// Most requests that shared a second. May exceed the limit of concurrency: one ends, the next begins.
    pub peak_concurrent: usize,
    /// Sum of latencies over wall time.
    pub concurrency: f64,
    /// From sending to the last line.
    pub e2e_ms: Distribution,
    /// From sending to the first text.
    pub ttft_ms: Distribution,
    /// Mean time a token after the first.
    pub tpot_ms: Distribution,
    /// Time from token to token, over all tokens of all requests.
    pub itl_ms: Distribution,
    /// Tokens of prompts by the server's count.
    pub prompt_tokens: usize,
    /// Those of them that came from its cache.
    pub cached_tokens: usize,
    /// Draft tokens accepted a step, by the server's count.
    pub accept_length: Option<f64>,
}

/// A request as asked and as answered.
#[derive(Clone, Debug)]
pub struct RequestOutcome {
    /// Tokens of its prompt as the dataset counts them.
    pub prompt_len: Option<usize>,
    /// Its answer.
    pub recording: Recording,
    /// Tokens of the answer's text, counted by the client.
    pub retokenized: usize,
}

impl RequestOutcome {
    /// Tokens of the prompt: the dataset's count, or else the server's.
    pub fn input_len(&self) -> usize {
        self.prompt_len.or(self.recording.prompt_tokens).unwrap_or(0)
    }
}

impl LoadMetrics {
    /// Of a run that took `duration_s`.
    pub fn of(outcomes: &[RequestOutcome], duration_s: f64) -> Self {
        let completed = || outcomes.iter().filter(|outcome| outcome.recording.succeeded());
        let recordings = || completed().map(|outcome| &outcome.recording);
        let ms = |seconds: Vec<f64>| Distribution::of(seconds).scaled(1000.0);
        let latencies: Vec<f64> = recordings().map(|recording| recording.latency_s).collect();
        let buckets = Seconds::of(recordings());
        Self {
            completed: completed().count(),
            failed: outcomes.len() - completed().count(),
            total_input: completed().map(RequestOutcome::input_len).sum(),
            total_output: recordings().map(|recording| recording.output_len).sum(),
            total_output_retokenized: completed().map(|outcome| outcome.retokenized).sum(),
            duration_s,
            peak_output_per_s: buckets.tokens.iter().copied().max().unwrap_or(0) as f64,
            peak_concurrent: buckets.requests.iter().copied().max().unwrap_or(0),
            concurrency: latencies.iter().sum::<f64>() / duration_s,
            e2e_ms: ms(latencies),
            ttft_ms: ms(recordings().map(Recording::ttft_s).collect()),
            tpot_ms: ms(recordings().filter_map(Recording::tpot_s).collect()),
            itl_ms: ms(recordings().flat_map(Recording::itls_s).collect()),
            prompt_tokens: recordings().filter_map(|recording| recording.prompt_tokens).sum(),
            cached_tokens: recordings().filter_map(|recording| recording.cached_tokens).sum(),
            accept_length: None,
        }
    }

    /// `count` of something a second.
    pub fn per_s(&self, count: usize) -> f64 {
        count as f64 / self.duration_s
    }
}

/// A run second by second, from the earliest start on.
#[derive(Debug, Default, PartialEq)]
pub struct Seconds {
    /// Tokens that came in each.
    pub tokens: Vec<usize>,
    /// Requests that were under way in any part of each.
    pub requests: Vec<usize>,
}

impl Seconds {
    /// Of the requests that completed.
    pub fn of<'a>(recordings: impl Iterator<Item = &'a Recording> + Clone) -> Self {
        let earliest = recordings.clone().map(|recording| recording.start_s).fold(f64::INFINITY, f64::min);
        let latest = recordings.clone().map(Recording::end_s).fold(f64::NEG_INFINITY, f64::max);
        if !earliest.is_finite() {
            return Self::default();
        }
        let count = (latest - earliest).ceil() as usize + 1;
        let mut seconds = Self { tokens: vec![0; count], requests: vec![0; count] };
        let second = |at_s: f64| (at_s - earliest) as usize;
        for recording in recordings {
            // As in SGLang's client: one token at the first text, even for a request without any; the others
            // by adding up the times between tokens, so that those of one chunk spread over the gap before it.
            let mut at_s = recording.start_s + recording.ttft_s();
            seconds.count_token(second(at_s));
            for itl_s in recording.itls_s() {
                at_s += itl_s;
                seconds.count_token(second(at_s));
            }
            let last = second(recording.end_s()).min(count - 1);
            for requests in &mut seconds.requests[second(recording.start_s)..=last] {
                *requests += 1;
            }
        }
        seconds
    }

    fn count_token(&mut self, second: usize) {
        if let Some(tokens) = self.tokens.get_mut(second) {
            *tokens += 1;
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::record::Arrival;

    /// A request sent at `start_s` whose tokens came one by one at `at_s`, the last line with the last.
    pub(crate) fn outcome(start_s: f64, at_s: &[f64]) -> RequestOutcome {
        let arrivals = at_s.iter().map(|&at_s| Arrival { at_s, tokens: 1 }).collect();
        let latency_s = at_s.last().expect("at least one token") - start_s;
        let output_len = at_s.len();
        let recording = Recording { start_s, latency_s, arrivals, output_len, ..Recording::default() };
        RequestOutcome { prompt_len: Some(10), recording, retokenized: output_len }
    }

    #[test]
    fn scripted_times_give_the_figures_computed_by_hand() {
        let mut failed = outcome(0.0, &[9.0]);
        failed.recording.error = Some("reset".into());
        let outcomes = [outcome(0.0, &[0.5, 1.0, 2.0, 2.5]), outcome(1.0, &[1.25, 1.5, 3.0]), failed];
        let metrics = LoadMetrics::of(&outcomes, 4.0);
        assert_eq!((metrics.completed, metrics.failed), (2, 1));
        assert_eq!((metrics.total_input, metrics.total_output, metrics.total_output_retokenized), (20, 7, 7));
        assert_eq!(metrics.per_s(metrics.total_output), 1.75);
        assert_eq!((metrics.ttft_ms.mean, metrics.ttft_ms.max), (375.0, 500.0));
        assert_eq!((metrics.e2e_ms.mean, metrics.e2e_ms.median), (2250.0, 2250.0));
        assert_eq!(metrics.concurrency, 4.5 / 4.0);
        // (2.5 - 0.5) / 3 and (2.0 - 0.25) / 2.
        assert!((metrics.tpot_ms.mean - (2000.0 / 3.0 + 875.0) / 2.0).abs() < 1e-9);
        // 0.5 1.0 0.5 and 0.25 1.5.
        assert_eq!((metrics.itl_ms.mean, metrics.itl_ms.median, metrics.itl_ms.max), (750.0, 500.0, 1500.0));
        // Second 0: 0.5. Second 1: 1.0, 1.25, 1.5. Second 2: 2.0, 2.5. Second 3: 3.0.
        assert_eq!(metrics.peak_output_per_s, 3.0);
        assert_eq!(metrics.peak_concurrent, 2);
    }

    #[test]
    fn requests_one_after_the_other_share_the_second_of_the_change() {
        let outcomes = [outcome(0.0, &[1.5]), outcome(1.5, &[1.75])];
        assert_eq!(LoadMetrics::of(&outcomes, 2.0).peak_concurrent, 2);
    }

    #[test]
    fn a_run_without_success_has_figures_of_nothing() {
        let mut failed = outcome(0.0, &[1.0]);
        failed.recording.error = Some("refused".into());
        let metrics = LoadMetrics::of(&[failed], 1.0);
        assert_eq!((metrics.completed, metrics.failed, metrics.peak_concurrent), (0, 1, 0));
        assert_eq!(metrics.itl_ms, Distribution::default());
    }
}
