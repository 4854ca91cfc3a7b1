//! The nodes of a network that is divided over hosts: how this one meets the others, and follows node 0 if it is another.

use std::{fmt::Write, sync::Arc, thread, time::Duration};

use quern_api::{follower, listen::BoundAddress};
use quern_backend::{Lost, Precision, SampleBatch};
use quern_model::{Checkpoint, ForwardError, LoadError, Model, network::Shape};
use quern_ranks::{MeetingPlace, NodeEvent, Peers, Rendezvous, StepBounds};
use sha2::{Digest, Sha256};
use tokio::{
    sync::{mpsc::UnboundedSender, oneshot, watch},
    time::timeout,
};

use crate::{
    config::{Config, ParallelOptions},
    launched::Launched,
    shutdown::Signals,
    start_error::StartError,
};

/// The other nodes, and what was agreed on with them.
pub struct Met {
    /// The other nodes.
    pub peers: Arc<Peers>,
    /// Most tokens of a step, as node 0 decides.
    pub max_tokens: usize,
}

/// A node whose weights are in memory and that waits for steps.
pub struct Follower {
    /// Its ranks.
    pub model: Box<dyn Model>,
    /// The other nodes.
    pub peers: Arc<Peers>,
    /// What every step keeps to.
    pub bounds: StepBounds,
    /// Where probes are answered.
    pub address: BoundAddress,
    /// Seconds that a signal leaves to the requests of node 0.
    pub drain_timeout: f64,
}

/// Wait for the other nodes, if there are to be any, and lower the pool of `config` to what all have memory for. What is
/// heard of them later goes to `events`. `isa` names the kernels of this one; `launched` are those of a launcher.
///
/// # Errors
/// If they do not meet, or do not belong together.
pub fn meet(
    config: &mut Config,
    checkpoint: &Checkpoint,
    isa: &str,
    launched: Option<&Launched>,
    events: UnboundedSender<NodeEvent>,
) -> Result<Option<Met>, StartError> {
    let device = &config.device;
    let parallel = device.parallel;
    if parallel.nnodes == 1 {
        return Ok(None);
    }
    let (key, place) = match (launched, &device.nodes.dist_init_addr) {
        (Some(Launched { introduction, .. }), _) => (introduction.key.clone(), introduction.place.clone()),
        (None, Some(address)) => {
            let (key, warning) = device.nodes.key(address)?;
            if let Some(warning) = warning {
                tracing::warn!("{warning}");
            }
            (key, MeetingPlace::Typed(address.clone()))
        }
        (None, None) => return Ok(None),
    };
    let rendezvous = Rendezvous {
        node: parallel.node(),
        ranks: parallel.ranks_here().len(),
        place,
        mpi: launched.map(|launched| Arc::clone(&launched.mpi)),
        key,
        limit: Duration::from_secs_f64(device.nodes.dist_timeout),
        num_pages: config.engine.num_pages,
        max_tokens: config.engine.step_tokens(),
        settings: settings(config, checkpoint, isa)?,
    };
    // Nobody hears it in a process that ends.
    let (peers, welcome) = rendezvous.join(move |event| drop(events.send(event)))?;
    if config.engine.limit_pages(welcome.num_pages) {
        let tokens = config.engine.max_total_num_tokens;
        tracing::info!("The pool is of {tokens} tokens: another node has memory for no more.");
    }
    tracing::info!("All {} nodes have met.", parallel.nnodes);
    Ok(Some(Met { peers: Arc::new(peers), max_tokens: welcome.max_tokens }))
}

/// What must be alike on all nodes, for sums of like parts with like bits.
fn settings(config: &Config, checkpoint: &Checkpoint, isa: &str) -> Result<Vec<(String, String)>, LoadError> {
    let ParallelOptions { tp_size, ep_size, .. } = config.device.parallel;
    let mut settings = vec![
        ("the version of quern".to_owned(), env!("CARGO_PKG_VERSION").to_owned()),
        ("--tp-size".to_owned(), tp_size.to_string()),
        ("--ep-size".to_owned(), ep_size.to_string()),
        ("--dtype".to_owned(), config.model.dtype.to_string()),
        ("--kv-cache-dtype".to_owned(), config.model.kv_cache_dtype.to_string()),
        ("--page-size".to_owned(), config.engine.memory.page_size.to_string()),
        ("the model".to_owned(), identity(checkpoint)?),
    ];
    if config.model.dtype != Precision::F32 {
        // Products of other precisions have other bits on other instruction sets.
        settings.push(("--cpu-isa".to_owned(), isa.to_owned()));
    }
    Ok(settings)
}

