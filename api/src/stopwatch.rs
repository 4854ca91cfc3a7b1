//! [`Stopwatch`]: the times that Ollama's and llama.cpp's clients are told of.

use std::time::Duration;

use tokio::time::Instant;

/// Runs from the request to the answer's last word.
#[derive(Clone, Copy, Debug)]
pub struct Stopwatch {
    began: Instant,
    first_word: Option<Instant>,
}

/// How long the two parts of an answer took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Laps {
    /// To the first word: waiting, and reading the prompt.
    pub prompt: Duration,
    /// From there to now.
    pub answer: Duration,
}

impl Stopwatch {
    /// From now on.
    pub fn start() -> Self {
        Self { began: Instant::now(), first_word: None }
    }

    /// A word came.
    pub fn word(&mut self) {
        self.first_word.get_or_insert_with(Instant::now);
    }

    /// The times so far.
    pub fn laps(&self) -> Laps {
        let now = Instant::now();
        let first = self.first_word.unwrap_or(now);
        Laps { prompt: first - self.began, answer: now - first }
    }
}
