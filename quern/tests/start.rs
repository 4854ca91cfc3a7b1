//! The built program: exit statuses, messages, and the way to "fired up and ready to roll".

mod process;
#[path = "../../tests/skip.rs"]
mod skip;

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    process::{Child, Command, Output, Stdio},
    sync::mpsc,
};

use process::Server;

fn quern(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_quern"));
    command.args(arguments);
    // Nothing of the machine these tests run on may matter.
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy().into_owned();
        if ["HF_", "SGLANG_", "RUST_LOG", "HTTP_PROXY", "http_proxy"].iter().any(|prefix| name.starts_with(prefix)) {
            command.env_remove(name);
        }
    }
    command.env("RUST_BACKTRACE", "1").stdin(Stdio::null());
    command
}

fn run(arguments: &[&str]) -> Output {
    quern(arguments).output().unwrap()
}

/// A start that must fail with status 1 and one clear line.
fn failure(arguments: &[&str]) -> String {
    let output = run(arguments);
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{arguments:?}: {error}");
    assert!(!error.contains("panicked") && !error.contains("stack backtrace"), "{error}");
    let line = error.lines().find(|line| line.starts_with("quern: error: "));
    line.unwrap_or_else(|| panic!("{arguments:?}: {error}")).to_owned()
}

/// Serve the shipped model on the CPU.
fn serve(arguments: &[&str]) -> Server {
    // What the test says comes last and wins.
    let mut command =
        quern(&["serve", "--port", "0", "--max-total-tokens", "2048", "--cpu-threads", "1", "--device", "cpu"]);
    command.args(arguments);
    Server::start(command)
}

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

/// A stream that has begun: its socket, at its first frame.
fn begin_stream(server: &Server, max_tokens: usize) -> BufReader<TcpStream> {
    let body = format!(
        r#"{{"messages":[{{"role":"user","content":"x"}}],"max_tokens":{max_tokens},"ignore_eos":true,"stream":true}}"#
    );
    let mut socket = TcpStream::connect(server.address).unwrap();
    socket.set_read_timeout(Some(std::time::Duration::from_secs(60))).unwrap();
    let length = body.len();
    let head = "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\nconnection: close";
    write!(socket, "{head}\r\ncontent-length: {length}\r\n\r\n{body}").unwrap();
    let mut reader = BufReader::new(socket);
    let mut line = String::new();
    while !line.starts_with("data: ") {
        line.clear();
        assert!(reader.read_line(&mut line).unwrap() > 0, "the stream begins");
    }
    reader
}

fn signal(server: &Server, name: &str) {
    let status = Command::new("kill").args([&format!("-{name}"), &server.process.id().to_string()]).status().unwrap();
    assert!(status.success());
}

/// Signal a server in the middle of a stream: the server after its end, and the rest of the stream. A stream that was over
/// before the signal came would prove nothing, so that longer ones are tried until the log says that it was running.
fn signalled_while_running(name: &str) -> (Server, String) {
    for max_tokens in [100, 400, 1900] {
        let mut server = serve(&["--skip-server-warmup"]);
        let mut stream = begin_stream(&server, max_tokens);
        signal(&server, name);
        let mut rest = String::new();
        stream.read_to_string(&mut rest).unwrap();
        assert_eq!(status(&mut server.process), Some(0), "SIG{name}");
        let log: Vec<String> = server.later_log.iter().collect();
        let drained = log.iter().find(|line| line.contains(&format!("SIG{name}: no new requests;")));
        if drained.unwrap_or_else(|| panic!("SIG{name}: {log:#?}")).contains("; 1 running") {
            return (server, rest);
        }
    }
    panic!("SIG{name}: no stream was still running when it came")
}

