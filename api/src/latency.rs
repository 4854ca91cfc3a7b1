//! [`Latencies`]: a distribution of times that costs one atomic addition to add to.

use std::{
    array,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

/// Classes of times, each half an octave wide: a percentile read from them is off by at most a fifth.
const CLASSES: usize = 44;
/// The upper end of the first class, seconds. The last one begins at a quarter of an hour.
const FIRST: f64 = 0.000_5;

/// How many times fell into each class, since the start.
#[derive(Debug)]
pub struct Latencies([AtomicU64; CLASSES]);

impl Default for Latencies {
    fn default() -> Self {
        Self(array::from_fn(|_| AtomicU64::new(0)))
    }
}

impl Latencies {
    /// Add one.
    pub fn observe(&self, time: Duration) {
        let class = ((time.as_secs_f64() / FIRST).log2() * 2.0).ceil().max(0.0) as usize;
        self.0[class.min(CLASSES - 1)].fetch_add(1, Ordering::Relaxed);
    }

    /// The counts so far.
    pub fn counts(&self) -> Counts {
        Counts(array::from_fn(|class| self.0[class].load(Ordering::Relaxed)))
    }
}

/// The counts at one time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counts([u64; CLASSES]);

impl Counts {
    /// What was added since `earlier`.
    pub fn since(&self, earlier: &Counts) -> Counts {
        Counts(array::from_fn(|class| self.0[class].saturating_sub(earlier.0[class])))
    }

    /// The time, in seconds, that `share` of all are not above, on a straight line inside its class.
    pub fn percentile(&self, share: f64) -> Option<f64> {
        let total: u64 = self.0.iter().sum();
        let wanted = share * total as f64;
        let mut before = 0.0;
        for (class, &count) in self.0.iter().enumerate().filter(|(_, count)| **count > 0) {
            let count = count as f64;
            if before + count >= wanted {
                let upper = FIRST * 2f64.powf(class as f64 / 2.0);
                let lower = if class == 0 { 0.0 } else { upper / 2f64.sqrt() };
                return Some(lower + (upper - lower) * (wanted - before) / count);
            }
            before += count;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_right_to_a_fifth() {
        let latencies = Latencies::default();
        let earlier = latencies.counts();
        assert_eq!(earlier.percentile(0.5), None);
        for ms in 1..=1000u64 {
            latencies.observe(Duration::from_millis(ms));
        }
        let counts = latencies.counts().since(&earlier);
        for share in [0.1, 0.5, 0.9, 0.99] {
            let found = counts.percentile(share).unwrap();
            assert!((found / share - 1.0).abs() < 0.2, "{share}: {found}");
        }
        assert_eq!(latencies.counts().since(&latencies.counts()).percentile(0.5), None);
    }

    #[test]
    fn extremes_have_a_class() {
        let latencies = Latencies::default();
        latencies.observe(Duration::ZERO);
        latencies.observe(Duration::MAX);
        assert!(latencies.counts().percentile(0.4).unwrap() <= FIRST);
        assert!(latencies.counts().percentile(1.0).unwrap() > 900.0);
    }
}
