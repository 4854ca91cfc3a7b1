//! How the formats made of blocks lie in a panel: sixteen rows side by side, so that a vector holds them.
//!
//! A panel is 16 rows of a matrix. Its codes come in blocks of 32 columns, each 8 *steps* of 4 columns;
//! step `s` is 64 bytes, byte `4 * row + k` the code of column `4 * s + k`. Codes of fewer bits are laid
//! over one another in *planes* of 64 bytes:
//!
//! ```text
//! 8 bits   8 planes, step s is plane s
//! 4 bits   4 planes, the low nibbles of plane p are step 2p, the high ones step 2p + 1
//! 2 bits   2 planes, bits 2j and 2j + 1 of plane p are step 4p + j
//! 1 bit    1 plane,  bit s is step s
//! ```
//!
//! 3 bits are a plane set of 2 and one of 1, 5 are 4 + 1, 6 are 4 + 2. As many bits as in the file, in
//! another order; but for indices into grids and ternary digits, which become a code for each element, 3 or 4 and 2 bits.
//! A code is the block's integer plus `OFFSET`, so that it is unsigned, as the hardware
//! wants one side of its dot product; the offset's share is subtracted as `OFFSET` times the sum of the
//! inputs. Scales lie apart from the codes, so that every vector of codes is one cache line.

use half::{bf16, f16};
use quern_backend::quant::{
    Block,
    codebook::{E2M1_DOUBLED, NON_LINEAR},
    fp8::{E4M3, encode_e4m3},
    grid_quants::{CODES_1_M, CODES_2, CODES_3_S, CODES_3_XXS},
};

use crate::{
    int_lanes::{BYTES, IntLanes},
    int8::BLOCK,
    lanes::LANES,
};

/// Columns of a step.
pub(crate) const STEP: usize = 4;

/// Steps of a block.
pub(crate) const STEPS: usize = BLOCK / STEP;

/// How codes of a block of 16 rows × 32 columns lie.
pub(crate) trait Codes {
    /// Bytes of the block.
    const BYTES: usize;
    /// What was added to the integers: 0 or a power of two.
    const OFFSET: u32;
    /// Whether codes use all 8 bits.
    const WIDE: bool;

    /// Write the integers of one row, `steps[s][k]`.
    fn pack(steps: &[[i8; STEP]; STEPS], row: usize, block: &mut [u8]);
    /// The integer of one row and column.
    fn unpack(block: &[u8], row: usize, col: usize) -> i8;
    /// The codes of step `s`.
    ///
    /// # Safety
    /// `block` is readable for `BYTES`.
    unsafe fn step<L: IntLanes>(lanes: L, block: *const u8, s: usize) -> L::B;
}

/// Integers in planes of `LOW` bits, and of `HIGH` bits above them.
pub(crate) struct Planes<const LOW: usize, const HIGH: usize, const OFFSET: u32>;

/// The bytes that `code` makes of a step, as a word.
#[inline(always)]
fn word(step: &[i8; STEP], code: impl Fn(i8) -> u8) -> u32 {
    let &[a, b, c, d] = step;
    u32::from_le_bytes([code(a), code(b), code(c), code(d)])
}

/// Lay `bits` bits from `from` on of one row's codes, a step a word, into planes.
#[inline(always)]
fn pack_bits(steps: &[u32; STEPS], bits: usize, from: usize, row: usize, planes: &mut [u8]) {
    let (per_plane, mask) = (8 / bits, u32::from_ne_bytes([((1u32 << bits) - 1) as u8; STEP]));
    for (steps, plane) in steps.chunks_exact(per_plane).zip(planes.chunks_exact_mut(BYTES)) {
        let word = steps.iter().zip(0..).fold(0, |word, (step, j)| word | (step >> from & mask) << (j * bits));
        plane[STEP * row..STEP * (row + 1)].copy_from_slice(&word.to_le_bytes());
    }
}

/// What `pack_bits` put there for one code.
fn unpack_bits(planes: &[u8], bits: usize, step: usize, byte: usize) -> u8 {
    let per_plane = 8 / bits;
    planes[step / per_plane * BYTES + byte] >> (step % per_plane * bits) & ((1u32 << bits) - 1) as u8
}

