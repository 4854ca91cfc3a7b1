//! [`Element`]: how kernels read keys and values in each of the formats that pages store.

#![allow(clippy::needless_range_loop, reason = "closures over arrays of vectors are not always inlined")]

use half::bf16;

use crate::{int_lanes::IntLanes, lanes::LANES};

/// Features come in steps of so many: heads are padded to whole ones in memory.
pub(crate) const FEATURES: usize = VECTORS * LANES;

/// Vectors of a tile.
pub(super) const VECTORS: usize = 2;

/// A stored format, and how it meets queries and weights. A head begins at `head`; its features are counted
/// from `d`, a multiple of [`FEATURES`].
///
/// Products add a *step* at a time: one feature (or position) in each lane, or two where the CPU multiplies pairs.
pub(crate) trait Element<L: IntLanes> {
    /// Features, or positions, of a step.
    const STEP: usize = 1;

    /// Whether of two neighbours the odd one is added first, as the instruction does that adds pairs.
    const ODD_FIRST: bool = false;

    /// Features `d..d + 32` of 16 heads, turned over: step by step, the lanes the heads.
    ///
    /// # Safety
    /// The CPU has the features of `Self`, each of `heads` is readable for its features up to `d + 32`, and `to` has
    /// room for the steps up to there.
    unsafe fn columns(lanes: L, heads: [*const u8; LANES], d: usize, to: &mut impl Columns<L>);

    /// Features `d..d + 32` of step `k` of `heads`.
    ///
    /// # Safety
    /// The CPU has the features of `Self`, and each of the heads of step `k` is readable for its features up to
    /// `d + 32`.
    unsafe fn row(lanes: L, heads: &[*const u8], k: usize, d: usize) -> [L::F; VECTORS];

    /// `sum + row * x`, `x` the step of a query or of weights.
    ///
    /// # Safety
    /// The CPU has the features of `Self`, and `x` is readable for a step.
    #[inline(always)]
    unsafe fn add(lanes: L, sum: L::F, row: L::F, x: *const f32) -> L::F {
        // SAFETY: by this function's contract.
        lanes.fma(lanes.splat(unsafe { *x }), row, sum)
    }

    /// Put 16 weights, those from position `p` on, into a query's.
    ///
    /// # Safety
    /// The CPU has the features of `Self`, and `weights` is writable up to position `p + 16`.
    #[inline(always)]
    unsafe fn put(lanes: L, weights: *mut f32, p: usize, v: L::F) {
        // SAFETY: by this function's contract.
        unsafe { lanes.store(weights.add(p), v) };
    }
}

/// Who takes features turned over.
pub(crate) trait Columns<L: IntLanes> {
    /// Step `k` of the features of 16 heads.
    ///
    /// # Safety
    /// `self` has room for step `k`, and the CPU has the features of the element whose features these are.
    unsafe fn take(&mut self, lanes: L, k: usize, column: L::F);
}

/// The formats that become f32 one by one, whether the odd of two is added first, and `load`, 16 features from
/// `d` on.
macro_rules! one_by_one {
    ($format:ty, $odd_first:literal, |$lanes:ident, $head:ident, $d:ident| $load:expr) => {
        impl<L: IntLanes> Element<L> for $format {
            const ODD_FIRST: bool = $odd_first;

            #[inline(always)]
            unsafe fn columns($lanes: L, heads: [*const u8; LANES], d: usize, to: &mut impl Columns<L>) {
                for half in 0..VECTORS {
                    let $d = d + half * LANES;
                    let mut rows = [$lanes.splat(0.0); LANES];
                    for j in 0..LANES {
                        let $head = heads[j];
                        // SAFETY: by this function's contract.
                        rows[j] = unsafe { $load };
                    }
                    let columns = $lanes.transpose(rows);
                    for i in 0..LANES {
                        let i = i ^ usize::from($odd_first);
                        // SAFETY: by this function's contract.
                        unsafe { to.take($lanes, d + half * LANES + i, columns[i]) };
                    }
                }
            }

            #[inline(always)]
            unsafe fn row($lanes: L, heads: &[*const u8], k: usize, d: usize) -> [L::F; VECTORS] {
                let mut row = [$lanes.splat(0.0); VECTORS];
                for i in 0..VECTORS {
                    let ($head, $d) = (heads[k], d + i * LANES);
                    // SAFETY: by this function's contract.
                    row[i] = unsafe { $load };
                }
                row
            }
        }
    };
}

one_by_one!(f32, false, |lanes, head, d| lanes.load(head.cast::<f32>().add(d)));

impl<L: IntLanes> Element<L> for bf16 {
    const ODD_FIRST: bool = true;

    /// Two features are one word: half as much to turn over.
    #[inline(always)]
    unsafe fn columns(lanes: L, heads: [*const u8; LANES], d: usize, to: &mut impl Columns<L>) {
        let mut words = [lanes.splat(0.0); LANES];
        for j in 0..LANES {
            // SAFETY: by this function's contract.
            words[j] = unsafe { lanes.load(heads[j].add(2 * d).cast()) };
        }
        let words = lanes.transpose(words);
        for i in 0..LANES {
            let mut pairs = [0.0f32; LANES];
            lanes.store_array(&mut pairs, words[i]);
            // SAFETY: an array of 64 bytes; the rest is this function's contract.
            unsafe {
                let (even, odd) = lanes.load_bf16_pairs(pairs.as_ptr().cast());
                to.take(lanes, d + 2 * i + 1, odd);
                to.take(lanes, d + 2 * i, even);
            }
        }
    }

    #[inline(always)]
    unsafe fn row(lanes: L, heads: &[*const u8], k: usize, d: usize) -> [L::F; VECTORS] {
        // SAFETY: by this function's contract.
        unsafe {
            let head = heads[k].cast::<u16>().add(d);
            [lanes.load_bf16(head), lanes.load_bf16(head.add(LANES))]
        }
    }
}

/// `KvFormat::F8E4M3`.
pub(crate) struct E4m3;

one_by_one!(E4m3, true, |lanes, head, d| lanes.load_e4m3(head.add(d)));

/// `KvFormat::F8E5M2`.
pub(crate) struct E5m2;

one_by_one!(E5m2, true, |lanes, head, d| lanes.load_e5m2(head.add(d)));

/// `KvFormat::Q8_0`.
pub(crate) struct Q8;

one_by_one!(Q8, false, |lanes, head, d| {
    let block = head.add(d / FEATURES * (2 + FEATURES));
    // The vector's conversion, since the scalar one asks the CPU each time; a block has bytes enough.
    let mut halves = [0.0f32; LANES];
    lanes.store_array(&mut halves, lanes.load_f16(block.cast()));
    lanes.mul(lanes.splat(halves[0]), lanes.load_i8(block.add(2 + d % FEATURES).cast()))
});
