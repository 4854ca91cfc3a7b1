//! [`cut_experts`]: tensors that hold a matrix of all experts of a layer, cut into one for each expert. They are parts of
//! the same mapped bytes.

use std::collections::BTreeMap;

use super::{
    TensorProblem,
    tensor::{Tensor, wrong},
};
use crate::config::{ModelConfig, MoeConfig};

/// The tensors of a checkpoint by name.
pub(super) type Tensors = BTreeMap<String, Tensor>;

/// Keep `tensor` as `name`, unless there is one already. `found` says what it would have been.
pub(super) fn insert(
    tensors: &mut Tensors,
    (name, tensor): (String, Tensor),
    found: &str,
    problems: &mut Vec<TensorProblem>,
) {
    match tensors.get(&name) {
        Some(earlier) => {
            let expected = format!("once, in {}", earlier.file);
            problems.push(TensorProblem::tensor(&tensor.file, &name, expected, found));
        }
        None => drop(tensors.insert(name, tensor)),
    }
}

/// Cut all tensors of all experts, as transformers 5 and MLX store them.
pub(super) fn cut_experts(tensors: &mut Tensors, config: &ModelConfig, problems: &mut Vec<TensorProblem>) {
    let Some(moe) = &config.moe else { return };
    for layer in 0..config.num_layers {
        let mlp = format!("model.layers.{layer}.mlp");
        cut_fused(tensors, &mlp, (moe, config.hidden), problems);
        cut_stacks(tensors, &mlp, moe, problems);
    }
}

/// Transformers 5: the gates and up projections of all experts in one tensor, the down projections in another.
fn cut_fused(tensors: &mut Tensors, mlp: &str, (moe, hidden): (&MoeConfig, usize), problems: &mut Vec<TensorProblem>) {
    let (inner, hidden) = (moe.inner as u64, hidden as u64);
    // The tensor, and the matrices of one expert in it from the first row on.
    let fused: [(&str, &[&str], [u64; 2]); 2] =
        [("gate_up_proj", &["gate_proj", "up_proj"], [inner, hidden]), ("down_proj", &["down_proj"], [hidden, inner])];
    for (name, matrices, [rows, cols]) in fused {
        let whole = format!("{mlp}.experts.{name}");
        let Some(tensor) = tensors.remove(&whole) else { continue };
        let shape = [moe.num_experts as u64, rows * matrices.len() as u64, cols];
        if tensor.shape != shape {
            problems.push(wrong((&whole, &tensor), format!("shape {shape:?}")));
            continue;
        }
        let name = |expert| matrices.iter().map(move |part| format!("{mlp}.experts.{expert}.{part}.weight"));
        let names = (0..moe.num_experts).flat_map(name).collect();
        cut(tensors, (&whole, &tensor), names, &[rows, cols], problems);
    }
}

/// MLX: a tensor for each kind of matrix, and one for its scales and biases.
fn cut_stacks(tensors: &mut Tensors, mlp: &str, moe: &MoeConfig, problems: &mut Vec<TensorProblem>) {
    for part in ["gate_proj", "up_proj", "down_proj"] {
        for kind in ["weight", "scales", "biases"] {
            let whole = format!("{mlp}.switch_mlp.{part}.{kind}");
            let Some(tensor) = tensors.remove(&whole) else { continue };
            let experts = moe.num_experts;
            let Some((_, shape)) = tensor.shape.split_first().filter(|(count, _)| **count == experts as u64) else {
                problems.push(wrong((&whole, &tensor), format!("{experts} experts")));
                continue;
            };
            let names = (0..experts).map(|expert| format!("{mlp}.experts.{expert}.{part}.{kind}")).collect();
            cut(tensors, (&whole, &tensor), names, shape, problems);
        }
    }
}

/// Cut the tensor `whole` into equal parts of this `shape`, one for each of `names`.
fn cut(
    tensors: &mut Tensors,
    (whole, tensor): (&str, &Tensor),
    names: Vec<String>,
    shape: &[u64],
    problems: &mut Vec<TensorProblem>,
) {
    // The header's check made the bytes as many as the shape says.
    let bytes = tensor.bytes.len() / names.len();
    let again = format!("it again, in `{whole}`");
    for (index, name) in names.into_iter().enumerate() {
        let slice = tensor.bytes.slice(index * bytes..(index + 1) * bytes).expect("a part of the whole");
        let part = Tensor { shape: shape.to_vec(), bytes: slice, ..tensor.clone() };
        insert(tensors, (name, part), &again, problems);
    }
}
