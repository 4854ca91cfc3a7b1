//! [`Scratch`]: the device's memory that operations work in and that no network owns.

use crate::{
    GpuError,
    driver::{Allocation, GpuDevice, Pinned},
};

/// Working space, made as large as any step needs it while a network is loaded: for a step's tables by
/// [`Step::reserve`](crate::step::Step::reserve), by others for attention and for experts. Page tables alone may become
/// longer, where sequences share pages.
#[derive(Default)]
pub(crate) struct Scratch {
    /// What is known of the largest step so far.
    pub(crate) largest: LargestStep,
    /// Tokens, pages and sequences of the step.
    pub(crate) tables: Space,
    /// Its tiles of queries.
    pub(crate) query_tiles: Space,
    /// Attention's partial results.
    pub(crate) partial: Space,
    /// What experts compute between their products, a row a route.
    pub(crate) inner: Space,
    /// What experts put out, a row a route.
    pub(crate) routed: Space,
    /// The largest logit of each row.
    pub(crate) greedy: Space,
    /// Columns of the widest `inner` and `routed` of all experts that were uploaded.
    pub(crate) expert_cols: (usize, usize),
    /// Memory of the host for outputs, not in use.
    pub(crate) pinned: Vec<Pinned>,
}

/// Sizes that no step exceeds, as far as buffers and pages were asked for.
#[derive(Clone, Copy, Default)]
pub(crate) struct LargestStep {
    /// Rows of the largest buffer: tokens, sequences, rows of logits.
    pub(crate) rows: usize,
    /// Pages of the pool.
    pub(crate) pages: usize,
    /// Query heads of a KV head.
    pub(crate) group: usize,
}

/// Memory that only grows.
#[derive(Default)]
pub(crate) struct Space(Option<Allocation>);

impl Space {
    /// Make it at least `bytes` long; returns where it begins. What was in it is lost when it grows.
    pub(crate) fn reserve(&mut self, device: &GpuDevice, bytes: usize) -> Result<u64, GpuError> {
        if let Some(memory) = self.0.as_ref().filter(|memory| memory.bytes() >= bytes) {
            return Ok(memory.address());
        }
        // Kernels that are queued may still use it.
        device.wait()?;
        self.0 = None;
        Ok(self.0.insert(device.alloc(bytes.max(SMALLEST))?).address())
    }

    /// Put `values` at its beginning; returns where that is.
    pub(crate) fn fill(&mut self, device: &GpuDevice, values: &[u32]) -> Result<u64, GpuError> {
        let bytes = size_of_val(values);
        // Twice as much as is needed, so that it seldom grows.
        let has = self.0.as_ref().map_or(0, Allocation::bytes);
        let address = self.reserve(device, if bytes > has { 2 * bytes } else { bytes })?;
        let memory = self.0.as_ref().expect("reserved above");
        device.write(memory, 0, values)?;
        Ok(address)
    }
}

/// Bytes that the smallest space has.
const SMALLEST: usize = 1 << 16;

impl Scratch {
    /// Pinned memory of at least `bytes`: one that lies ready, or a new one.
    pub(crate) fn take_pinned(&mut self, device: &GpuDevice, bytes: usize) -> Result<Pinned, GpuError> {
        match self.pinned.iter().position(|pinned| pinned.bytes() >= bytes) {
            Some(index) => Ok(self.pinned.swap_remove(index)),
            None => device.alloc_pinned(bytes.max(SMALLEST).next_power_of_two()),
        }
    }
}
