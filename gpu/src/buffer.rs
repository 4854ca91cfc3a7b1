//! [`Buffer`] and [`Routing`]: what operations hand to one another.

use crate::{driver::Allocation, layout::padded};

/// Activations, `[rows, cols]` f32. Rows lie `stride` elements apart; what is between them and `cols` stays zero, so that
/// products read whole blocks.
pub struct Buffer {
    /// `None` where there was no memory for it: then no kernel runs.
    memory: Option<Allocation>,
    rows: usize,
    cols: usize,
    capacity: usize,
}

impl Buffer {
    pub(crate) fn new(memory: Option<Allocation>, capacity: usize, cols: usize) -> Self {
        Self { memory, rows: capacity, cols, capacity }
    }

    /// Bytes of `rows` rows of `cols` columns.
    pub(crate) fn bytes(rows: usize, cols: usize) -> usize {
        rows.saturating_mul(padded(cols)).saturating_mul(size_of::<f32>())
    }

    pub(crate) fn memory(&self) -> Option<&Allocation> {
        self.memory.as_ref()
    }

    pub(crate) fn address(&self) -> u64 {
        address(&self.memory)
    }

    pub(crate) fn rows(&self) -> usize {
        self.rows
    }

    pub(crate) fn cols(&self) -> usize {
        self.cols
    }

    /// Elements from one row to the next.
    pub(crate) fn stride(&self) -> usize {
        padded(self.cols)
    }

    /// # Panics
    /// If there is no room for them.
    pub(crate) fn set_rows(&mut self, rows: usize) {
        assert!(rows <= self.capacity, "{rows} rows in a buffer of {}", self.capacity);
        self.rows = rows;
    }
}

/// For each row its experts, best first, and their weights; and which experts get which rows.
pub struct Routing {
    memory: Option<RoutingMemory>,
    rows: usize,
    top_k: usize,
    capacity: usize,
}

/// All indexed by the route, `row * top_k + rank`.
pub(crate) struct RoutingMemory {
    pub(crate) experts: Allocation,
    pub(crate) weights: Allocation,
    /// The routes by expert.
    pub(crate) order: Allocation,
    /// Tiles of at most 16 of them.
    pub(crate) tiles: Allocation,
    /// How many tiles there are.
    pub(crate) num_tiles: Allocation,
}

impl Routing {
    pub(crate) fn new(memory: Option<RoutingMemory>, capacity: usize, top_k: usize) -> Self {
        Self { memory, rows: 0, top_k, capacity }
    }

    pub(crate) fn memory(&self) -> Option<&RoutingMemory> {
        self.memory.as_ref()
    }

    pub(crate) fn rows(&self) -> usize {
        self.rows
    }

    pub(crate) fn top_k(&self) -> usize {
        self.top_k
    }

    /// # Panics
    /// If there is no room for them.
    pub(crate) fn set_rows(&mut self, rows: usize) {
        assert!(rows <= self.capacity, "{rows} rows in a routing of {}", self.capacity);
        self.rows = rows;
    }
}

/// Where `memory` begins; 0 where there is none.
pub(crate) fn address(memory: &Option<Allocation>) -> u64 {
    memory.as_ref().map_or(0, Allocation::address)
}
