//! [`Lanes`]: the vocabulary the kernels are written in, sixteen f32 side by side on every CPU.
//!
//! A 512-bit register holds them all, AVX2 takes two registers, NEON four, the scalar twin an array.
//! Because each lane does the same additions everywhere and sums of lanes follow one tree, **every
//! instruction set gives the same bits**; the scalar twin is an exact oracle for the others.
//!
//! **A value of an instance shows that the CPU has its features**: the entry points, which are compiled for them,
//! make it (`arch/mod.rs`), and kernels hand it on. It has no bytes. So arithmetic is safe; what stays unsafe
//! is to read and write by pointers, each valid for the lanes named in its documentation. Nothing needs alignment.

/// Lanes of one vector.
pub(crate) const LANES: usize = 16;

/// Bytes of a cache line: what [`Lanes::prefetch`] asks for.
pub(crate) const LINE: usize = 64;

/// Sixteen f32 and what can be done with them.
pub(crate) trait Lanes: Copy + 'static {
    /// The sixteen.
    type F: Copy;

    /// The instance.
    ///
    /// # Safety
    /// The CPU has the features of `Self`.
    unsafe fn new_unchecked() -> Self;

    /// `x` in every lane.
    fn splat(self, x: f32) -> Self::F;
    /// 16 f32.
    ///
    /// # Safety
    /// `from` is readable for 16 f32.
    unsafe fn load(self, from: *const f32) -> Self::F;
    /// 16 f32.
    ///
    /// # Safety
    /// `to` is writable for 16 f32.
    unsafe fn store(self, to: *mut f32, v: Self::F);
    /// 16 bfloat16, expanded exactly.
    ///
    /// # Safety
    /// `from` is readable for 16 numbers.
    unsafe fn load_bf16(self, from: *const u16) -> Self::F;
    /// 16 binary16, expanded exactly.
    ///
    /// # Safety
    /// `from` is readable for 16 numbers.
    unsafe fn load_f16(self, from: *const u16) -> Self::F;
    /// 32 bfloat16 as those of even and those of odd index.
    ///
    /// # Safety
    /// `from` is readable for 64 bytes.
    unsafe fn load_bf16_pairs(self, from: *const u8) -> (Self::F, Self::F);
    /// 32 E4M3 bytes as those of even and those of odd index, expanded exactly.
    ///
    /// # Safety
    /// `from` is readable for 32 bytes.
    unsafe fn load_e4m3_pairs(self, from: *const u8) -> (Self::F, Self::F);
    /// 16 E4M3 bytes, expanded exactly.
    ///
    /// # Safety
    /// `from` is readable for 16 bytes.
    unsafe fn load_e4m3(self, from: *const u8) -> Self::F;
    /// 16 E5M2 bytes, expanded exactly.
    ///
    /// # Safety
    /// `from` is readable for 16 bytes.
    unsafe fn load_e5m2(self, from: *const u8) -> Self::F;
    /// Lane `j` of vector `i` becomes lane `i` of vector `j`; bits, whatever they mean.
    fn transpose(self, rows: [Self::F; LANES]) -> [Self::F; LANES];
    /// `a + b`.
    fn add(self, a: Self::F, b: Self::F) -> Self::F;
    /// `a - b`.
    fn sub(self, a: Self::F, b: Self::F) -> Self::F;
    /// `a * b`.
    fn mul(self, a: Self::F, b: Self::F) -> Self::F;
    /// `a / b`.
    fn div(self, a: Self::F, b: Self::F) -> Self::F;
    /// `a * b + c`, rounded once.
    fn fma(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F;
    /// `a` where `a > b`, else `b`: a NaN in `b` stays, one in `a` is dropped.
    fn max(self, a: Self::F, b: Self::F) -> Self::F;
    /// `a` where `a < b`, else `b`.
    fn min(self, a: Self::F, b: Self::F) -> Self::F;
    /// The nearest integers, ties to even.
    fn round(self, v: Self::F) -> Self::F;
    /// `2^n` for integers `n` in -126..=127, and 0 for -127.
    fn pow2(self, n: Self::F) -> Self::F;
    /// Ask for the cache line at `from`, which need not exist.
    fn prefetch(self, from: *const u8);
    /// The same, into the second-level cache.
    fn prefetch_far(self, from: *const u8);
    /// Sum of all lanes: lane `i` with `i + 8`, then `i + 4`, `i + 2`, `i + 1`.
    fn sum(self, v: Self::F) -> f32;

    /// 16 f32.
    #[inline(always)]
    fn load_array(self, from: &[f32; LANES]) -> Self::F {
        // SAFETY: an array of 16.
        unsafe { self.load(from.as_ptr()) }
    }
    /// 16 f32.
    #[inline(always)]
    fn store_array(self, to: &mut [f32; LANES], v: Self::F) {
        // SAFETY: an array of 16.
        unsafe { self.store(to.as_mut_ptr(), v) }
    }
}

