//! The built program: exit statuses, messages, and the way to "fired up and ready to roll".

use std::{
    io::{BufRead, BufReader, Write},
    net::TcpListener,
    process::Command,
};

use crate::process::{failure, quern, run, serve};

#[test]
fn the_shipped_model_is_served_and_the_log_tells_the_story() {
    let server = serve(&["--trust-remote-code", "--tp", "1", "--page-size", "16"]);
    let order = [
        "server_args=",
        "--trust-remote-code changes nothing",
        "Model quern-demo: Qwen3MoeForCausalLM",
        "Positions: rotary, theta ",
        "DEMONSTRATION",
        "CPU: 1 threads",
        "Kernels: linear bf16",
        "Load weight begin. avail mem=",
        "Load weight end.",
        "KV Cache is allocated. dtype: bfloat16, #tokens: 2048,",
        "Memory pool end. avail mem=",
        "max_total_num_tokens=2048, chunked_prefill_size=512, max_prefill_tokens=16384, max_running_requests=256, \
         context_len=8192, available_gpu_mem=",
        "Listening on http://127.0.0.1:",
        "The server is fired up and ready to roll!",
    ];
    let mut rest = server.log.iter();
    for part in order {
        assert!(rest.any(|line| line.contains(part)), "{part:?} is missing or out of order in {:#?}", server.log);
    }
    for line in &server.log {
        let stamp = line.split_once("] ").unwrap_or_else(|| panic!("{line}")).0;
        assert!(stamp.starts_with('[') && stamp.len() == "[2026-01-30 12:00:00".len(), "{line}");
    }
    assert!(server.get("/ready").starts_with("HTTP/1.1 200"));
    assert!(server.get("/server_info").contains("\"page_size\":16"));
    assert!(!server.log.iter().any(|line| line.contains("Machine peaks: ")), "nothing is measured before it listens");
}

#[test]
fn a_network_on_ranks_answers_as_on_one() {
    let answer = |flags: &[&str]| {
        let server = serve(&[&["--dtype", "float32", "--skip-peak-measurement"], flags].concat());
        let body = r#"{"text":"def add(a, b):","sampling_params":{"temperature":0,"max_new_tokens":24}}"#;
        let answer = server.post("/generate", body);
        let (_, body) = answer.split_once("\r\n\r\n").unwrap();
        let body: serde_json::Value = serde_json::from_str(body).unwrap_or_else(|e| panic!("{e}: {answer}"));
        (body["text"].as_str().unwrap_or_else(|| panic!("{answer}")).to_owned(), server)
    };
    let (alone, server) = answer(&[]);
    assert!(!server.log.iter().any(|line| line.contains("Ranks: ")));
    for (flags, told) in [
        (&["--tp", "2"][..], "Ranks: 2 in this process (tp_size 2, ep_size 1)"),
        (&["--tensor-parallel-size", "4", "--expert-parallel-size", "2", "--cpu-threads", "2"], "Ranks: 4"),
        (&["--tp-size", "4", "--ep", "4"], "(tp_size 4, ep_size 4)"),
    ] {
        let (text, server) = answer(flags);
        assert_eq!(text, alone, "{flags:?}");
        assert!(server.log.iter().any(|line| line.contains(told)), "{flags:?}: {:#?}", server.log);
    }
    let (_, server) = answer(&["--tp", "2", "--ep", "2"]);
    let info = server.get("/server_info");
    assert!(info.contains("\"tp_size\":2") && info.contains("\"ep_size\":2"), "{info}");
}

#[test]
fn log_probabilities_are_the_models_own_unless_the_samplers_are_asked_for() {
    // Of the likeliest first tokens, for each way to change the distribution that is drawn from.
    let likeliest = |mode: &str| {
        let server = serve(&["--logprobs-mode", mode, "--skip-server-warmup"]);
        ["\"temperature\":1", "\"temperature\":0.25", "\"temperature\":2", "\"logit_bias\":{\"5\":60}"].map(|how| {
            let answer = server.post(
                "/v1/chat/completions",
                &format!(
                    r#"{{"messages":[{{"role":"user","content":"Say hello."}}],"max_tokens":1,"top_k":-1,"top_p":1,"seed":1,
                    "logprobs":true,"top_logprobs":2,{how}}}"#
                ),
            );
            let (_, body) = answer.split_once("\r\n\r\n").unwrap();
            let body: serde_json::Value = serde_json::from_str(body).unwrap_or_else(|e| panic!("{e}: {answer}"));
            body["choices"][0]["logprobs"]["content"][0]["top_logprobs"].clone()
        })
    };
    let own = likeliest("raw_logprobs");
    assert!(own.iter().all(|top| *top == own[0] && top.as_array().is_some_and(|top| top.len() == 2)), "{own:?}");
    let [plain, cold, hot, biased] = likeliest("processed_logprobs");
    assert_eq!(plain, own[0], "nothing is changed at temperature 1");
    let second = |top: &serde_json::Value| top[1]["logprob"].as_f64().unwrap();
    assert!(second(&cold) < second(&plain) && second(&plain) < second(&hot), "{plain} {cold} {hot}");
    assert_ne!(biased, plain);
}

