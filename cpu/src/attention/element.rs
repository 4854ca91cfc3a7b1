//! [`Element`]: how kernels read keys and values in each of the formats that pages store.

#![allow(unsafe_op_in_unsafe_fn, reason = "the contract of `lanes.rs`")]
#![allow(clippy::needless_range_loop, reason = "closures over arrays of vectors are not always inlined")]

use half::bf16;

use crate::{bytes::Bytes, lanes::LANES};

/// Features come in steps of so many: heads are padded to whole ones in memory.
pub(crate) const FEATURES: usize = 2 * LANES;

/// A stored format. A head begins at `head`; its features are counted from `d`, a multiple of [`LANES`].
pub(crate) trait Element {
    /// Features `d..d + 16`.
    unsafe fn load<L: Bytes>(head: *const u8, d: usize) -> L::F;

    /// Features `d..d + 32` of 16 heads, turned over: each in order, its lanes the heads.
    #[inline(always)]
    unsafe fn columns<L: Bytes>(heads: [*const u8; LANES], d: usize, to: &mut impl Columns<L>) {
        for half in 0..2 {
            let mut rows = [L::splat(0.0); LANES];
            for j in 0..LANES {
                rows[j] = Self::load::<L>(heads[j], d + half * LANES);
            }
            let columns = L::transpose(rows);
            for i in 0..LANES {
                to.take(d + half * LANES + i, columns[i]);
            }
        }
    }
}

/// Who takes features turned over.
pub(crate) trait Columns<L: Bytes> {
    /// Feature `d` of 16 heads.
    unsafe fn take(&mut self, d: usize, column: L::F);
}

impl Element for f32 {
    #[inline(always)]
    unsafe fn load<L: Bytes>(head: *const u8, d: usize) -> L::F {
        L::load(head.cast::<f32>().add(d))
    }
}

impl Element for bf16 {
    #[inline(always)]
    unsafe fn load<L: Bytes>(head: *const u8, d: usize) -> L::F {
        L::load_bf16(head.cast::<u16>().add(d))
    }

    /// Two features are one word: half as much to turn over.
    #[inline(always)]
    unsafe fn columns<L: Bytes>(heads: [*const u8; LANES], d: usize, to: &mut impl Columns<L>) {
        let mut rows = [L::splat(0.0); LANES];
        for j in 0..LANES {
            rows[j] = L::load(heads[j].add(2 * d).cast());
        }
        let words = L::transpose(rows);
        for i in 0..LANES {
            let mut pairs = [0.0f32; LANES];
            L::store(pairs.as_mut_ptr(), words[i]);
            let (even, odd) = L::load_bf16_pairs(pairs.as_ptr().cast());
            to.take(d + 2 * i, even);
            to.take(d + 2 * i + 1, odd);
        }
    }
}

/// `KvFormat::F8E4M3`.
pub(crate) struct E4m3;

impl Element for E4m3 {
    #[inline(always)]
    unsafe fn load<L: Bytes>(head: *const u8, d: usize) -> L::F {
        L::load_e4m3(head.add(d))
    }
}

/// `KvFormat::F8E5M2`.
pub(crate) struct E5m2;

impl Element for E5m2 {
    #[inline(always)]
    unsafe fn load<L: Bytes>(head: *const u8, d: usize) -> L::F {
        L::load_e5m2(head.add(d))
    }
}

/// `KvFormat::Q8_0`.
pub(crate) struct Q8;

impl Element for Q8 {
    #[inline(always)]
    unsafe fn load<L: Bytes>(head: *const u8, d: usize) -> L::F {
        let block = head.add(d / FEATURES * (2 + FEATURES));
        // The vector's conversion, since the scalar one asks the CPU each time; a block has bytes enough.
        let mut halves = [0.0f32; LANES];
        L::store(halves.as_mut_ptr(), L::load_f16(block.cast()));
        L::mul(L::splat(halves[0]), L::load_i8(block.add(2 + d % FEATURES).cast()))
    }
}
