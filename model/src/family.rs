//! What each [`Architecture`]'s own file says of it: the switches of `config.json` that make it another network, and
//! its tensors.

use crate::{
    architecture::Architecture,
    config::{ConfigError, Fields, ModelConfig},
    network::NetworkSpec,
    qwen2, qwen3,
};

/// Refuse switches of a `config.json` that make it another network.
pub(crate) fn check(architecture: Architecture, fields: &Fields<'_>) -> Result<(), ConfigError> {
    match architecture {
        Architecture::Qwen3Moe | Architecture::Qwen3 => qwen3::check(fields),
        Architecture::Qwen2 => qwen2::check(fields),
    }
}

impl ModelConfig {
    /// Every tensor of the network.
    pub fn network(&self) -> NetworkSpec {
        match self.architecture {
            Architecture::Qwen3Moe | Architecture::Qwen3 => qwen3::network(self),
            Architecture::Qwen2 => qwen2::network(self),
        }
    }
}