/// The `bits` bits of step `s`, moved to bit `to`.
///
/// # Safety
/// `planes` is readable up to step `s`.
#[inline(always)]
unsafe fn load_bits<L: IntLanes>(lanes: L, planes: *const u8, bits: usize, s: usize, to: usize) -> L::B {
    let per_plane = 8 / bits;
    // SAFETY: by this function's contract.
    let plane = unsafe { lanes.load_bytes(planes.add(s / per_plane * BYTES)) };
    let (from, mask) = (s % per_plane * bits, (((1u32 << bits) - 1) << to) as u8);
    match (bits, from >= to) {
        (8, _) => plane,
        (_, true) => lanes.right(plane, (from - to) as u32, mask),
        (_, false) => lanes.left(plane, (to - from) as u32, mask),
    }
}

/// Lay one row's codes, a step a word, into planes of `LOW` bits and of `HIGH` bits behind them.
#[inline(always)]
fn pack_planes<const LOW: usize, const HIGH: usize>(codes: &[u32; STEPS], row: usize, block: &mut [u8]) {
    let (low, high) = block.split_at_mut(LOW * BYTES);
    pack_bits(codes, LOW, 0, row, low);
    if HIGH > 0 {
        pack_bits(codes, HIGH, LOW, row, high);
    }
}

/// What `pack_planes` put there for one row and column.
fn unpack_planes<const LOW: usize, const HIGH: usize>(block: &[u8], row: usize, col: usize) -> u8 {
    let (step, byte) = (col / STEP, STEP * row + col % STEP);
    let (low, high) = block.split_at(LOW * BYTES);
    let code = unpack_bits(low, LOW, step, byte);
    if HIGH == 0 { code } else { code | unpack_bits(high, HIGH, step, byte) << LOW }
}

/// The codes of step `s`.
///
/// # Safety
/// `block` is readable for `LOW + HIGH` planes.
#[inline(always)]
unsafe fn load_planes<L: IntLanes, const LOW: usize, const HIGH: usize>(lanes: L, block: *const u8, s: usize) -> L::B {
    // SAFETY: by this function's contract; planes of the high bits lie behind those of the low ones.
    unsafe {
        let low = load_bits(lanes, block, LOW, s, 0);
        if HIGH == 0 { low } else { lanes.or(low, load_bits(lanes, block.add(LOW * BYTES), HIGH, s, LOW)) }
    }
}

impl<const LOW: usize, const HIGH: usize, const OFFSET: u32> Codes for Planes<LOW, HIGH, OFFSET> {
    const BYTES: usize = (LOW + HIGH) * BYTES;
    const OFFSET: u32 = OFFSET;
    const WIDE: bool = LOW + HIGH == 8;

    #[inline(always)]
    fn pack(steps: &[[i8; STEP]; STEPS], row: usize, block: &mut [u8]) {
        let mut codes = [0; STEPS];
        if OFFSET == 0 || OFFSET == 1 << (LOW + HIGH - 1) {
            // As many bits as the integers have, half of which are below zero: adding the offset is flipping its bit.
            // What it leaves above those bits is masked.
            let offset = u32::from_ne_bytes([OFFSET as u8; STEP]);
            codes.iter_mut().zip(steps).for_each(|(code, step)| *code = word(step, |q| q as u8) ^ offset);
        } else {
            let offset = OFFSET as u8;
            codes.iter_mut().zip(steps).for_each(|(code, step)| *code = word(step, |q| (q as u8).wrapping_add(offset)));
        }
        pack_planes::<LOW, HIGH>(&codes, row, block);
    }

    fn unpack(block: &[u8], row: usize, col: usize) -> i8 {
        unpack_planes::<LOW, HIGH>(block, row, col).wrapping_sub(OFFSET as u8) as i8
    }

    #[inline(always)]
    unsafe fn step<L: IntLanes>(lanes: L, block: *const u8, s: usize) -> L::B {
        // SAFETY: by this function's contract.
        unsafe { load_planes::<L, LOW, HIGH>(lanes, block, s) }
    }
}

