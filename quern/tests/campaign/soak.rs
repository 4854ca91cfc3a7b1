//! Mixed requests for a long time: what fails, and what grows.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use crate::{
    Scale,
    process::{Process, block_on, client},
    requests::{Outcome, mixed},
    table::{Row, percentile, spread_ms},
};

/// Memory is looked at so often.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// This part of the time is warm-up: caches fill and pages are touched for the first time.
const WARM_UP: f64 = 1.0 / 3.0;

/// Growth that fails the experiment, where it ran long enough to be told from warm-up.
const MOST_MIB_PER_HOUR: f64 = 64.0;
const LONG: Duration = Duration::from_secs(30 * 60);

pub(crate) fn soak(scale: Scale) -> Row {
    let process = Arc::new(Process::start(&[]));
    let base = process.url("");
    let files = process.num_files();
    let (next, outcomes) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let (mut memory, mut probes) = (Vec::new(), Vec::new());
    let begin = Instant::now();
    block_on(async {
        let clients = (0..scale.concurrency).map(|_| async {
            let client = client();
            while begin.elapsed() < scale.soak {
                let outcome = mixed(&client, &base, next.fetch_add(1, Ordering::Relaxed)).await;
                outcomes.lock().expect("no panic while it is held").push(outcome);
            }
        });
        let watch = async {
            let client = client();
            while begin.elapsed() < scale.soak {
                tokio::time::sleep(LOOK_EVERY).await;
                memory.push((begin.elapsed().as_secs_f64(), process.resident() as f64));
                let asked = Instant::now();
                if client.get(format!("{base}/live")).send().await.is_ok_and(|answer| answer.status() == 200) {
                    probes.push(asked.elapsed().as_secs_f64());
                }
            }
        };
        tokio::join!(futures_util::future::join_all(clients), watch);
    });
    let outcomes = outcomes.into_inner().expect("no panic while it was held");
    let count = |wanted: &Outcome| outcomes.iter().filter(|outcome| *outcome == wanted).count();
    let mut failures: Vec<String> = outcomes.iter().cloned().filter_map(Outcome::wrong).collect();
    let seconds = begin.elapsed().as_secs_f64();
    let warm: Vec<_> = memory.iter().copied().filter(|(at, _)| *at > seconds * WARM_UP).collect();
    let slope = slope(&warm) * 3600.0 / f64::from(1 << 20);
    if begin.elapsed() > LONG && slope > MOST_MIB_PER_HOUR {
        failures.push(format!("memory grows by {slope:.1} MiB an hour"));
    }
    // Connections that clients keep for their next request are open until these are gone.
    let left = (0..100).map(|_| {
        std::thread::sleep(Duration::from_millis(50));
        process.num_files()
    });
    let left = left.into_iter().find(|left| *left <= files + 2).unwrap_or_else(|| process.num_files());
    if left > files + 2 {
        failures.push(format!("{left} open files, {files} before"));
    }
    let mut sizes: Vec<f64> = warm.iter().map(|(_, bytes)| bytes / f64::from(1 << 20)).collect();
    let most = percentile(&mut sizes, 1.0);
    let figures = format!(
        "{} answered, {} refused as they should be, {} clients left, {} wrong. Memory at most {most:.0} MiB, slope {slope:+.1} MiB/h over \
         the last {:.0} s. `/live`: {}. Open files {files} before, {left} after",
        count(&Outcome::Answered),
        count(&Outcome::Refused),
        count(&Outcome::Left),
        failures.len(),
        seconds * (1.0 - WARM_UP),
        spread_ms(&mut probes),
    );
    let amount = format!("{} requests, {} at once, {seconds:.0} s", outcomes.len(), scale.concurrency);
    let process = Arc::into_inner(process).expect("nobody else has it");
    failures.extend(process.stop());
    Row::new(amount, figures, failures)
}

/// Of the line that fits best, per second.
fn slope(points: &[(f64, f64)]) -> f64 {
    let count = points.len().max(1) as f64;
    let mean = |of: &dyn Fn(&(f64, f64)) -> f64| points.iter().map(of).sum::<f64>() / count;
    let (x, y) = (mean(&|point| point.0), mean(&|point| point.1));
    let covariance: f64 = points.iter().map(|(at, value)| (at - x) * (value - y)).sum();
    let variance: f64 = points.iter().map(|(at, _)| (at - x).powi(2)).sum();
    if variance > 0.0 { covariance / variance } else { 0.0 }
}
