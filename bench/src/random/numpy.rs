//! [`NumpyRandom`]: the functions of NumPy's legacy global generator that SGLang's client calls.

use super::mersenne::Mersenne;

/// `numpy.random` after `numpy.random.seed(seed)`.
#[derive(Clone)]
pub struct NumpyRandom(Mersenne);

impl NumpyRandom {
    /// After `numpy.random.seed(seed)`.
    pub fn new(seed: u32) -> Self {
        Self(Mersenne::from_seed(seed))
    }

    /// `numpy.random.randint(low, high, size=count)`: uniform in `low..high`.
    ///
    /// The next 32 bits under the smallest mask that covers the range, drawn again while beyond it. A range of
    /// one number draws nothing.
    ///
    /// # Panics
    /// If the range is empty or wider than 32 bits.
    pub fn randint(&mut self, low: u64, high: u64, count: usize) -> Vec<u64> {
        assert!(low < high, "randint of an empty range {low}..{high}");
        let last = u32::try_from(high - low - 1).expect("ranges of lengths and ids fit in 32 bits");
        let mask = u32::MAX.checked_shr(last.leading_zeros()).unwrap_or(0);
        let mut draw = || {
            if last == 0 {
                return 0;
            }
            loop {
                let value = self.0.next_u32() & mask;
                if value <= last {
                    return value;
                }
            }
        };
        (0..count).map(|_| low + u64::from(draw())).collect()
    }

    /// `numpy.random.exponential(scale)`: `-scale * ln(1 - u)`.
    pub fn exponential(&mut self, scale: f64) -> f64 {
        -scale * (1.0 - self.0.next_f64()).ln()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn totals(seed: u32, count: usize) -> (u64, u64) {
        let mut random = NumpyRandom::new(seed);
        let inputs: u64 = random.randint(1, 1001, count).iter().sum();
        let outputs: u64 = random.randint(1, 1001, count).iter().sum();
        (inputs, outputs)
    }

    #[test]
    fn lengths_add_up_to_the_published_totals() {
        // The totals that SGLang's client prints for --random-input-len 1000 --random-output-len 1000.
        assert_eq!(totals(1, 10), (6101, 4220));
        assert_eq!(totals(1, 80), (39668, 40805));
        assert_eq!(totals(1, 320), (158939, 170134));
        assert_eq!(totals(42, 10), (3309, 3700));
        assert_eq!(totals(42, 80), (37205, 38314));
        assert_eq!(totals(42, 320), (160446, 165699));
    }

    #[test]
    fn a_single_value_draws_nothing() {
        let mut random = NumpyRandom::new(1);
        assert_eq!(random.randint(2048, 2049, 3), [2048, 2048, 2048]);
        assert_eq!(random.randint(1, 1001, 10).iter().sum::<u64>(), 6101);
    }

    #[test]
    fn exponentials_are_numpys() {
        // numpy.random.seed(1); numpy.random.exponential(1.0): u = 0.417022004702574.
        let mut random = NumpyRandom::new(1);
        let first = random.exponential(1.0);
        assert!((first - 0.5396058372591854).abs() < 1e-14, "{first}");
    }
}