/// Values that codes of 4 bits or 3 choose from.
pub(crate) trait Codebook {
    /// The values. Codes of 3 bits choose from the first eight.
    const VALUES: [i8; 16];
    /// Added to each so that it is not negative.
    const OFFSET: u32;
    /// `VALUES` and `OFFSET` added up.
    const SHIFTED: [u8; 16] = {
        let mut shifted = [0; 16];
        let mut i = 0;
        while i < 16 {
            shifted[i] = (Self::VALUES[i] as i32 + Self::OFFSET as i32) as u8;
            i += 1;
        }
        shifted
    };
    /// The code of each value, taken as a `u8`. Where two codes mean one value, the first of them.
    const CODES: [u8; 256] = {
        let mut codes = [0; 256];
        let mut i = 16;
        while i > 0 {
            i -= 1;
            codes[Self::VALUES[i] as u8 as usize] = i as u8;
        }
        codes
    };
}

/// See [`NON_LINEAR`].
pub(crate) struct NonLinear;

impl Codebook for NonLinear {
    const VALUES: [i8; 16] = NON_LINEAR;
    const OFFSET: u32 = 128;
}

/// See [`E2M1_DOUBLED`].
pub(crate) struct E2m1;

impl Codebook for E2m1 {
    const VALUES: [i8; 16] = E2M1_DOUBLED;
    const OFFSET: u32 = 16;
}

/// See [`CODES_1_M`].
pub(crate) struct Grid1M;

impl Codebook for Grid1M {
    const VALUES: [i8; 16] = twice(CODES_1_M);
    const OFFSET: u32 = 16;
}

/// See [`CODES_2`].
pub(crate) struct Grid2;

impl Codebook for Grid2 {
    const VALUES: [i8; 16] = twice(CODES_2);
    const OFFSET: u32 = 64;
}

/// See [`CODES_3_XXS`].
pub(crate) struct Grid3Xxs;

impl Codebook for Grid3Xxs {
    const VALUES: [i8; 16] = CODES_3_XXS;
    const OFFSET: u32 = 64;
}

/// See [`CODES_3_S`].
pub(crate) struct Grid3S;

impl Codebook for Grid3S {
    const VALUES: [i8; 16] = CODES_3_S;
    const OFFSET: u32 = 16;
}

/// A codebook of eight values, whatever the fourth bit of a code.
const fn twice([a, b, c, d, e, f, g, h]: [i8; 8]) -> [i8; 16] {
    [a, b, c, d, e, f, g, h, a, b, c, d, e, f, g, h]
}

/// Integers of a codebook: planes of `LOW` bits, and of `HIGH` bits above them.
pub(crate) struct CodebookCodes<B, const LOW: usize, const HIGH: usize>(B);

impl<B: Codebook, const LOW: usize, const HIGH: usize> Codes for CodebookCodes<B, LOW, HIGH> {
    const BYTES: usize = (LOW + HIGH) * BYTES;
    const OFFSET: u32 = B::OFFSET;
    const WIDE: bool = B::OFFSET == 128;

    #[inline(always)]
    fn pack(steps: &[[i8; STEP]; STEPS], row: usize, block: &mut [u8]) {
        let mut codes = [0; STEPS];
        codes.iter_mut().zip(steps).for_each(|(code, step)| *code = word(step, |q| B::CODES[q as u8 as usize]));
        pack_planes::<LOW, HIGH>(&codes, row, block);
    }

    fn unpack(block: &[u8], row: usize, col: usize) -> i8 {
        B::VALUES[unpack_planes::<LOW, HIGH>(block, row, col) as usize]
    }

    #[inline(always)]
    unsafe fn step<L: IntLanes>(lanes: L, block: *const u8, s: usize) -> L::B {
        // SAFETY: by this function's contract.
        let codes = unsafe { load_planes::<L, LOW, HIGH>(lanes, block, s) };
        lanes.look_up(const { &B::SHIFTED }, codes)
    }
}

