//! [`Progress`]: the line on the terminal while a run goes on.

use std::{
    io::IsTerminal,
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::{
    output,
    record::{Recorder, Recording},
};

/// TTFT of this many last requests is averaged: what a user who comes now would see.
const RECENT: usize = 16;

/// The line on the terminal while a run goes on: sessions done, tokens a second, recent time to first token.
pub struct Progress {
    bar: ProgressBar,
    began: Instant,
    tokens: AtomicU64,
    recent_ttfts_s: Mutex<Vec<f64>>,
}

impl Progress {
    /// For `sessions`; silent if `wanted` is false or the standard error is no terminal.
    pub fn new(sessions: usize, wanted: bool) -> Self {
        let target = if wanted && std::io::stderr().is_terminal() {
            ProgressDrawTarget::stderr()
        } else {
            ProgressDrawTarget::hidden()
        };
        let style = ProgressStyle::with_template("[{bar:30}] {pos}/{len} requests, {elapsed}, {msg}")
            .expect("the template is valid")
            .progress_chars("=> ");
        let bar = ProgressBar::with_draw_target(Some(sessions as u64), target).with_style(style);
        bar.enable_steady_tick(Duration::from_millis(500));
        Self { bar, began: Instant::now(), tokens: AtomicU64::new(0), recent_ttfts_s: Mutex::new(Vec::new()) }
    }

    /// A silent one.
    pub fn hidden() -> Self {
        Self::new(0, false)
    }

    /// Another chunk of an answer.
    pub fn tokens(&self, recorder: &mut Recorder) {
        let new = recorder.take_unreported();
        if new > 0 {
            self.tokens.fetch_add(new as u64, Ordering::Relaxed);
        }
    }

    /// A request has ended.
    pub fn ended(&self, recording: &Recording) {
        if self.bar.is_hidden() {
            return;
        }
        let mut recent = self.recent_ttfts_s.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if recording.succeeded() {
            if recent.len() == RECENT {
                recent.remove(0);
            }
            recent.push(recording.ttft_s());
        }
        let ttft_ms = 1000.0 * recent.iter().sum::<f64>() / recent.len().max(1) as f64;
        let rate = self.tokens.load(Ordering::Relaxed) as f64 / self.began.elapsed().as_secs_f64();
        self.bar.set_message(format!("{rate:.0} tok/s, TTFT {ttft_ms:.0} ms"));
    }

    /// A line for standard error, above the bar if there is one.
    pub fn line(&self, line: &str) {
        self.bar.suspend(|| output::note(line));
    }

    /// A session has ended.
    pub fn session_ended(&self) {
        self.bar.inc(1);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
