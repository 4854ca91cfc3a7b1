//! [`CpuBackend`]: what was chosen at start, and the working space of its operations.

use std::sync::{Mutex, MutexGuard, PoisonError};

use quern_backend::Precision;

use crate::{
    affinity,
    attention::AttentionScratch,
    detect::{Isa, Kernels},
    moe::MoeScratch,
    pool::Pool,
    product::ProductScratch,
};

/// More workers than this is a typing error.
const MAX_THREADS: usize = 1024;

/// What to run on.
#[derive(Clone, Copy, Debug, Default)]
pub struct CpuConfig {
    /// Worker threads, the caller's included; `None` takes one for each physical core that this process
    /// may use.
    pub threads: Option<usize>,
    /// Instruction set; `None` takes the best there is.
    pub isa: Option<Isa>,
    /// What the inputs of matrix products are rounded to.
    pub precision: Precision,
}

/// Why there is no CPU backend.
#[derive(Debug, thiserror::Error)]
pub enum CpuError {
    /// No instruction set has this name.
    #[error("unknown instruction set `{name}`; known are {}", Isa::ALL.map(|isa| isa.to_string()).join(", "))]
    UnknownIsa {
        /// What was asked for.
        name: String,
    },
    /// The CPU cannot run it.
    #[error("this CPU cannot run `{isa}` kernels: it lacks {missing}")]
    UnsupportedIsa {
        /// What was asked for.
        isa: Isa,
        /// The features that are not there.
        missing: String,
    },
    /// A thread count out of range.
    #[error("{threads} worker threads; must be 1 to {MAX_THREADS}")]
    Threads {
        /// What was asked for.
        threads: usize,
    },
    /// The operating system gives no more threads.
    #[error("cannot start worker thread: {0}")]
    Spawn(#[from] std::io::Error),
}

/// Working space of all operations.
pub(crate) struct OpScratch {
    pub(crate) product: ProductScratch,
    pub(crate) moe: MoeScratch,
    pub(crate) attention: AttentionScratch,
}

/// The fused operations on CPU threads and SIMD.
///
/// One operation runs at a time; a second caller waits. Results depend neither on the number of threads
/// nor on what else is in a batch, and with `Precision::F32` not on the instruction set.
pub struct CpuBackend {
    pub(crate) kernels: Kernels,
    pub(crate) pool: Pool,
    scratch: Mutex<OpScratch>,
}

impl CpuBackend {
    /// Detect, choose kernels, start the workers.
    ///
    /// # Errors
    /// If the CPU lacks what `config` asks for, or threads cannot be started.
    pub fn new(config: CpuConfig) -> Result<Self, CpuError> {
        let kernels = Kernels::choose(config.isa, config.precision)?;
        let threads = config.threads.unwrap_or_else(default_threads);
        if !(1..=MAX_THREADS).contains(&threads) {
            return Err(CpuError::Threads { threads });
        }
        let scratch = OpScratch {
            product: ProductScratch::default(),
            moe: MoeScratch::new(threads),
            attention: AttentionScratch::new(threads),
        };
        Ok(Self { kernels, pool: Pool::new(threads)?, scratch: Mutex::new(scratch) })
    }

    /// Held for one operation. A panic leaves nothing in it that the next operation reads before it
    /// writes, so poison means nothing.
    pub(crate) fn scratch(&self) -> MutexGuard<'_, OpScratch> {
        self.scratch.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The physical cores allowed, or fewer where a quota of CPU time holds (containers).
fn default_threads() -> usize {
    let quota = std::thread::available_parallelism().map_or(1, usize::from);
    match affinity::allowed_cores().len() {
        0 => quota,
        cores => cores.min(quota),
    }
}
