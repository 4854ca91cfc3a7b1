//! A log that cannot be written costs its lines and nothing else, from the start to the end.

use std::{
    fs::File,
    io::{BufRead, BufReader, PipeReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

/// Long enough for anything here, on a busy machine too.
const PATIENCE: Duration = Duration::from_secs(120);

struct Server {
    process: Child,
    address: SocketAddr,
}

impl Server {
    /// A server whose log goes to `log`, on a port that was free just now: its log cannot tell.
    fn start(log: impl Into<Stdio>, arguments: &[&str]) -> Self {
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_quern"));
        command.args(["serve", "--max-total-tokens", "2048", "--cpu-threads", "1", "--enable-metrics"]);
        command.args(["--port", &address.port().to_string()]).args(arguments);
        let process = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().unwrap();
        Self { process, address }
    }

    /// The whole answer, if there is one.
    fn ask(&self, request: &str) -> Option<String> {
        let mut socket = TcpStream::connect(self.address).ok()?;
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket.write_all(request.as_bytes()).ok()?;
        let mut answer = String::new();
        socket.read_to_string(&mut answer).ok()?;
        Some(answer)
    }

    fn get(&self, path: &str) -> Option<String> {
        self.ask(&format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"))
    }

    fn until_ready(&mut self) {
        let begin = Instant::now();
        while !self.get("/ready").is_some_and(|answer| answer.starts_with("HTTP/1.1 200")) {
            assert!(begin.elapsed() < PATIENCE, "it does not get ready");
            assert_eq!(self.process.try_wait().unwrap(), None, "it ended");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Probes and generations are answered.
    fn serves(&self) {
        for path in ["/live", "/ready", "/health", "/v1/models"] {
            assert!(self.get(path).unwrap().starts_with("HTTP/1.1 200"), "{path}");
        }
        let body = r#"{"text":"def add(a, b):","sampling_params":{"temperature":0,"max_new_tokens":4}}"#;
        let head = "host: x\r\ncontent-type: application/json\r\nconnection: close";
        let request = format!("POST /generate HTTP/1.1\r\n{head}\r\ncontent-length: {}\r\n\r\n{body}", body.len());
        let answer = self.ask(&request).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("\"completion_tokens\":4"), "{answer}");
    }

    /// Lines lost, as `/metrics` counts them.
    fn lost(&self) -> u64 {
        let text = self.get("/metrics").unwrap();
        let line = text.lines().find(|line| line.starts_with("sglang:log_lines_dropped_total"));
        line.and_then(|line| line.rsplit(' ').next()).unwrap_or_else(|| panic!("{text}")).parse().unwrap()
    }

    fn ends_with_zero(mut self) {
        let id = self.process.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &id]).status().unwrap().success());
        let begin = Instant::now();
        loop {
            if let Some(status) = self.process.try_wait().unwrap() {
                assert_eq!(status.code(), Some(0));
                return;
            }
            assert!(begin.elapsed() < PATIENCE, "it does not end");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Read the log until the server is ready.
fn read_until_ready(log: PipeReader) -> BufReader<PipeReader> {
    let mut lines = BufReader::new(log);
    let mut line = String::new();
    while !line.ends_with("ready to roll!\n") {
        line.clear();
        assert!(lines.read_line(&mut line).unwrap() > 0, "it ended");
    }
    lines
}

#[test]
fn a_reader_that_leaves_takes_only_the_log_with_it() {
    let (reader, writer) = std::io::pipe().unwrap();
    let server = Server::start(writer, &[]);
    drop(read_until_ready(reader));
    (0..5).for_each(|_| server.serves());
    assert!(server.lost() > 0);
    server.ends_with_zero();
}

#[test]
fn a_full_disk_does_not_keep_the_server_from_starting() {
    let mut server = Server::start(File::options().write(true).open("/dev/full").unwrap(), &[]);
    server.until_ready();
    server.serves();
    assert!(server.lost() > 0);
    server.ends_with_zero();
}

#[test]
fn a_reader_that_pauses_holds_up_neither_answers_nor_the_end() {
    // Nobody ever reads: not the start's lines, and not those of requests, which fill any pipe.
    let (_reader, writer) = std::io::pipe().unwrap();
    let mut server = Server::start(writer, &[]);
    server.until_ready();
    let path = format!("/live?{}", "x".repeat(16 << 10));
    (0..40).for_each(|_| assert!(server.get(&path).unwrap().starts_with("HTTP/1.1 200")));
    server.serves();
    server.ends_with_zero();
}

#[test]
fn a_failure_is_told_by_the_exit_status_where_it_cannot_be_told_in_words() {
    for arguments in [&["--model", "/no/such/model"][..], &["--print-config"]] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_quern"));
        command.args(["serve", "--max-total-tokens", "2048"]).args(arguments).stdin(Stdio::null());
        let full = || File::options().write(true).open("/dev/full").unwrap();
        let status = command.stdout(full()).stderr(full()).status().unwrap();
        assert_eq!(status.code(), Some(1), "{arguments:?}");
    }
}