#[test]
fn keys_stay_out_of_the_log() {
    let server = serve(&["--api-key", "open-sesame", "--admin-api-key", "s3same", "--skip-server-warmup"]);
    let log = server.log.join("\n");
    assert!(!log.contains("open-sesame") && !log.contains("s3same"), "{log}");
}

#[test]
fn a_busy_port_is_named() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let error = failure(&["serve", "--port", &port, "--max-total-tokens", "2048"]);
    assert!(error.contains(&format!("--port {port}")) && error.contains("another program"), "{error}");
}

#[test]
fn a_limit_of_threads_is_named() {
    // Another user is what the limit needs: root is not held to it. (Not every shell's `ulimit` knows it.)
    let mut command = Command::new("setpriv");
    command.args(["--reuid", "65534", "--clear-groups", "prlimit", "--nproc=6"]);
    let output = match command.arg(env!("CARGO_BIN_EXE_quern")).args(["serve", "--port", "0"]).output() {
        Ok(output) if output.status.code() == Some(1) && !output.stderr.starts_with(b"setpriv") => output,
        outcome => {
            return crate::skip::skip(
                &format!("no process of another user can be started: {:?}", outcome.map(|output| output.status)),
                "run as root with setpriv and prlimit (util-linux)",
            );
        }
    };
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(
        error.contains("quern: error: ") && error.contains("ulimit -u, now 6") && !error.contains("panicked"),
        "{error}"
    );
}

#[test]
fn what_cannot_start_says_why_in_one_line() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let empty = path("empty");
    std::fs::create_dir(&empty).unwrap();
    let malformed = path("malformed");
    std::fs::create_dir(&malformed).unwrap();
    std::fs::write(path("malformed/config.json"), "{\"architectures\": [").unwrap();
    let bad_template = path("bad.jinja");
    std::fs::write(&bad_template, "{% if %}").unwrap();
    let a_file = path("model.bin");
    std::fs::write(&a_file, "weights").unwrap();

    for (arguments, parts) in [
        (&["--model", &empty][..], &["config.json"][..]),
        (&["--model", &malformed], &["config.json", "line 1"]),
        (&["--model", &a_file], &["is a file", ".gguf file"]),
        (&["--model", "/no/such/model"], &["--model /no/such/model", "no such directory"]),
        (&["--chat-template", &bad_template], &["bad.jinja", "malformed"]),
        (&["--hf-chat-template-name", "rag"], &["--hf-chat-template-name rag"]),
        (&["--tp", "3"], &["--tp-size 3", "num_attention_heads = 4 is not divisible"]),
        (&["--tp", "4", "--ep", "8"], &["--ep-size 8", "--tp-size 4"]),
        (&["--context-length", "9k"], &["--context-length 9000", "8192"]),
        (&["--mem-fraction-static", "0.000000001"], &["--mem-fraction-static"]),
        (&["--host", "no such host"], &["--host no such host"]),
        (&["--config", "/no/such.yaml"], &["--config /no/such.yaml"]),
        (&["--model", "a/b/c"], &["no such directory"]),
        (&["--json-model-override-args", "{\"hidden_act\": \"gelu\"}"], &["hidden_act"]),
    ] {
        let words: Vec<&str> = ["serve", "--port", "0"].iter().chain(arguments).copied().collect();
        let error = failure(&words);
        for part in parts {
            assert!(error.contains(part), "{arguments:?}: {error}");
        }
    }
}

#[test]
fn a_model_without_a_tokenizer_is_converted_with_one_from_elsewhere() {
    let demo = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/quern-demo");
    let folder = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(&demo).unwrap().map(Result::unwrap) {
        let name = entry.file_name().into_string().unwrap();
        if entry.path().is_file() && !name.starts_with("tokenizer") && name != "chat_template.jinja" {
            std::fs::copy(entry.path(), folder.path().join(name)).unwrap();
        }
    }
    let path = |name: &str| folder.path().join(name).display().to_string();
    let (model, refused, converted, whole) = (path(""), path("refused.gguf"), path("a.gguf"), path("b.gguf"));
    let error = failure(&["convert", "--model", &model, "--outfile", &refused]);
    assert!(error.contains("--tokenizer-path"), "{error}");
    assert!(!std::path::Path::new(&refused).exists());
    let demo = demo.display().to_string();
    let lent = run(&["convert", "--model", &model, "--tokenizer-path", &demo, "--outfile", &converted]);
    assert!(lent.status.success(), "{}", String::from_utf8_lossy(&lent.stderr));
    assert!(run(&["convert", "--model", &demo, "--outfile", &whole]).status.success());
    assert!(std::fs::read(&converted).unwrap() == std::fs::read(&whole).unwrap(), "the same file as with its own");
}

