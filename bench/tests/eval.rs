//! `quern eval` over a real socket, against a server that says what it is told to say.

mod mock;
#[path = "../../tests/skip.rs"]
mod skip;

use std::{fs, process::ExitCode};

use clap::Parser;
use quern_bench::eval::{self, EvalCommand};
use serde_json::{Value, json};

use mock::{Mock, Reply, common};

#[derive(Parser)]
struct Cli {
    #[command(subcommand)]
    command: EvalCommand,
}

async fn run(words: &[&str]) -> Result<String, String> {
    let cli = Cli::parse_from(std::iter::once(&"eval").chain(words));
    eval::run(&cli.command).await.map(|status| format!("{status:?}")).map_err(|error| error.to_string())
}

fn success() -> Result<String, String> {
    Ok(format!("{:?}", ExitCode::SUCCESS))
}

/// Seven problems: what is i and i? The answer is 2i.
fn problems(folder: &std::path::Path) -> String {
    let path = folder.join("gsm8k.jsonl");
    let line =
        |i: usize| json!({"question": format!("What is {i} and {i}?"), "answer": format!("Both.\n#### {}", 2 * i)});
    let text: String = (0..7).map(|i| format!("{}\n", line(i))).collect();
    fs::write(&path, format!("# a comment\n{text}")).expect("written");
    path.display().to_string()
}

/// The last question of a prompt.
fn asked(prompt: &str) -> &str {
    prompt.rsplit("Question: ").next().and_then(|rest| rest.strip_suffix("\nAnswer:")).expect("an open question")
}

