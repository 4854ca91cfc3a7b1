//! llama.cpp's names and sizes of tensors.

use crate::network::{MlpPart, Role, TensorSpec};

/// The name of a tensor in a file. Source: llama.cpp, `gguf-py/gguf/constants.py`.
pub(crate) fn of(spec: &TensorSpec) -> String {
    let name = match spec.role {
        Role::Embedding | Role::TiedEmbedding => "token_embd",
        Role::Head => "output",
        Role::FinalNorm => "output_norm",
        Role::AttentionNorm => "attn_norm",
        Role::Query | Role::QueryBias => "attn_q",
        Role::Key | Role::KeyBias => "attn_k",
        Role::Value | Role::ValueBias => "attn_v",
        Role::QueryNorm => "attn_q_norm",
        Role::KeyNorm => "attn_k_norm",
        Role::AttentionOutput => "attn_output",
        Role::MlpNorm => "ffn_norm",
        Role::Router => "ffn_gate_inp",
        Role::Mlp(MlpPart::Gate) => "ffn_gate",
        Role::Mlp(MlpPart::Up) => "ffn_up",
        Role::Mlp(MlpPart::Down) => "ffn_down",
        Role::Expert(MlpPart::Gate) => "ffn_gate_exps",
        Role::Expert(MlpPart::Up) => "ffn_up_exps",
        Role::Expert(MlpPart::Down) => "ffn_down_exps",
    };
    let kind = if spec.role.is_bias() { "bias" } else { "weight" };
    match spec.layer {
        Some(layer) => format!("blk.{layer}.{name}.{kind}"),
        None => format!("{name}.{kind}"),
    }
}

/// Its sizes in a file: innermost first, all experts of a layer in one tensor.
pub(crate) fn dims(spec: &TensorSpec) -> Vec<u64> {
    let mut dims: Vec<u64> = spec.shape.dims().iter().rev().map(|&n| n as u64).collect();
    if matches!(spec.role, Role::Expert(_)) {
        dims.push(spec.count as u64);
    }
    dims
}

/// The tensor of what the matrices of the tensor `name` are multiplied by where they are in NVFP4, one number each.
pub(crate) fn factors(name: &str) -> String {
    format!("{}.scale", name.strip_suffix(".weight").unwrap_or(name))
}

/// The tensor into which llama.cpp's converter puts gate and up of all experts (`--fuse-gate-up-exps`), and which half of
/// each expert's rows `spec` is; `None` for other tensors.
pub(crate) fn fused(spec: &TensorSpec) -> Option<(String, usize)> {
    let half = match spec.role {
        Role::Expert(MlpPart::Gate) => 0,
        Role::Expert(MlpPart::Up) => 1,
        _ => return None,
    };
    Some((format!("blk.{}.ffn_gate_up_exps.weight", spec.layer?), half))
}
