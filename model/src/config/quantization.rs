//! [`Quantization`]: how a checkpoint's quantised matrices are stored, and what they are computed with.

use quern_backend::QuantFormat;

/// Whose names and layout the tensors of quantised matrices have. Which matrices are quantised, to how many bits and
/// with how many groups, their tensors say: checkpoints mix widths, and what one leaves out it stores plainly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TensorLayout {
    /// `weight` in E4M3 with a scale for each 128 × 128, each row or the matrix. Every other layout may hold such
    /// matrices too.
    Fp8,
    /// `weight_packed` of compressed-tensors: integers, or E2M1 with a power of two for each 32 (MXFP4) or an E4M3 for
    /// each 16 (NVFP4).
    CompressedTensors,
    /// `weight` of ModelOpt in bytes of two E2M1, with an E4M3 for each 16 (NVFP4).
    ModelOpt,
    /// `qweight` of AutoAWQ's `gemm`: integers, eight interleaved rows a word.
    Awq,
    /// `qweight` of GPTQ: integers, streams of bits down the columns.
    Gptq {
        /// Zero points are all in the middle, whatever is stored of them.
        symmetric: bool,
        /// What is to be added to a stored zero point.
        zero_offset: u8,
    },
    /// `weight`, `scales` and `biases` of MLX.
    Mlx,
    /// `weight` of bitsandbytes: places in a list of sixteen numbers (NF4, FP4), or signed bytes (LLM.int8()).
    Bitsandbytes,
}

/// The quantised matrices of a checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quantization {
    /// How they are stored.
    pub layout: TensorLayout,
    /// The encoding that most of them are computed with.
    pub format: QuantFormat,
    /// Columns that share a scale, each size that occurs; `None`: all of a row.
    pub groups: Vec<Option<usize>>,
    /// Columns were quantised in the order of activations (`desc_act`, `actorder: group`): where a row has several
    /// groups, only an index that is stored says which columns belong to which.
    pub act_order: bool,
    /// Whether matrices in FP8 have a scale for each row, as far as the config says.
    pub has_row_scales: bool,
    /// Modules that stay unquantised, by their whole names.
    pub modules_to_not_convert: Vec<String>,
}

impl Quantization {
    /// Matrices of this layout and encoding, whose groups and exceptions are not known yet.
    pub(crate) fn of(layout: TensorLayout, format: QuantFormat) -> Self {
        Self {
            layout,
            format,
            groups: Vec::new(),
            act_order: false,
            has_row_scales: false,
            modules_to_not_convert: Vec::new(),
        }
    }

    /// Whether the module `name` (without `.weight`) is said to stay unquantised.
    pub(crate) fn leaves(&self, name: &str) -> bool {
        self.modules_to_not_convert.iter().any(|module| module == name)
    }

    /// Columns of a group where a row of `cols` has `count` of them, if a size that is announced fits.
    pub(crate) fn group(&self, cols: usize, count: usize) -> Option<usize> {
        let sizes = self.groups.iter().map(|size| size.unwrap_or(cols));
        sizes.into_iter().find(|&size| size > 0 && cols.div_ceil(size) == count)
    }
}
