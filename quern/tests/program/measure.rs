//! The built program against itself: `quern bench` and `quern eval` ask `quern serve` on a real socket, with the
//! page's own commands at small scale.

use std::{fs, path::Path};

use crate::process::{Server, quern};
use serde_json::{Value, json};

/// The shipped model on a free port.
fn serve() -> Server {
    Server::start(quern(&["serve", "--port", "0", "--cpu-threads", "1", "--max-total-tokens", "16384"]))
}

/// Run a command against the server in `folder`; what it printed. It must succeed.
fn ask(server: &Server, folder: &Path, words: &[&str]) -> String {
    let mut command = quern(words);
    command.args(["--port", &server.address.port().to_string()]).current_dir(folder);
    // Published data sets must not be fetched.
    command.env("HF_HUB_OFFLINE", "1").env("XDG_CACHE_HOME", folder).env("HF_HOME", folder);
    command.env_remove("OPENAI_API_KEY").env_remove("API_KEY");
    let output = command.output().unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{words:?}: {}\n{out}\n{err}", output.status);
    out.into_owned()
}

/// The value of a row of the printed block.
fn row(block: &str, name: &str) -> String {
    let line = block.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("no {name} in {block}"));
    line[name.len()..].trim().to_owned()
}

#[test]
fn the_pages_benchmarks_run_against_the_shipped_model() {
    let server = serve();
    let folder = tempfile::tempdir().unwrap();
    // Flags may be shortened; the totals are those that SGLang's client asks for.
    let random = ["--dataset-name", "random", "--random-input", "100", "--random-output", "20", "--num-prompt", "10"];
    for (concurrency, backend) in [("1", "sglang"), ("4", "sglang"), ("4", "sglang-oai"), ("4", "sglang-oai-chat")] {
        let more = ["--max-conc", concurrency, "--backend", backend];
        let words: Vec<&str> = ["bench", "serving"].into_iter().chain(random).chain(more).collect();
        let block = ask(&server, folder.path(), &words);
        assert!(block.contains("============ Serving Benchmark Result ============\n"), "{block}");
        assert_eq!(row(&block, "Backend:"), backend);
        assert_eq!(row(&block, "Max request concurrency:"), concurrency);
        assert_eq!(row(&block, "Successful requests:"), "10");
        let totals = ["Total input tokens:", "Total generated tokens:"].map(|name| row(&block, name));
        assert_eq!(totals, ["380", "124"], "{block}");
    }
    let files: Vec<String> = fs::read_dir(folder.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .filter(|name| name.ends_with("_10_100_20.jsonl"))
        .collect();
    assert_eq!(files.len(), 3, "one for each backend: {files:?}");
}

#[test]
fn a_sweep_writes_its_page_and_json_is_json() {
    let server = serve();
    let folder = tempfile::tempdir().unwrap();
    let words = "bench_serving --dataset-name random-ids --random-input-len 20 --random-output-len 8 \
        --num-prompts 4,8 --max-concurrency 1,4 --json --report page.html --output-file runs.jsonl";
    let lines = ask(&server, folder.path(), &words.split_whitespace().collect::<Vec<_>>());
    let runs: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(runs.len(), 2);
    assert_eq!((&runs[1]["completed"], &runs[1]["max_concurrency"]), (&json!(8), &json!(4)));
    assert_eq!(runs[1]["server_info"]["model_path"], "quern-demo");
    let page = fs::read_to_string(folder.path().join("page.html")).unwrap();
    assert!(page.contains("Latency against concurrency"), "{page}");
    assert_eq!(fs::read_to_string(folder.path().join("runs.jsonl")).unwrap().lines().count(), 2);
}

#[test]
fn agents_and_gsm8k_run_against_the_shipped_model() {
    let server = serve();
    let folder = tempfile::tempdir().unwrap();
    let words = "bench serving --backend sglang-oai-chat --dataset-name agent --num-prompts 2 --agent-turns 3 \
        --agent-system-len 30 --agent-result-len 10 --agent-output-len 8 --cache-report --layout 0.5.23";
    let block = ask(&server, folder.path(), &words.split_whitespace().collect::<Vec<_>>());
    assert_eq!(row(&block, "Successful requests:"), "6");
    assert_eq!(row(&block, "Total generated tokens:"), "48");
    assert_ne!(row(&block, "Total cached tokens:"), "0", "each turn but the first finds its history");

    let problem = |i: usize| json!({"question": format!("What is {i} and {i}?"), "answer": format!("#### {}", 2 * i)});
    let text: String = (0..8).map(|i| format!("{}\n", problem(i))).collect();
    fs::write(folder.path().join("test.jsonl"), text).unwrap();
    let words = "eval gsm8k --host http://127.0.0.1 --data-path test.jsonl --num-questions 6 --max-new-tokens 8";
    let lines = ask(&server, folder.path(), &words.split_whitespace().collect::<Vec<_>>());
    let names: Vec<&str> = lines.lines().filter_map(|line| line.split(':').next()).collect();
    assert_eq!(names, ["Accuracy", "Invalid", "Latency", "Output throughput", "95% confidence"]);
}

#[test]
fn every_other_door_and_data_set_runs_against_the_shipped_model() {
    let server = serve();
    let folder = tempfile::tempdir().unwrap();
    let conversation = |i: usize| {
        let turns = [("human", format!("Add {i} and {i}.")), ("gpt", "Some answer of several words.".into())];
        json!({"conversations": turns.map(|(from, value)| json!({"from": from, "value": value}))})
    };
    let text: String = (0..4).map(|i| format!("{}\n", conversation(i))).collect();
    fs::write(folder.path().join("own.jsonl"), text).unwrap();
    let ids = "--dataset-name random-ids --random-input-len 30 --random-output-len 6 --num-prompts 4";
    let shared = "--dataset-name generated-shared-prefix --gsp-num-groups 2 --gsp-prompts-per-group 2 \
        --gsp-system-prompt-len 60 --gsp-question-len 10 --gsp-output-len 5";
    // Nothing here answers as llama.cpp's /tokenize does.
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/quern-demo");
    let with_tokenizer = format!("{ids} --tokenizer {}", model.display());
    for (backend, dataset) in [
        ("anthropic", ids),
        ("vllm", ids),
        ("vllm-chat", ids),
        ("lmdeploy", ids),
        ("llama.cpp", &with_tokenizer),
        ("sglang", shared),
        ("sglang", "--dataset-name custom --dataset-path own.jsonl --num-prompts 4"),
    ] {
        let words = format!("bench serving --backend {backend} {dataset}");
        let block = ask(&server, folder.path(), &words.split_whitespace().collect::<Vec<_>>());
        assert_eq!(row(&block, "Successful requests:"), "4", "{words}: {block}");
        assert_ne!(row(&block, "Total generated tokens:"), "0", "{words}: {block}");
    }
}

#[test]
fn tool_calls_are_judged_against_the_shipped_model() {
    let server = serve();
    let folder = tempfile::tempdir().unwrap();
    let held_out = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/quern-demo/heldout/tools.jsonl");
    fs::copy(held_out, folder.path().join("tools.jsonl")).unwrap();
    let words = "eval tool-calls --data-path tools.jsonl --num-examples 10 --parallel 4";
    let lines = ask(&server, folder.path(), &words.split_whitespace().collect::<Vec<_>>());
    let accuracy: f64 = row(&lines, "Accuracy:").parse().unwrap();
    assert!(accuracy >= 0.7, "{lines}");
    let transcript = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().path());
    let transcript = transcript.filter(|path| path.to_string_lossy().contains("eval_tool-calls")).collect::<Vec<_>>();
    let text = fs::read_to_string(&transcript[0]).unwrap();
    assert!(text.lines().count() >= 10 && text.contains("tool_calls"), "{text}");
}
