//! [`load`]: a checkpoint becomes a [`Model`] on a backend.

use std::{cell::RefCell, sync::Arc};

use quern_backend::{Backend, KvFormat, Uploader};

use crate::{
    Model,
    checkpoint::Checkpoint,
    config::Architecture,
    layers::LoadContext,
    qwen3::Qwen3,
    weights::{LoadError, WeightSource},
};

/// Sizes that are fixed when a network is loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StepLimits {
    /// Most tokens of a step.
    pub max_tokens: usize,
    /// Rows of logits that are computed at once; a step may ask for more, in several rounds.
    pub max_logit_rows: usize,
    /// Tokens of a page.
    pub page_size: usize,
    /// Pages of keys and values.
    pub num_pages: usize,
    /// How keys and values are stored.
    pub kv_format: KvFormat,
}

/// Build the checkpoint's network on `backend`. `loaded` hears of each finished layer.
///
/// # Errors
/// If a weight cannot be read, or the backend cannot hold it.
pub fn load<B: Backend>(
    checkpoint: &Checkpoint,
    backend: Arc<B>,
    limits: StepLimits,
    loaded: &mut dyn FnMut(usize),
) -> Result<Box<dyn Model>, LoadError> {
    let shared = Arc::clone(&backend);
    load_through(shared.uploader(), checkpoint, backend, limits, loaded)
}

/// The same, with weights that reach `backend` through an uploader of its own.
///
/// # Errors
/// As for [`load`].
pub fn load_through<B: Backend>(
    mut uploader: Box<dyn Uploader<B> + '_>,
    checkpoint: &Checkpoint,
    backend: Arc<B>,
    limits: StepLimits,
    loaded: &mut dyn FnMut(usize),
) -> Result<Box<dyn Model>, LoadError> {
    let config = checkpoint.config();
    let shared = Arc::clone(&backend);
    let quantised = checkpoint.quantised_weights();
    let weights = quantised.as_ref().map_or(checkpoint.weights(), |weights| weights as &dyn WeightSource);
    let cx = LoadContext {
        backend: &*shared,
        uploader: RefCell::new(&mut *uploader),
        weights,
        config,
        network: checkpoint.network(),
    };
    let model: Box<dyn Model> = match config.architecture {
        Architecture::Qwen2 | Architecture::Qwen3 | Architecture::Qwen3Moe => {
            Box::new(Qwen3::load(&cx, backend, limits, loaded)?)
        }
    };
    uploader.finish()?;
    Ok(model)
}
