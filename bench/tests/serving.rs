//! `quern bench serving` over a real socket, against a server that says what it is told to say.

mod mock;

use std::{fs, path::Path};

use clap::Parser;
use quern_bench::serving::{self, ServingArgs};
use serde_json::Value;

use mock::{Mock, Reply, WORDS, common, events};

#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    args: ServingArgs,
}

/// Run the command; its exit status and the last line it appended.
async fn run(mock: &Mock, folder: &Path, words: &[&str]) -> (String, Value) {
    let file = folder.join("runs.jsonl");
    let (url, path) = (mock.url(), file.display().to_string());
    let fixed = ["serving", "--base-url", &url, "--output-file", &path, "--output-details"];
    let cli = Cli::parse_from(fixed.iter().chain(words));
    let status = serving::run(&cli.args).await.expect("the run takes place");
    let text = fs::read_to_string(file).expect("written");
    let last = text.lines().last().expect("a line").replace("Infinity", "null");
    (format!("{status:?}"), serde_json::from_str(&last).expect("JSON"))
}

const RANDOM: [&str; 6] = ["--dataset-name", "random-ids", "--random-input-len", "8", "--random-output-len", "9"];

/// The length asked for in a body of any form.
fn asked_length(body: &Value) -> usize {
    let lengths = [&body["sampling_params"]["max_new_tokens"], &body["max_tokens"], &body["max_completion_tokens"]];
    lengths.into_iter().find_map(Value::as_u64).expect("a length") as usize
}

#[tokio::test]
async fn every_backend_reads_streams_cut_anywhere() {
    let folder = tempfile::tempdir().expect("a folder");
    let backends = [
        ("sglang", "/generate"),
        ("sglang-oai", "/v1/completions"),
        ("sglang-oai-chat", "/v1/chat/completions"),
        ("vllm", "/v1/completions"),
        ("vllm-chat", "/v1/chat/completions"),
        ("lmdeploy", "/v1/completions"),
        ("lmdeploy-chat", "/v1/chat/completions"),
        ("llama.cpp", "/v1/completions"),
        ("llama.cpp-chat", "/v1/chat/completions"),
        ("anthropic", "/v1/messages"),
    ];
    for (index, (backend, path)) in backends.into_iter().enumerate() {
        let piece = 1 + index % 5;
        let mock = Mock::start(move |_, seen| {
            common(seen).unwrap_or_else(|| Reply::stream(events(path, asked_length(&seen.body)), piece))
        })
        .await;
        let words: Vec<&str> = RANDOM.into_iter().chain(["--backend", backend, "--num-prompts", "4"]).collect();
        let (status, record) = run(&mock, folder.path(), &words).await;
        assert_eq!(status, format!("{:?}", std::process::ExitCode::SUCCESS), "{backend}");
        assert_eq!(record["completed"], 4, "{backend}");
        let bodies = mock.seen(path);
        assert_eq!(bodies.len(), 5, "{backend}: the warm-up and four requests");
        let lengths: Vec<usize> = record["output_lens"]
            .as_array()
            .expect("lengths")
            .iter()
            .map(|n| n.as_u64().expect("a number") as usize)
            .collect();
        let total: usize = lengths.iter().sum();
        assert_eq!(record["total_output_tokens"], total, "{backend}");
        for (text, length) in record["generated_texts"].as_array().expect("texts").iter().zip(&lengths) {
            let wanted: String = WORDS.iter().cycle().take(*length).copied().collect();
            assert_eq!(text, &Value::from(wanted), "{backend}");
        }
        for (itls, length) in record["itls"].as_array().expect("gaps").iter().zip(&lengths) {
            assert_eq!(itls.as_array().map(Vec::len), Some(length - 1), "{backend}: one gap before each later token");
        }
        let retokenized: usize = record["generated_texts"]
            .as_array()
            .expect("texts")
            .iter()
            .map(|text| text.as_str().expect("text").len())
            .sum();
        assert_eq!(record["total_output_tokens_retokenized"], retokenized, "{backend}: the mock's tokens are bytes");
    }
}

#[tokio::test]
async fn lengths_are_those_of_sglangs_client() {
    let folder = tempfile::tempdir().expect("a folder");
    let mock = Mock::start(|_, seen| {
        common(seen).unwrap_or_else(|| Reply::stream(events("/generate", asked_length(&seen.body).min(3)), 4096))
    })
    .await;
    let words = [
        "--dataset-name",
        "random-ids",
        "--random-input-len",
        "1000",
        "--random-output-len",
        "1000",
        "--num-prompts",
        "10",
        "--max-concurrency",
        "1",
    ];
    let (_, record) = run(&mock, folder.path(), &words).await;
    assert_eq!(record["total_input_tokens"], 6101);
    let asked: usize = mock.seen("/generate").iter().skip(1).map(|seen| asked_length(&seen.body)).sum();
    assert_eq!(asked, 4220);
    assert_eq!(record["accept_length"], 1.5, "asked of /server_info where /get_server_info is missing");
}

