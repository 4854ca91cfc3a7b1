//! [`IntLanes`]: the integer half of the vocabulary, sixteen groups of four bytes and sixteen i32.
//!
//! Group `i` of four bytes belongs to lane `i`: a product with blocks keeps a row of weights in each
//! lane, four of its columns in the four bytes, so that [`Dot4`] adds four columns of sixteen rows at
//! once and nothing is left to sum across lanes. Integers are exact, so every instruction set gives the
//! same bits here without any care for order.

use crate::lanes::{LANES, Lanes};

/// Bytes of one vector.
pub(crate) const BYTES: usize = 4 * LANES;

/// Sixty-four bytes, sixteen i32, and what can be done with them.
pub(crate) trait IntLanes: Lanes {
    /// The sixty-four.
    type B: Copy;
    /// The sixteen.
    type I: Copy;

    /// 64 bytes.
    ///
    /// # Safety
    /// `from` is readable for 64 bytes.
    unsafe fn load_bytes(self, from: *const u8) -> Self::B;
    /// 64 bytes.
    ///
    /// # Safety
    /// `to` is writable for 64 bytes.
    unsafe fn store_bytes(self, to: *mut u8, b: Self::B);
    /// In each byte the bits of `mask` of the byte shifted right by `by`, which is below 8. The mask is
    /// 0 where bits of a neighbour would come in.
    fn right(self, b: Self::B, by: u32, mask: u8) -> Self::B;
    /// The same, shifted left.
    fn left(self, b: Self::B, by: u32, mask: u8) -> Self::B;
    /// Bits of either.
    fn or(self, a: Self::B, b: Self::B) -> Self::B;
    /// `table[code]` for codes below 16.
    fn look_up(self, table: &[u8; 16], codes: Self::B) -> Self::B;
    /// Byte `at` of each group of four, unsigned.
    fn byte(self, b: Self::B, at: u32) -> Self::F;
    /// The four bytes at `from` in every lane.
    ///
    /// # Safety
    /// `from` is readable for 4 bytes.
    unsafe fn splat_word(self, from: *const u8) -> Self::I;
    /// Zeros.
    fn zero(self) -> Self::I;
    /// As f32; exact below 2^24.
    fn to_f32(self, i: Self::I) -> Self::F;
    /// 16 signed bytes.
    ///
    /// # Safety
    /// `from` is readable for 16 bytes.
    unsafe fn load_i8(self, from: *const i8) -> Self::F;
}

/// How four unsigned bytes meet four signed ones.
pub(crate) trait Dot4<L: IntLanes> {
    /// `sum`, which fits 16 bits, times `2^by`.
    ///
    /// # Safety
    /// The CPU has the features of `Self`.
    unsafe fn start(sum: L::I, by: u32) -> L::I;
    /// `acc + w[0] * x[0] + … + w[3] * x[3]` in each lane, where `x` are four signed bytes. Unless `WIDE`,
    /// `w` is below 128.
    ///
    /// # Safety
    /// The CPU has the features of `Self`.
    unsafe fn dot<const WIDE: bool>(acc: L::I, w: L::B, x: L::I) -> L::I;
}
