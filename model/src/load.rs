//! [`load`]: a checkpoint becomes a [`Model`] on a backend.

use std::{cell::RefCell, panic::resume_unwind, sync::Arc, thread};

use quern_backend::{Backend, Collective, Uploader};

use crate::{
    Model,
    checkpoint::Checkpoint,
    config::Architecture,
    layers::LoadContext,
    qwen3::Qwen3,
    ranks::RankModel,
    split::{Parallelism, Split},
    step_limits::StepLimits,
    weights::LoadError,
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
    let parts = checkpoint.split(Parallelism::NONE)?;
    let model = load_part(&mut *uploader, checkpoint, &parts[0], backend, limits, loaded)?;
    uploader.finish()?;
    Ok(model)
}

/// What one rank of a network is loaded into.
pub struct RankLoader<'a, B: Backend> {
    /// What computes its part.
    pub backend: Arc<B>,
    /// The way for its weights.
    pub uploader: Box<dyn Uploader<B> + Send + 'a>,
    /// Its way to the other ranks.
    pub collective: Arc<dyn Collective>,
}

/// Build the parts of the checkpoint's network for `ranks`, those of this process by index, side by side: what
/// [`Ranks`](crate::Ranks) are made of. How many there are in all, their collectives know. `ep` is [`Parallelism::ep`].
/// `loaded` hears of each layer that the first of them has finished.
///
/// # Errors
/// If the network cannot be divided into as many parts, a weight cannot be read, or a backend cannot hold it.
///
/// # Panics
/// If there are none.
pub fn load_ranks<B: Backend>(
    ranks: Vec<RankLoader<'_, B>>,
    ep: usize,
    checkpoint: &Checkpoint,
    limits: StepLimits,
    loaded: &mut (dyn FnMut(usize) + Send),
) -> Result<Vec<RankModel>, LoadError> {
    let tp = ranks.first().expect("a rank to load").collective.rank().count;
    let parts = checkpoint.split(Parallelism { tp, ep })?;
    let mut loaded = Some(loaded);
    thread::scope(|scope| {
        let parts = &parts;
        let loading = ranks.into_iter().map(|rank| {
            let RankLoader { backend, mut uploader, collective } = rank;
            let part = &parts[collective.rank().index];
            let mut loaded = loaded.take();
            let load = move || {
                let mut tell = |layer| loaded.iter_mut().for_each(|loaded| loaded(layer));
                let model = load_part(&mut *uploader, checkpoint, part, backend, limits, &mut tell)?;
                uploader.finish()?;
                Ok(RankModel { model, collective })
            };
            thread::Builder::new().spawn_scoped(scope, load).map_err(LoadError::Thread)
        });
        // All of them run before the first is waited for.
        let loading: Vec<_> = loading.collect();
        let wait = |thread: thread::ScopedJoinHandle<'_, _>| thread.join().unwrap_or_else(|panic| resume_unwind(panic));
        loading.into_iter().map(|thread| wait(thread?)).collect()
    })
}

/// Build what a rank holds of the checkpoint's network.
fn load_part<B: Backend>(
    uploader: &mut dyn Uploader<B>,
    checkpoint: &Checkpoint,
    split: &Split,
    backend: Arc<B>,
    limits: StepLimits,
    loaded: &mut dyn FnMut(usize),
) -> Result<Box<dyn Model>, LoadError> {
    checkpoint.with_held_weights(|weights| {
        let config = split.narrowed(checkpoint.config());
        let shared = Arc::clone(&backend);
        let cx = LoadContext {
            backend: &*shared,
            uploader: RefCell::new(uploader),
            weights,
            config: &config,
            network: checkpoint.network(),
            split,
        };
        let model: Box<dyn Model> = match config.architecture {
            Architecture::Qwen2 | Architecture::Qwen3 | Architecture::Qwen3Moe => {
                Box::new(Qwen3::load(&cx, backend, limits, loaded)?)
            }
        };
        Ok(model)
    })
}
