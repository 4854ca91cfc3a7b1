//! Softmax over experts and the best of them, for one row.

/// Write the experts of `logits` with the largest softmax weights to `experts`, best first, ties to the
/// lower index, and their weights to `weights`, scaled to sum 1 if `renormalise`.
pub(crate) fn route_row(logits: &[f32], renormalise: bool, experts: &mut [u32], weights: &mut [f32]) {
    let top_k = experts.len();
    assert!(top_k <= logits.len() && weights.len() == top_k, "{top_k} of {} experts", logits.len());
    let top = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let total: f32 = logits.iter().map(|&x| (x - top).exp()).sum();
    let mut kept = 0;
    for (expert, &logit) in logits.iter().enumerate() {
        let weight = (logit - top).exp() / total;
        // Insertion: `top_k` is 8 or so, and most experts fail the first comparison.
        let place = weights[..kept].partition_point(|w| w.total_cmp(&weight).is_ge());
        if place == top_k {
            continue;
        }
        kept = (kept + 1).min(top_k);
        weights.copy_within(place..kept - 1, place + 1);
        experts.copy_within(place..kept - 1, place + 1);
        weights[place] = weight;
        experts[place] = expert as u32;
    }
    if renormalise {
        let sum: f32 = weights.iter().sum();
        weights.iter_mut().for_each(|w| *w /= sum);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ties_go_to_the_lower_expert_and_weights_descend() {
        let mut experts = [9; 3];
        let mut weights = [0.0; 3];
        route_row(&[1.0, 3.0, 1.0, 3.0, 2.0], true, &mut experts, &mut weights);
        assert_eq!(experts, [1, 3, 4]);
        assert_eq!(weights[0], weights[1]);
        assert!(weights[1] > weights[2]);
        assert!((weights.iter().sum::<f32>() - 1.0).abs() < 1e-6);
    }

    #[test]
    fn without_renormalising_all_experts_sum_to_one() {
        let mut experts = [0; 4];
        let mut weights = [0.0; 4];
        route_row(&[0.5, -0.5, 0.25, 4.0], false, &mut experts, &mut weights);
        assert_eq!(experts, [3, 0, 2, 1]);
        assert!((weights.iter().sum::<f32>() - 1.0).abs() < 1e-6);
    }
}
