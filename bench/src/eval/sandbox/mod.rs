//! [`Sandbox`]: runs Python that a model wrote where it can do no harm, and where it cannot say that it is right.
//!
//! Two interpreters are locked up (`lock.rs`): one runs the program, the other the test. The test calls the program's
//! function through us, and sees plain values of what it returns; the verdict is the test's, which the program cannot
//! reach. Time is taken here, output is heard line by line, and either process is killed when its time is over. Where the
//! lock does not hold, nothing is run.

mod interpreter;
mod lock;
#[cfg(target_os = "linux")]
mod system_calls;

use std::{path::PathBuf, process::Stdio, time::Duration};

use serde_json::json;
use tokio::{process::Command, time::timeout};

use self::{interpreter::Interpreter, lock::Lock};
use crate::error::BenchError;

const CANDIDATE: &str = concat!(include_str!("lock.py"), include_str!("candidate.py"));
const EXAMINER: &str = concat!(include_str!("lock.py"), include_str!("examiner.py"));
/// What a program may use.
const MEMORY_BYTES: u64 = 1 << 30;
/// The interpreter's own start, on a machine with much else to do.
const START: Duration = Duration::from_secs(20);
/// Where an interpreter's libraries and the system's are.
const LIBRARIES: &[&str] = &["/usr/lib", "/usr/lib64", "/lib", "/lib64", "/etc/ld.so.cache", "/dev/urandom"];
/// Asks the interpreter where it is: what is called `python3` may be a script that looks for one.
const WHERE: &str =
    "import os, sys; print(os.path.realpath(sys.executable), sys.base_prefix, sys.base_exec_prefix, sep='\\n')";

/// A program, and what it is held to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trial {
    /// What a model wrote, a whole module.
    pub program: String,
    /// What was given: the beginning of the module, whose other functions the test may call.
    pub head: String,
    /// The function that is tested.
    pub entry_point: String,
    /// A module that defines `check`, which takes the function.
    pub test: String,
}

/// How a program ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending {
    /// It is what it should be.
    Passed,
    /// With an exception, a wrong answer, or by the limits.
    Failed(String),
}

/// A sandbox for programs that were generated and not reviewed.
pub struct Sandbox {
    python: String,
    lock: Lock,
    seconds: f64,
}

impl Sandbox {
    /// One in which a program may run for `seconds`. Tries the lock first.
    ///
    /// # Errors
    /// If there is no Python 3, or if it cannot be locked up on this machine.
    pub async fn new(seconds: f64) -> Result<Self, BenchError> {
        let found = Command::new("python3").args(["-I", "-S", "-c", WHERE]).stdin(Stdio::null()).output().await;
        let found = found.map_err(|cause| BenchError::Arguments(format!("python3 cannot be started: {cause}")))?;
        let found = String::from_utf8_lossy(&found.stdout).into_owned();
        let mut lines = found.lines();
        let python = lines.next().unwrap_or_default().to_owned();
        let own = lines.map(|prefix| PathBuf::from(prefix).join("lib")).chain([PathBuf::from(&python)]);
        let readable = own.chain(LIBRARIES.iter().map(PathBuf::from)).filter(|path| path.exists()).collect();
        let lock = Lock::new(readable).map_err(|cause| unlocked(&cause))?;
        let mut sandbox = Self { python, lock, seconds };
        let trial = Trial {
            program: "def f(x):\n    return x + 1".into(),
            head: String::new(),
            entry_point: "f".into(),
            test: "def check(f):\n    assert f(1) == 2".into(),
        };
        let (ending, more) = sandbox.tried(&trial).await?;
        sandbox.lock.layers.extend(more);
        match ending {
            Ending::Passed => Ok(sandbox),
            Ending::Failed(problem) => Err(unlocked(&problem)),
        }
    }

