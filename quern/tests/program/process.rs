//! The built program as a process: run to its end, or serving on a free port until its test ends.

#![allow(dead_code, reason = "each test file uses its part")]

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
    process::{Child, Command, Output, Stdio},
    sync::mpsc,
};

/// The program, to be run with `arguments`.
pub(crate) fn quern(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_quern"));
    command.args(arguments);
    // Nothing of the machine these tests run on may matter.
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy().into_owned();
        let foreign = ["HF_", "SGLANG_", "RUST_LOG", "HTTP_PROXY", "http_proxy", "OMPI_", "PMI_", "PMIX_", "SLURM_"];
        if foreign.iter().any(|prefix| name.starts_with(prefix)) {
            command.env_remove(name);
        }
    }
    command.env("RUST_BACKTRACE", "1").stdin(Stdio::null());
    command
}

/// Its end, and what it printed.
pub(crate) fn run(arguments: &[&str]) -> Output {
    quern(arguments).output().unwrap()
}

/// A start that must fail with status 1 and one clear line.
pub(crate) fn failure(arguments: &[&str]) -> String {
    let output = run(arguments);
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{arguments:?}: {error}");
    assert!(!error.contains("panicked") && !error.contains("stack backtrace"), "{error}");
    let line = error.lines().find(|line| line.starts_with("quern: error: "));
    line.unwrap_or_else(|| panic!("{arguments:?}: {error}")).to_owned()
}

/// Serve the shipped model on the CPU.
pub(crate) fn serve(arguments: &[&str]) -> Server {
    // What the test says comes last and wins.
    let mut command =
        quern(&["serve", "--port", "0", "--max-total-tokens", "2048", "--cpu-threads", "1", "--device", "cpu"]);
    command.args(arguments);
    Server::start(command)
}

pub(crate) struct Server {
    pub(crate) process: Child,
    pub(crate) address: SocketAddr,
    /// Lines until it was ready.
    pub(crate) log: Vec<String>,
    /// Those that follow.
    pub(crate) later_log: mpsc::Receiver<String>,
}

impl Server {
    /// Run `command`, which serves on port 0, until it is ready.
    pub(crate) fn start(mut command: Command) -> Self {
        let mut process = command.stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(process.stderr.take().unwrap()).lines();
        let (mut log, mut address) = (Vec::new(), None);
        for line in &mut lines {
            let line = line.unwrap();
            if let Some((_, rest)) = line.split_once("Listening on http://") {
                address = rest.split(' ').next().unwrap().parse().ok();
            }
            let ready = line.ends_with("The server is fired up and ready to roll!");
            log.push(line);
            if ready {
                // Read on: a pipe that is full would stop the server.
                let (sender, later_log) = mpsc::channel();
                std::thread::spawn(move || lines.map_while(Result::ok).for_each(|line| drop(sender.send(line))));
                let address = address.unwrap_or_else(|| panic!("no address in {log:#?}"));
                return Self { process, address, log, later_log };
            }
        }
        panic!("it ended with {:?}: {log:#?}", process.wait());
    }

    /// Whether the log has a line with `part`.
    pub(crate) fn said(&self, part: &str) {
        assert!(self.log.iter().any(|line| line.contains(part)), "no {part:?} in {:#?}", self.log);
    }

    /// The whole answer to a request as it goes over the wire.
    pub(crate) fn ask(&self, request: &str) -> String {
        let mut socket = TcpStream::connect(self.address).unwrap();
        socket.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        socket.read_to_string(&mut answer).unwrap();
        answer
    }

    pub(crate) fn get(&self, path: &str) -> String {
        self.ask(&format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"))
    }

    pub(crate) fn post(&self, path: &str, body: &str) -> String {
        let head = "host: x\r\ncontent-type: application/json\r\nconnection: close";
        self.ask(&format!("POST {path} HTTP/1.1\r\n{head}\r\ncontent-length: {}\r\n\r\n{body}", body.len()))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
