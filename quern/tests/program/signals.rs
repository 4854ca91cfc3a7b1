//! The built program and the signals that end it: while it starts, while it answers, as the first process of a container.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    process::{Child, Command, Stdio},
    sync::mpsc,
};

use crate::process::{Server, quern, serve};

/// More context than any test generates, so that only a signal ends a stream.
const LONG: &str = r#"{"max_position_embeddings": 1000000}"#;

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
            crate::skip::skip("SIGHUP is ignored here, so that the server ignores it too", "run without nohup");
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
        return crate::skip::skip("no namespaces of processes", "allow unprivileged user namespaces");
    }
    let cache = tempfile::tempdir().unwrap();
    for (words, status) in [(&["pull", "owner/name"][..], 128), (&["serve", "--model", "owner/name", "--port", "0"], 0)]
    {
        for (name, number) in [("TERM", 15), ("INT", 2), ("HUP", 1), ("QUIT", 3)] {
            if name == "HUP" && hangups_are_ignored() {
                crate::skip::skip("SIGHUP is ignored here, so that the program ignores it too", "run without nohup");
                continue;
            }
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
                    None => assert_eq!(process.try_wait().unwrap(), None, "{words:?} ended before it caught SIG{name}"),
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