/// How the scales of 16 rows lie, for as many columns as share one.
pub(crate) trait Scales {
    /// Blocks of 32 columns that share the outer scale.
    const BLOCKS: usize;
    /// Groups in a block of 32 columns, each with a scale: 1 or 2.
    const GROUPS: usize;
    /// Whether something is subtracted.
    const MINS: bool;
    /// Bytes of 16 rows.
    const BYTES: usize;

    /// Write those of one row.
    fn pack(block: &Block, row: usize, scales: &mut [u8]);
    /// Read those of one row.
    fn unpack(scales: &[u8], row: usize, block: &mut Block);
    /// What all groups share, 16 rows of it: the outer scale and the outer minimum.
    ///
    /// # Safety
    /// `scales` is readable for `BYTES`.
    unsafe fn outer<L: IntLanes>(lanes: L, scales: *const u8) -> (L::F, L::F);
    /// Scale and minimum of group `g`, counted from the first of `scales`.
    ///
    /// # Safety
    /// `scales` is readable for `BYTES`.
    unsafe fn group<L: IntLanes>(lanes: L, scales: *const u8, outer: (L::F, L::F), g: usize) -> (L::F, L::F);
}

/// Bytes of 16 rows of 16-bit scales.
const HALVES: usize = 2 * LANES;

fn put_half(scales: &mut [u8], row: usize, bits: u16) {
    scales[2 * row..2 * row + 2].copy_from_slice(&bits.to_le_bytes());
}

fn half_of(scales: &[u8], row: usize) -> u16 {
    u16::from_le_bytes([scales[2 * row], scales[2 * row + 1]])
}

/// One scale for 32 columns: binary16, or bfloat16 if `BRAIN` (powers of two beyond binary16's); with
/// `MINS` a binary16 minimum after the scales.
pub(crate) struct PlainScales<const BRAIN: bool, const MINS: bool>;

impl<const BRAIN: bool, const MINS: bool> Scales for PlainScales<BRAIN, MINS> {
    const BLOCKS: usize = 1;
    const GROUPS: usize = 1;
    const MINS: bool = MINS;
    const BYTES: usize = if MINS { 2 * HALVES } else { HALVES };

    #[inline(always)]
    fn pack(block: &Block, row: usize, scales: &mut [u8]) {
        let bits = if BRAIN { bf16::from_f32(block.scale).to_bits() } else { f16::from_f32(block.scale).to_bits() };
        put_half(scales, row, bits);
        if MINS {
            put_half(&mut scales[HALVES..], row, f16::from_f32(block.min).to_bits());
        }
    }

    fn unpack(scales: &[u8], row: usize, block: &mut Block) {
        let bits = half_of(scales, row);
        block.scale = if BRAIN { bf16::from_bits(bits).to_f32() } else { f16::from_bits(bits).to_f32() };
        if MINS {
            block.min = f16::from_bits(half_of(&scales[HALVES..], row)).to_f32();
        }
    }

    #[inline(always)]
    unsafe fn outer<L: IntLanes>(lanes: L, scales: *const u8) -> (L::F, L::F) {
        // SAFETY: by this function's contract.
        unsafe {
            let scale = if BRAIN { lanes.load_bf16(scales.cast()) } else { lanes.load_f16(scales.cast()) };
            (scale, if MINS { lanes.load_f16(scales.add(HALVES).cast()) } else { lanes.splat(0.0) })
        }
    }

    #[inline(always)]
    unsafe fn group<L: IntLanes>(_: L, _: *const u8, outer: (L::F, L::F), _: usize) -> (L::F, L::F) {
        outer
    }
}

/// Two levels over 256 columns: binary16 scales (and minimums), then for each group the 16 rows' integers,
/// scales before minimums. What is binary16 is written as `DIVISOR` times what it is, a power of two: the binary16 of
/// the file, where its groups count parts of it.
pub(crate) struct Nested<const GROUPS: usize, const MINS: bool, const DIVISOR: u32>;

impl<const GROUPS: usize, const MINS: bool, const DIVISOR: u32> Nested<GROUPS, MINS, DIVISOR> {
    /// Kinds of scales: only scales, or minimums too.
    const KINDS: usize = if MINS { 2 } else { 1 };

    /// Where the integers of group `g` begin.
    #[inline(always)]
    fn at(g: usize) -> usize {
        Self::KINDS * (HALVES + g * LANES)
    }
}

