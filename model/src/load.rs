//! [`load`]: a checkpoint becomes a [`Model`] on a backend.

use std::{cell::RefCell, sync::Arc};

use quern_backend::{Backend, Uploader};

use crate::{
    Model,
    checkpoint::Checkpoint,
    config::Architecture,
    layers::LoadContext,
    qwen3::Qwen3,
    step_limits::StepLimits,
    weights::{LoadError, WeightSource},
};

/// Build the checkpoint's network on `backend`. `loaded` is called with the index of each finished layer.
///
/// ```
/// use std::{ops::Range, path::Path, sync::Arc};
///
/// use quern_backend::{ForwardBatch, KvFormat, LogitTask, PagedBatch, RefBackend, RowTask, SampleBatch, Span};
/// use quern_model::{Checkpoint, CheckpointOptions, StepLimits, load};
///
/// let checkpoint = Checkpoint::open(Path::new("tests/golden/tiny-dense"), &CheckpointOptions::default())?;
/// let kv_format = KvFormat::F32;
/// let limits = StepLimits { max_tokens: 8, max_logit_rows: 1, page_size: 4, num_pages: 2, kv_format };
/// let mut model = load(&checkpoint, Arc::new(RefBackend), limits, &mut |_layer| {})?;
///
/// // One step: the log-probability of token 4 after the prompt 1, 2, 3, which lies in page 0.
/// let pages: Range<usize> = 0..1;
/// let batch = ForwardBatch {
///     token_ids: vec![1, 2, 3],
///     positions: vec![0, 1, 2],
///     paged: PagedBatch { spans: vec![Span { q_start: 0, q_len: 3, kv_len: 3, pages }], pages: vec![0] },
///     logit_rows: vec![2],
/// };
/// let task = RowTask::Score { target: 4 };
/// let tasks = vec![LogitTask { task, want_logprob: true, top_logprobs: 0, logprob_ids: Arc::new([]) }];
/// model.launch(&batch, &SampleBatch { tasks });
/// assert!(model.wait()?.rows[0].logprob < 0.0);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
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
