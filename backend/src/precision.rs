//! [`Precision`]: what matrix products and attention round their inputs to.

use std::fmt;

/// How a backend multiplies. Sums, and all that is no product, are f32 either way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum Precision {
    /// Everything in f32; weights are expanded exactly.
    F32,
    /// Inputs that meet bf16 or fp8 weights are rounded to bf16, those that meet blocks to 8-bit integers with a
    /// scale for each 32; queries and weights of attention that meet bf16 or fp8 are rounded to bf16.
    #[default]
    Bf16,
}

impl fmt::Display for Precision {
    /// PyTorch's name, as `--dtype` and logs have it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Bf16 => "bfloat16",
            Self::F32 => "float32",
        })
    }
}
