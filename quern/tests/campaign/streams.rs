//! Many connections: that stream, that read slowly, that say nothing.

use std::time::{Duration, Instant};

use futures_util::{StreamExt, future::join_all};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::oneshot,
    time::sleep,
};

use crate::{
    Scale,
    process::{Process, block_on, client},
    requests::{Outcome, ask, is_whole},
    table::{Row, percentile, spread_ms},
};

/// Have room for so many sockets of our own.
fn allow_files(files: u64) -> bool {
    let limits = getrlimit(Resource::Nofile);
    if limits.current.is_none_or(|current| current >= files) {
        return true;
    }
    let wanted = Rlimit { current: Some(files), maximum: limits.maximum };
    limits.maximum.is_none_or(|maximum| maximum >= files) && setrlimit(Resource::Nofile, wanted).is_ok()
}

/// Asks for `/live` until it is told to stop; how long each answer took.
async fn probe(base: &str, mut stop: oneshot::Receiver<()>) -> (Vec<f64>, usize) {
    let client = client();
    let (mut seconds, mut missed) = (Vec::new(), 0);
    while stop.try_recv() == Err(oneshot::error::TryRecvError::Empty) {
        let asked = Instant::now();
        match client.get(format!("{base}/live")).send().await {
            Ok(answer) if answer.status() == 200 => seconds.push(asked.elapsed().as_secs_f64()),
            _ => missed += 1,
        }
        sleep(Duration::from_millis(20)).await;
    }
    (seconds, missed)
}

pub(crate) fn many(scale: Scale) -> Row {
    if !allow_files(scale.streams as u64 + 512) {
        return Row::skipped("the limit of open files is too low for the clients");
    }
    let connections = (2 * scale.streams).to_string();
    let process = Process::start(&["--max-connections", &connections]);
    let base = process.url("");
    let before = process.resident();
    let begin = Instant::now();
    let (whole, most, (mut probes, missed)) = block_on(async {
        let (done, stop) = oneshot::channel();
        let client = reqwest::Client::builder().no_proxy().build().expect("a client");
        let streams = (0..scale.streams).map(|index| {
            let request = client.post(format!("{base}/v1/completions"));
            let body =
                json!({"prompt": format!("number {index}"), "max_tokens": 12, "stream": true, "ignore_eos": true});
            async move {
                let Ok(answer) = request.json(&body).send().await else { return false };
                is_whole("text/event-stream", &answer.text().await.unwrap_or_default())
            }
        });
        let streams = async {
            let ended = join_all(streams).await;
            let _ = done.send(());
            ended
        };
        let memory = async {
            let mut most = 0;
            loop {
                most = most.max(process.resident());
                sleep(Duration::from_millis(100)).await;
                if process.num_files() < 64 && begin.elapsed() > Duration::from_secs(2) {
                    return most;
                }
            }
        };
        let (ended, probes) = tokio::join!(streams, probe(&base, stop));
        drop(client);
        let most = tokio::time::timeout(Duration::from_secs(30), memory).await.unwrap_or_else(|_| process.resident());
        (ended.into_iter().filter(|is_whole| *is_whole).count(), most, probes)
    });
    let seconds = begin.elapsed().as_secs_f64();
    let mut failures = Vec::new();
    if whole < scale.streams {
        failures.push(format!("{} streams without their end", scale.streams - whole));
    }
    if missed > 0 {
        failures.push(format!("{missed} probes without an answer"));
    }
    let kib = most.saturating_sub(before) as f64 / 1024.0 / scale.streams as f64;
    let figures = format!(
        "{whole} with their end in {seconds:.1} s; `/live`: {}; {kib:.0} KiB a stream stay, keys and values included",
        spread_ms(&mut probes)
    );
    failures.extend(process.stop());
    Row::new(format!("{} streams", scale.streams), figures, failures)
}

/// Times between the tokens of `count` streams, seconds.
async fn gaps(base: &str, count: usize) -> (Vec<f64>, usize) {
    let client = client();
    let streams = (0..count).map(|index| {
        let body = json!({"prompt": format!("normal {index}"), "max_tokens": 40, "stream": true, "ignore_eos": true});
        let request = client.post(format!("{base}/v1/completions")).json(&body);
        async move {
            let mut gaps = Vec::new();
            let Ok(answer) = request.send().await else { return None };
            let mut pieces = answer.bytes_stream();
            let mut last = None;
            while let Some(piece) = pieces.next().await {
                piece.ok()?;
                let now = Instant::now();
                gaps.extend(last.replace(now).map(|last| now.duration_since(last).as_secs_f64()));
            }
            Some(gaps)
        }
    });
    let ended = join_all(streams).await;
    let cut = ended.iter().filter(|gaps| gaps.is_none()).count();
    (ended.into_iter().flatten().flatten().collect(), cut)
}