/// 16 binary16 over `DIVISOR`.
///
/// # Safety
/// `from` is readable for [`HALVES`].
#[inline(always)]
unsafe fn load_halves<L: IntLanes, const DIVISOR: u32>(lanes: L, from: *const u8) -> L::F {
    // SAFETY: by this function's contract.
    let values = unsafe { lanes.load_f16(from.cast()) };
    if DIVISOR == 1 { values } else { lanes.mul(values, lanes.splat(1.0 / DIVISOR as f32)) }
}

impl<const GROUPS: usize, const MINS: bool, const DIVISOR: u32> Scales for Nested<GROUPS, MINS, DIVISOR> {
    const BLOCKS: usize = 8;
    const GROUPS: usize = GROUPS;
    const MINS: bool = MINS;
    const BYTES: usize = Self::KINDS * (HALVES + 8 * GROUPS * LANES);

    #[inline(always)]
    fn pack(block: &Block, row: usize, scales: &mut [u8]) {
        put_half(scales, row, f16::from_f32(block.scale * DIVISOR as f32).to_bits());
        if MINS {
            put_half(&mut scales[HALVES..], row, f16::from_f32(block.min * DIVISOR as f32).to_bits());
        }
        for g in 0..8 * GROUPS {
            scales[Self::at(g) + row] = block.scales[g] as i8 as u8;
            if MINS {
                scales[Self::at(g) + LANES + row] = block.mins[g] as u8;
            }
        }
    }

    fn unpack(scales: &[u8], row: usize, block: &mut Block) {
        block.scale = f16::from_bits(half_of(scales, row)).to_f32() / DIVISOR as f32;
        if MINS {
            block.min = f16::from_bits(half_of(&scales[HALVES..], row)).to_f32() / DIVISOR as f32;
        }
        for g in 0..8 * GROUPS {
            block.scales[g] = f32::from(scales[Self::at(g) + row] as i8);
            if MINS {
                block.mins[g] = scales[Self::at(g) + LANES + row] as i8;
            }
        }
    }

    #[inline(always)]
    unsafe fn outer<L: IntLanes>(lanes: L, scales: *const u8) -> (L::F, L::F) {
        // SAFETY: by this function's contract.
        unsafe {
            let scale = load_halves::<L, DIVISOR>(lanes, scales);
            (scale, if MINS { load_halves::<L, DIVISOR>(lanes, scales.add(HALVES)) } else { lanes.splat(0.0) })
        }
    }

    #[inline(always)]
    unsafe fn group<L: IntLanes>(lanes: L, scales: *const u8, outer: (L::F, L::F), g: usize) -> (L::F, L::F) {
        // SAFETY: by this function's contract.
        unsafe {
            let scale = lanes.mul(outer.0, lanes.load_i8(scales.add(Self::at(g)).cast()));
            let min =
                if MINS { lanes.mul(outer.1, lanes.load_i8(scales.add(Self::at(g) + LANES).cast())) } else { outer.1 };
            (scale, min)
        }
    }
}

/// Two levels over 64 columns: binary32 scales, then for each group of 16 columns the 16 rows' E4M3.
pub(crate) struct E4m3Scales;

impl E4m3Scales {
    /// Where the E4M3 of group `g` begin.
    #[inline(always)]
    fn at(g: usize) -> usize {
        4 * LANES + g * LANES
    }
}

impl Scales for E4m3Scales {
    const BLOCKS: usize = 2;
    const GROUPS: usize = 2;
    const MINS: bool = false;
    const BYTES: usize = 4 * LANES + 4 * LANES;

    #[inline(always)]
    fn pack(block: &Block, row: usize, scales: &mut [u8]) {
        scales[4 * row..4 * row + 4].copy_from_slice(&block.scale.to_le_bytes());
        for g in 0..4 {
            scales[Self::at(g) + row] = encode_e4m3(block.scales[g]);
        }
    }

    fn unpack(scales: &[u8], row: usize, block: &mut Block) {
        let [a, b, c, d] = scales[4 * row..][..4] else { unreachable!("a slice of four") };
        block.scale = f32::from_le_bytes([a, b, c, d]);
        for g in 0..4 {
            block.scales[g] = E4M3[scales[Self::at(g) + row] as usize];
        }
    }