#[test]
fn sigterm_lets_running_streams_finish_and_exits_with_zero() {
    let (server, rest) = signalled_while_running("TERM");
    assert!(rest.contains(r#""finish_reason":"length""#) && rest.contains("data: [DONE]"), "{rest}");
    assert!(TcpStream::connect(server.address).is_err());
}

#[test]
fn a_drain_that_takes_too_long_ends_streams_with_an_end() {
    for signals in [&["TERM"][..], &["TERM", "INT"]] {
        let timeout = if signals.len() == 1 { "0.05" } else { "600" };
        let mut server =
            serve(&["--drain-timeout", timeout, "--json-model-override-args", LONG, "--max-total-tokens", "90000"]);
        let mut stream = begin_stream(&server, 100_000);
        for name in signals {
            signal(&server, name);
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        let mut rest = String::new();
        stream.read_to_string(&mut rest).unwrap();
        assert!(rest.contains(r#""finish_reason":"abort""#) && rest.contains("data: [DONE]"), "{signals:?}: {rest}");
        assert_eq!(server.process.wait().unwrap().code(), Some(0), "{signals:?}");
    }
}

/// What the process ends with; it must end.
fn status(process: &mut Child) -> Option<i32> {
    let begin = std::time::Instant::now();
    loop {
        if let Some(status) = process.try_wait().unwrap() {
            return status.code();
        }
        assert!(begin.elapsed().as_secs() < 60, "it does not end");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}

/// Whether these tests run with SIGHUP ignored, as under `nohup`: the server inherits that and keeps to it.
fn hangups_are_ignored() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).is_some_and(|mask| mask & 1 != 0)
}

#[test]
fn every_signal_that_asks_for_the_end_lets_streams_finish() {
    for name in ["INT", "QUIT", "HUP"] {
        if name == "HUP" && hangups_are_ignored() {
            skip::skip("SIGHUP is ignored here, so that the server ignores it too", "run without nohup");
            continue;
        }
        let (_, rest) = signalled_while_running(name);
        assert!(rest.contains("data: [DONE]"), "SIG{name}: {rest}");
    }
}

#[test]
fn a_signal_ends_a_start_that_waits_for_its_model() {
    // A hub that accepts and says nothing.
    let hub = TcpListener::bind("127.0.0.1:0").unwrap();
    let cache = tempfile::tempdir().unwrap();
    for name in ["TERM", "INT"] {
        let mut command = quern(&["serve", "--port", "0", "--model", "owner/name"]);
        command.env("HF_HOME", cache.path()).env("HF_ENDPOINT", format!("http://{}", hub.local_addr().unwrap()));
        let process = command.stderr(Stdio::piped()).spawn().unwrap();
        let _asked = hub.accept().unwrap();
        let (address, later_log) = (hub.local_addr().unwrap(), mpsc::channel().1);
        let mut server = Server { process, address, log: Vec::new(), later_log };
        signal(&server, name);
        assert_eq!(status(&mut server.process), Some(0), "SIG{name}");
        let mut log = String::new();
        server.process.stderr.take().unwrap().read_to_string(&mut log).unwrap();
        assert!(log.contains(&format!("SIG{name}: the server ends before it was ready")), "{log}");
    }
}

/// More context than any test generates, so that only a signal ends a stream.
const LONG: &str = r#"{"max_position_embeddings": 1000000}"#;

#[test]
fn after_kill_9_the_same_port_serves_again() {
    let mut server = serve(&["--skip-server-warmup"]);
    let port = server.address.port().to_string();
    let mut stream = begin_stream(&server, 1000);
    signal(&server, "KILL");
    let mut rest = String::new();
    let _ = stream.read_to_string(&mut rest);
    assert!(!server.process.wait().unwrap().success());
    let again = serve(&["--skip-server-warmup", "--port", &port]);
    assert!(again.get("/ready").starts_with("HTTP/1.1 200"));
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
            return skip::skip(
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

/// Names of the files that keep repacked weights in `cache`.
fn panel_files(cache: &str) -> Vec<String> {
    let names = std::fs::read_dir(cache).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.ends_with(".panels")).collect()
}

/// Until `count` of them are whole.
fn wait_for_panel_files(cache: &str, count: usize) {
    let begin = std::time::Instant::now();
    while panel_files(cache).len() < count {
        let all = || std::fs::read_dir(cache).unwrap().collect::<Vec<_>>();
        assert!(begin.elapsed().as_secs() < 60, "{count} of {:?}", all());
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}

#[test]
fn each_rank_keeps_its_own_repacked_weights() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let (model, cache) = (path("demo.gguf"), path("cache"));
    assert!(run(&["convert", "--outtype", "q8_0", "--outfile", &model]).status.success());
    let flags = ["--model", &model, "--weight-cache", &cache, "--dtype", "float32"];
    let start = |files: usize, ranks: &[&str]| {
        let server = serve(&[&flags, ranks].concat());
        wait_for_panel_files(&cache, files);
        let body = r#"{"text":"def add(a, b):","sampling_params":{"temperature":0,"max_new_tokens":24}}"#;
        let answer = server.post("/generate", body);
        let text = answer.split_once("\"text\"").unwrap().1.split_once("\"meta_info\"").unwrap().0.to_owned();
        (server.log.join("\n"), text)
    };
    let (_, alone) = start(1, &[]);
    let (log, first) = start(3, &["--tp", "2"]);
    assert_eq!((log.matches("kept in").count(), &first), (2, &alone), "{log}");
    let (log, second) = start(3, &["--tp", "2"]);
    assert_eq!((log.matches("are mapped from").count(), &second), (2, &alone), "{log}");
    // Other groups are other parts.
    let (log, other) = start(5, &["--tp", "2", "--ep", "2"]);
    assert_eq!((log.matches("kept in").count(), &other), (2, &alone), "{log}");
}

#[test]
fn a_second_start_maps_what_the_first_repacked() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let (model, cache) = (path("demo.gguf"), path("cache"));
    assert!(run(&["convert", "--outfile", &model]).status.success());
    let flags = ["--model", &model, "--weight-cache", &cache];
    // The server lives until then: one that is killed earlier keeps nothing.
    let start = |count: usize| {
        let server = serve(&flags);
        wait_for_panel_files(&cache, count);
        let answer = server
            .post("/generate", r#"{"text":"def add(a, b):","sampling_params":{"temperature":0,"max_new_tokens":24}}"#);
        (
            server.log.join("\n"),
            answer.split_once("\"text\"").unwrap().1.split_once("\"meta_info\"").unwrap().0.to_owned(),
        )
    };
    let (log, first) = start(1);
    assert!(log.contains("kept in"), "{log}");
    // Nobody reads the weights that were kept: these are blocks of NaN now, which a check would refuse.
    let whole = std::fs::read(&model).unwrap();
    let modified = std::fs::metadata(&model).unwrap().modified().unwrap();
    let mut spoilt = whole.clone();
    let end = spoilt.len();
    spoilt[end - 4096..].fill(0xff);
    let write = |bytes: &[u8], modified| {
        std::fs::write(&model, bytes).unwrap();
        std::fs::File::options().append(true).open(&model).unwrap().set_modified(modified).unwrap();
    };
    write(&spoilt, modified);
    failure(&["serve", "--port", "0", "--model", &model]);
    let (log, second) = start(1);
    assert!(log.contains("are mapped from"), "{log}");
    assert_eq!(first, second);

    // A file that changed is another model.
    write(&whole, modified + std::time::Duration::from_secs(5));
    let (log, third) = start(2);
    assert!(log.contains("kept in"), "{log}");
    assert_eq!(first, third);

    let error =
        failure(&["serve", "--port", "0", "--model", &model, "--quantization", "q4_0", "--weight-cache", &cache]);
    assert!(error.contains(&format!("--weight-cache {cache}")) && error.contains("quern convert"), "{error}");
    let error = failure(&["serve", "--port", "0", "--weight-cache", &cache]);
    assert!(error.contains(&format!("--weight-cache {cache}")) && error.contains("GGUF"), "{error}");
    let error = failure(&["serve", "--port", "0", "--model", &model, "--weight-cache", &model]);
    assert!(error.contains(&format!("--weight-cache {model}")), "{error}");
}

#[test]
fn damaged_panels_are_repacked_and_said_to_be() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let (model, cache) = (path("demo.gguf"), path("cache"));
    assert!(run(&["convert", "--outtype", "q8_0", "--outfile", &model]).status.success());
    let flags = ["--model", &model, "--weight-cache", &cache, "--enable-metrics"];
    // The server lives until the file is whole: one that is killed earlier keeps nothing.
    let start = |is_whole: &dyn Fn() -> bool| {
        let server = serve(&flags);
        let begin = std::time::Instant::now();
        while !is_whole() {
            assert!(begin.elapsed().as_secs() < 60, "it is written");
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        let answer = server
            .post("/generate", r#"{"text":"def add(a, b):","sampling_params":{"temperature":0,"max_new_tokens":24}}"#);
        let text = answer.split_once("\"text\"").unwrap().1.split_once("\"meta_info\"").unwrap().0.to_owned();
        let failures = |line: &&str| line.starts_with("sglang:weight_cache_failures_total");
        let metrics = server.get("/metrics");
        let failures = metrics.lines().find(failures).unwrap_or_else(|| panic!("{metrics}")).to_owned();
        (server.log.join("\n"), text, failures)
    };
    let (log, first, failures) = start(&|| std::fs::exists(&cache).unwrap() && !panel_files(&cache).is_empty());
    assert!(log.contains("kept in") && failures.ends_with(" 0"), "{log}\n{failures}");
    let panels = std::path::Path::new(&cache).join(&panel_files(&cache)[0]);
    let whole = std::fs::read(&panels).unwrap();
    let mut spoilt = whole.clone();
    let middle = whole.len() / 2 / (2 << 20) * (2 << 20) + 77;
    spoilt[middle] ^= 4;
    std::fs::write(&panels, &spoilt).unwrap();
    let (log, second, failures) = start(&|| std::fs::read(&panels).unwrap() == whole);
    assert!(log.contains("is damaged: bytes ") && log.contains("repacked") && failures.ends_with(" 1"), "{log}");
    assert_eq!(first, second);
}

/// A copy of the shipped model, whose weights are served as they lie in the file.
fn a_copy_of_the_shipped_model(folder: &std::path::Path) {
    let demo = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/quern-demo");
    for entry in std::fs::read_dir(&demo).unwrap().map(Result::unwrap).filter(|entry| entry.path().is_file()) {
        std::fs::copy(entry.path(), folder.join(entry.file_name())).unwrap();
    }
}

#[test]
#[cfg(target_os = "linux")]
fn weights_that_are_cut_off_while_they_are_served_end_the_process_with_their_name() {
    let folder = tempfile::tempdir().unwrap();
    a_copy_of_the_shipped_model(folder.path());
    let mut server = serve(&["--model", &folder.path().display().to_string(), "--skip-peak-measurement"]);
    let weights = std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().path());
    let weights = weights.filter(|path| path.extension().is_some_and(|suffix| suffix == "safetensors"));
    for file in weights {
        std::fs::File::options().write(true).open(file).unwrap().set_len(4096).unwrap();
    }
    let mut socket = TcpStream::connect(server.address).unwrap();
    let body = r#"{"text":"def add(a, b):","sampling_params":{"temperature":0,"max_new_tokens":24}}"#;
    let head = "host: x\r\ncontent-type: application/json";
    write!(socket, "POST /generate HTTP/1.1\r\n{head}\r\ncontent-length: {}\r\n\r\n{body}", body.len()).unwrap();
    let status = server.process.wait().unwrap();
    let log: Vec<String> = server.later_log.iter().collect();
    assert_eq!(status.code(), Some(70), "{log:#?}");
    let named = format!("quern: error: {}", folder.path().join("model").display());
    let said = |line: &String| line.contains(&named) && line.contains(".safetensors was cut off");
    assert!(log.iter().any(said), "{log:#?}");
}

#[test]
fn files_without_an_end_are_refused_wherever_a_model_has_files() {
    let folder = tempfile::tempdir().unwrap();
    a_copy_of_the_shipped_model(folder.path());
    let model = folder.path().display().to_string();
    let names: Vec<_> = std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
    let read = ["config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"];
    let read = |path: &std::path::Path| {
        let name = path.file_name().unwrap().to_str().unwrap();
        read.contains(&name)
            || name.ends_with(".safetensors")
            || name.ends_with(".jinja")
            || name.ends_with(".index.json")
    };
    let mut count = 0;
    let refused = || {
        let output = run(&["serve", "--port", "0", "--device", "cpu", "--model", &model]);
        assert_eq!(output.status.code(), Some(1));
        String::from_utf8(output.stderr).unwrap()
    };
    for path in names.iter().filter(|path| read(path)) {
        let aside = path.with_extension("aside");
        std::fs::rename(path, &aside).unwrap();
        assert!(Command::new("mkfifo").arg(path).status().unwrap().success());
        let fifo = refused();
        std::fs::remove_file(path).unwrap();
        std::os::unix::fs::symlink("/dev/zero", path).unwrap();
        let device = refused();
        std::fs::remove_file(path).unwrap();
        std::fs::rename(&aside, path).unwrap();
        for error in [fifo, device] {
            assert!(
                error.contains(path.file_name().unwrap().to_str().unwrap()) && error.contains("regular file"),
                "{error}"
            );
        }
        count += 1;
    }
    assert!(count >= 5, "{names:?}");
}

/// A hub that takes connections and never answers.
fn silent_hub() -> (String, std::thread::JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let held = std::thread::spawn(move || {
        let (mut socket, _) = listener.accept().unwrap();
        let _ = socket.read_to_end(&mut Vec::new());
    });
    (url, held)
}

#[test]
#[cfg(target_os = "linux")]
fn signals_end_whatever_runs_as_the_first_process_of_a_container() {
    let namespaces = ["--user", "--map-root-user", "--pid", "--fork"];
    let may = Command::new("unshare").args(namespaces).args(["true"]).output();
    if !may.is_ok_and(|done| done.status.success()) {
        return skip::skip("no namespaces of processes", "allow unprivileged user namespaces");
    }
    let cache = tempfile::tempdir().unwrap();
    for (words, status) in [(&["pull", "owner/name"][..], 128), (&["serve", "--model", "owner/name", "--port", "0"], 0)]
    {
        for (name, number) in [("TERM", 15), ("INT", 2), ("HUP", 1), ("QUIT", 3)] {
            let (hub, held) = silent_hub();
            let program = env!("CARGO_BIN_EXE_quern");
            let mut command = Command::new("unshare");
            command.args(namespaces).arg(program).args(words);
            command.env("HF_ENDPOINT", hub).env("HF_HOME", cache.path()).env_remove("HF_HUB_OFFLINE");
            let mut process = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
            // The hub has been asked as soon as the program is the only child of `unshare`, and waits for an answer.
            let children = format!("/proc/{0}/task/{0}/children", process.id());
            let child = loop {
                let found = std::fs::read_to_string(&children).unwrap_or_default();
                let is_program = |pid: &str| {
                    std::fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|exe| exe == std::path::Path::new(program))
                };
                match found.split_whitespace().find(|pid| is_program(pid) && listens(pid, number)) {
                    Some(pid) => break pid.to_owned(),
                    None => std::thread::yield_now(),
                }
            };
            assert!(Command::new("kill").args([&format!("-{name}"), &child]).status().unwrap().success());
            let ended = process.wait().unwrap().code();
            let wanted = if status == 0 { 0 } else { status + number as i32 };
            assert_eq!(ended, Some(wanted), "{words:?} after SIG{name}");
            drop(held);
        }
    }
}

/// Whether process `pid` has a handler for the signal, without which a first process would not be sent it.
#[cfg(target_os = "linux")]
fn listens(pid: &str, signal: u32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).unwrap_or_default();
    u64::from_str_radix(caught.trim(), 16).unwrap_or(0) >> (signal - 1) & 1 == 1
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
    let nf4 = with("quantization_config", serde_json::json!({"quant_method": "bitsandbytes", "load_in_4bit": true}));
    for (config, arguments, part) in [
        (nf4.clone(), vec!["serve", "--model", "x/y"], "bitsandbytes"),
        (nf4.clone(), vec!["serve", "x/y"], "bitsandbytes"),
        (nf4.clone(), vec!["serve", "-hf", "x/y"], "bitsandbytes"),
        (nf4.clone(), vec!["convert", "--model", "x/y", "--outfile", &outfile], "bitsandbytes"),
        (nf4.clone(), vec!["bench", "offline", "--model", "x/y"], "bitsandbytes"),
        (nf4, vec!["bench", "offline", "x/y"], "bitsandbytes"),
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
