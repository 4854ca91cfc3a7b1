//! [`Lanes`]: the vocabulary the kernels are written in, sixteen f32 side by side on every CPU.
//!
//! A 512-bit register holds them all, AVX2 takes two registers, NEON four, the scalar twin an array.
//! Because each lane does the same additions everywhere and sums of lanes follow one tree, **every
//! instruction set gives the same bits**; the scalar twin is an exact oracle for the others.
//!
//! Contract of every `unsafe fn` here and of the generic kernels built on it: the CPU has the features
//! that the instance `L` stands for (see `detect.rs`), and each pointer is valid for the lanes named
//! in its documentation. Nothing needs alignment.

#![allow(unsafe_op_in_unsafe_fn, reason = "one contract for the whole vocabulary, stated above")]

/// Lanes of one vector.
pub(crate) const LANES: usize = 16;

/// Bytes of a cache line: what [`Lanes::prefetch`] asks for.
pub(crate) const LINE: usize = 64;

/// Sixteen f32 and what can be done with them.
pub(crate) trait Lanes: Copy + 'static {
    /// The sixteen.
    type F: Copy;

    /// `x` in every lane.
    ///
    /// # Safety
    /// The CPU has the features of `Self`.
    unsafe fn splat(x: f32) -> Self::F;
    /// 16 f32.
    ///
    /// # Safety
    /// The CPU has the features of `Self`, and `from` is readable for 16 f32.
    unsafe fn load(from: *const f32) -> Self::F;
    /// 16 f32.
    ///
    /// # Safety
    /// The CPU has the features of `Self`, and `to` is writable for 16 f32.
    unsafe fn store(to: *mut f32, v: Self::F);
    /// 16 bfloat16, expanded exactly.
    ///
    /// # Safety
    /// The CPU has the features of `Self`, and `from` is readable for 16 numbers.
    unsafe fn load_bf16(from: *const u16) -> Self::F;
    /// 16 binary16, expanded exactly.
    ///
    /// # Safety
    /// The CPU has the features of `Self`, and `from` is readable for 16 numbers.
    unsafe fn load_f16(from: *const u16) -> Self::F;
    /// 32 bfloat16 as those of even and those of odd index.
    ///
    /// # Safety
    /// The CPU has the features of `Self`, and `from` is readable for 64 bytes.
    unsafe fn load_bf16_pairs(from: *const u8) -> (Self::F, Self::F);
    /// 32 E4M3 bytes as those of even and those of odd index, expanded exactly.
    ///
    /// # Safety
    /// The CPU has the features of `Self`, and `from` is readable for 32 bytes.
    unsafe fn load_e4m3_pairs(from: *const u8) -> (Self::F, Self::F);
    /// 16 E4M3 bytes, expanded exactly.
    ///
    /// # Safety
    /// The CPU has the features of `Self`, and `from` is readable for 16 bytes.
    unsafe fn load_e4m3(from: *const u8) -> Self::F;
    /// 16 E5M2 bytes, expanded exactly.
    ///
    /// # Safety
    /// The CPU has the features of `Self`, and `from` is readable for 16 bytes.
    unsafe fn load_e5m2(from: *const u8) -> Self::F;
    /// Lane `j` of vector `i` becomes lane `i` of vector `j`; bits, whatever they mean.
    ///
    /// # Safety
    /// The CPU has the features of `Self`.
    unsafe fn transpose(rows: [Self::F; LANES]) -> [Self::F; LANES];
    /// `a + b`.
    ///
    /// # Safety
    /// The CPU has the features of `Self`.
    unsafe fn add(a: Self::F, b: Self::F) -> Self::F;
    /// `a - b`.
    ///
    /// # Safety
    /// The CPU has the features of `Self`.
    unsafe fn sub(a: Self::F, b: Self::F) -> Self::F;
    /// `a * b`.
    ///
    /// # Safety
    /// The CPU has the features of `Self`.
    unsafe fn mul(a: Self::F, b: Self::F) -> Self::F;
    /// `a / b`.
    ///
    /// # Safety
    /// The CPU has the features of `Self`.
    unsafe fn div(a: Self::F, b: Self::F) -> Self::F;
    /// `a * b + c`, rounded once.
    ///
    /// # Safety
    /// The CPU has the features of `Self`.
    unsafe fn fma(a: Self::F, b: Self::F, c: Self::F) -> Self::F;
    /// `a` where `a > b`, else `b`: a NaN in `b` stays, one in `a` is dropped.
    ///
    /// # Safety
    /// The CPU has the features of `Self`.
    unsafe fn max(a: Self::F, b: Self::F) -> Self::F;
    /// `a` where `a < b`, else `b`.
    ///
    /// # Safety
    /// The CPU has the features of `Self`.
    unsafe fn min(a: Self::F, b: Self::F) -> Self::F;
    /// The nearest integers, ties to even.
    ///
    /// # Safety
    /// The CPU has the features of `Self`.
    unsafe fn round(v: Self::F) -> Self::F;
    /// `2^n` for integers `n` in -126..=127, and 0 for -127.
    ///
    /// # Safety
    /// The CPU has the features of `Self`.
    unsafe fn pow2(n: Self::F) -> Self::F;
    /// Ask for the cache line at `from`, which need not exist.
    ///
    /// # Safety
    /// The CPU has the features of `Self`.
    unsafe fn prefetch(from: *const u8);
    /// The same, into the second-level cache.
    ///
    /// # Safety
    /// The CPU has the features of `Self`.
    unsafe fn prefetch_far(from: *const u8);
    /// Sum of all lanes: lane `i` with `i + 8`, then `i + 4`, `i + 2`, `i + 1`.
    ///
    /// # Safety
    /// The CPU has the features of `Self`.
    unsafe fn sum(v: Self::F) -> f32;
}