/// The first 16 f32, zeros where there are fewer.
#[inline(always)]
pub(crate) fn load_first<L: Lanes>(lanes: L, from: &[f32]) -> L::F {
    if let Some(whole) = from.first_chunk() {
        return lanes.load_array(whole);
    }
    let mut padded = [0.0; LANES];
    padded[..from.len()].copy_from_slice(from);
    lanes.load_array(&padded)
}

/// Store the first lanes, 16 or as many as there is room for.
#[inline(always)]
pub(crate) fn store_first<L: Lanes>(lanes: L, to: &mut [f32], v: L::F) {
    if let Some(whole) = to.first_chunk_mut() {
        return lanes.store_array(whole, v);
    }
    let mut all = [0.0; LANES];
    lanes.store_array(&mut all, v);
    to.copy_from_slice(&all[..to.len()]);
}

/// Largest lane; NaN lanes do not count.
#[inline(always)]
pub(crate) fn largest<L: Lanes>(lanes: L, v: L::F) -> f32 {
    let mut all = [0.0; LANES];
    lanes.store_array(&mut all, v);
    all.into_iter().fold(f32::NEG_INFINITY, |best, x| if x > best { x } else { best })
}

/// `e^x`, relative error below 2e-7; 0 below about -87.7, `e^88` above 88, NaN for NaN.
///
/// `x = n ln 2 + r` with `|r| <= ln 2 / 2`, then the Taylor polynomial of degree 7 (remainder
/// `0.3466^8 / 8!`, 5e-9) and a shift of the exponent. `ln 2` in two parts (Cody & Waite 1980), the
/// upper one short enough that `n` times it is exact.
#[inline(always)]
pub(crate) fn exp<L: Lanes>(lanes: L, x: L::F) -> L::F {
    // The order of operands lets a NaN through; see `Lanes::max`.
    let x = lanes.min(lanes.splat(88.0), lanes.max(lanes.splat(-88.0), x));
    let n = lanes.round(lanes.mul(x, lanes.splat(std::f32::consts::LOG2_E)));
    let r = lanes.fma(n, lanes.splat(-0.693_359_4), x);
    let r = lanes.fma(n, lanes.splat(2.121_944_4e-4), r);
    let mut p = lanes.splat(1.0 / 5040.0);
    for c in [1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0] {
        p = lanes.fma(p, r, lanes.splat(c));
    }
    lanes.mul(p, lanes.pow2(n))
}

/// The f32 of 8 significant bits nearest to `v`, at most 2^111 in magnitude: Veltkamp's split (Dekker 1971, "A
/// floating-point technique for extending the available precision").
#[inline(always)]
pub(crate) fn nearest_bf16<L: Lanes>(lanes: L, v: L::F) -> L::F {
    let far = lanes.mul(v, lanes.splat(65537.0));
    lanes.sub(far, lanes.sub(far, v))
}

/// The bfloat16 nearest to `x`, ties to even; NaN stays NaN.
#[inline(always)]
pub(crate) fn to_bf16(x: f32) -> u16 {
    let bits = x.to_bits();
    let rounded = (bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) >> 16) as u16;
    if x.is_nan() { (bits >> 16) as u16 | 0x40 } else { rounded }
}

/// `x` rounded to bfloat16.
#[inline(always)]
pub(crate) fn round_to_bf16(x: f32) -> f32 {
    f32::from_bits(u32::from(to_bf16(x)) << 16)
}
