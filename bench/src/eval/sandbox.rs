//! [`Sandbox`]: runs Python that a model wrote where it can do no harm.
//!
//! The interpreter starts with an empty environment in an empty folder, limits its own memory and time, and
//! takes from itself, with a filter of system calls that cannot be taken off again, the network, other
//! processes and the writing of files (`sandbox.py`). On macOS `sandbox-exec` does the latter. Where neither
//! works, nothing is run.

use std::{
    process::Stdio,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use sha2::{Digest, Sha256};
use tokio::{io::AsyncWriteExt, process::Command, time::timeout};

use crate::error::BenchError;

const RUNNER: &str = include_str!("sandbox.py");
/// What a program may use.
const MEMORY_BYTES: u64 = 1 << 30;
/// The interpreter's own start, on a machine with much else to do.
const START: Duration = Duration::from_secs(20);
/// For `sandbox-exec`.
const PROFILE: &str = "(version 1)(allow default)(deny network*)(deny file-write*)(deny process-fork)(deny signal)";

/// How a program ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending {
    /// By itself.
    Passed,
    /// With an exception, or by the limits.
    Failed(String),
}

/// A sandbox for programs that were generated and not reviewed.
pub struct Sandbox {
    python: String,
    seconds: f64,
}

impl Sandbox {
    /// One in which a program may run for `seconds`. Tries the lock first.
    ///
    /// # Errors
    /// If there is no Python 3, or if it cannot be locked up on this machine.
    pub async fn new(seconds: f64) -> Result<Self, BenchError> {
        let sandbox = Self { python: "python3".into(), seconds };
        match sandbox.run("assert 1 + 1 == 2").await? {
            Ending::Passed => Ok(sandbox),
            Ending::Failed(problem) => Err(BenchError::Arguments(format!(
                "generated code is not run, since it cannot be locked up here: {problem}"
            ))),
        }
    }

    /// Run `program`.
    ///
    /// # Errors
    /// If the interpreter cannot be started, or the program cannot be locked up.
    pub async fn run(&self, program: &str) -> Result<Ending, BenchError> {
        let folder = tempfile::tempdir()?;
        let mut command = if cfg!(target_os = "macos") {
            let mut command = Command::new("sandbox-exec");
            command.args(["-p", PROFILE, &self.python]);
            command
        } else {
            Command::new(&self.python)
        };
        command
            .args(["-I", "-S", "-B", "-c", RUNNER])
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("PYTHONHASHSEED", "0")
            .current_dir(folder.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true);
        let mut child = command
            .spawn()
            .map_err(|cause| BenchError::Arguments(format!("{} cannot be started: {cause}", self.python)))?;
        let nonce = nonce();
        let input = format!("{nonce}\n{}\n{MEMORY_BYTES}\n{program}", self.seconds);
        let mut stdin = child.stdin.take().expect("it is piped");
        // A program that is killed early closes the pipe; its ending tells.
        let _ = stdin.write_all(input.as_bytes()).await;
        drop(stdin);
        let limit = Duration::from_secs_f64(self.seconds) + START;
        let output = match timeout(limit, child.wait_with_output()).await {
            Ok(output) => output?,
            Err(_) => return Ok(Ending::Failed("timed out".into())),
        };
        let said = String::from_utf8_lossy(&output.stdout);
        if said == nonce {
            return Ok(Ending::Passed);
        }
        Ok(Ending::Failed(match output.status.code() {
            Some(3) => return Err(BenchError::Arguments(format!("generated code cannot be locked up here: {said}"))),
            Some(4) => "timed out".into(),
            _ if said.is_empty() => output.status.to_string(),
            _ => said.into_owned(),
        }))
    }
}

/// A word that a program cannot guess.
fn nonce() -> String {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    let hash = Sha256::digest(format!("{count} {} {}", now.as_nanos(), std::process::id()));
    hash.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// None, with a word about it, where programs cannot be locked up.
    async fn sandbox() -> Option<Sandbox> {
        match Sandbox::new(2.0).await {
            Ok(sandbox) => Some(sandbox),
            Err(error) => {
                crate::skip::skip(&error.to_string(), "allow unprivileged user namespaces");
                None
            }
        }
    }

    #[tokio::test]
    async fn programs_end_as_they_end() {
        let Some(sandbox) = sandbox().await else { return };
        let run = async |program: &str| match sandbox.run(program).await.expect("it runs") {
            Ending::Passed => "passed".to_owned(),
            Ending::Failed(problem) => problem,
        };
        assert_eq!(run("import math, re, collections, hashlib\nassert math.gcd(4, 6) == 2").await, "passed");
        assert!(run("assert False, 'no'").await.contains("AssertionError: no"));
        assert!(run("def f(:").await.contains("SyntaxError"));
        assert!(run("raise SystemExit(0)").await.contains("SystemExit"));
        assert_eq!(run("import os; os._exit(0)").await, "exit status: 0");
        assert_eq!(run("while True: pass").await, "timed out");
        assert!(run("x = 'a' * (1 << 31)").await.contains("MemoryError"));
        assert_eq!(run("print('much')\nimport sys\nsys.stderr.write('more')").await, "passed");
    }

    #[tokio::test]
    async fn programs_can_do_no_harm() {
        let Some(sandbox) = sandbox().await else { return };
        for program in [
            "import socket; socket.create_connection(('127.0.0.1', 1))",
            "import socket; socket.socket(socket.AF_INET, socket.SOCK_DGRAM)",
            "import subprocess; subprocess.run(['true'], check=True)",
            "import os; os.fork()",
            "import os; os.kill(os.getppid(), 0)",
            "open('file', 'w')",
            "import os; os.mkdir('folder')",
            "import os; os.remove('/tmp/no-such-file')",
            "import threading; t = threading.Thread(target=print); t.start()",
        ] {
            let ending = sandbox.run(program).await.expect("it runs");
            match ending {
                Ending::Failed(problem) => assert!(
                    problem.contains("PermissionError") || problem.contains("can't start new thread"),
                    "{program}: {problem}"
                ),
                Ending::Passed => panic!("{program} was not stopped"),
            }
        }
    }
}
