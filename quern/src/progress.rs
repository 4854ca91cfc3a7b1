//! [`ByteProgress`]: how far a long job over many bytes has come.

use std::{
    io::IsTerminal,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::memory::gib;

/// Jobs smaller than this are over before a line about them could be read.
const WORTH_A_LINE: u64 = 256 << 20;

/// A bar on a terminal; elsewhere a line in the log at each tenth of a large job.
pub struct ByteProgress {
    title: String,
    total_bytes: u64,
    done_bytes: AtomicU64,
    bar: Option<ProgressBar>,
}

impl ByteProgress {
    /// Begin a job of `total_bytes`.
    pub fn new(title: impl Into<String>, total_bytes: u64) -> Self {
        let title = title.into();
        let bar = std::io::stderr().is_terminal().then(|| {
            let style = ProgressStyle::with_template(
                "{msg} [{bar:30}] {binary_bytes} of {binary_total_bytes}, {binary_bytes_per_sec}, {eta} left",
            )
            .expect("the template is valid")
            .progress_chars("=> ");
            let bar = ProgressBar::with_draw_target(Some(total_bytes), ProgressDrawTarget::stderr());
            bar.enable_steady_tick(Duration::from_millis(250));
            bar.with_style(style).with_message(title.clone())
        });
        Self { title, total_bytes, done_bytes: AtomicU64::new(0), bar }
    }

    /// `bytes` more are done.
    pub fn advance(&self, bytes: u64) {
        let before = self.done_bytes.fetch_add(bytes, Ordering::Relaxed);
        match &self.bar {
            Some(bar) => bar.inc(bytes),
            None if self.total_bytes >= WORTH_A_LINE
                && tenths(before, self.total_bytes) < tenths(before + bytes, self.total_bytes) =>
            {
                let percent = 10 * tenths(before + bytes, self.total_bytes);
                tracing::info!("{}: {percent} % of {}", self.title, gib(self.total_bytes));
            }
            None => {}
        }
    }

    /// Bytes that are still to be done.
    pub fn left(&self) -> u64 {
        self.total_bytes.saturating_sub(self.done_bytes.load(Ordering::Relaxed))
    }

    /// `bytes` of what was done must be done again.
    pub fn retreat(&self, bytes: u64) {
        self.done_bytes.fetch_sub(bytes, Ordering::Relaxed);
        if let Some(bar) = &self.bar {
            bar.dec(bytes);
        }
    }
}

impl Drop for ByteProgress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// Whole tenths of `total` in `done`.
fn tenths(done: u64, total: u64) -> u64 {
    if total == 0 { 10 } else { (u128::from(done) * 10 / u128::from(total)).min(10) as u64 }
}
