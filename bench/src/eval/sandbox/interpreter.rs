//! [`Interpreter`]: a Python that is locked up, and the lines it speaks.

use std::{
    fs::OpenOptions,
    io,
    process::{ExitStatus, Stdio},
};

use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    process::{Child, ChildStdin, ChildStdout, Command},
};

use super::lock::{self, Lock};

/// What a program may say at once, bytes. All that is said is heard or the program waits, so there is no other bound.
const MAX_LINE_BYTES: u64 = 4 << 20;

/// For `sandbox-exec`.
const PROFILE: &str = "(version 1)(allow default)(deny network*)(deny file-write*)(deny process-fork)(deny signal)";

/// A running interpreter.
pub(super) struct Interpreter {
    process: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

/// What one says: a word, and JSON of Python's dialect, which knows numbers that are none.
pub(super) struct Line {
    pub(super) word: String,
    pub(super) value: String,
}

impl Line {
    /// The value as text, or as it is written.
    pub(super) fn text(&self) -> String {
        serde_json::from_str(&self.value).unwrap_or_else(|_| self.value.clone())
    }
}

impl Interpreter {
    /// Start `python` behind `lock` with the program `source`, and say what to do.
    ///
    /// # Errors
    /// If it cannot be started.
    pub(super) async fn start(python: &str, lock: &Lock, source: &str, order: &Value) -> Result<Self, String> {
        let mut command = if cfg!(target_os = "macos") {
            let mut command = Command::new("sandbox-exec");
            command.args(["-p", PROFILE, python]);
            command
        } else {
            Command::new(python)
        };
        // It is opened here: behind the lock nothing is opened for writing.
        let nowhere =
            OpenOptions::new().write(true).open("/dev/null").map_err(|cause| format!("/dev/null: {cause}"))?;
        command
            .args(["-I", "-S", "-B", "-c", source])
            .env_clear()
            .env("PYTHONHASHSEED", "0")
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(nowhere)
            .kill_on_drop(true);
        let mut process = lock::spawn(command, lock)?;
        let input = process.stdin.take().expect("it is piped");
        let output = BufReader::new(process.stdout.take().expect("it is piped"));
        let mut interpreter = Self { process, input, output };
        interpreter.tell(&order.to_string()).await;
        Ok(interpreter)
    }

    /// Say `value`. One that has ended hears nothing; its own end tells.
    pub(super) async fn tell(&mut self, value: &str) {
        let _ = self.input.write_all(value.as_bytes()).await;
        let _ = self.input.write_all(b"\n").await;
        let _ = self.input.flush().await;
    }

    /// The next line that it says; none if it has ended.
    ///
    /// # Errors
    /// If it is longer than any.
    pub(super) async fn hear(&mut self) -> io::Result<Option<Line>> {
        let mut line = Vec::new();
        (&mut self.output).take(MAX_LINE_BYTES).read_until(b'\n', &mut line).await?;
        if line.pop() != Some(b'\n') {
            let cut = line.len() as u64 + 1 == MAX_LINE_BYTES;
            return if cut {
                Err(io::Error::other(format!("it says more than {MAX_LINE_BYTES} bytes")))
            } else {
                Ok(None)
            };
        }
        let line = String::from_utf8_lossy(&line).into_owned();
        let (word, value) = line.split_once(' ').unwrap_or((&line, "null"));
        Ok(Some(Line { word: word.to_owned(), value: value.to_owned() }))
    }

    /// How it ended.
    ///
    /// # Errors
    /// If the system does not tell.
    pub(super) async fn ended(&mut self) -> io::Result<ExitStatus> {
        self.process.wait().await
    }
}
