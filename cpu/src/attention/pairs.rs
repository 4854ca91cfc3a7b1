//! [`Words`]: bfloat16 multiplied in pairs, where the CPU has an instruction for it.
//!
//! A lane holds two neighbours, two features of a key or two positions of a value, the even one below; the query
//! or the weights are packed alike. The instruction adds the odd product first, then the even one, each sum rounded
//! to nearest, which is the order that [`bf16`](half::bf16) keeps elsewhere: the same bits, but for magnitudes
//! below 2^-126, which become zero here, and for values that are not finite: where a row sees an odd number of
//! positions, the first that it does not see is multiplied by zero.

#![allow(unsafe_op_in_unsafe_fn, reason = "the contract of `lanes.rs`")]

use super::element::{Columns, Element, VECTORS, words_of};
use crate::{bytes::Bytes, lanes::LANES};

/// What an instruction set with pairs has beyond [`Bytes`].
pub(crate) trait Pairs: Bytes {
    /// `sum + a.odd * b.odd + a.even * b.even`, in that order.
    unsafe fn dot_pairs(sum: Self::F, a: Self::F, b: Self::F) -> Self::F;
    /// 32 bfloat16 from each, side by side: `even[i]` below `odd[i]` in lane `i`, then the next 16.
    unsafe fn interleave(even: *const u16, odd: *const u16) -> [Self::F; VECTORS];
    /// The upper halves of 16 words: f32 that are bfloat16.
    unsafe fn store_upper_halves(to: *mut u16, v: Self::F);
}

/// `KvFormat::BF16`, in pairs.
pub(crate) struct Words;

/// What the last position is paired with if it is alone.
static ZEROS: [u16; VECTORS * LANES] = [0; VECTORS * LANES];

impl<L: Pairs> Element<L> for Words {
    const STEP: usize = 2;

    #[inline(always)]
    unsafe fn columns(heads: [*const u8; LANES], d: usize, to: &mut impl Columns<L>) {
        let words = L::transpose(words_of::<L>(heads, d));
        for (i, word) in words.into_iter().enumerate() {
            to.take(d / 2 + i, word);
        }
    }

    #[inline(always)]
    unsafe fn row(heads: &[*const u8], k: usize, d: usize) -> [L::F; VECTORS] {
        let features = |head: &*const u8| head.cast::<u16>().wrapping_add(d);
        let odd = heads.get(2 * k + 1).map_or(ZEROS.as_ptr(), features);
        L::interleave(features(&heads[2 * k]), odd)
    }

    #[inline(always)]
    unsafe fn add(sum: L::F, row: L::F, x: *const f32) -> L::F {
        L::dot_pairs(sum, row, L::splat(*x))
    }

    #[inline(always)]
    unsafe fn put(weights: *mut f32, p: usize, v: L::F) {
        L::store_upper_halves(weights.cast::<u16>().add(p), v);
    }
}
