//! Rotary position embedding: the angles of each position, plain or stretched by YaRN.

use crate::config::{RopeConfig, YarnConfig};

/// Frequencies of a network's rotations.
///
/// Source: Su et al. 2021, "RoFormer"; Peng et al. 2023, "YaRN"; HF `modeling_rope_utils.py`, whose
/// f32 arithmetic is followed so that angles agree to the last bit at long positions.
#[derive(Clone, Debug)]
pub struct Rope {
    /// One frequency for each pair of a head's features.
    inv_freq: Vec<f32>,
    /// Scale of cosines and sines.
    scale: f32,
}

impl Rope {
    /// The frequencies for heads of `head_dim` features.
    pub fn new(config: &RopeConfig, head_dim: usize) -> Self {
        let pairs = head_dim / 2;
        let period = |i: usize| config.theta.powf(f64::from((2 * i) as f32 / head_dim as f32)) as f32;
        let inv_freq = match &config.yarn {
            None => (0..pairs).map(|i| 1.0 / period(i)).collect(),
            Some(yarn) => {
                let (low, high) = ramp_bounds(config.theta, yarn, head_dim);
                let mix = |i: usize| {
                    let interpolated = ((i as f64 - low) / (high - low)).clamp(0.0, 1.0) as f32;
                    let keep = 1.0 - interpolated;
                    (1.0 / (yarn.factor as f32 * period(i))) * (1.0 - keep) + (1.0 / period(i)) * keep
                };
                (0..pairs).map(mix).collect()
            }
        };
        let scale = config.yarn.as_ref().map_or(1.0, |yarn| yarn.attention_factor as f32);
        Self { inv_freq, scale }
    }

    /// For each position, the cosines of its angles, then their sines: rows of `head_dim` values,
    /// appended to `out`.
    pub fn rotations(&self, positions: &[u32], out: &mut Vec<f32>) {
        for &position in positions {
            let angle = |freq: &f32| f64::from(position as f32 * freq);
            out.extend(self.inv_freq.iter().map(|f| angle(f).cos() as f32 * self.scale));
            out.extend(self.inv_freq.iter().map(|f| angle(f).sin() as f32 * self.scale));
        }
    }
}

/// The pairs between which YaRN blends from "left alone" to "interpolated".
fn ramp_bounds(theta: f64, yarn: &YarnConfig, head_dim: usize) -> (f64, f64) {
    let dim = head_dim as f64;
    let pair_with = |rotations: f64| {
        dim * (yarn.original_context / (rotations * 2.0 * std::f64::consts::PI)).ln() / (2.0 * theta.ln())
    };
    let (mut low, mut high) = (pair_with(yarn.beta_fast), pair_with(yarn.beta_slow));
    if yarn.truncate {
        (low, high) = (low.floor(), high.ceil());
    }
    (low, high) = (low.max(0.0), high.min(dim - 1.0));
    // A ramp without width would divide by zero.
    if low == high { (low, high + 0.001) } else { (low, high) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_angles_are_position_times_frequency() {
        let rope = Rope::new(&RopeConfig { theta: 10_000.0, yarn: None }, 4);
        let mut row = Vec::new();
        rope.rotations(&[3], &mut row);
        let expected = [3f64.cos(), 0.03f64.cos(), 3f64.sin(), 0.03f64.sin()];
        for (value, expected) in row.iter().zip(expected) {
            assert!((f64::from(*value) - expected).abs() < 1e-7, "{value} for {expected}");
        }
    }

    #[test]
    fn yarn_leaves_fast_pairs_alone_and_slows_slow_ones_by_the_factor() {
        let yarn = YarnConfig {
            factor: 4.0,
            original_context: 256.0,
            beta_fast: 32.0,
            beta_slow: 1.0,
            attention_factor: 1.0,
            truncate: true,
        };
        let plain = Rope::new(&RopeConfig { theta: 1e6, yarn: None }, 64);
        let stretched = Rope::new(&RopeConfig { theta: 1e6, yarn: Some(yarn) }, 64);
        assert_eq!(plain.inv_freq[0], stretched.inv_freq[0]);
        let ratio = plain.inv_freq[31] / stretched.inv_freq[31];
        assert!((ratio - 4.0).abs() < 1e-5, "{ratio}");
    }
}
