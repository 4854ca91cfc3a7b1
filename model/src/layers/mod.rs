//! The boxes of the diagram: each loads its own weights and runs itself.

pub mod attention;
pub mod experts;
pub mod linear;
pub mod mlp;
pub mod norm;

pub use attention::Attention;
pub use experts::Experts;
pub use linear::Linear;
pub use mlp::Mlp;
pub use norm::RmsNorm;

use quern_backend::Backend;

use crate::{
    config::ModelConfig,
    network::{NetworkSpec, Role, TensorSpec},
    weights::Weights,
};

/// What a layer needs to load itself.
pub struct Loading<'a, B: Backend> {
    /// Where its weights go.
    pub backend: &'a B,
    /// Where they come from.
    pub weights: &'a dyn Weights,
    /// The network's numbers.
    pub config: &'a ModelConfig,
    /// Its tensors.
    pub network: &'a NetworkSpec,
}

impl<'a, B: Backend> Loading<'a, B> {
    /// The tensor of this role in `layer`.
    fn tensor(&self, layer: usize, role: Role) -> &'a TensorSpec {
        self.network.tensor(Some(layer), role)
    }
}
