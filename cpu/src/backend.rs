//! [`CpuBackend`]: what was chosen at start, and the working space of its operations.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use quern_backend::{Collective, Lost, Precision, Rank};

use crate::{
    affinity,
    detect::Isa,
    error::{CpuError, MAX_THREADS},
    kernels::Kernels,
    moe::MoeScratch,
    paged_attention::AttentionScratch,
    pool::Pool,
    product::ProductScratch,
    team::Team,
};

/// What to run on.
#[derive(Clone, Copy, Debug, Default)]
pub struct CpuConfig {
    /// Worker threads, the caller's included and those of all ranks together; `None` takes one for each physical core
    /// that this process may use.
    pub threads: Option<usize>,
    /// Instruction set; `None` takes the best there is.
    pub isa: Option<Isa>,
    /// What the inputs of matrix products are rounded to.
    pub precision: Precision,
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
    /// Where there are other ranks.
    pub(crate) exchange: Option<Exchange>,
}

/// A backend's exchange with the other ranks.
pub(crate) struct Exchange {
    pub(crate) collective: Arc<dyn Collective>,
    /// Whom the present step has lost.
    lost: Mutex<Option<Lost>>,
}

impl Exchange {
    /// Keep what went wrong until the step's end.
    pub(crate) fn note(&self, result: Result<(), Lost>) {
        if let Err(lost) = result {
            self.lost().get_or_insert(lost);
        }
    }

    /// What went wrong since this was last called.
    pub(crate) fn take_lost(&self) -> Option<Lost> {
        self.lost().take()
    }

    fn lost(&self) -> MutexGuard<'_, Option<Lost>> {
        self.lost.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl CpuBackend {
    /// Detect, choose kernels, start the workers.
    ///
    /// # Errors
    /// If the CPU lacks what `config` asks for, or threads cannot be started.
    pub fn new(config: CpuConfig) -> Result<Self, CpuError> {
        let threads = config.num_threads()?;
        Self::beside_others(config, Rank::SOLO, threads, None)
    }

    /// The same with 8-bit products of panels by tiles that are `wide` or not, where the instruction set has both: how scarce
    /// this CPU's loads are chooses between them, and both give the same bits.
    pub fn with_wide_panels(self, wide: bool) -> Option<Self> {
        let kernels = self.kernels.with_wide_panels(wide)?;
        Some(Self { kernels, ..self })
    }

    /// `count` backends that are the ranks of one network in this process, by index. They share the threads and the
    /// cores, and have one thread each at least.
    ///
    /// # Errors
    /// As for [`new`](Self::new).
    ///
    /// # Panics
    /// If there are to be none.
    pub fn ranks(config: CpuConfig, count: usize) -> Result<Vec<Self>, CpuError> {
        assert!(count > 0, "a network on no ranks");
        let threads = config.num_threads()?.max(count);
        let members = Team::members(count, threads <= affinity::allowed_cores().len());
        let exchange = |member| Exchange { collective: Arc::new(member), lost: Mutex::default() };
        let ranks = members.into_iter().enumerate().map(|(index, member)| {
            let exchange = (count > 1).then(|| exchange(member));
            Self::beside_others(config, Rank { index, count }, threads, exchange)
        });
        ranks.collect()
    }

    /// One rank's share of `threads`.
    fn beside_others(
        config: CpuConfig,
        rank: Rank,
        threads: usize,
        exchange: Option<Exchange>,
    ) -> Result<Self, CpuError> {
        let kernels = Kernels::choose(config.isa, config.precision)?;
        let own = rank.share(threads);
        let scratch = OpScratch {
            product: ProductScratch::default(),
            moe: MoeScratch::new(own.len()),
            attention: AttentionScratch::new(own.len()),
        };
        let pool = Pool::beside_others(own, threads)?;
        Ok(Self { kernels, pool, scratch: Mutex::new(scratch), exchange })
    }

    /// The same backend, which reaches the other ranks by way of `collective`: some of them are in other processes.
    #[must_use]
    pub fn with_collective(self, collective: Arc<dyn Collective>) -> Self {
        Self { exchange: Some(Exchange { collective, lost: Mutex::default() }), ..self }
    }

    /// Its way to the other ranks, where there are any.
    pub fn collective(&self) -> Option<Arc<dyn Collective>> {
        self.exchange.as_ref().map(|exchange| Arc::clone(&exchange.collective))
    }

    /// Held for one operation. A panic leaves nothing in it that the next operation reads before it
    /// writes, so poison means nothing.
    pub(crate) fn scratch(&self) -> MutexGuard<'_, OpScratch> {
        self.scratch.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl CpuConfig {
    fn num_threads(&self) -> Result<usize, CpuError> {
        let threads = self.threads.unwrap_or_else(default_threads);
        (1..=MAX_THREADS).contains(&threads).then_some(threads).ok_or(CpuError::Threads { threads })
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
