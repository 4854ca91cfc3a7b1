//! Ends: killed, drained, paused.

use std::{
    process::Stdio,
    time::{Duration, Instant},
};

use futures_util::{StreamExt, future::join_all};
use rustix::process::Signal;
use tokio::sync::mpsc;

use crate::{
    Scale,
    process::{PATIENCE, Process, block_on, client},
    requests::{is_whole, long_stream},
    table::{Row, percentile},
};

/// Streams that run when a server is killed, and when it is drained.
const KILLED_STREAMS: usize = 8;
const DRAINED_STREAMS: usize = 24;

pub(crate) fn kills(scale: Scale) -> Row {
    let (mut seconds, mut failures) = (Vec::new(), Vec::new());
    for round in 0..scale.kills {
        let process = Process::start(&[]);
        let base = process.url("");
        block_on(during_streams(&base, KILLED_STREAMS, 2000, async { process.signal(Signal::KILL) }));
        drop(process);
        let mut again = Process::spawn("", &[], Stdio::null());
        match again.until_ready() {
            Ok(took) => seconds.push(took.as_secs_f64()),
            Err(status) => failures.push(format!("round {round}: {status}")),
        }
        failures.extend(again.stop());
    }
    let [median, high, most] = [0.5, 0.95, 1.0].map(|part| percentile(&mut seconds, part));
    let figures = format!("ready again after p50 {median:.2}, p95 {high:.2}, max {most:.2} s");
    Row::new(format!("{} kills, {KILLED_STREAMS} streams running", scale.kills), figures, failures)
}

/// Runs `act` once `count` streams of so many tokens have begun; whether each of them has its end, and what came of `act`.
async fn during_streams<T>(base: &str, count: usize, tokens: usize, act: impl Future<Output = T>) -> (Vec<bool>, T) {
    let (begun, mut has_begun) = mpsc::unbounded_channel();
    let streams = (0..count).map(|index| stream(base, index, tokens, begun.clone()));
    let act = async {
        for _ in 0..count {
            has_begun.recv().await;
        }
        act.await
    };
    tokio::join!(join_all(streams), act)
}

/// Reads a stream as far as it comes; whether it has its end.
async fn stream(base: &str, index: usize, tokens: usize, begun: mpsc::UnboundedSender<()>) -> bool {
    let (path, body) = long_stream(index, tokens);
    let Ok(answer) = client().post(format!("{base}{path}")).json(&body).send().await else {
        let _ = begun.send(());
        return false;
    };
    let mut pieces = answer.bytes_stream();
    let mut text = Vec::new();
    while let Some(Ok(piece)) = pieces.next().await {
        if text.is_empty() {
            let _ = begun.send(());
        }
        text.extend_from_slice(&piece);
    }
    is_whole("text/event-stream", &String::from_utf8_lossy(&text))
}

pub(crate) fn drains(scale: Scale) -> Row {
    let (mut seconds, mut failures) = (Vec::new(), Vec::new());
    let mut whole = 0;
    for round in 0..scale.drains {
        let mut process = Process::start(&[]);
        let base = process.url("");
        let drain = async {
            process.signal(Signal::TERM);
            Instant::now()
        };
        let (ended, asked) = block_on(during_streams(&base, DRAINED_STREAMS, 60, drain));
        let cut = ended.iter().filter(|is_whole| !**is_whole).count();
        whole += ended.len() - cut;
        if cut > 0 {
            failures.push(format!("round {round}: {cut} streams without their end"));
        }
        match process.until_ended() {
            Some(status) if status.success() => seconds.push(asked.elapsed().as_secs_f64()),
            status => failures.push(format!("round {round}: {status:?}")),
        }
    }
    let [median, most] = [0.5, 1.0].map(|part| percentile(&mut seconds, part));
    let figures = format!("{whole} streams with their end, exit 0 after p50 {median:.2}, max {most:.2} s");
    let amount = format!("{} drains, {DRAINED_STREAMS} streams of four APIs each", scale.drains);
    Row::new(amount, figures, failures)
}

/// Time passes and the process does not notice: as on a machine that sleeps.
pub(crate) fn pauses(scale: Scale) -> Row {
    let pause = if scale.kills > 10 { Duration::from_secs(35) } else { Duration::from_secs(2) };
    let process = Process::start(&[]);
    let base = process.url("");
    let ended = block_on(async {
        let stop = async {
            process.signal(Signal::STOP);
            tokio::time::sleep(pause).await;
            process.signal(Signal::CONT);
        };
        let streams = during_streams(&base, KILLED_STREAMS, 120, stop);
        tokio::time::timeout(PATIENCE, streams).await.expect("streams end").0
    });
    let cut = ended.iter().filter(|is_whole| !**is_whole).count();
    let mut failures: Vec<String> = (cut > 0).then(|| format!("{cut} streams were cut")).into_iter().collect();
    failures.extend(process.stop());
    let amount = format!("SIGSTOP for {:.0} s, {KILLED_STREAMS} streams", pause.as_secs_f64());
    Row::new(amount, format!("{} streams with their end", ended.len() - cut), failures)
}
