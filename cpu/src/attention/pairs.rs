//! [`Words`]: what is bfloat16 or fits it, multiplied in pairs where the CPU has an instruction for it.
//!
//! A lane holds two neighbours, two features of a key or two positions of a value, the even one below; the query
//! or the weights are packed alike. The instruction adds the odd product first, then the even one, each sum rounded
//! to nearest, which is the order that these formats keep elsewhere: the same bits, but for magnitudes
//! below 2^-126, which become zero here, and for values that are not finite: where a row sees an odd number of
//! positions, the first that it does not see is multiplied by zero.

#![allow(clippy::needless_range_loop, reason = "closures over arrays of vectors are not always inlined")]

use std::marker::PhantomData;

use half::bf16;

use super::element::{Columns, E4m3, E5m2, Element, VECTORS};
use crate::{int_lanes::IntLanes, lanes::LANES};

/// What an instruction set with pairs has beyond [`IntLanes`], whose value does not show these features.
pub(crate) trait Pairs: IntLanes {
    /// `sum + a.odd * b.odd + a.even * b.even`, in that order.
    ///
    /// # Safety
    /// The CPU has the features of the pairs.
    unsafe fn dot_pairs(self, sum: Self::F, a: Self::F, b: Self::F) -> Self::F;
    /// 32 bfloat16 of each, side by side: `even[i]` below `odd[i]` in lane `i`, then the next 16.
    ///
    /// # Safety
    /// The CPU has the features of the pairs.
    unsafe fn interleave(self, even: Self::F, odd: Self::F) -> [Self::F; VECTORS];
    /// 32 E4M3 bytes as bfloat16.
    ///
    /// # Safety
    /// The CPU has the features of the pairs, and `from` is readable for 32 bytes.
    unsafe fn load_e4m3_words(self, from: *const u8) -> Self::F;
    /// 32 E5M2 bytes as bfloat16.
    ///
    /// # Safety
    /// The CPU has the features of the pairs, and `from` is readable for 32 bytes.
    unsafe fn load_e5m2_words(self, from: *const u8) -> Self::F;
    /// The upper halves of 16 words: f32 that are bfloat16.
    ///
    /// # Safety
    /// The CPU has the features of the pairs, and `to` is writable for 16 numbers.
    unsafe fn store_upper_halves(self, to: *mut u16, v: Self::F);
}

/// A stored format whose numbers are bfloat16 too.
pub(crate) trait Brain<L: Pairs> {
    /// Features `d..d + 32` of a head, two in each word.
    ///
    /// # Safety
    /// The CPU has the features of the pairs, and `head` is readable for its features up to `d + 32`.
    unsafe fn words(lanes: L, head: *const u8, d: usize) -> L::F;
}

impl<L: Pairs> Brain<L> for bf16 {
    #[inline(always)]
    unsafe fn words(lanes: L, head: *const u8, d: usize) -> L::F {
        // SAFETY: by this function's contract.
        unsafe { lanes.load(head.add(2 * d).cast()) }
    }
}

impl<L: Pairs> Brain<L> for E4m3 {
    #[inline(always)]
    unsafe fn words(lanes: L, head: *const u8, d: usize) -> L::F {
        // SAFETY: by this function's contract.
        unsafe { lanes.load_e4m3_words(head.add(d)) }
    }
}

impl<L: Pairs> Brain<L> for E5m2 {
    #[inline(always)]
    unsafe fn words(lanes: L, head: *const u8, d: usize) -> L::F {
        // SAFETY: by this function's contract.
        unsafe { lanes.load_e5m2_words(head.add(d)) }
    }
}

/// `B`, in pairs.
pub(crate) struct Words<B>(PhantomData<B>);

impl<L: Pairs, B: Brain<L>> Element<L> for Words<B> {
    const STEP: usize = 2;

    #[inline(always)]
    unsafe fn columns(lanes: L, heads: [*const u8; LANES], d: usize, to: &mut impl Columns<L>) {
        let mut words = [lanes.splat(0.0); LANES];
        for j in 0..LANES {
            // SAFETY: by this function's contract.
            words[j] = unsafe { B::words(lanes, heads[j], d) };
        }
        let words = lanes.transpose(words);
        for i in 0..LANES {
            // SAFETY: by this function's contract.
            unsafe { to.take(lanes, d / 2 + i, words[i]) };
        }
    }

    #[inline(always)]
    unsafe fn row(lanes: L, heads: &[*const u8], k: usize, d: usize) -> [L::F; VECTORS] {
        // SAFETY: by this function's contract.
        unsafe {
            let even = B::words(lanes, heads[2 * k], d);
            // The last position may be alone.
            let odd = if 2 * k + 1 < heads.len() { B::words(lanes, heads[2 * k + 1], d) } else { lanes.splat(0.0) };
            lanes.interleave(even, odd)
        }
    }

    #[inline(always)]
    unsafe fn add(lanes: L, sum: L::F, row: L::F, x: *const f32) -> L::F {
        // SAFETY: by this function's contract.
        unsafe { lanes.dot_pairs(sum, row, lanes.splat(*x)) }
    }

    #[inline(always)]
    unsafe fn put(lanes: L, weights: *mut f32, p: usize, v: L::F) {
        // SAFETY: by this function's contract.
        unsafe { lanes.store_upper_halves(weights.cast::<u16>().add(p), v) };
    }
}
