//! The built program on a GPU whose driver is a twin: found as every driver is, by the system's loader.

use std::{
    path::Path,
    process::{Command, Output},
};

use crate::process::Server;
use crate::twin::Target;
use serde_json::Value;

/// `quern` with the libraries of `folder` before the system's, and its caches in `caches`.
fn quern(folder: &Path, caches: &Path, arguments: &[&str]) -> Command {
    let mut command = crate::process::quern(arguments);
    command.env("LD_LIBRARY_PATH", folder).env("XDG_CACHE_HOME", caches);
    command
}

/// Serve the model inside the program. It is small enough for an emulated device.
fn serve(folder: &Path, caches: &Path, device: &str) -> Server {
    let arguments = ["serve", "--port", "0", "--max-total-tokens", "1024", "--cpu-threads", "1", "--device", device];
    Server::start(quern(folder, caches, &arguments))
}

/// Eight greedy tokens of a chat, or as many as `more` says, whole or as a stream.
fn chat(server: &Server, more: &str) -> String {
    let body = format!(
        r#"{{"messages":[{{"role":"user","content":"Write a Python function that implements binary search."}}],"temperature":0,"max_tokens":8{more}}}"#
    );
    server.post("/v1/chat/completions", &body)
}

fn json_of(answer: &str) -> Value {
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200"), "{answer}");
    serde_json::from_str(&body[body.find('{').unwrap()..=body.rfind('}').unwrap()])
        .unwrap_or_else(|error| panic!("{error}: {body}"))
}

/// What the chunks of a stream add up to.
fn streamed_text(answer: &str) -> String {
    let chunks = answer.lines().filter_map(|line| line.strip_prefix("data: ")).filter(|data| *data != "[DONE]");
    let chunks = chunks.map(|data| serde_json::from_str::<Value>(data).unwrap_or_else(|e| panic!("{e}: {data}")));
    chunks.filter_map(|chunk| Some(chunk["choices"][0]["delta"]["content"].as_str()?.to_owned())).collect()
}

fn chats(target: Target, device: &str, found: &str) {
    let Some(folder) = crate::twin::folder(target) else { return };
    let caches = tempfile::tempdir().unwrap();
    let server = serve(&folder, caches.path(), device);
    server.said(found);
    server.said("kernels, ");
    let measured = server.log.iter().find(|line| line.contains("peaks are measured"));
    assert_eq!(measured, None, "a GPU cannot be measured");
    server.said("compiled at this start");
    let whole = json_of(&chat(&server, ""));
    assert_eq!(whole["usage"]["completion_tokens"], 8, "{whole}");
    let text = whole["choices"][0]["message"]["content"].as_str().unwrap();
    assert!(!text.is_empty(), "{whole}");
    let stream = chat(&server, r#","stream":true"#);
    assert!(stream.contains("data: [DONE]"), "{stream}");
    assert_eq!(streamed_text(&stream), text, "the same request, now from the prefix cache and streamed");
    let drawn = json_of(&chat(&server, r#","temperature":0.8,"seed":3,"logprobs":true,"max_tokens":2"#));
    assert_eq!(drawn["choices"][0]["logprobs"]["content"].as_array().map(Vec::len), Some(2), "{drawn}");
    let info = json_of(&server.get("/server_info"));
    let shown = if device == "auto" { "cuda" } else { device };
    assert_eq!(info["device"], shown);
    let kernels = std::fs::read_dir(caches.path().join("quern/kernels")).unwrap().count();
    assert_eq!(kernels, 1, "one file of compiled kernels is kept");
    drop(server);
    serve(&folder, caches.path(), device).said("loaded as an earlier start compiled them");
}

#[test]
fn an_amd_gpu_that_is_asked_for_chats_and_streams() {
    chats(Target::Gfx942, "hip", "GPU 0: emulated 942 (gfx942)");
}

#[test]
fn an_nvidia_gpu_that_is_there_is_taken() {
    chats(Target::Sm90, "auto", "GPU 0: emulated 90 (sm_90a)");
}

fn error_of(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn a_gpu_that_is_not_there_is_an_error_if_it_was_asked_for() {
    let nowhere = tempfile::tempdir().unwrap();
    // Its libraries are looked for where the system has them too.
    for (device, library) in [("cuda", "libcuda.so.1"), ("hip", "libamdhip64.so")] {
        let arguments = ["serve", "--print-config", "--device", device];
        let output = quern(nowhere.path(), nowhere.path(), &arguments).output().unwrap();
        if output.status.success() {
            crate::twin::skip::skip(
                &format!("this machine has a {device} device, whose absence is tested"),
                "run it where there is no such driver",
            );
            continue;
        }
        let error = error_of(&output);
        assert_eq!(output.status.code(), Some(1), "{error}");
        for part in [&format!("quern: error: --device {device}: "), library, "--device cpu"] {
            assert!(error.contains(part), "no {part:?} in {error}");
        }
    }
}

#[test]
fn what_a_gpu_cannot_hold_is_refused_or_left_to_the_cpu() {
    let Some(folder) = crate::twin::folder(Target::Sm90) else { return };
    let caches = tempfile::tempdir().unwrap();
    let flags = ["serve", "--print-config", "--max-total-tokens", "1024", "--quantization", "q8_0", "--device"];
    let asked = quern(&folder, caches.path(), &[&flags[..], &["cuda"]].concat()).output().unwrap();
    let error = error_of(&asked);
    assert!(error.contains("--device cuda: it has no kernels for Q8_0 weights"), "{error}");
    let left = quern(&folder, caches.path(), &[&flags[..], &["auto"]].concat()).output().unwrap();
    assert!(left.status.success(), "{}", error_of(&left));
    let config: Value = serde_json::from_slice(&left.stdout).unwrap();
    assert_eq!(config["device"], "cpu");
    let index = quern(&folder, caches.path(), &["serve", "--device", "cuda", "--base-gpu-id", "2"]).output().unwrap();
    let error = error_of(&index);
    assert!(error.contains("there is no cuda device 2; the driver knows 1"), "{error}");
}