    /// What locks programs up, a line each.
    pub fn layers(&self) -> impl Iterator<Item = String> {
        let limits = format!("limits: {} s, {} MiB of memory", self.seconds, MEMORY_BYTES >> 20);
        self.lock.layers.clone().into_iter().chain([limits])
    }

    /// Run a program and its test.
    ///
    /// # Errors
    /// If the interpreter cannot be started, or the program cannot be locked up.
    pub async fn run(&self, trial: &Trial) -> Result<Ending, BenchError> {
        Ok(self.tried(trial).await?.0)
    }

    /// How `trial` ended, and the layers that only the interpreter knows of.
    async fn tried(&self, trial: &Trial) -> Result<(Ending, Vec<String>), BenchError> {
        let order = json!({
            "memory_bytes": MEMORY_BYTES,
            "cpu_seconds": self.seconds.ceil() as u64 + 1,
            "filter": self.lock.filter,
            "entry_point": trial.entry_point,
        });
        let with = |more: &[(&str, &String)]| {
            let mut order = order.clone();
            more.iter().for_each(|(name, text)| order[*name] = json!(text));
            order
        };
        let (program, exam) =
            (with(&[("program", &trial.program)]), with(&[("head", &trial.head), ("test", &trial.test)]));
        let start = |source, order| async move { Interpreter::start(&self.python, &self.lock, source, &order).await };
        let mut candidate = start(CANDIDATE, program).await.map_err(|cause| unlocked(&cause))?;
        let mut examiner = start(EXAMINER, exam).await.map_err(|cause| unlocked(&cause))?;
        let mut layers = Vec::new();
        for interpreter in [&mut candidate, &mut examiner] {
            let first = timeout(START, interpreter.hear()).await.map_err(|_| unlocked("Python does not start"))??;
            match first {
                Some(line) if line.word == "locked" => {
                    layers = match line.value.contains("namespaces") {
                        true => vec!["namespaces: users, network, mounts and IPC of its own".to_owned()],
                        false => vec![],
                    };
                }
                Some(line) => return Err(unlocked(&line.text())),
                None => return Err(unlocked(&format!("Python ended with {}", interpreter.ended().await?))),
            }
        }
        let limit = Duration::from_secs_f64(self.seconds);
        let ending = timeout(limit, examined(&mut candidate, &mut examiner)).await;
        Ok((ending.unwrap_or_else(|_| Ending::Failed("timed out".into())), layers))
    }
}

/// Carry calls and answers between the two until one of them ends it.
async fn examined(candidate: &mut Interpreter, examiner: &mut Interpreter) -> Ending {
    let failed = |what: String| Ending::Failed(what);
    if let Err(ending) = said(candidate, "loaded").await {
        return ending;
    }
    loop {
        let line = match examiner.hear().await {
            Ok(Some(line)) => line,
            Ok(None) => return failed("the test ended without a verdict".into()),
            Err(cause) => return failed(format!("the test: {cause}")),
        };
        match line.word.as_str() {
            "passed" => return Ending::Passed,
            "call" => {
                candidate.tell(&line.value).await;
                match said(candidate, "answer").await {
                    Ok(answer) => examiner.tell(&answer).await,
                    Err(ending) => return ending,
                }
            }
            _ => return failed(line.text()),
        }
    }
}

/// What the program says, which has to be `word`.
async fn said(candidate: &mut Interpreter, word: &str) -> Result<String, Ending> {
    Err(Ending::Failed(match candidate.hear().await {
        Ok(Some(line)) if line.word == word => return Ok(line.value),
        Ok(Some(line)) if line.word == "failed" => line.text(),
        Ok(Some(_)) => "it spoke where it should have answered".into(),
        Ok(None) => candidate.ended().await.map_or_else(|cause| cause.to_string(), |status| status.to_string()),
        Err(cause) => cause.to_string(),
    }))
}

fn unlocked(problem: &str) -> BenchError {
    BenchError::Arguments(format!("generated code is not run, since it cannot be locked up here: {problem}"))
}

#[cfg(test)]
mod tests;