#[tokio::test]
async fn failures_of_all_kinds_are_counted_and_fail_the_command() {
    let folder = tempfile::tempdir().expect("a folder");
    let mock = Mock::start(|before, seen| {
        if let Some(reply) = common(seen) {
            return reply;
        }
        let whole = events("/generate", 4);
        // The warm-up is number 0.
        match before {
            2 => Reply::error("500 Internal Server Error", "broken"),
            3 => Reply { breaks: true, ..Reply::stream(whole[..whole.len() / 2].into(), 7) },
            4 => Reply::stream(
                format!(
                    "{}data: {{\"error\":{{\"message\":\"overloaded\"}}}}\n\n",
                    events("/generate", 2).replace("data: [DONE]\n\n", "")
                ),
                64,
            ),
            5 => Reply::stream(whole.split_inclusive("\n\n").take(2).collect(), 64),
            6 => Reply::stream("data: <html>\n\n".replace('<', "{"), 64),
            _ => Reply::stream(whole, 5),
        }
    })
    .await;
    let words: Vec<&str> = RANDOM.into_iter().chain(["--num-prompts", "8", "--max-concurrency", "1"]).collect();
    let (status, record) = run(&mock, folder.path(), &words).await;
    assert_eq!(status, format!("{:?}", std::process::ExitCode::FAILURE));
    assert_eq!((&record["completed"], &record["failed"]), (&Value::from(3), &Value::from(5)));
    let errors: Vec<&str> =
        record["errors"].as_array().expect("errors").iter().map(|e| e.as_str().expect("text")).collect();
    assert_eq!(errors[0], "");
    assert_eq!(errors[1], "Internal Server Error: broken");
    assert!(!errors[2].is_empty(), "a connection that breaks");
    assert_eq!(errors[3], "overloaded");
    assert_eq!(errors[4], "the stream ended before the answer did");
    assert!(errors[5].contains("not understood"), "{}", errors[5]);
    assert_eq!(errors[6..], ["", ""]);
}

#[tokio::test]
async fn no_more_requests_are_under_way_than_allowed() {
    let folder = tempfile::tempdir().expect("a folder");
    let mock = Mock::start(|_, seen| common(seen).unwrap_or_else(|| Reply::stream(events("/generate", 2), 64))).await;
    let words: Vec<&str> =
        RANDOM.into_iter().chain(["--num-prompts", "40", "--max-concurrency", "3,1", "--flush-cache"]).collect();
    run(&mock, folder.path(), &words).await;
    assert!(mock.most_in_flight.load(std::sync::atomic::Ordering::SeqCst) <= 3);
    assert_eq!(mock.seen("/generate").len(), 82);
    assert_eq!(mock.seen("/flush_cache").len(), 2, "before each measurement");
}

#[tokio::test]
async fn agents_histories_grow_and_a_report_is_written() {
    let folder = tempfile::tempdir().expect("a folder");
    let mock =
        Mock::start(|_, seen| common(seen).unwrap_or_else(|| Reply::stream(events("/v1/chat/completions", 3), 11)))
            .await;
    let report = folder.path().join("report.html").display().to_string();
    let words = [
        "--backend",
        "sglang-oai-chat",
        "--dataset-name",
        "agent",
        "--agent-turns",
        "3",
        "--num-prompts",
        "2",
        "--report",
        &report,
        "--goodput",
        "ttft:60000",
        "--layout",
        "0.5.23",
    ];
    let (_, record) = run(&mock, folder.path(), &words).await;
    assert_eq!(record["completed"], 6);
    assert_eq!(record["total_input_tokens"], 42, "the server counts prompts of conversations");
    assert_eq!(record["slo_attainment"], 1.0);
    let bodies = mock.seen("/v1/chat/completions");
    let mut turns: Vec<usize> =
        bodies.iter().skip(1).map(|seen| seen.body["messages"].as_array().expect("messages").len()).collect();
    turns.sort_unstable();
    assert_eq!(turns, [2, 2, 4, 4, 6, 6]);
    assert!(bodies[0].body["tools"].is_array());
    assert!(fs::read_to_string(&report).expect("written").contains("<svg"));
}

#[tokio::test]
async fn whole_answers_are_read_too() {
    let folder = tempfile::tempdir().expect("a folder");
    let mock = Mock::start(|_, seen| {
        let body = serde_json::json!({"text": "ab", "meta_info": {"completion_tokens": 2, "finish_reason": {"type": "length"}}});
        common(seen).unwrap_or_else(|| Reply::json(&body))
    })
    .await;
    let words: Vec<&str> = RANDOM.into_iter().chain(["--num-prompts", "2", "--disable-stream"]).collect();
    let (_, record) = run(&mock, folder.path(), &words).await;
    assert_eq!((&record["completed"], &record["total_output_tokens"]), (&Value::from(2), &Value::from(4)));
}

#[tokio::test]
async fn a_server_that_refuses_everything_ends_the_run_at_the_warm_up() {
    let mock = Mock::start(|_, seen| common(seen).unwrap_or_else(|| Reply::error("400 Bad Request", "no"))).await;
    let url = mock.url();
    let words = ["serving", "--base-url", &url].into_iter().chain(RANDOM);
    let error = serving::run(&Cli::parse_from(words).args).await.expect_err("refused").to_string();
    assert!(error.starts_with("Warmup failed") && error.ends_with("Bad Request: no"), "{error}");
}
