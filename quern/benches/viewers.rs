//! What viewers of the live view cost a server under load: its throughput with and without them, in turn.
//!
//! `cargo bench -p quern --bench viewers`: the shipped model on one thread, so that the viewers' own work
//! has a core elsewhere.

use std::{
    io::{BufRead, BufReader},
    process::{Child, Command, Stdio},
    time::Duration,
};

use serde_json::Value;

const VIEWERS: usize = 20;
const PAIRS: usize = 8;

fn main() {
    let quern = || Command::new(env!("CARGO_BIN_EXE_quern"));
    let mut server =
        quern().args(["serve", "--port", "0", "--cpu-threads", "1"]).stderr(Stdio::piped()).spawn().unwrap();
    let port = port(&mut server);
    let folder = tempfile::tempdir().unwrap();
    let words = "bench serving --dataset-name random-ids --random-input-len 200 --random-output-len 600 \
        --num-prompts 60 --max-concurrency 8 --flush-cache --disable-tqdm --json";
    let figures = || {
        let mut command = quern();
        command.args(words.split_whitespace()).args(["--port", &port]).current_dir(folder.path());
        let output = command.stderr(Stdio::null()).output().unwrap();
        let run: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("no figures: {error}"));
        ["output_throughput", "p99_itl_ms"].map(|key| run[key].as_f64().unwrap())
    };
    let watched = || {
        let url = format!("http://127.0.0.1:{port}/dashboard/events");
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        for _ in 0..VIEWERS {
            let url = url.clone();
            runtime.spawn(async move {
                let mut stream = reqwest::Client::builder().no_proxy().build().unwrap().get(url).send().await.unwrap();
                while stream.chunk().await.unwrap().is_some() {}
            });
        }
        std::thread::sleep(Duration::from_secs(1));
        figures()
    };
    figures();
    let mut ratios = [Vec::new(), Vec::new()];
    for pair in 0..PAIRS {
        let first = if pair % 2 == 0 { figures() } else { watched() };
        let (alone, seen) = if pair % 2 == 0 { (first, watched()) } else { (figures(), first) };
        for (ratios, (seen, alone)) in ratios.iter_mut().zip(seen.into_iter().zip(alone)) {
            ratios.push(seen / alone);
        }
    }
    println!("{VIEWERS} viewers, {PAIRS} pairs: with them, as a multiple of without");
    for (name, mut ratios) in ["output tok/s", "P99 ITL"].into_iter().zip(ratios) {
        ratios.sort_by(f64::total_cmp);
        println!("{name:14} {:.3} [{:.3}–{:.3}]", ratios[PAIRS / 2], ratios[0], ratios[PAIRS - 1]);
    }
    let _ = server.kill();
    let _ = server.wait();
}

/// The port of a server that is ready.
fn port(server: &mut Child) -> String {
    let mut lines = BufReader::new(server.stderr.take().unwrap()).lines().map_while(Result::ok);
    let mut port = String::new();
    for line in &mut lines {
        if let Some((_, rest)) = line.split_once("Listening on http://127.0.0.1:") {
            port = rest.split(' ').next().unwrap().to_owned();
        }
        if line.ends_with("ready to roll!") {
            break;
        }
    }
    // Read on: a pipe that is full would stop the server.
    std::thread::spawn(move || lines.for_each(drop));
    port
}
