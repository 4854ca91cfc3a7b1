//! The boxes of the diagram: each loads its own weights and runs itself.

pub mod attention;
pub mod embedding;
pub mod experts;
pub mod head;
pub mod linear;
pub mod mlp;
pub mod norm;

pub use attention::Attention;
pub use embedding::Embedding;
pub use experts::Experts;
pub use head::Head;
pub use linear::Linear;
pub use mlp::Mlp;
pub use norm::RmsNorm;

use std::cell::RefCell;

use quern_backend::{Backend, PackedMatrix, Uploader};

use crate::{
    config::ModelConfig,
    network::{NetworkSpec, Role, TensorSpec},
    split::Split,
    weights::{LoadError, WeightSource},
};

/// What a layer needs to load itself.
pub struct LoadContext<'a, B: Backend> {
    /// What computes; its buffers hold the gains.
    pub backend: &'a B,
    /// The matrices' way there, one after the other.
    pub uploader: RefCell<&'a mut dyn Uploader<B>>,
    /// Where they come from.
    pub weights: &'a dyn WeightSource,
    /// The network's numbers, as [narrowed](Split::narrowed) to what is loaded.
    pub config: &'a ModelConfig,
    /// The tensors of all of it.
    pub network: &'a NetworkSpec,
    /// Which part of them is loaded.
    pub split: &'a Split,
}

impl<'a, B: Backend> LoadContext<'a, B> {
    /// The tensor of this role in `layer`.
    fn tensor(&self, layer: usize, role: Role) -> &'a TensorSpec {
        self.network.tensor(Some(layer), role)
    }

    /// What is loaded of the matrices of `tensor`.
    fn matrices(&self, tensor: &TensorSpec) -> Result<Vec<PackedMatrix>, LoadError> {
        self.weights.parts(tensor, &self.split.shard(tensor))
    }

    /// What is loaded of the vector `tensor`.
    fn vector(&self, tensor: &TensorSpec) -> Result<Vec<f32>, LoadError> {
        Ok(self.weights.vector(tensor)?[self.split.shard(tensor).rows].to_vec())
    }
}

/// What all layers of one step share.
pub struct LayerContext<'a, B: Backend> {
    /// What computes.
    pub backend: &'a B,
    /// The step in flight.
    pub step: &'a B::Step,
    /// The pages of all layers.
    pub kv: &'a mut B::KvCache,
    /// `[tokens, head_dim]`: the angles of each token's position.
    pub rotation: &'a B::Buffer,
}
