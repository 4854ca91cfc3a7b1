//! Means, percentiles and intervals, as NumPy computes them.

/// Mean, spread and percentiles of a sample. All 0 for an empty one.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Distribution {
    /// Arithmetic mean.
    pub mean: f64,
    /// The middle.
    pub median: f64,
    /// Standard deviation of the sample as a population.
    pub std: f64,
    /// 90th percentile.
    pub p90: f64,
    /// 95th percentile.
    pub p95: f64,
    /// 99th percentile.
    pub p99: f64,
    /// The largest.
    pub max: f64,
}

impl Distribution {
    /// Of `sample`, in any order.
    pub fn of(mut sample: Vec<f64>) -> Self {
        if sample.is_empty() {
            return Self::default();
        }
        let count = sample.len() as f64;
        let mean = sample.iter().sum::<f64>() / count;
        let variance = sample.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / count;
        sample.sort_by(f64::total_cmp);
        Self {
            mean,
            median: percentile(&sample, 50.0),
            std: variance.sqrt(),
            p90: percentile(&sample, 90.0),
            p95: percentile(&sample, 95.0),
            p99: percentile(&sample, 99.0),
            max: sample[sample.len() - 1],
        }
    }

    /// Every figure times `factor`.
    pub fn scaled(self, factor: f64) -> Self {
        Self {
            mean: self.mean * factor,
            median: self.median * factor,
            std: self.std * factor,
            p90: self.p90 * factor,
            p95: self.p95 * factor,
            p99: self.p99 * factor,
            max: self.max * factor,
        }
    }
}

/// The `percent`th percentile of a sorted sample, interpolated between its neighbours (`numpy.percentile`).
///
/// # Panics
/// If the sample is empty.
pub fn percentile(sorted: &[f64], percent: f64) -> f64 {
    assert!(!sorted.is_empty(), "a percentile of nothing");
    let place = percent / 100.0 * (sorted.len() - 1) as f64;
    let below = place.floor() as usize;
    let above = (below + 1).min(sorted.len() - 1);
    let part = place - below as f64;
    let (low, high) = (sorted[below], sorted[above]);
    // NumPy interpolates from the nearer end.
    if part < 0.5 { low + (high - low) * part } else { high - (high - low) * (1.0 - part) }
}

/// The range in which a proportion lies with 95 % confidence when `hits` of `total` were seen (Wilson's score
/// interval, which stays inside 0 and 1 and holds for small numbers).
pub fn wilson(hits: usize, total: usize) -> (f64, f64) {
    if total == 0 {
        return (0.0, 1.0);
    }
    const Z: f64 = 1.959_963_984_540_054;
    let (n, p) = (total as f64, hits as f64 / total as f64);
    let centre = p + Z * Z / (2.0 * n);
    let half = Z * (p * (1.0 - p) / n + Z * Z / (4.0 * n * n)).sqrt();
    let scale = 1.0 + Z * Z / n;
    (((centre - half) / scale).max(0.0), ((centre + half) / scale).min(1.0))
}

/// The probability that one of `k` answers chosen among `total` is right when `right` of them are:
/// `1 - C(total - right, k) / C(total, k)`.
///
/// Source: Chen et al., "Evaluating Large Language Models Trained on Code".
pub fn pass_at_k(total: usize, right: usize, k: usize) -> f64 {
    if total - right < k {
        return 1.0;
    }
    1.0 - (total - right + 1..=total).map(|i| 1.0 - k as f64 / i as f64).product::<f64>()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_lie_between_neighbours() {
        let sorted = [1.0, 2.0, 4.0, 8.0];
        assert_eq!(percentile(&sorted, 0.0), 1.0);
        assert_eq!(percentile(&sorted, 50.0), 3.0);
        assert_eq!(percentile(&sorted, 100.0), 8.0);
        // numpy.percentile([1, 2, 4, 8], 99) = 7.88.
        assert!((percentile(&sorted, 99.0) - 7.88).abs() < 1e-12);
        assert_eq!(percentile(&[5.0], 99.0), 5.0);
    }

    #[test]
    fn a_sample_is_described() {
        let described = Distribution::of(vec![4.0, 1.0, 3.0, 2.0]);
        assert_eq!((described.mean, described.median, described.max), (2.5, 2.5, 4.0));
        assert!((described.std - 1.25_f64.sqrt()).abs() < 1e-15);
        assert_eq!(Distribution::of(Vec::new()), Distribution::default());
    }

    #[test]
    fn wilsons_interval_is_the_textbooks() {
        // 193 of 200, the published run's accuracy of 0.965.
        let (low, high) = wilson(193, 200);
        assert!((low - 0.9295).abs() < 5e-4 && (high - 0.9829).abs() < 5e-4, "{low} {high}");
        assert_eq!(wilson(0, 0), (0.0, 1.0));
        assert_eq!(wilson(0, 10).0, 0.0);
        assert!(wilson(10, 10).1 > 1.0 - 1e-12);
    }

    #[test]
    fn pass_at_k_counts_choices() {
        assert_eq!(pass_at_k(5, 0, 1), 0.0);
        assert!((pass_at_k(5, 1, 1) - 0.2).abs() < 1e-12);
        assert!((pass_at_k(5, 2, 2) - 0.7).abs() < 1e-12); // 1 - C(3,2)/C(5,2)
        assert_eq!(pass_at_k(5, 1, 5), 1.0);
    }
}