    #[inline(always)]
    unsafe fn outer<L: IntLanes>(lanes: L, scales: *const u8) -> (L::F, L::F) {
        // SAFETY: by this function's contract.
        (unsafe { lanes.load(scales.cast()) }, lanes.splat(0.0))
    }

    #[inline(always)]
    unsafe fn group<L: IntLanes>(lanes: L, scales: *const u8, outer: (L::F, L::F), g: usize) -> (L::F, L::F) {
        // SAFETY: by this function's contract.
        (lanes.mul(outer.0, unsafe { lanes.load_e4m3(scales.add(Self::at(g))) }), outer.1)
    }
}

/// The one table of panels: `$f::<codes, scales>` for the block format `$format`.
macro_rules! panel_format {
    ($format:expr, $f:ident) => {{
        use quern_backend::QuantFormat;
        use $crate::panels::format::{
            CodebookCodes, E2m1, E4m3Scales, Grid1M, Grid2, Grid3S, Grid3Xxs, Nested, NonLinear, PlainScales, Planes,
        };
        match $format {
            QuantFormat::Q4_0 => $f::<Planes<4, 0, 8>, PlainScales<false, false>>,
            QuantFormat::Q4_1 => $f::<Planes<4, 0, 0>, PlainScales<false, true>>,
            QuantFormat::Q5_0 => $f::<Planes<4, 1, 16>, PlainScales<false, false>>,
            QuantFormat::Q5_1 => $f::<Planes<4, 1, 0>, PlainScales<false, true>>,
            QuantFormat::Q8_0 => $f::<Planes<8, 0, 128>, PlainScales<false, false>>,
            QuantFormat::Q2K => $f::<Planes<2, 0, 0>, Nested<2, true, 1>>,
            QuantFormat::Q3K => $f::<Planes<2, 1, 4>, Nested<2, false, 1>>,
            QuantFormat::Q4K => $f::<Planes<4, 0, 0>, Nested<1, true, 1>>,
            QuantFormat::Q5K => $f::<Planes<4, 1, 0>, Nested<1, true, 1>>,
            QuantFormat::Q6K => $f::<Planes<4, 2, 32>, Nested<2, false, 1>>,
            QuantFormat::Iq4Nl => $f::<CodebookCodes<NonLinear, 4, 0>, PlainScales<false, false>>,
            QuantFormat::Iq4Xs => $f::<CodebookCodes<NonLinear, 4, 0>, Nested<1, false, 1>>,
            QuantFormat::Mxfp4 => $f::<CodebookCodes<E2m1, 4, 0>, PlainScales<true, false>>,
            QuantFormat::Iq1S => $f::<Planes<2, 0, 1>, Nested<1, true, 8>>,
            QuantFormat::Iq1M => $f::<CodebookCodes<Grid1M, 2, 1>, Nested<2, false, 8>>,
            QuantFormat::Iq2Xxs => $f::<CodebookCodes<Grid2, 2, 1>, Nested<1, false, 8>>,
            QuantFormat::Iq2Xs | QuantFormat::Iq2S => $f::<CodebookCodes<Grid2, 2, 1>, Nested<2, false, 8>>,
            QuantFormat::Iq3Xxs => $f::<CodebookCodes<Grid3Xxs, 4, 0>, Nested<1, false, 8>>,
            QuantFormat::Iq3S => $f::<CodebookCodes<Grid3S, 4, 0>, Nested<1, false, 1>>,
            QuantFormat::Tq1_0 | QuantFormat::Tq2_0 => $f::<Planes<2, 0, 1>, Nested<1, false, 1>>,
            QuantFormat::Nvfp4 => $f::<CodebookCodes<E2m1, 4, 0>, E4m3Scales>,
            format @ (QuantFormat::F32 | QuantFormat::F16 | QuantFormat::BF16 | QuantFormat::Fp8Block128) => {
                unreachable!("{format} has no blocks")
            }
        }
    }};
}
pub(crate) use panel_format;
