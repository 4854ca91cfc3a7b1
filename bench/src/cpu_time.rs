//! [`CpuTime`]: what the client itself costs, so that it is not taken for the server's.

use std::fs;

/// CPU time that this process has used, where the system tells (Linux).
pub struct CpuTime(Option<f64>);

impl CpuTime {
    /// Until now.
    pub fn now() -> Self {
        // The first number of each thread's schedstat: nanoseconds on a CPU.
        let threads = fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
        let times = threads.filter_map(|thread| {
            let text = fs::read_to_string(thread.path().join("schedstat")).ok()?;
            text.split(' ').next()?.parse::<f64>().ok()
        });
        let total_ns: f64 = times.sum();
        Self((total_ns > 0.0).then_some(total_ns / 1e9))
    }

    /// Seconds since `before`. Threads that have ended in between are not counted.
    pub fn since(&self, before: &Self) -> Option<f64> {
        Some((self.0? - before.0?).max(0.0))
    }
}
