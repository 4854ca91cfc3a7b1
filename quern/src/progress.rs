//! [`ByteProgress`]: how far a long job over many bytes has come.

use std::{
    io::IsTerminal,
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::memory::gib;

/// Jobs smaller than this are over before a line about them could be read.
const WORTH_A_LINE: u64 = 256 << 20;

/// A bar on a terminal; elsewhere a line in the log at each tenth of a large job. Both say what remains.
pub struct ByteProgress {
    title: String,
    total_bytes: u64,
    done_bytes: AtomicU64,
    /// Of these, what an earlier run did.
    resumed_bytes: AtomicU64,
    began: Instant,
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
        let (done_bytes, resumed_bytes) = (AtomicU64::new(0), AtomicU64::new(0));
        Self { title, total_bytes, done_bytes, resumed_bytes, began: Instant::now(), bar }
    }

    /// `bytes` more are done.
    pub fn advance(&self, bytes: u64) {
        let before = self.done_bytes.fetch_add(bytes, Ordering::Relaxed);
        match &self.bar {
            Some(bar) => bar.inc(bytes),
            None if self.total_bytes >= WORTH_A_LINE
                && tenths(before, self.total_bytes) < tenths(before + bytes, self.total_bytes) =>
            {
                let done = before + bytes;
                let percent = 10 * tenths(done, self.total_bytes);
                let now = done.saturating_sub(self.resumed_bytes.load(Ordering::Relaxed));
                let left = left(self.total_bytes.saturating_sub(done), now, self.began.elapsed());
                tracing::info!("{}: {percent} % of {}{left}", self.title, gib(self.total_bytes));
            }
            None => {}
        }
    }

    /// `bytes` were done by an earlier run, and say nothing about the speed of this one.
    pub fn resume(&self, bytes: u64) {
        self.resumed_bytes.fetch_add(bytes, Ordering::Relaxed);
        self.done_bytes.fetch_add(bytes, Ordering::Relaxed);
        if let Some(bar) = &self.bar {
            bar.inc(bytes);
            bar.reset_eta();
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

/// `, 10.4 GB and about 6 min left`, if `done` bytes took `elapsed`; empty at the end.
fn left(left: u64, done: u64, elapsed: Duration) -> String {
    if left == 0 {
        return String::new();
    }
    let seconds = (done > 0).then(|| elapsed.as_secs_f64() * left as f64 / done as f64);
    let time = match seconds {
        None => String::new(),
        Some(s) if s < 90.0 => format!(" and about {s:.0} s"),
        Some(s) if s < 90.0 * 60.0 => format!(" and about {:.0} min", s / 60.0),
        Some(s) => format!(" and about {:.1} h", s / 3600.0),
    };
    format!(", {}{time} left", gib(left))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_remains_is_told_by_the_speed_so_far() {
        let told = |gone: u64, done: u64, seconds: u64| left(gone << 30, done << 30, Duration::from_secs(seconds));
        assert_eq!(told(6, 2, 20), ", 6.00 GB and about 60 s left");
        assert_eq!(told(10, 5, 300), ", 10.00 GB and about 10 min left");
        assert_eq!(told(100, 1, 180), ", 100.00 GB and about 5.0 h left");
        assert_eq!(told(3, 0, 20), ", 3.00 GB left");
        assert_eq!(told(0, 3, 20), "");
    }
}
