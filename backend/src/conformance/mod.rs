//! What every backend must do: each operation against `RefBackend` over a grid of shapes, formats and
//! raggedness, and against itself for invariance.
//!
//! The grid is chosen to be awkward: sizes that are no multiples of any register, blocks with ragged
//! edges, experts with no token and with one, pages of 1 and of 33 tokens, spans that begin anywhere.
//! Invariance (I7 in ARCHITECTURE.md) is compared bit by bit: a row alone, in a batch, in chunks, over
//! other pages.
//!
//! Tolerances follow from the arithmetic. A sum of `n` products in f32, in any order, is off by at most
//! `n · ε · Σ|aᵢ·bᵢ|` (Higham 2002, §3.1); where a backend rounds inputs to bf16, each product is off by
//! another `2⁻⁸` of itself at most; where it rounds them to 8-bit integers, each input by half a step, a
//! 254th of the largest among its 32.

mod attention;
mod bounds;
mod fixtures;
mod products;
mod rows;
mod sample;

pub use bounds::{attention_error, input_errors};
pub use fixtures::{Rng, matrix, step_over};

use crate::{Backend, KvFormat, Precision, QuantFormat};

/// Rows of a batch.
const ROWS: [usize; 7] = [1, 2, 3, 5, 16, 17, 33];

/// What a backend promises to hold: all of it is tried.
#[derive(Clone, Copy, Debug)]
pub struct Grid<'a> {
    /// How it multiplies.
    pub precision: Precision,
    /// Encodings of weights.
    pub weights: &'a [QuantFormat],
    /// Encodings of keys and values.
    pub pages: &'a [KvFormat],
    /// Whether -0 of a stored weight is -0 in an embedding, and not 0. The FNUZ variant of E4M3, which some devices
    /// convert instead of OCP's, has one zero; everywhere else the two are equal.
    pub signed_zeros: bool,
    /// Whether it computes with parts of matrices and of layers, as ranks hold them.
    pub parts: bool,
}

impl Grid<'static> {
    /// Every encoding there is.
    pub fn whole(precision: Precision) -> Self {
        Self { precision, weights: &QuantFormat::ALL, pages: &KvFormat::ALL, signed_zeros: true, parts: true }
    }
}

/// Hold `backend` to the reference and to itself.
///
/// # Panics
/// At the first disagreement, naming operation, shape, format and place.
pub fn run<B: Backend>(backend: &B, grid: &Grid<'_>) {
    let mut rng = Rng(0x5eed);
    products::linear(backend, grid, &mut rng);
    rows::embed(backend, grid, &mut rng);
    rows::add_rms_norm(backend, &mut rng);
    rows::qk_norm_rope(backend, &mut rng);
    rows::bias_rope(backend, &mut rng);
    rows::silu_mul(backend, &mut rng);
    attention::attention(backend, grid, &mut rng);
    products::route_and_moe(backend, grid, &mut rng);
    if grid.parts {
        products::parts(backend, grid, &mut rng);
    }
    rows::gather_rows(backend, &mut rng);
    rows::exchanges(backend, &mut rng);
    sample::sample(backend, &mut rng);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::RefBackend;

    #[test]
    fn the_reference_keeps_its_own_promises() {
        run(&RefBackend, &Grid::whole(Precision::F32));
    }
}