/// A digest of the network, its encodings and its norms: another model, or another training of the same one, has another.
fn identity(checkpoint: &Checkpoint) -> Result<String, LoadError> {
    let weights = checkpoint.weights();
    let mut digest = Sha256::new();
    digest.update(format!("{:?}\n{:?}\n", checkpoint.config(), checkpoint.recipe().map(|recipe| recipe.to_string())));
    for tensor in checkpoint.network().tensors() {
        digest.update(format!("{} {} {:?}\n", tensor.name(0), tensor.count, tensor.shape));
        match tensor.shape {
            Shape::Vector(_) => weights.vector(tensor)?.iter().for_each(|value| digest.update(value.to_le_bytes())),
            _ => digest.update(format!("{:?}\n", weights.formats(tensor))),
        }
    }
    Ok(digest.finalize()[..8].iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    }))
}

impl Follower {
    /// Compute the steps of node 0 until it ends.
    ///
    /// # Errors
    /// If a node is lost, or the system refuses a thread.
    pub async fn run(self, mut signals: Signals, node: usize) -> Result<(), StartError> {
        let Self { model, peers, bounds, address, drain_timeout } = self;
        let listener = address.listen()?;
        let address = listener.local_addr().map_err(StartError::Serve)?;
        tracing::info!("Listening on http://{address} (node {node}: /health; node 0 serves requests)");
        let (well, is_well) = watch::channel(true);
        let (stop, stopped) = oneshot::channel::<()>();
        let end = async move { stopped.await.unwrap_or_default() };
        let probes = tokio::spawn(follower::serve(listener, node, is_well, end));
        let (report, mut ended) = oneshot::channel();
        let following = Arc::clone(&peers);
        // The receiver is gone after a second signal.
        let body = move || drop(report.send(follow(model, &following, &bounds)));
        thread::Builder::new().name("follower".into()).spawn(body).map_err(StartError::Thread)?;
        peers.tell_loaded();
        tracing::info!("The server is fired up and ready to roll!");
        let outcome = tokio::select! {
            outcome = &mut ended => outcome,
            name = signals.next() => {
                tracing::info!("{name}: node 0 is told, and may take {drain_timeout} s for its running requests (--drain-timeout)");
                peers.leave();
                tokio::select! {
                    outcome = timeout(Duration::from_secs_f64(drain_timeout), ended) => match outcome {
                        Ok(outcome) => outcome,
                        Err(_) => return Ok(()),
                    },
                    _ = signals.next() => return Ok(()),
                }
            }
        };
        let outcome = outcome.map_err(|_| StartError::Panicked)?;
        let _ = well.send(outcome.is_ok());
        match &outcome {
            Ok(()) => tracing::info!("Node 0 has ended, and this node with it."),
            // Probes hear so before they find nobody.
            Err(_) => tokio::time::sleep(crate::shutdown::DOWN_FOR_PROBES).await,
        }
        drop(stop);
        probes.abort();
        Ok(outcome?)
    }
}

/// Compute one step after the other.
fn follow(mut model: Box<dyn Model>, peers: &Peers, bounds: &StepBounds) -> Result<(), Lost> {
    while let Some(batch) = peers.receive_step(bounds)? {
        // Rank 0 samples.
        model.launch(&batch, &SampleBatch::default());
        let Err(error) = model.wait() else { continue };
        if peers.has_ended() {
            return Ok(());
        }
        let lost = match error {
            ForwardError::Rank(lost) => lost,
            ForwardError::Backend(fault) => {
                Lost { rank: peers.first_rank(), cause: format!("failed: {fault}"), gone: true }
            }
        };
        peers.fail(lost.rank, &lost.cause);
        return Err(lost);
    }
    Ok(())
}