#[test]
fn a_hub_that_cannot_be_reached_is_named() {
    let cache = tempfile::tempdir().unwrap();
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    for (name, value, part) in [
        ("HF_ENDPOINT", format!("http://{free}"), "cannot be reached"),
        ("HF_HUB_OFFLINE", "1".into(), "HF_HUB_OFFLINE"),
    ] {
        let mut command = quern(&["serve", "--model", "owner/name"]);
        let output = command.env("HF_HOME", cache.path()).env(name, value).output().unwrap();
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1));
        assert!(error.contains("owner/name") && error.contains(part), "{error}");
    }
}

/// A hub of one repository: `config.json`, weights whose requests are counted, and other small files.
fn one_repository(config: String) -> (String, std::sync::Arc<std::sync::atomic::AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let fetched = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let counted = std::sync::Arc::clone(&fetched);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut lines = BufReader::new(stream.try_clone().unwrap()).lines().map_while(Result::ok);
            let first = lines.next().unwrap_or_default();
            for _ in lines.by_ref().take_while(|line| !line.is_empty()) {}
            let listing = format!(
                r#"{{"sha": "{}", "siblings": [{{"rfilename": "config.json"}}, {{"rfilename": "model.safetensors"}}]}}"#,
                "a".repeat(40)
            );
            let body = if first.contains("/api/models/") { listing } else { config.clone() };
            counted.fetch_add(usize::from(first.contains("safetensors")), std::sync::atomic::Ordering::SeqCst);
            let length = body.len();
            let head = format!("HTTP/1.1 200 OK\r\netag: \"{}\"\r\ncontent-length: {length}\r\n", "b".repeat(40));
            let body = if first.starts_with("HEAD") { "" } else { &body };
            let _ = write!(stream, "{head}connection: close\r\n\r\n{body}");
        }
    });
    (address, fetched)
}

#[test]
fn what_config_json_rules_out_is_refused_before_weights_are_fetched() {
    let demo =
        std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../models/quern-demo/config.json")).unwrap();
    let with = |field: &str, value: serde_json::Value| {
        let mut config: serde_json::Value = serde_json::from_str(&demo).unwrap();
        config[field] = value;
        config.to_string()
    };
    let outfile = tempfile::tempdir().unwrap();
    let outfile = outfile.path().join("x.gguf").display().to_string();
    let eetq = with("quantization_config", serde_json::json!({"quant_method": "eetq", "weights": "int8"}));
    for (config, arguments, part) in [
        (eetq.clone(), vec!["serve", "--model", "x/y"], "eetq"),
        (eetq.clone(), vec!["serve", "x/y"], "eetq"),
        (eetq.clone(), vec!["serve", "-hf", "x/y"], "eetq"),
        (eetq.clone(), vec!["convert", "--model", "x/y", "--outfile", &outfile], "eetq"),
        (eetq.clone(), vec!["bench", "offline", "--model", "x/y"], "eetq"),
        (eetq, vec!["bench", "offline", "x/y"], "eetq"),
        (
            with("architectures", serde_json::json!(["Qwen3NextForCausalLM"])),
            vec!["serve", "--model", "x/y"],
            "Qwen3Next",
        ),
        (demo.clone(), vec!["serve", "--model", "x/y", "--context-length", "1M"], "--context-length"),
    ] {
        let (address, fetched) = one_repository(config);
        let cache = tempfile::tempdir().unwrap();
        let output = quern(&arguments).env("HF_HOME", cache.path()).env("HF_ENDPOINT", address).output().unwrap();
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {error}");
        assert!(error.contains(part), "{arguments:?}: {error}");
        assert_eq!(fetched.load(std::sync::atomic::Ordering::SeqCst), 0, "{arguments:?}");
    }
}

#[test]
fn usage_errors_exit_with_two_and_help_with_zero() {
    for arguments in [&["serve", "--no-such-flag"][..], &["serve", "--pp", "1"], &["bake"], &[]] {
        let output = run(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(!output.stderr.is_empty());
    }
    for arguments in [&["--help"][..], &["serve", "--help"], &["--version"]] {
        let output = run(arguments);
        assert_eq!(output.status.code(), Some(0), "{arguments:?}");
        assert!(!output.stdout.is_empty());
    }
    assert_eq!(
        String::from_utf8(run(&["--version"]).stdout).unwrap(),
        format!("quern {}\n", env!("CARGO_PKG_VERSION"))
    );
}

#[test]
fn print_config_prints_what_was_decided() {
    let output = run(&[
        "serve",
        "--print-config",
        "--random-seed",
        "7",
        "--max-total-tokens",
        "10k",
        "--cpu-threads",
        "3",
        "--device",
        "cpu",
        "--api-key",
        "k",
        "--enable-metrics",
        "--max-queued-requests",
        "9",
    ]);
    assert_eq!(output.status.code(), Some(0));
    insta::assert_snapshot!(String::from_utf8(output.stdout).unwrap());
}
