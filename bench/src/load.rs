//! Warm-up, pacing and the limit of concurrency: who is asked what, when.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::{Semaphore, mpsc},
    task::JoinSet,
    time::{Instant, sleep_until},
};

use crate::{
    client::{Client, Clock},
    error::BenchError,
    metrics::RequestOutcome,
    progress::Progress,
    random::NumpyRandom,
    record::Recording,
    request::{History, Request, Session},
};

/// No warm-up request generates more.
const WARM_UP_TOKENS: usize = 32;

/// How fast requests come.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pace {
    /// Requests a second, at random (exponential) gaps; infinite for all at once.
    pub rate: f64,
    /// Most requests under way at once.
    pub max_concurrency: Option<usize>,
}

/// Ask the first turn of `session` `count` times at once, for a few tokens.
///
/// # Errors
/// If all of them fail.
pub async fn warm_up(client: &Arc<Client>, session: &Session, count: usize) -> Result<(), BenchError> {
    let first = &session.turns[0];
    let request = Request { output_len: first.output_len.min(WARM_UP_TOKENS), ..first.clone() };
    let mut running = JoinSet::new();
    for _ in 0..count {
        let (client, request) = (Arc::clone(client), request.clone());
        running.spawn(async move { client.run(&request, &Clock::start(), &Progress::hidden()).await });
    }
    let recordings = running.join_all().await;
    match recordings.iter().find_map(|recording| recording.error.clone()) {
        Some(error) if !recordings.iter().any(Recording::succeeded) => Err(BenchError::Warmup(error)),
        _ => Ok(()),
    }
}

/// Ask everything, at the given pace. Returns the outcome of every turn, in the order of sessions and turns.
pub async fn run(
    client: &Arc<Client>,
    sessions: Vec<Session>,
    pace: Pace,
    numpy: &mut NumpyRandom,
    clock: Clock,
    progress: &Arc<Progress>,
) -> Vec<RequestOutcome> {
    let count = sessions.len();
    let gaps = gaps(pace.rate, count, numpy);
    let (arrive, mut arrived) = mpsc::unbounded_channel();
    let arrivals = async move {
        let mut next = Instant::now();
        for (session, gap) in sessions.into_iter().enumerate().zip(gaps) {
            // The receiver lives until all have come.
            let _ = arrive.send(session);
            if gap > Duration::ZERO {
                next += gap;
                sleep_until(next).await;
            }
        }
    };
    // Permits are taken here, in the order of arrival, and not by the requests' own tasks, which run in any.
    let permits = pace.max_concurrency.map(|limit| Arc::new(Semaphore::new(limit)));
    let admissions = async {
        let mut running = JoinSet::new();
        while let Some((index, session)) = arrived.recv().await {
            let permit = match &permits {
                Some(permits) => {
                    Some(Arc::clone(permits).acquire_owned().await.expect("the semaphore is never closed"))
                }
                None => None,
            };
            let (client, progress) = (Arc::clone(client), Arc::clone(progress));
            running.spawn(async move {
                let outcomes = one_session(&client, session, clock, &progress).await;
                drop(permit);
                (index, outcomes)
            });
        }
        running.join_all().await
    };
    let ((), mut finished) = tokio::join!(arrivals, admissions);
    finished.sort_by_key(|(index, _)| *index);
    finished.into_iter().flat_map(|(_, outcomes)| outcomes).collect()
}

async fn one_session(client: &Client, session: Session, clock: Clock, progress: &Progress) -> Vec<RequestOutcome> {
    let mut history = session.continues.then(History::default);
    let mut outcomes = Vec::with_capacity(session.turns.len());
    for turn in session.turns {
        let prompt_len = turn.prompt_len;
        let recording = match &mut history {
            Some(history) => {
                let recording = client.run(&history.extended(&turn), &clock, progress).await;
                history.answered(&recording.text);
                recording
            }
            None => client.run(&turn, &clock, progress).await,
        };
        progress.ended(&recording);
        outcomes.push(RequestOutcome { prompt_len, recording, retokenized: 0 });
    }
    progress.session_ended();
    outcomes
}

/// The pause after each arrival.
fn gaps(rate: f64, count: usize, numpy: &mut NumpyRandom) -> Vec<Duration> {
    let gap =
        |_| if rate.is_finite() { Duration::from_secs_f64(numpy.exponential(1.0 / rate)) } else { Duration::ZERO };
    (0..count).map(gap).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arrivals_are_a_poisson_process_of_the_rate() {
        let gaps_s: Vec<f64> =
            gaps(4.0, 10_000, &mut NumpyRandom::new(1)).into_iter().map(|gap| gap.as_secs_f64()).collect();
        let mean = gaps_s.iter().sum::<f64>() / 10_000.0;
        let longer = gaps_s.iter().filter(|gap| **gap > 0.25).count() as f64 / 10_000.0;
        // Mean 1/4; e^-1 of the gaps are longer than the mean; three standard errors.
        assert!((mean - 0.25).abs() < 0.0075, "{mean}");
        assert!((longer - (-1.0_f64).exp()).abs() < 0.0145, "{longer}");
        assert!(gaps(f64::INFINITY, 3, &mut NumpyRandom::new(1)).iter().all(Duration::is_zero));
    }
}