fn transcripts(path: &str) -> Vec<Value> {
    let text = fs::read_to_string(path).expect("written");
    text.lines().skip(1).map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

fn generated(text: &str) -> Reply {
    Reply::json(&json!({"text": text, "meta_info": {"completion_tokens": 5, "finish_reason": {"type": "stop"}}}))
}

#[tokio::test]
async fn gsm8k_asks_and_judges_as_the_original() {
    let folder = tempfile::tempdir().expect("a folder");
    let data = problems(folder.path());
    let output = folder.path().join("out.jsonl").display().to_string();
    let mock = Mock::start(|_, seen| {
        if let Some(reply) = common(seen) {
            return reply;
        }
        if seen.body["sampling_params"]["max_new_tokens"] == 0 {
            return generated("");
        }
        match asked(seen.body["text"].as_str().expect("text")) {
            "What is 3 and 3?" => generated(" 7"),
            "What is 4 and 4?" => generated(" eight"),
            other => {
                let number: u64 = other.split(' ').nth(2).and_then(|n| n.parse().ok()).expect("a number");
                generated(&format!(" Both. #### {}", 2 * number))
            }
        }
    })
    .await;
    let url = mock.url();
    let words = [
        "gsm8k",
        "--base-url",
        &url,
        "--data-path",
        &data,
        "--num-questions",
        "6",
        "--num-shots",
        "2",
        "--output",
        &output,
    ];
    assert_eq!(run(&words).await, success());
    let bodies = mock.seen("/generate");
    assert_eq!(bodies.len(), 7, "the prefix and six questions, the examples among them");
    let prefix =
        "Question: What is 0 and 0?\nAnswer: Both.\n#### 0\n\nQuestion: What is 1 and 1?\nAnswer: Both.\n#### 2\n\n";
    assert_eq!(bodies[0].body, json!({"text": prefix, "sampling_params": {"max_new_tokens": 0}}));
    let fifth = bodies.iter().find(|seen| seen.body["text"] == format!("{prefix}Question: What is 5 and 5?\nAnswer:"));
    let sampling = &fifth.expect("asked").body["sampling_params"];
    assert_eq!(sampling["stop"], json!(["Question", "Assistant:", "<|separator|>"]));
    assert_eq!((&sampling["max_new_tokens"], &sampling["temperature"]), (&json!(512), &json!(0.0)));
    let lines = transcripts(&output);
    assert_eq!(lines.len(), 7, "six transcripts and the summary");
    let summary = &lines[6]["summary"];
    assert_eq!(summary["score"], json!(4.0 / 6.0));
    assert_eq!(summary["invalid"], json!(1.0 / 6.0));
}

#[tokio::test]
async fn a_broken_evaluation_asks_only_what_is_missing() {
    let folder = tempfile::tempdir().expect("a folder");
    let data = problems(folder.path());
    let output = folder.path().join("out.jsonl").display().to_string();
    let broken = Mock::start(|_, seen| {
        common(seen).unwrap_or_else(|| match asked(seen.body["prompt"].as_str().expect("a prompt")) {
            "What is 2 and 2?" | "What is 5 and 5?" => Reply::error("400 Bad Request", "no"),
            _ => Reply::json(
                &json!({"choices": [{"text": "1", "finish_reason": "stop"}], "usage": {"completion_tokens": 1}}),
            ),
        })
    })
    .await;
    let url = broken.url();
    let rest = ["--data-path", &data, "--num-questions", "7", "--output", &output, "--completions"];
    let words: Vec<&str> = ["gsm8k", "--base-url", &url].into_iter().chain(rest).collect();
    assert_eq!(run(&words).await, Ok(format!("{:?}", ExitCode::FAILURE)));
    assert_eq!(transcripts(&output).len(), 5, "no summary yet");

    let whole = Mock::start(|_, seen| {
        let answer = json!({"choices": [{"text": "10", "finish_reason": "stop"}], "usage": {"completion_tokens": 1}});
        common(seen).unwrap_or_else(|| Reply::json(&answer))
    })
    .await;
    let url = whole.url();
    let words: Vec<&str> = ["gsm8k", "--base-url", &url].into_iter().chain(rest).collect();
    assert_eq!(run(&words).await, success());
    let mut again: Vec<String> = whole
        .seen("/v1/completions")
        .iter()
        .map(|seen| asked(seen.body["prompt"].as_str().expect("text")).to_owned())
        .collect();
    again.sort();
    assert_eq!(again, ["What is 2 and 2?", "What is 5 and 5?"]);
    let lines = transcripts(&output);
    assert_eq!(lines.last().expect("a line")["summary"]["score"], json!(1.0 / 7.0), "5 and 5 is 10");
    assert_eq!(lines[6]["session"], 1);
}

#[tokio::test]
async fn run_evals_gsm8k_leaves_the_examples_out() {
    let folder = tempfile::tempdir().expect("a folder");
    let data = problems(folder.path());
    let output = folder.path().join("out.jsonl").display().to_string();
    let mock = Mock::start(|_, seen| {
        let message = json!({"role": "assistant", "content": "It is 10.0"});
        let answer =
            json!({"choices": [{"message": message, "finish_reason": "stop"}], "usage": {"completion_tokens": 4}});
        common(seen).unwrap_or_else(|| Reply::json(&answer))
    })
    .await;
    let url = mock.url();
    let words = ["gsm8k-chat", "--base-url", &url, "--data-path", &data, "--num-threads", "2", "--output", &output];
    assert_eq!(run(&words).await, success());
    let bodies = mock.seen("/v1/chat/completions");
    assert_eq!(bodies.len(), 2);
    assert_eq!((&bodies[0].body["max_tokens"], &bodies[0].body["top_p"]), (&json!(2048), &json!(1.0)));
    assert_eq!(transcripts(&output)[2]["summary"]["score"], json!(0.5));
}

#[tokio::test]
async fn humaneval_runs_code_only_if_allowed() {
    let folder = tempfile::tempdir().expect("a folder");
    let data = folder.path().join("problems.jsonl");
    let problem = |name: &str| {
        json!({"task_id": format!("T/{name}"), "prompt": format!("def {name}(x):\n    \"\"\"Add one.\"\"\"\n"),
        "entry_point": name, "test": "def check(candidate):\n    assert candidate(1) == 2\n"})
    };
    fs::write(&data, format!("{}\n{}\n", problem("right"), problem("wrong"))).expect("written");
    let mock = Mock::start(|_, seen| {
        common(seen).unwrap_or_else(|| {
            let asked = seen.body["messages"][0]["content"].as_str().expect("text");
            let body = if asked.contains("def right") { "x + 1" } else { "x" };
            let content = format!("```python\ndef f(x):\n    return {body}\n```");
            Reply::json(&json!({"choices": [{"message": {"content": content}}], "usage": {"completion_tokens": 4}}))
        })
    })
    .await;
    let (url, data) = (mock.url(), data.display().to_string());
    let output = folder.path().join("out.jsonl").display().to_string();
    let words = ["humaneval", "--base-url", &url, "--data-path", &data, "--num-samples", "2", "--output", &output];
    let refused = run(&words).await.expect_err("not allowed");
    assert!(refused.contains("--allow-code-execution"), "{refused}");
    assert!(mock.seen("/v1/chat/completions").is_empty());

    let allowed: Vec<&str> = words.into_iter().chain(["--allow-code-execution"]).collect();
    match run(&allowed).await {
        Err(error) if error.contains("locked up here") => skip::skip(&error, "allow unprivileged user namespaces"),
        other => {
            assert_eq!(other, success());
            assert_eq!(transcripts(&output)[2]["summary"]["score"], json!(0.5));
        }
    }
}

#[tokio::test]
async fn the_demo_models_sets_are_asked_each_in_its_way() {
    let folder = tempfile::tempdir().expect("a folder");
    let write = |name: &str, line: Value| fs::write(folder.path().join(name), format!("{line}\n")).expect("written");
    let tool = json!({"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}});
    write(
        "tools.jsonl",
        json!({"tools": [tool], "messages": [{"role": "user", "content": "t"}],
        "want": [{"name": "add", "arguments": {"a": 1}}]}),
    );
    write("arithmetic.jsonl", json!({"messages": [{"role": "user", "content": "21 * 2"}], "want": "42"}));
    write("fim.jsonl", json!({"prefix": "a", "suffix": "c", "want": "b\n"}));
    let schema = json!({"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]});
    write(
        "structured.jsonl",
        json!({"messages": [{"role": "user", "content": "n"}],
        "response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": schema}}}),
    );
    write(
        "tool_results.jsonl",
        json!({"tools": [tool], "messages": [{"role": "user", "content": "t"}, {"role": "tool", "content": "1"}],
        "want": "1"}),
    );
    let mock = Mock::start(|_, seen| {
        common(seen).unwrap_or_else(|| {
            let usage = json!({"completion_tokens": 3});
            let call = json!({"id": "c", "type": "function", "function": {"name": "add", "arguments": "{\"a\": 1}"}});
            Reply::json(&match &seen.body {
                body if body.get("suffix").is_some() => json!({"choices": [{"text": "b"}], "usage": usage}),
                body if body.get("response_format").is_some() => {
                    json!({"choices": [{"message": {"content": "{\"n\": 1}"}, "finish_reason": "stop"}], "usage": usage})
                }
                body if body["messages"].as_array().is_some_and(|messages| messages.len() == 2) => {
                    json!({"choices": [{"message": {"content": "It is 1."}, "finish_reason": "stop"}], "usage": usage})
                }
                body if body.get("tools").is_some() => {
                    json!({"choices": [{"message": {"content": null, "tool_calls": [call]}}], "usage": usage})
                }
                _ => json!({"choices": [{"message": {"content": "21 * 2 = 42\n#### 42"}}], "usage": usage}),
            })
        })
    })
    .await;
    let url = mock.url();
    let data = folder.path().display().to_string();
    let output = folder.path().join("out.jsonl").display().to_string();
    assert_eq!(run(&["demo", "--base-url", &url, "--data-path", &data, "--output", &output]).await, success());
    assert_eq!(mock.seen("/v1/completions")[0].body["suffix"], "c");
    assert_eq!(mock.seen("/v1/chat/completions").len(), 4);
    for name in ["tools", "arithmetic", "fim", "structured", "tool_results"] {
        let path = folder.path().join(format!("out.{name}.jsonl")).display().to_string();
        assert_eq!(transcripts(&path)[1]["summary"]["score"], json!(1.0), "{name}");
    }
}
