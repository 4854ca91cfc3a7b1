//! Instances of [`Lanes`](crate::lanes::Lanes) and the entry points compiled for each of them. All
//! intrinsics of the project are here.
//!
//! A generic kernel is `#[inline(always)]` and knows no CPU feature; an entry point carries the
//! features and calls it, so the whole kernel is compiled for them. It is the entry point that makes the value
//! which shows them. (Both attributes on one function are refused, so that the small functions of an instance
//! call their intrinsics in `unsafe` blocks.)

#[cfg(target_arch = "x86_64")]
pub(crate) mod avx2;
#[cfg(target_arch = "x86_64")]
pub(crate) mod avx512;
#[cfg(target_arch = "x86_64")]
pub(crate) mod avx512bf16;
#[cfg(target_arch = "x86_64")]
pub(crate) mod avx512vnni;
#[cfg(target_arch = "x86_64")]
pub(crate) mod avxvnni;
#[cfg(target_arch = "aarch64")]
pub(crate) mod neon;
#[cfg(target_arch = "aarch64")]
pub(crate) mod neondot;
pub(crate) mod scalar;

use quern_backend::{KvFormat, QuantFormat};

use crate::{attention::Partition, dot::ActivationLayout, gemm::Gemm, panels::Panels};

/// A matrix product over one unit of work.
pub(crate) type GemmEntry = unsafe fn(&Gemm<'_>);

/// A matrix product over panels.
pub(crate) type PanelEntry = unsafe fn(&Gemm<'_, Panels>);

/// See [`attend`](crate::attention::attend).
pub(crate) type AttendEntry = unsafe fn(&mut Partition<'_>);

/// Rounds of independent multiply-adds of a number; returns their sum.
pub(crate) type ThroughputEntry = unsafe fn(usize, f32) -> f32;

/// `(residual, delta, gain, eps, out)`.
pub(crate) type AddRmsNormEntry = unsafe fn(&mut [f32], &[f32], &[f32], f32, &mut [f32]);

/// The entry points of one instruction set.
#[derive(Clone, Copy)]
pub(crate) struct KernelEntries {
    pub(crate) gemm_f32: GemmEntry,
    pub(crate) gemm_f16: GemmEntry,
    pub(crate) gemm_bf16: GemmEntry,
    pub(crate) gemm_fp8: GemmEntry,
    /// bfloat16 products in hardware, where there are any.
    pub(crate) native_bf16: Option<GemmEntry>,
    pub(crate) native_fp8: Option<GemmEntry>,
    /// Products of panels with 8-bit inputs, by format of blocks.
    pub(crate) panels_int8: fn(QuantFormat) -> PanelEntry,
    /// The same for cores that multiply as many vectors a cycle as they load, if another way is quicker there.
    pub(crate) wide_panels_int8: Option<fn(QuantFormat) -> PanelEntry>,
    /// The same with f32 inputs.
    pub(crate) panels_f32: fn(QuantFormat) -> PanelEntry,
    /// What multiplies 8-bit integers, for the start-up summary.
    pub(crate) int8: &'static str,
    /// See `dot.rs`.
    pub(crate) prepare: unsafe fn(ActivationLayout, &[f32], &mut [f32]),
    pub(crate) add_rms_norm: AddRmsNormEntry,
    pub(crate) norm_rope: unsafe fn(&mut [f32], &[f32], f32, &[f32]),
    pub(crate) bias_rope: unsafe fn(&mut [f32], &[f32], &[f32]),
    pub(crate) silu_mul: unsafe fn(&[f32], &[f32], &mut [f32]),
    pub(crate) weighted_sum: unsafe fn(&[f32], &[f32], usize, usize, &mut [f32]),
    /// Attention over one partition, by what its pages store.
    pub(crate) attend: fn(KvFormat) -> AttendEntry,
    /// The same in pairs of bfloat16, where there are any.
    pub(crate) native_attend: fn(KvFormat) -> Option<AttendEntry>,
    pub(crate) fold: unsafe fn(&mut [f32], &[f32], usize),
    pub(crate) peak: unsafe fn(&[f32]) -> Option<f32>,
    /// See `throughput.rs`.
    pub(crate) fma_throughput: ThroughputEntry,
    pub(crate) native_fma_throughput: Option<ThroughputEntry>,
    pub(crate) int8_throughput: ThroughputEntry,
}

/// Entry points for the instance `$lanes`, compiled with `$attribute`; `[rows, tokens]` are the tiles
/// of plain formats and of formats with block scales, as many as the registers hold. `panels` are the
/// integer product, and the tokens of a tile; `attention` the queries of a tile.
macro_rules! entries {
    (
        $(#[$attribute:meta])? $lanes:ty,
        gemm: [$r:literal, $t:literal],
        scaled: [$sr:literal, $st:literal],
        panels: [$dot:ty, $name:literal, $tokens:literal],
        attention: $queries:literal
    ) => {
        $crate::arch::panel_entries!($(#[$attribute])? $lanes, $dot, $tokens);

        $(#[$attribute])?
        /// # Safety
        /// The CPU has the features that are enabled here, and `task` has passed `Gemm::check`.
        unsafe fn panel_f32<C: $crate::panels::format::Codes, S: $crate::panels::format::Scales>(
            task: &$crate::gemm::Gemm<'_, $crate::panels::Panels>,
        ) {
            // SAFETY: by this function's contract.
            unsafe {
                let lanes = <$lanes as $crate::lanes::Lanes>::new_unchecked();
                $crate::panels::direct::run::<$lanes, $crate::panels::direct::Expanded<C, S>, 4>(lanes, task);
            }
        }

        fn panels_f32(format: quern_backend::QuantFormat) -> $crate::arch::PanelEntry {
            $crate::panels::format::panel_format!(format, panel_f32)
        }

        $crate::arch::entries!(@gemm $(#[$attribute])? $lanes, gemm_f32, $crate::dot::F32, $r, $t);
        $crate::arch::entries!(@gemm $(#[$attribute])? $lanes, gemm_f16, $crate::dot::F16, $r, $t);
        $crate::arch::entries!(@gemm $(#[$attribute])? $lanes, gemm_bf16, $crate::dot::Bf16, $r, $t);
        $crate::arch::entries!(@gemm $(#[$attribute])? $lanes, gemm_fp8, $crate::dot::Fp8, $sr, $st);

        $(#[$attribute])?
        /// # Safety
        /// The CPU has the features that are enabled here, and `partition` is consistent (`attention/kernel.rs`).
        unsafe fn attend_as<E: $crate::attention::Element<$lanes>>(partition: &mut $crate::attention::Partition<'_>) {
            // SAFETY: by this function's contract.
            unsafe {
                let lanes = <$lanes as $crate::lanes::Lanes>::new_unchecked();
                $crate::attention::attend::<$lanes, E, $queries>(lanes, partition);
            }
        }

        fn attend(format: quern_backend::KvFormat) -> $crate::arch::AttendEntry {
            use quern_backend::KvFormat;
            use $crate::attention::{E4m3, E5m2, Q8};
            match format {
                KvFormat::F32 => attend_as::<f32>,
                KvFormat::BF16 => attend_as::<half::bf16>,
                KvFormat::F8E4M3 => attend_as::<E4m3>,
                KvFormat::F8E5M2 => attend_as::<E5m2>,
                KvFormat::Q8_0 => attend_as::<Q8>,
            }
        }

        $(#[$attribute])?
        fn prepare(layout: $crate::dot::ActivationLayout, x: &[f32], out: &mut [f32]) {
            layout.prepare(x, out)
        }

        $crate::arch::entries!(
            @safe $(#[$attribute])? $lanes, $crate::attention::fold,
            fold(state: &mut [f32], partial: &[f32], dim: usize)
        );
        $crate::arch::entries!(
            @safe $(#[$attribute])? $lanes, $crate::norm_rope::add_rms_norm,
            add_rms_norm(residual: &mut [f32], delta: &[f32], gain: &[f32], eps: f32, out: &mut [f32])
        );
        $crate::arch::entries!(
            @safe $(#[$attribute])? $lanes, $crate::norm_rope::norm_rope,
            norm_rope(head: &mut [f32], gain: &[f32], eps: f32, rotation: &[f32])
        );
        $crate::arch::entries!(
            @safe $(#[$attribute])? $lanes, $crate::norm_rope::bias_rope,
            bias_rope(head: &mut [f32], bias: &[f32], rotation: &[f32])
        );
        $crate::arch::entries!(
            @safe $(#[$attribute])? $lanes, $crate::pointwise::silu_mul,
            silu_mul(gate: &[f32], up: &[f32], out: &mut [f32])
        );
        $crate::arch::entries!(
            @safe $(#[$attribute])? $lanes, $crate::pointwise::weighted_sum,
            weighted_sum(weights: &[f32], terms: &[f32], stride: usize, column: usize, out: &mut [f32])
        );
        $crate::arch::entries!(
            @safe $(#[$attribute])? $lanes, $crate::pointwise::peak,
            peak(values: &[f32]) -> Option<f32>
        );
        $crate::arch::entries!(
            @safe $(#[$attribute])? $lanes, $crate::throughput::fma_throughput,
            fma_throughput(rounds: usize, x: f32) -> f32
        );

        const fn entries() -> $crate::arch::KernelEntries {
            $crate::arch::KernelEntries {
                gemm_f32,
                gemm_f16,
                gemm_bf16,
                gemm_fp8,
                native_bf16: None,
                native_fp8: None,
                panels_int8,
                wide_panels_int8: None,
                panels_f32,
                int8: $name,
                prepare,
                add_rms_norm,
                norm_rope,
                bias_rope,
                silu_mul,
                weighted_sum,
                attend,
                native_attend: |_| None,
                fold,
                peak,
                fma_throughput,
                native_fma_throughput: None,
                int8_throughput,
            }
        }
    };
    // A product with weights that stay as they are in the file.
    (@gemm $(#[$attribute:meta])? $lanes:ty, $name:ident, $weights:ty, $r:literal, $t:literal) => {
        $(#[$attribute])?
        /// # Safety
        /// The CPU has the features that are enabled here, and `task` has passed `Gemm::check`.
        unsafe fn $name(task: &$crate::gemm::Gemm<'_>) {
            // SAFETY: by this function's contract.
            unsafe {
                let lanes = <$lanes as $crate::lanes::Lanes>::new_unchecked();
                $crate::gemm::run::<$lanes, $weights, $r, $t>(lanes, task);
            }
        }
    };
    // The kernel `$kernel`, which asks nothing but the features.
    (
        @safe $(#[$attribute:meta])? $lanes:ty, $kernel:path,
        $name:ident($($argument:ident: $type:ty),*) $(-> $result:ty)?
    ) => {
        $(#[$attribute])?
        fn $name($($argument: $type),*) $(-> $result)? {
            // SAFETY: the features are those that are enabled here.
            let lanes = unsafe { <$lanes as $crate::lanes::Lanes>::new_unchecked() };
            $kernel(lanes, $($argument),*)
        }
    };
}
pub(crate) use entries;

/// Entry points for panels with 8-bit inputs in tiles of `$tokens`, and the peak loop of `$dot`. What one tile
/// holds is unpacked in registers, more tokens share what is unpacked to memory.
macro_rules! panel_entries {
    ($(#[$attribute:meta])? $lanes:ty, $dot:ty, $tokens:literal) => {
        $(#[$attribute])?
        /// # Safety
        /// The CPU has the features that are enabled here, and `task` has passed `Gemm::check`.
        unsafe fn panel_int8<C: $crate::panels::format::Codes, S: $crate::panels::format::Scales>(
            task: &$crate::gemm::Gemm<'_, $crate::panels::Panels>,
        ) {
            use $crate::panels::{direct, staged};
            // SAFETY: by this function's contract.
            unsafe {
                let lanes = <$lanes as $crate::lanes::Lanes>::new_unchecked();
                if task.x_rows.len() > $tokens {
                    staged::run::<$lanes, $dot, C, S, 1, $tokens>(lanes, task);
                } else {
                    direct::run::<$lanes, direct::Integers<$dot, C, S>, $tokens>(lanes, task);
                }
            }
        }

        fn panels_int8(format: quern_backend::QuantFormat) -> $crate::arch::PanelEntry {
            $crate::panels::format::panel_format!(format, panel_int8)
        }

        $(#[$attribute])?
        fn int8_throughput(rounds: usize, x: f32) -> f32 {
            // SAFETY: the features are those that are enabled here.
            unsafe {
                let lanes = <$lanes as $crate::lanes::Lanes>::new_unchecked();
                $crate::throughput::int8_throughput::<$lanes, $dot>(lanes, rounds, x)
            }
        }
    };
}
pub(crate) use panel_entries;