pub(crate) fn slow_readers(scale: Scale) -> Row {
    const NORMAL: usize = 10;
    let process = Process::start(&["--slow-client-timeout", "3"]);
    let base = process.url("");
    let (mut alone, mut beside, cut, before) = block_on(async {
        let (alone, cut_alone) = gaps(&base, NORMAL).await;
        let before = process.resident();
        let mut sockets = Vec::new();
        for index in 0..scale.slow_readers {
            let body = json!({"text": format!("slow {index}"), "stream": true, "return_logprob": true, "top_logprobs_num": 20,
                "sampling_params": {"max_new_tokens": 300, "ignore_eos": true}});
            let body = body.to_string();
            let head = format!(
                "POST /generate HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
                body.len()
            );
            if let Ok(mut socket) = TcpStream::connect(process.address).await {
                let _ = socket.write_all(format!("{head}{body}").as_bytes()).await;
                sockets.push(socket);
            }
        }
        let slow = async {
            // Ten bytes a second each.
            loop {
                for socket in &mut sockets {
                    let mut bytes = [0; 10];
                    let _ = tokio::time::timeout(Duration::from_millis(1), socket.read(&mut bytes)).await;
                }
                sleep(Duration::from_secs(1)).await;
            }
        };
        let (beside, cut) = tokio::select! {
            beside = gaps(&base, NORMAL) => beside,
            () = slow => unreachable!("it has no end"),
        };
        (alone, beside, cut + cut_alone, before)
    });
    let mut failures: Vec<String> = (cut > 0).then(|| format!("{cut} normal streams were cut")).into_iter().collect();
    let answered = block_on(async {
        ask(&client(), &base, "/generate", json!({"text": "x", "sampling_params": {"max_new_tokens": 4}}), 200).await
    });
    if answered != Outcome::Answered {
        failures.push(format!("afterwards: {answered:?}"));
    }
    let grown = process.resident().saturating_sub(before) >> 20;
    let [of_alone, of_beside] = [&mut alone, &mut beside].map(|gaps| percentile(gaps, 0.5) * 1000.0);
    let figures = format!(
        "time between tokens of {NORMAL} normal streams: p50 {of_beside:.1} ms beside them (the slow ones' tokens are computed too), {of_alone:.1} ms alone; +{grown} MiB"
    );
    failures.extend(process.stop());
    Row::new(format!("{} clients that read 10 bytes a second", scale.slow_readers), figures, failures)
}

pub(crate) fn idle_sockets(scale: Scale) -> Row {
    if !allow_files(scale.idle_sockets as u64 + 512) {
        return Row::skipped("the limit of open files is too low for the clients");
    }
    let process = Process::start(&[]);
    let base = process.url("");
    let (mut probes, mut answers, failures) = block_on(async {
        let sockets = join_all((0..scale.idle_sockets).map(|index| async move {
            let mut socket = TcpStream::connect(process.address).await.ok()?;
            if index % 2 == 1 {
                // Half of a head.
                let _ = socket.write_all(b"POST /generate HTTP/1.1\r\nhost: x\r\n").await;
            }
            Some(socket)
        }));
        let _sockets = sockets.await;
        let client = client();
        let (mut probes, mut answers, mut failures) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..20 {
            let asked = Instant::now();
            match client.get(format!("{base}/live")).send().await {
                Ok(answer) if answer.status() == 200 => probes.push(asked.elapsed().as_secs_f64()),
                other => failures.push(format!("/live: {other:?}")),
            }
            let asked = Instant::now();
            match ask(&client, &base, "/generate", json!({"text": "x", "sampling_params": {"max_new_tokens": 1}}), 200)
                .await
            {
                Outcome::Answered => answers.push(asked.elapsed().as_secs_f64()),
                other => failures.push(format!("{other:?}")),
            }
        }
        (probes, answers, failures)
    });
    let figures = format!("`/live`: {}; a request of one token: {}", spread_ms(&mut probes), spread_ms(&mut answers));
    let failures = [failures, process.stop()].concat();
    Row::new(format!("{} sockets, half of them with half a head", scale.idle_sockets), figures, failures)
}
