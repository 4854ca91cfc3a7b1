//! The kernels: their text, their names, and the arguments of each.

use std::marker::PhantomData;

use super::device::{Kernel, KernelArgs};

/// The text of all kernels, for one run of the compiler.
pub(crate) const SOURCE: &str = concat!(
    include_str!("../../kernels/device.h"),
    include_str!("../../kernels/product.cu"),
    include_str!("../../kernels/linear.cu"),
    include_str!("../../kernels/rows.cu"),
    include_str!("../../kernels/rope.cu"),
    include_str!("../../kernels/pages.cu"),
    include_str!("../../kernels/attention.cu"),
    include_str!("../../kernels/moe.cu"),
    include_str!("../../kernels/sample.cu"),
);

/// A constant for each kernel, and the list of their names in the same order.
macro_rules! kernels {
    ($($constant:ident = $name:literal: $args:ty;)*) => {
        #[allow(non_camel_case_types, clippy::upper_case_acronyms, reason = "an index for each constant")]
        enum Index { $($constant),* }

        $(pub(crate) const $constant: Kernel<$args> = Kernel { index: Index::$constant as usize, args: PhantomData };)*

        /// Names of all kernels, by their index.
        pub(crate) const KERNEL_NAMES: &[&str] = &[$($name),*];
    };
}

kernels! {
    LINEAR_BF16 = "linear_bf16": LinearArgs;
    LINEAR_BF16_X4 = "linear_bf16_x4": LinearArgs;
    LINEAR_FP8 = "linear_fp8": LinearArgs;
    LINEAR_FP8_X4 = "linear_fp8_x4": LinearArgs;
    LINEAR_PLAIN = "linear_plain": PlainArgs;
    EMBED = "embed": EmbedArgs;
    ADD_RMS_NORM = "add_rms_norm": NormArgs;
    SILU_MUL = "silu_mul": SiluArgs;
    GATHER_ROWS = "gather_rows": GatherArgs;
    QK_NORM_ROPE = "qk_norm_rope": NormRopeArgs;
    BIAS_ROPE = "bias_rope": BiasRopeArgs;
    KV_STORE = "kv_store": StoreArgs;
    ATTENTION_BF16 = "attention_bf16": AttentionArgs;
    ATTENTION_E4M3 = "attention_e4m3": AttentionArgs;
    ATTENTION_E5M2 = "attention_e5m2": AttentionArgs;
    ATTENTION_MERGE = "attention_merge": MergeArgs;
    ROUTE = "route": RouteArgs;
    MOE_PLAN = "moe_plan": PlanArgs;
    MOE_GATE_UP_BF16 = "moe_gate_up_bf16": GateUpArgs;
    MOE_GATE_UP_FP8 = "moe_gate_up_fp8": GateUpArgs;
    MOE_DOWN_BF16 = "moe_down_bf16": DownArgs;
    MOE_DOWN_FP8 = "moe_down_fp8": DownArgs;
    MOE_PLAIN = "moe_plain": MoePlainArgs;
    MOE_SUM = "moe_sum": SumArgs;
    ARGMAX = "argmax": ArgmaxArgs;
}

/// Twins of the structs in `kernels/*.cu`, whose sizes are asserted there too: addresses, then 32-bit numbers. What the
/// fields mean stands there.
macro_rules! arguments {
    ($($name:ident, $bytes:literal bytes { $($address:ident),*; $($number:ident: $type:ty),* })*) => {
        $(
            #[repr(C)]
            #[derive(Clone, Copy)]
            pub(crate) struct $name { $(pub(crate) $address: u64,)* $(pub(crate) $number: $type,)* }
            const _: () = assert!(size_of::<$name>() == $bytes);
            // SAFETY: a `#[repr(C)]` struct of numbers; the fields are those of the kernel's.
            unsafe impl KernelArgs for $name {}
        )*
    };
}

arguments! {
    LinearArgs, 64 bytes {
        tiles, scales, info, x, out;
        rows: u32, blocks: u32, tile_stride: u32, x_stride: u32, out_stride: u32, pad: u32
    }
    PlainArgs, 56 bytes {
        w, x, out;
        rows: u32, cols: u32, w_rows: u32, column: u32, x_stride: u32, out_stride: u32, half: u32, pad: u32
    }
    EmbedArgs, 56 bytes {
        w, scales, ids, out;
        cols: u32, blocks: u32, tile_stride: u32, out_stride: u32, format: u32, pad: u32
    }
    NormArgs, 48 bytes { residual, delta, gain, out; cols: u32, stride: u32, eps: f32, pad: u32 }
    SiluArgs, 32 bytes { x, out; inner: u32, x_stride: u32, out_stride: u32, pad: u32 }
    GatherArgs, 32 bytes { x, rows, out; cols: u32, stride: u32 }
    NormRopeArgs, 56 bytes {
        qkv, q_gain, k_gain, rotation;
        heads: u32, q_heads: u32, dim: u32, stride: u32, rotation_stride: u32, eps: f32
    }
    BiasRopeArgs, 48 bytes {
        qkv, bias, rotation;
        heads: u32, rotated: u32, dim: u32, stride: u32, rotation_stride: u32, pad: u32
    }
    StoreArgs, 64 bytes {
        qkv, pages, spans, row_span, table;
        q_heads: u32, kv_heads: u32, dim: u32, page_size: u32, stride: u32, format: u32
    }
    AttentionArgs, 80 bytes {
        qkv, pages, spans, table, tiles, partial;
        q_heads: u32, kv_heads: u32, dim: u32, page_size: u32, stride: u32, partitions: u32, window: u32, scale: f32
    }
    MergeArgs, 56 bytes {
        partial, spans, tiles, out;
        q_heads: u32, kv_heads: u32, dim: u32, out_stride: u32, partitions: u32, pad: u32
    }
    RouteArgs, 48 bytes {
        logits, experts, weights;
        rows: u32, num_experts: u32, top_k: u32, stride: u32, renormalise: u32, pad: u32
    }
    PlanArgs, 40 bytes { experts, order, tiles, num_tiles; routes: u32, num_experts: u32 }
    GateUpArgs, 96 bytes {
        gate, up, gate_scales, up_scales, x, order, tiles, num_tiles, out;
        inner: u32, blocks: u32, row_tiles: u32, top_k: u32, x_stride: u32, out_stride: u32
    }
    DownArgs, 80 bytes {
        down, scales, x, order, tiles, num_tiles, out;
        hidden: u32, blocks: u32, row_tiles: u32, x_stride: u32, out_stride: u32, pad: u32
    }
    MoePlainArgs, 64 bytes {
        gate, up, x, experts, out;
        w_rows: u32, cols: u32, routes_per_x: u32, x_stride: u32, out_stride: u32, half: u32
    }
    SumArgs, 40 bytes { y, weights, out; cols: u32, top_k: u32, y_stride: u32, out_stride: u32 }
    ArgmaxArgs, 24 bytes { logits, out; vocab: u32, stride: u32 }
}

/// Most experts of a layer: `MAX_EXPERTS` in kernels/moe.cu.
pub const MAX_EXPERTS: usize = 512;

/// Features of a head in the pages, and so the most that a head can have: `HEAD` in kernels/pages.cu.
pub const HEAD: usize = 128;

/// Positions of a partition of attention: `PARTITION` in kernels/attention.cu.
pub(crate) const PARTITION: usize = 512;

/// Bytes of the partial result of 16 queries: `PART_FLOATS` in kernels/attention.cu.
pub(crate) const PART_BYTES: usize = 16 * (HEAD + 2) * size_of::<f32>();
