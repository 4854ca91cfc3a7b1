//! [`ContentCheck`]: what the numbers of a tensor must say for a matrix to be read as it is. Shapes are compared whenever
//! a matrix is looked up; contents are looked at once, when the checkpoint is opened.

use super::{
    TensorProblem,
    nf4::Nf4,
    tensor::{Named, wrong},
};

/// A tensor whose numbers are to say what the reader takes for granted.
#[derive(Clone, Copy, Debug)]
pub(super) enum ContentCheck<'a> {
    /// Zero points of integers of `bits`: in the middle throughout, or one less.
    Middle { zeros: Named<'a>, bits: usize },
    /// The group of each column: groups of `group` columns that follow one another.
    InOrder { index: Named<'a>, group: usize },
    /// The sizes of the matrix.
    Sizes { stored: Named<'a>, sizes: [usize; 2] },
    /// The state of a matrix of bitsandbytes.
    Nf4(Nf4<'a>),
    /// A number that others are multiplied or divided by.
    Factor { factor: Named<'a>, divides: bool },
}

/// What to do with columns in another order.
pub(super) const ACT_ORDER: &str = "Columns in the order of activations are not served. Take a checkpoint quantised \
    with desc_act false (compressed-tensors: actorder weight or none), the official FP8 checkpoint or a GGUF file of the \
    same model, or the BF16 checkpoint with --quantization q4_k_m.";

impl ContentCheck<'_> {
    /// What is wrong with the numbers. Reads all of them.
    pub(super) fn problem(&self) -> Option<TensorProblem> {
        match *self {
            Self::Middle { zeros: (name, tensor), bits } => {
                // Some programs store the middle, some one less.
                let middle = 1u8 << (bits - 1);
                let word = |code: u8| if bits == 8 { code } else { code << 4 | code };
                let words = [word(middle), word(middle - 1)];
                (!tensor.bytes.iter().all(|byte| words.contains(byte))).then(|| {
                    let expected = format!("{} or {middle} throughout, since config.json says `sym`", middle - 1);
                    TensorProblem::tensor(&tensor.file, name, expected, "other zero points")
                })
            }
            Self::InOrder { index, group } => {
                let stored = index.1.bytes.as_chunks().0.iter().map(|bytes| i32::from_le_bytes(*bytes));
                // Some programs fill it with -1 where it is not used.
                let unused = || stored.clone().all(|index| index == -1);
                let in_order = stored.clone().zip(0..).all(|(index, col)| index == (col / group) as i32) || unused();
                (!in_order).then(|| {
                    let problem = wrong(index, "groups of columns that follow one another");
                    let found = "another order (act-order, `desc_act`)".into();
                    TensorProblem { found, ..problem }.mended_by(ACT_ORDER)
                })
            }
            Self::Nf4(nf4) => nf4.problem(),
            Self::Factor { factor: (name, tensor), divides } => {
                let number = tensor.bytes.as_chunks().0.first().map(|bytes| f32::from_le_bytes(*bytes))?;
                let usable = if divides { number.recip().is_normal() } else { number.is_finite() };
                (!usable).then(|| {
                    let expected = if divides { "a number to divide by" } else { "a number" };
                    TensorProblem::tensor(&tensor.file, name, expected, format!("{number:e}")).broken()
                })
            }
            Self::Sizes { stored: (name, tensor), sizes } => {
                let found: Vec<u64> = match tensor.dtype.as_str() {
                    "I32" => tensor.bytes.as_chunks().0.iter().map(|b| u32::from_le_bytes(*b).into()).collect(),
                    _ => tensor.bytes.as_chunks().0.iter().map(|b| u64::from_le_bytes(*b)).collect(),
                };
                (found != sizes.map(|size| size as u64))
                    .then(|| TensorProblem::tensor(&tensor.file, name, format!("{sizes:?}"), format!("{found:?}")))
            }
        }
    }
}
