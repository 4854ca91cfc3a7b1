//! A network on several nodes as its tests see it: processes whose logs are read, requests, and what is made of the answers.

#![allow(dead_code, reason = "each test file uses its part")]

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
    process::{Child, Command, Stdio},
    sync::mpsc::{self, Receiver},
    time::{Duration, Instant},
};

use crate::process::Server;

/// Longer than anything takes, on a machine that does much else.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// A chat whose answer says which bits it is made of.
pub(crate) const CHAT: &str = r#"{"messages":[{"role":"user","content":"Write a function that adds two numbers."}],"max_tokens":24,
    "temperature":0,"logprobs":true,"top_logprobs":3"#;

/// More context than any test generates, so that only a lost node ends a stream.
pub(crate) const LONG: [&str; 4] =
    ["--json-model-override-args", r#"{"max_position_embeddings": 1000000}"#, "--max-total-tokens", "90000"];

/// Where a node runs: on this machine as it is, or in a network namespace.
#[derive(Clone, Copy)]
pub(crate) struct Place<'a> {
    pub(crate) namespace: Option<&'a str>,
    pub(crate) host: &'a str,
}

pub(crate) const HERE: Place<'static> = Place { namespace: None, host: "127.0.0.1" };

impl Place<'_> {
    pub(crate) fn within(self, command: Command) -> Command {
        let Some(namespace) = self.namespace else { return command };
        let mut within = Command::new("ip");
        within.args(["netns", "exec", namespace]).arg(command.get_program()).args(command.get_args());
        within.stdin(Stdio::null());
        within
    }

    /// The whole answer to a request, from within this place; empty where nobody answers.
    pub(crate) fn ask(self, address: SocketAddr, request: &str) -> String {
        if self.namespace.is_none() {
            let Ok(mut socket) = TcpStream::connect(address) else { return String::new() };
            let mut answer = String::new();
            let _ = socket.write_all(request.as_bytes()).and_then(|()| socket.read_to_string(&mut answer));
            return answer;
        }
        let mut client = Client::open(self, address, request);
        let mut answer = String::new();
        let _ = client.answer.read_to_string(&mut answer);
        answer
    }

    pub(crate) fn get(self, address: SocketAddr, path: &str) -> String {
        self.ask(address, &format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"))
    }
}

pub(crate) fn post(path: &str, body: &str) -> String {
    let head = "host: x\r\ncontent-type: application/json\r\nconnection: close";
    format!("POST {path} HTTP/1.1\r\n{head}\r\ncontent-length: {}\r\n\r\n{body}", body.len())
}

/// A connection that a process in another namespace holds.
pub(crate) struct Client {
    pub(crate) process: Child,
    pub(crate) answer: BufReader<std::process::ChildStdout>,
}

impl Client {
    pub(crate) fn open(place: Place<'_>, address: SocketAddr, request: &str) -> Self {
        // The shell's own sockets: no program that may not be installed.
        let script = format!("exec 3<>/dev/tcp/{}/{}; cat >&3; cat <&3", address.ip(), address.port());
        let mut command = Command::new("bash");
        command.args(["-c", &script]);
        let mut command = place.within(command);
        let mut process = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let _ = process.stdin.take().unwrap().write_all(request.as_bytes());
        let answer = BufReader::new(process.stdout.take().unwrap());
        Self { process, answer }
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A process whose log is read line by line.
pub(crate) struct Starting {
    pub(crate) process: Option<Child>,
    pub(crate) lines: Receiver<String>,
    pub(crate) log: Vec<String>,
}

impl Starting {
    pub(crate) fn spawn(mut command: Command) -> Self {
        let mut process = command.stderr(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(process.stderr.take().unwrap()).lines();
        let (sender, receiver) = mpsc::channel();
        std::thread::spawn(move || lines.map_while(Result::ok).for_each(|line| drop(sender.send(line))));
        Self { process: Some(process), lines: receiver, log: Vec::new() }
    }

    /// What follows `part` in the first line that has it.
    pub(crate) fn wait(&mut self, part: &str) -> String {
        let rest = |line: &String| line.split_once(part).map(|(_, rest)| rest.to_owned());
        if let Some(rest) = self.log.iter().find_map(rest) {
            return rest;
        }
        loop {
            let line = self.lines.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("no {part:?} in {:#?}", self.log));
            let found = rest(&line);
            self.log.push(line);
            if let Some(found) = found {
                return found;
            }
        }
    }

    pub(crate) fn ready(mut self) -> Server {
        let rest = self.wait("Listening on http://");
        let address = rest.split(' ').next().unwrap().parse().unwrap();
        self.wait("The server is fired up and ready to roll!");
        let (sender, later_log) = mpsc::channel();
        let lines = std::mem::replace(&mut self.lines, mpsc::channel().1);
        std::thread::spawn(move || lines.iter().for_each(|line| drop(sender.send(line))));
        let (process, log) = (self.process.take().unwrap(), std::mem::take(&mut self.log));
        Server { process, address, log, later_log }
    }
}

impl Drop for Starting {
    fn drop(&mut self) {
        if let Some(process) = &mut self.process {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

pub(crate) fn signal(process: &Child, name: &str) {
    let status = Command::new("kill").args([&format!("-{name}"), &process.id().to_string()]).status().unwrap();
    assert!(status.success());
}

/// What the process ends with; it must end.
pub(crate) fn status(process: &mut Child) -> Option<i32> {
    let begin = Instant::now();
    loop {
        if let Some(status) = process.try_wait().unwrap() {
            return status.code();
        }
        assert!(begin.elapsed() < PATIENCE, "it does not end");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The parts of an answer that are the network's: its text and the logarithms of its probabilities.
pub(crate) fn content(answer: &str) -> serde_json::Value {
    let body = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{answer:?}")).1;
    let answer: serde_json::Value = serde_json::from_str(body).unwrap_or_else(|error| panic!("{error}: {body}"));
    assert!(answer["choices"][0]["message"]["content"].as_str().is_some_and(|text| !text.is_empty()), "{answer}");
    answer["choices"].clone()
}

/// The deltas of a stream, put together.
pub(crate) fn streamed(answer: &str) -> String {
    let frames = answer.lines().filter_map(|line| line.strip_prefix("data: {"));
    let frames = frames.map(|frame| serde_json::from_str::<serde_json::Value>(&format!("{{{frame}")).unwrap());
    frames.filter_map(|frame| Some(frame["choices"][0]["delta"]["content"].as_str()?.to_owned())).collect()
}
