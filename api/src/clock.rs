//! Times as answers carry them, by the machine's wall clock, which operators and time servers set: nothing waits by it.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

/// Seconds since 1970 that the clock shows; 0: the machine's.
static PINNED: AtomicU64 = AtomicU64::new(0);

/// The time of the wall clock.
pub fn wall_clock() -> SystemTime {
    match PINNED.load(Ordering::Relaxed) {
        0 => SystemTime::now(),
        seconds => UNIX_EPOCH + Duration::from_secs(seconds),
    }
}

/// Have the wall clock of this process show so many seconds since 1970 and stand still: for simulations, which set it
/// forwards and back.
pub fn pin(seconds: u64) {
    PINNED.store(seconds, Ordering::Relaxed);
}

/// Seconds since 1970.
pub fn unix_seconds() -> u64 {
    since_1970(wall_clock()).as_secs()
}

/// Time from 1970 to `time`.
pub fn since_1970(time: SystemTime) -> Duration {
    time.duration_since(UNIX_EPOCH).unwrap_or_default()
}
