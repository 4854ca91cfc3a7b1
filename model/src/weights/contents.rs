//! [`ContentCheck`]: what the numbers of a tensor must say for a matrix to be read as it is. Shapes are compared whenever
//! a matrix is looked up; contents are looked at once, when the checkpoint is opened.

use super::{
    TensorProblem,
    int_groups::bits_at,
    nf4::Nf4,
    tensor::{Named, Tensor},
};

/// A tensor whose numbers are to say what the reader takes for granted.
#[derive(Clone, Copy, Debug)]
pub(super) enum ContentCheck<'a> {
    /// Zero points of integers of `bits`: in the middle throughout, or one less.
    Middle { zeros: Named<'a>, bits: usize },
    /// The group of each column, of `count` groups; of `group` columns each where these follow one another.
    Groups { index: Named<'a>, group: usize, count: usize },
    /// The sizes of the matrix.
    Sizes { stored: Named<'a>, sizes: [usize; 2] },
    /// The state of a matrix of bitsandbytes.
    Nf4(Nf4<'a>),
    /// How bitsandbytes laid out bytes: rows one behind the other.
    RowMajor(Named<'a>),
    /// A number that others are multiplied or divided by.
    Factor { factor: Named<'a>, divides: bool },
}

/// What to do where the order of columns is not known.
pub(super) const ACT_ORDER: &str = "Columns in the order of activations belong to groups that only this index tells. Take \
    the checkpoint with all of its tensors, one quantised with desc_act false (compressed-tensors: actorder weight or \
    none), the official FP8 checkpoint or a GGUF file of the same model, or the BF16 checkpoint with --quantization \
    q4_k_m.";

impl<'a> ContentCheck<'a> {
    /// What is wrong with the numbers. Reads all of them.
    pub(super) fn problem(&self) -> Option<TensorProblem> {
        match *self {
            Self::Middle { zeros: (name, tensor), bits } => {
                // Some programs store the middle, some one less.
                let middle = 1u8 << (bits - 1);
                let count = tensor.bytes.len() * 8 / bits;
                let even = |index| [middle, middle - 1].contains(&bits_at(&tensor.bytes, index * bits, bits));
                (!(0..count).all(even)).then(|| {
                    let expected = format!("{} or {middle} throughout, since config.json says `sym`", middle - 1);
                    TensorProblem::tensor(&tensor.file, name, expected, "other zero points")
                })
            }
            Self::Groups { index: (name, tensor), count, .. } => {
                let outside = groups(tensor).find(|&group| group < 0 || group as usize >= count)?;
                (!is_unused(tensor)).then(|| {
                    let expected = format!("groups from 0 to {}", count - 1);
                    TensorProblem::tensor(&tensor.file, name, expected, format!("group {outside}")).mended_by(ACT_ORDER)
                })
            }
            Self::RowMajor((name, tensor)) => tensor.bytes.iter().any(|&byte| byte != 0).then(|| {
                let found = format!("format {}", tensor.bytes[0]);
                TensorProblem::tensor(&tensor.file, name, "format 0, rows one behind the other", found)
            }),
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
    /// The group of each column, where it is stored.
    pub(super) fn index(&self) -> Option<Named<'a>> {
        if let Self::Groups { index, .. } = *self { Some(index) } else { None }
    }

    /// Whether columns that follow one another belong to several groups. Reads all of their index.
    pub(super) fn scatters(&self) -> bool {
        let Self::Groups { index: (_, tensor), group, .. } = *self else { return false };
        !groups(tensor).zip(0..).all(|(index, col)| index == (col / group) as i32) && !is_unused(tensor)
    }
}

/// The group of each column.
fn groups(index: &Tensor) -> impl Iterator<Item = i32> + '_ {
    index.bytes.as_chunks().0.iter().map(|bytes| i32::from_le_bytes(*bytes))
}

/// Some programs fill the index with -1 where it is not used.
fn is_unused(index: &Tensor) -> bool {
    groups(index).all(|group| group == -1)
}
