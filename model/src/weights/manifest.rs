//! Every tensor of a network by name and shape: what a checkpoint must hold, no more and no less.

use crate::config::ModelConfig;

/// One module with a weight.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Module {
    /// Its name, without `.weight`.
    pub name: String,
    /// What its weight is.
    pub shape: Shape,
}

/// The shape of a module's weight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// Output × input features; may be quantised.
    Matrix(usize, usize),
    /// A norm's gain; never quantised.
    Vector(usize),
}

impl Shape {
    /// Sizes, outermost first.
    pub fn dims(&self) -> Vec<usize> {
        match *self {
            Shape::Matrix(rows, cols) => vec![rows, cols],
            Shape::Vector(len) => vec![len],
        }
    }
}

/// The modules of the network that `config` describes.
///
/// The layers ask for the same names when they load: a name that only one side knows is refused when a
/// checkpoint is opened, or when it is loaded.
pub fn modules(config: &ModelConfig) -> Vec<Module> {
    let (hidden, heads) = (config.hidden, config.heads);
    let mut list = vec![
        ("model.embed_tokens".to_string(), Shape::Matrix(config.vocab_size, hidden)),
        ("model.norm".to_string(), Shape::Vector(hidden)),
    ];
    if !config.tie_word_embeddings {
        list.push(("lm_head".to_string(), Shape::Matrix(config.vocab_size, hidden)));
    }
    for (index, &sparse) in config.sparse_layers.iter().enumerate() {
        let mut push = |name: &str, shape| list.push((format!("model.layers.{index}.{name}"), shape));
        push("input_layernorm", Shape::Vector(hidden));
        push("post_attention_layernorm", Shape::Vector(hidden));
        push("self_attn.q_proj", Shape::Matrix(heads.q_dim(), hidden));
        push("self_attn.k_proj", Shape::Matrix(heads.kv_dim(), hidden));
        push("self_attn.v_proj", Shape::Matrix(heads.kv_dim(), hidden));
        push("self_attn.o_proj", Shape::Matrix(hidden, heads.q_dim()));
        push("self_attn.q_norm", Shape::Vector(heads.head_dim));
        push("self_attn.k_norm", Shape::Vector(heads.head_dim));
        match &config.moe {
            Some(moe) if sparse => {
                push("mlp.gate", Shape::Matrix(moe.num_experts, hidden));
                for expert in 0..moe.num_experts {
                    push(&format!("mlp.experts.{expert}.gate_proj"), Shape::Matrix(moe.inner, hidden));
                    push(&format!("mlp.experts.{expert}.up_proj"), Shape::Matrix(moe.inner, hidden));
                    push(&format!("mlp.experts.{expert}.down_proj"), Shape::Matrix(hidden, moe.inner));
                }
            }
            _ => {
                push("mlp.gate_proj", Shape::Matrix(config.intermediate, hidden));
                push("mlp.up_proj", Shape::Matrix(config.intermediate, hidden));
                push("mlp.down_proj", Shape::Matrix(hidden, config.intermediate));
            }
        }
    }
    list.into_iter().map(|(name, shape)| Module { name, shape }).collect()
}
