//! [`Buffer`] and [`Routing`]: what operations hand to one another.

use crate::memory::AlignedVec;

/// Activations, `[rows, cols]` f32, row-major, with room for `capacity` rows.
#[derive(Debug)]
pub struct Buffer {
    rows: usize,
    cols: usize,
    capacity: usize,
    values: AlignedVec,
}

impl Buffer {
    pub(crate) fn zeroed(capacity: usize, cols: usize) -> Self {
        Self { rows: capacity, cols, capacity, values: AlignedVec::zeroed(capacity * cols) }
    }

    pub(crate) fn rows(&self) -> usize {
        self.rows
    }

    pub(crate) fn cols(&self) -> usize {
        self.cols
    }

    /// # Panics
    /// If there is no room for them.
    pub(crate) fn set_rows(&mut self, rows: usize) {
        assert!(rows <= self.capacity, "{rows} rows in a buffer of {}", self.capacity);
        self.rows = rows;
    }

    pub(crate) fn row(&self, row: usize) -> &[f32] {
        &self.values()[row * self.cols..(row + 1) * self.cols]
    }

    /// The present rows.
    pub(crate) fn values(&self) -> &[f32] {
        &self.values[..self.rows * self.cols]
    }

    pub(crate) fn values_mut(&mut self) -> &mut [f32] {
        &mut self.values[..self.rows * self.cols]
    }
}

/// For each row its experts, best first, and their weights.
#[derive(Debug)]
pub struct Routing {
    top_k: usize,
    rows: usize,
    experts: Vec<u32>,
    weights: Vec<f32>,
}

impl Routing {
    pub(crate) fn with_capacity(capacity: usize, top_k: usize) -> Self {
        Self { top_k, rows: 0, experts: vec![0; capacity * top_k], weights: vec![0.0; capacity * top_k] }
    }

    pub(crate) fn set_rows(&mut self, rows: usize) {
        assert!(rows * self.top_k <= self.experts.len(), "{rows} rows in a smaller routing");
        self.rows = rows;
    }

    /// Rows routed.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Experts of a row.
    pub fn top_k(&self) -> usize {
        self.top_k
    }

    /// `[rows, top_k]`.
    pub fn experts(&self) -> &[u32] {
        &self.experts[..self.rows * self.top_k]
    }

    /// `[rows, top_k]`.
    pub fn weights(&self) -> &[f32] {
        &self.weights[..self.rows * self.top_k]
    }

    /// Experts and weights of the present rows.
    pub(crate) fn parts_mut(&mut self) -> (&mut [u32], &mut [f32]) {
        let len = self.rows * self.top_k;
        (&mut self.experts[..len], &mut self.weights[..len])
    }
}