/// The first `n` of 16 f32, zeros behind them.
///
/// # Safety
/// The CPU has the features of `L`, and `from` is readable for `n.min(16)` f32.
#[inline(always)]
pub(crate) unsafe fn load_first<L: Lanes>(from: *const f32, n: usize) -> L::F {
    if n >= LANES {
        return L::load(from);
    }
    let mut lanes = [0.0; LANES];
    std::ptr::copy_nonoverlapping(from, lanes.as_mut_ptr(), n);
    L::load(lanes.as_ptr())
}

/// Store the first `n` of 16 lanes.
///
/// # Safety
/// The CPU has the features of `L`, and `to` is writable for `n.min(16)` f32.
#[inline(always)]
pub(crate) unsafe fn store_first<L: Lanes>(to: *mut f32, n: usize, v: L::F) {
    if n >= LANES {
        return L::store(to, v);
    }
    let mut lanes = [0.0; LANES];
    L::store(lanes.as_mut_ptr(), v);
    std::ptr::copy_nonoverlapping(lanes.as_ptr(), to, n);
}

/// Largest lane; NaN lanes do not count.
///
/// # Safety
/// The CPU has the features of `L`.
#[inline(always)]
pub(crate) unsafe fn largest<L: Lanes>(v: L::F) -> f32 {
    let mut lanes = [0.0; LANES];
    L::store(lanes.as_mut_ptr(), v);
    lanes.into_iter().fold(f32::NEG_INFINITY, |best, x| if x > best { x } else { best })
}

/// `e^x`, relative error below 2e-7; 0 below about -87.7, `e^88` above 88, NaN for NaN.
///
/// `x = n ln 2 + r` with `|r| <= ln 2 / 2`, then the Taylor polynomial of degree 7 (remainder
/// `0.3466^8 / 8!`, 5e-9) and a shift of the exponent. `ln 2` in two parts (Cody & Waite 1980), the
/// upper one short enough that `n` times it is exact.
///
/// # Safety
/// The CPU has the features of `L`.
#[inline(always)]
pub(crate) unsafe fn exp<L: Lanes>(x: L::F) -> L::F {
    // The order of operands lets a NaN through; see `Lanes::max`.
    let x = L::min(L::splat(88.0), L::max(L::splat(-88.0), x));
    let n = L::round(L::mul(x, L::splat(std::f32::consts::LOG2_E)));
    let r = L::fma(n, L::splat(-0.693_359_4), x);
    let r = L::fma(n, L::splat(2.121_944_4e-4), r);
    let mut p = L::splat(1.0 / 5040.0);
    for c in [1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0] {
        p = L::fma(p, r, L::splat(c));
    }
    L::mul(p, L::pow2(n))
}

/// The f32 of 8 significant bits nearest to `v`, at most 2^111 in magnitude: Veltkamp's split (Dekker 1971, "A
/// floating-point technique for extending the available precision").
///
/// # Safety
/// The CPU has the features of `L`.
#[inline(always)]
pub(crate) unsafe fn nearest_bf16<L: Lanes>(v: L::F) -> L::F {
    let far = L::mul(v, L::splat(65537.0));
    L::sub(far, L::sub(far, v))
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
