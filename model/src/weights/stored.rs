//! [`StoredMatrix`]: a matrix of the network as the tensors of a checkpoint hold it, found by the names that the
//! programs which quantise give them and checked against its shape.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
};

use quern_backend::{DType, PackedMatrix, QuantFormat, SharedBytes};

use super::{
    TensorProblem,
    contents::{ACT_ORDER, ContentCheck},
    int_groups::{BLOCK, IntGroups, Offset, Order, PerGroup, Zeros},
    int8_rows::Int8Rows,
    mxfp4::Mxfp4,
    nf4::{self, NestedFactors, Nf4},
    nvfp4::{self, Nvfp4},
    tensor::{Named, Tensor, floats, wrong},
};
use crate::{
    config::{Quantization, TensorLayout},
    network::{Role, module},
};

/// Behind the name of an FP8 matrix: its scales, by DeepSeek's and Qwen's name and by that of compressed-tensors.
pub(super) const SCALES: [&str; 2] = ["_scale_inv", "_scale"];

/// A matrix, or why there is none.
pub(super) type LookupResult<'a> = Result<StoredMatrix<'a>, Vec<TensorProblem>>;

/// How one matrix is stored.
#[derive(Clone, Debug)]
pub(super) struct StoredMatrix<'a> {
    pub(super) rows: usize,
    pub(super) cols: usize,
    pub(super) encoding: StoredEncoding<'a>,
    /// The names of all tensors that belong to it.
    pub(super) names: Vec<&'a str>,
    /// What their numbers must say, besides having the right shape.
    pub(super) checks: Vec<ContentCheck<'a>>,
}

/// The tensors of a matrix by what they mean.
#[derive(Clone, Copy, Debug)]
pub(super) enum StoredEncoding<'a> {
    /// Each number by itself.
    Plain(&'a Tensor, QuantFormat),
    /// E4M3 and its scales.
    Fp8 { codes: &'a Tensor, scales: &'a Tensor },
    /// To be written as blocks.
    Ints(IntGroups<'a>),
    /// To be written as blocks.
    Mxfp4(Mxfp4<'a>),
    /// To be written as blocks.
    Nvfp4(Nvfp4<'a>),
    /// To be written number by number.
    Nf4(Nf4<'a>),
    /// To be written number by number.
    Int8(Int8Rows<'a>),
}

impl StoredMatrix<'_> {
    /// The encoding that it is computed with.
    pub(super) fn format(&self) -> QuantFormat {
        match &self.encoding {
            StoredEncoding::Plain(_, format) => *format,
            StoredEncoding::Fp8 { .. } => QuantFormat::Fp8Block128,
            StoredEncoding::Ints(ints) => ints.format,
            StoredEncoding::Mxfp4(_) => QuantFormat::Mxfp4,
            StoredEncoding::Nvfp4(_) => QuantFormat::Nvfp4,
            StoredEncoding::Nf4(nf4) => nf4.format(),
            StoredEncoding::Int8(int8) => int8.format(),
        }
    }

    /// A scale that blocks cannot have, where it is to be written as blocks.
    pub(super) fn inexact(&self) -> Option<TensorProblem> {
        match &self.encoding {
            StoredEncoding::Ints(ints) if ints.format.blocks().is_some() => ints.inexact(),
            _ => None,
        }
    }

    /// Whether columns of several groups would share a block. Reads the index that says it.
    pub(super) fn is_scattered(&self) -> bool {
        self.checks.iter().any(ContentCheck::scatters)
    }

    /// Whether it is held in more bits than it is stored in because no blocks hold its numbers.
    pub(super) fn is_unpacked(&self) -> bool {
        match &self.encoding {
            StoredEncoding::Ints(ints) => ints.format.element().is_some_and(|element| element != DType::F32),
            StoredEncoding::Nf4(_) | StoredEncoding::Int8(_) => true,
            StoredEncoding::Plain(..) | StoredEncoding::Fp8 { .. } => false,
            StoredEncoding::Mxfp4(_) | StoredEncoding::Nvfp4(_) => false,
        }
    }

    /// Bytes of all of it in the encoding that it is computed with.
    pub(super) fn num_bytes(&self) -> u64 {
        self.part_bytes(&(0..self.rows), &(0..self.cols))
    }

    /// Bytes of these rows and columns in that encoding, with the scales beside them. Nothing stored is read.
    pub(super) fn part_bytes(&self, rows: &Range<usize>, cols: &Range<usize>) -> u64 {
        let bytes = rows.len() as u64 * self.format().held_row_bytes(cols.len()) as u64;
        let scales = self.scale_rows().map(|block| PackedMatrix::num_scales(&[rows.clone(), cols.clone()], block));
        bytes + scales.map_or(0, |scales| 4 * scales as u64)
    }

    /// Rows that share a scale of an FP8 matrix as it is held.
    fn scale_rows(&self) -> Option<usize> {
        match self.encoding {
            StoredEncoding::Fp8 { scales, .. } if has_a_scale_a_row(self.rows, scales) => Some(1),
            StoredEncoding::Fp8 { .. } => Some(QuantFormat::FP8_BLOCK),
            StoredEncoding::Plain(..)
            | StoredEncoding::Ints(_)
            | StoredEncoding::Mxfp4(_)
            | StoredEncoding::Nvfp4(_)
            | StoredEncoding::Nf4(_)
            | StoredEncoding::Int8(_) => None,
        }
    }

    /// Whether it is in FP8 with a scale for each row.
    pub(super) fn has_row_scales(&self) -> bool {
        self.scale_rows() == Some(1)
    }

    /// The matrix where it is computed with as it lies; `None` where it is to be written anew.
    pub(super) fn mapped(&self) -> Option<PackedMatrix> {
        let (rows, cols) = (self.rows, self.cols);
        match self.encoding {
            StoredEncoding::Plain(tensor, format) => {
                Some(PackedMatrix::plain(format, rows, cols, tensor.bytes.clone()))
            }
            StoredEncoding::Fp8 { codes, scales } => {
                let (bytes, scales) = (codes.bytes.clone(), floats(scales));
                Some(match (scales.as_slice(), self.scale_rows()) {
                    // One number stands in each block.
                    (&[scale], _) => {
                        let count = PackedMatrix::num_scales(&[0..rows, 0..cols], QuantFormat::FP8_BLOCK);
                        PackedMatrix::fp8(rows, cols, bytes, vec![scale; count].into())
                    }
                    (scales, Some(1)) => PackedMatrix::fp8_rows(rows, cols, bytes, scales),
                    (scales, _) => PackedMatrix::fp8(rows, cols, bytes, scales.into()),
                })
            }
            StoredEncoding::Ints(_)
            | StoredEncoding::Mxfp4(_)
            | StoredEncoding::Nvfp4(_)
            | StoredEncoding::Nf4(_)
            | StoredEncoding::Int8(_) => None,
        }
    }

    /// Columns `cols` of the rows from `first` on, as many as `out` holds, where they are to be written anew. The columns
    /// are whole blocks of 32.
    ///
    /// # Errors
    /// If a number of it has no exact form.
    pub(super) fn fill(&self, first: usize, cols: &Range<usize>, out: &mut [u8]) -> Result<(), TensorProblem> {
        match &self.encoding {
            StoredEncoding::Ints(ints) => ints.fill(first, cols, out),
            StoredEncoding::Mxfp4(mxfp4) => mxfp4.fill(first, cols, out),
            StoredEncoding::Nvfp4(nvfp4) => nvfp4.fill(first, cols, out),
            StoredEncoding::Nf4(nf4) => nf4.fill(first, cols, out),
            StoredEncoding::Int8(int8) => {
                int8.fill(first, cols, out);
                Ok(())
            }
            StoredEncoding::Plain(..) | StoredEncoding::Fp8 { .. } => unreachable!("it is computed with as it lies"),
        }
    }

    /// The matrix that was written anew: these `bytes` of its encoding, `rows` × `cols` of it.
    pub(super) fn written(&self, rows: usize, cols: usize, bytes: SharedBytes) -> PackedMatrix {
        let written = PackedMatrix::plain(self.format(), rows, cols, bytes);
        match &self.encoding {
            StoredEncoding::Nvfp4(nvfp4) => written.scaled_by(nvfp4.factor()),
            _ => written,
        }
    }

    /// What it was written anew from is hardly read again: at most by another rank, which finds it in the page cache.
    pub(super) fn release(&self) {
        match &self.encoding {
            StoredEncoding::Ints(ints) => ints.codes.bytes.release(),
            StoredEncoding::Mxfp4(mxfp4) => mxfp4.codes.bytes.release(),
            StoredEncoding::Nvfp4(nvfp4) => nvfp4.codes.bytes.release(),
            StoredEncoding::Nf4(nf4) => nf4.codes.bytes.release(),
            StoredEncoding::Int8(int8) => int8.codes.bytes.release(),
            StoredEncoding::Plain(..) | StoredEncoding::Fp8 { .. } => {}
        }
    }
}

/// Whether `scales` are one for each of several rows.
fn has_a_scale_a_row(rows: usize, scales: &Tensor) -> bool {
    let rows = rows as u64;
    rows > 1 && (scales.shape == [rows, 1] || scales.shape == [rows])
}

/// Looks matrices up among the tensors of a checkpoint.
pub(super) struct Lookup<'a> {
    pub(super) tensors: &'a BTreeMap<String, Tensor>,
    /// What config.json says of quantised matrices.
    pub(super) quantization: Option<&'a Quantization>,
    /// Names of the matrices of integers that are to be F32, since blocks would not hold the same numbers.
    pub(super) widened: &'a BTreeSet<String>,
    /// Names of those in which columns of several groups would share a block.
    pub(super) scattered: &'a BTreeSet<String>,
}

impl<'a> Lookup<'a> {
    /// The tensor `name`.
    pub(super) fn get(&self, name: &str) -> Option<Named<'a>> {
        self.tensors.get_key_value(name).map(|(name, tensor)| (name.as_str(), tensor))
    }

    /// The names that the tensors of the matrix `weight` may have in the layout that is announced.
    pub(super) fn parts(&self, weight: &str) -> impl Iterator<Item = String> {
        let parts: &[&str] = match self.quantization.map(|quantization| quantization.layout) {
            None | Some(TensorLayout::Fp8) => &[],
            Some(TensorLayout::CompressedTensors) => &[
                "weight_packed",
                "weight_scale",
                "weight_global_scale",
                "weight_shape",
                "weight_zero_point",
                "weight_g_idx",
            ],
            Some(TensorLayout::ModelOpt) => &["weight_scale", "weight_scale_2"],
            Some(TensorLayout::Bitsandbytes) => &[
                "weight.absmax",
                "weight.quant_map",
                "weight.nested_absmax",
                "weight.nested_quant_map",
                "weight.quant_state.bitsandbytes__nf4",
                "weight.quant_state.bitsandbytes__fp4",
                "SCB",
                "weight_format",
            ],
            Some(TensorLayout::Awq | TensorLayout::Gptq { .. }) => &["qweight", "qzeros", "scales", "g_idx"],
            Some(TensorLayout::Mlx) => &["scales", "biases"],
        };
        parts.iter().map(move |part| format!("{}.{part}", module(weight)))
    }

    /// The matrix `weight`, whose `role` decides how finely it is computed with.
    pub(super) fn matrix(&self, role: Role, weight: &str, (rows, cols): (usize, usize)) -> LookupResult<'a> {
        let one = |problem| Err(vec![problem]);
        let layout = self.quantization.map(|quantization| quantization.layout);
        let found = self.get(weight);
        let shape = ModuleParts { lookup: self, role, module: module(weight), rows, cols };
        match (layout, found) {
            (Some(TensorLayout::Mlx), Some((name, tensor))) if tensor.dtype == "U32" => shape.mlx((name, tensor)),
            (Some(TensorLayout::CompressedTensors), Some((name, tensor))) if tensor.dtype == "I8" => {
                shape.signed_bytes((name, tensor))
            }
            (Some(TensorLayout::ModelOpt), Some((name, tensor))) if tensor.dtype == "U8" => {
                shape.nvfp4((name, tensor), "weight_scale_2", false)
            }
            (Some(TensorLayout::Bitsandbytes), Some((name, tensor))) if tensor.dtype == "U8" => {
                shape.nf4((name, tensor))
            }
            (Some(TensorLayout::Bitsandbytes), Some((name, tensor))) if tensor.dtype == "I8" => {
                shape.int8_rows((name, tensor))
            }
            (_, Some((name, tensor))) => self.plain((name, tensor), rows, cols),
            (Some(TensorLayout::CompressedTensors), None) if shape.part("weight_packed").is_some() => shape.packed(),
            (Some(TensorLayout::Awq), None) if shape.part("qweight").is_some() => shape.awq(),
            (Some(TensorLayout::Gptq { symmetric, zero_offset }), None) if shape.part("qweight").is_some() => {
                shape.gptq(symmetric, zero_offset)
            }
            (_, None) => {
                let expected = format!("a tensor {:?}", [rows, cols]);
                one(TensorProblem::tensor("(no file)", weight, expected, "nothing"))
            }
        }
    }

    /// A matrix of numbers by themselves, or of E4M3.
    fn plain(&self, (weight, tensor): Named<'a>, rows: usize, cols: usize) -> LookupResult<'a> {
        let mut problems = Vec::new();
        let mut problem = |(name, of): Named<'_>, expected: String| {
            problems.push(TensorProblem::tensor(&of.file, name, expected, of.found()));
        };
        let dims = [rows as u64, cols as u64];
        if tensor.shape != dims {
            problem((weight, tensor), format!("shape {dims:?}"));
        }
        let mut all_scales = SCALES.iter().filter_map(|suffix| self.get(&format!("{weight}{suffix}")));
        let scales = all_scales.next();
        if let (Some((first, _)), Some(second)) = (scales, all_scales.next()) {
            problem(second, format!("the matrix's scales once, as `{first}`"));
        }
        let quantised = tensor.element() == Some(DType::F8E4M3);
        if quantised && self.quantization.is_none_or(|quantization| quantization.leaves(module(weight))) {
            problem((weight, tensor), "an unquantised weight, as config.json says".into());
        }
        let mut names = vec![weight];
        let encoding = match (tensor.element(), scales) {
            (None, _) => {
                problem((weight, tensor), "one of BF16, F16, F32, F8_E4M3".into());
                None
            }
            (Some(DType::F8E4M3), None) => {
                problem((weight, tensor), format!("`{weight}{}` beside it", SCALES[0]));
                None
            }
            (Some(DType::F8E4M3), Some((name, scales))) => {
                names.push(name);
                let blocks = [rows, cols].map(|n| n.div_ceil(QuantFormat::FP8_BLOCK) as u64);
                let one = scales.shape.iter().product::<u64>() == 1;
                // ModelOpt keeps the axes that its blocks are sums over.
                let of_blocks = scales.shape == blocks || scales.shape == [blocks[0], 1, blocks[1], 1];
                let fits = one || has_a_scale_a_row(rows, scales) || of_blocks;
                if !fits || !matches!(scales.element(), Some(DType::F32 | DType::BF16 | DType::F16)) {
                    problem(
                        (name, scales),
                        format!("F32 or BF16 {blocks:?}, one number, or one for each of {rows} rows"),
                    );
                }
                Some(StoredEncoding::Fp8 { codes: tensor, scales })
            }
            (Some(_), Some((name, scales))) => {
                problem((name, scales), "no scales beside an unquantised weight".into());
                None
            }
            (Some(element), None) => Some(StoredEncoding::Plain(tensor, QuantFormat::plain(element))),
        };
        match encoding {
            Some(encoding) if problems.is_empty() => {
                Ok(StoredMatrix { rows, cols, encoding, names, checks: Vec::new() })
            }
            _ => Err(problems),
        }
    }
}

/// A quantised matrix that is looked for.
struct ModuleParts<'l, 'a> {
    lookup: &'l Lookup<'a>,
    role: Role,
    module: &'l str,
    rows: usize,
    cols: usize,
}

impl<'a> ModuleParts<'_, 'a> {
    /// The tensor `suffix` of the module.
    fn part(&self, suffix: &str) -> Option<Named<'a>> {
        self.lookup.get(&format!("{}.{suffix}", self.module))
    }

    /// Whether the matrix is one of `names`.
    fn is_in(&self, names: &BTreeSet<String>) -> bool {
        !names.is_empty() && names.contains(&format!("{}.weight", self.module))
    }

    /// The same, which must be there.
    fn required(&self, suffix: &str) -> Result<Named<'a>, Vec<TensorProblem>> {
        let name = format!("{}.{suffix}", self.module);
        self.lookup.get(&name).ok_or_else(|| vec![TensorProblem::tensor("(no file)", &name, "a tensor", "nothing")])
    }

    /// `weight_packed` and its scales, zero points and shape.
    fn packed(&self) -> LookupResult<'a> {
        let codes = self.required("weight_packed")?;
        let scales = self.required("weight_scale")?;
        match (codes.1.dtype.as_str(), scales.1.dtype.as_str()) {
            ("U8", "U8") => return self.mxfp4(codes, scales, 2),
            ("U8", "F8_E4M3") => return self.nvfp4(codes, "weight_global_scale", true),
            _ => {}
        }
        let bits = self.bits(codes, &[self.rows, 0], "I32", &[4, 8])?;
        let groups = self.groups(scales, [self.rows, 0])?;
        let (mut names, mut checks) = (vec![codes.0, scales.0], Vec::new());
        let offset = match self.part("weight_zero_point") {
            None => Offset::Middle,
            Some((name, tensor)) => {
                names.push(name);
                let signed = tensor.dtype == "I8";
                let (rows, dtype) = if signed { (self.rows, "I8") } else { (self.rows.div_ceil(32 / bits), "I32") };
                expect((name, tensor), &[rows, groups], dtype)?;
                let (row_stride, group_stride) = (groups, 1);
                let interleaved = false;
                Offset::Zeros(Zeros { name, tensor, signed, row_stride, group_stride, interleaved, added: 0 })
            }
        };
        if let Some((name, shape)) = self.part("weight_shape") {
            names.push(name);
            checks.push(ContentCheck::Sizes { stored: (name, shape), sizes: [self.rows, self.cols] });
        }
        if let Some(index) = self.group_index("weight_g_idx", scales, groups)? {
            names.push(index.0);
            checks.push(self.groups_check(index, groups));
        }
        let scales = PerGroup { name: scales.0, tensor: scales.1, row_stride: groups, group_stride: 1 };
        self.ints((codes.1, Order::Rows, bits), groups, scales, offset, (names, checks))
    }

    /// `weight` in signed bytes, perhaps with zero points.
    fn signed_bytes(&self, codes: Named<'a>) -> LookupResult<'a> {
        expect(codes, &[self.rows, self.cols], "I8")?;
        let scales = self.required("weight_scale")?;
        let groups = self.groups(scales, [self.rows, 0])?;
        let grid = PerGroup { name: scales.0, tensor: scales.1, row_stride: groups, group_stride: 1 };
        let mut names = vec![codes.0, scales.0];
        let mut offset = Offset::Middle;
        if let Some((name, tensor)) = self.part("weight_zero_point") {
            expect((name, tensor), &[self.rows, groups], "I8")?;
            names.push(name);
            let (row_stride, group_stride, interleaved) = (groups, 1, false);
            offset =
                Offset::Zeros(Zeros { name, tensor, signed: true, row_stride, group_stride, interleaved, added: 0 });
        }
        self.ints((codes.1, Order::SignedRows, 8), groups, grid, offset, (names, Vec::new()))
    }

    /// `weight` in signed bytes, and the largest magnitude of each row.
    fn int8_rows(&self, codes: Named<'a>) -> LookupResult<'a> {
        let (rows, cols) = (self.rows, self.cols);
        expect(codes, &[rows, cols], "I8")?;
        let scales = self.required("SCB")?;
        expect(scales, &[rows], "F32")?;
        self.whole_blocks(codes)?;
        let (mut names, mut checks) = (vec![codes.0, scales.0], Vec::new());
        if let Some(format) = self.part("weight_format") {
            names.push(format.0);
            checks.push(ContentCheck::RowMajor(format));
        }
        let int8 = Int8Rows { cols, dtype: self.dtype(), codes: codes.1, scales: scales.1 };
        Ok(StoredMatrix { rows, cols, encoding: StoredEncoding::Int8(int8), names, checks })
    }

    fn awq(&self) -> LookupResult<'a> {
        let (codes, zeros) = (self.required("qweight")?, self.required("qzeros")?);
        let scales = self.required("scales")?;
        let groups = self.groups(scales, [0, self.rows])?;
        expect(codes, &[self.cols, self.rows / 8], "I32")?;
        expect(zeros, &[groups, self.rows / 8], "I32")?;
        let offset = self.zeros_of_groups(zeros, 4, true, 0);
        let grid = PerGroup { name: scales.0, tensor: scales.1, row_stride: 1, group_stride: self.rows };
        let names = vec![codes.0, zeros.0, scales.0];
        self.ints((codes.1, Order::InterleavedColumns, 4), groups, grid, offset, (names, Vec::new()))
    }

    fn gptq(&self, symmetric: bool, zero_offset: u8) -> LookupResult<'a> {
        let (codes, scales) = (self.required("qweight")?, self.required("scales")?);
        let bits = self.bits(codes, &[0, self.rows], "I32", &[4, 8, 3, 2])?;
        let groups = self.groups(scales, [0, self.rows])?;
        let (mut names, mut checks) = (vec![codes.0, scales.0], Vec::new());
        let zeros = if symmetric { self.part("qzeros") } else { Some(self.required("qzeros")?) };
        if let Some(zeros) = zeros {
            names.push(zeros.0);
            expect(zeros, &[groups, self.rows * bits / 32], "I32")?;
        }
        let offset = match zeros {
            Some(zeros) if !symmetric => self.zeros_of_groups(zeros, bits, false, zero_offset),
            _ => {
                checks.extend(zeros.map(|zeros| ContentCheck::Middle { zeros, bits }));
                Offset::Middle
            }
        };
        if let Some(index) = self.group_index("g_idx", scales, groups)? {
            names.push(index.0);
            checks.push(self.groups_check(index, groups));
        }
        let grid = PerGroup { name: scales.0, tensor: scales.1, row_stride: 1, group_stride: self.rows };
        self.ints((codes.1, Order::ColumnWords, bits), groups, grid, offset, (names, checks))
    }

    /// `weight` in words, with `scales` and `biases`, or with exponents.
    fn mlx(&self, codes: Named<'a>) -> LookupResult<'a> {
        let scales = self.required("scales")?;
        let bits = self.bits(codes, &[self.rows, 0], "U32", &[4, 8, 6, 5, 3, 2])?;
        if scales.1.dtype == "U8" && bits == 4 {
            return self.mxfp4(codes, scales, 8);
        }
        let biases = self.required("biases")?;
        let groups = self.groups(scales, [self.rows, 0])?;
        expect(biases, &[self.rows, groups], &scales.1.dtype)?;
        let grid = |(name, tensor): Named<'a>| PerGroup { name, tensor, row_stride: groups, group_stride: 1 };
        let names = vec![codes.0, scales.0, biases.0];
        let offset = Offset::Biases(grid(biases));
        self.ints((codes.1, Order::Rows, bits), groups, grid(scales), offset, (names, Vec::new()))
    }

    /// Numbers of 4 bits, `per_element` of them in an element of `codes`, and exponents.
    fn mxfp4(&self, codes: Named<'a>, exponents: Named<'a>, per_element: usize) -> LookupResult<'a> {
        self.whole_blocks(codes)?;
        expect(codes, &[self.rows, self.cols / per_element], &codes.1.dtype)?;
        expect(exponents, &[self.rows, self.cols / BLOCK], "U8")?;
        let mxfp4 = Mxfp4 { cols: self.cols, codes: codes.1, exponents: exponents.1, exponents_name: exponents.0 };
        let encoding = StoredEncoding::Mxfp4(mxfp4);
        let names = vec![codes.0, exponents.0];
        Ok(StoredMatrix { rows: self.rows, cols: self.cols, encoding, names, checks: Vec::new() })
    }

    /// Two numbers of 4 bits a byte, their scales, and the number `factor` for all of them.
    fn nvfp4(&self, codes: Named<'a>, factor: &str, divides: bool) -> LookupResult<'a> {
        let (scales, factor) = (self.required("weight_scale")?, self.required(factor)?);
        if !self.cols.is_multiple_of(nvfp4::BLOCK) {
            return Err(vec![wrong(codes, "rows of a multiple of 64 numbers")]);
        }
        expect(codes, &[self.rows, self.cols / 2], "U8")?;
        expect(scales, &[self.rows, self.cols / nvfp4::GROUP], "F8_E4M3")?;
        let one = factor.1.shape.iter().product::<u64>() == 1;
        if !one || factor.1.dtype != "F32" {
            return Err(vec![wrong(factor, "one F32")]);
        }
        let (cols, scales_name) = (self.cols, scales.0);
        let nvfp4 = Nvfp4 { cols, codes: codes.1, scales: scales.1, scales_name, factor: factor.1, divides };
        let (encoding, names) = (StoredEncoding::Nvfp4(nvfp4), vec![codes.0, scales.0, factor.0]);
        // Reading it here would ask for the file's bytes whenever a matrix is looked up.
        let checks = vec![ContentCheck::Factor { factor, divides }];
        Ok(StoredMatrix { rows: self.rows, cols, encoding, names, checks })
    }

    /// Places in a list of sixteen, two a byte, and factors of blocks.
    fn nf4(&self, codes: Named<'a>) -> LookupResult<'a> {
        let (map, factors) = (self.required("weight.quant_map")?, self.required("weight.absmax")?);
        let kinds = [("fp4", "weight.quant_state.bitsandbytes__fp4"), ("nf4", "weight.quant_state.bitsandbytes__nf4")];
        let found = kinds.into_iter().find_map(|(kind, name)| Some((kind, self.part(name)?)));
        let (kind, state) = match found {
            Some(found) => found,
            None => ("nf4", self.required(kinds[1].1)?),
        };
        let (rows, cols) = (self.rows, self.cols);
        self.whole_blocks(codes)?;
        expect(codes, &[rows * cols / 2, 1], "U8")?;
        expect(map, &[16], "F32")?;
        let blocks = (rows * cols).div_ceil(nf4::BLOCK);
        let mut names = vec![codes.0, map.0, factors.0, state.0];
        let nested = match factors.1.dtype.as_str() {
            "U8" => {
                let map = self.required("weight.nested_quant_map")?;
                let outer = self.required("weight.nested_absmax")?;
                expect(factors, &[blocks], "U8")?;
                expect(map, &[256], "F32")?;
                expect(outer, &[blocks.div_ceil(nf4::NESTED_BLOCK)], "F32")?;
                names.extend([map.0, outer.0]);
                Some(NestedFactors { map: map.1, factors: outer.1 })
            }
            _ => {
                expect(factors, &[blocks], "F32")?;
                None
            }
        };
        let dtype = self.dtype();
        let nf4 = Nf4 { cols, dtype, codes: codes.1, map: map.1, factors: factors.1, nested, state, kind };
        let checks = vec![ContentCheck::Nf4(nf4)];
        Ok(StoredMatrix { rows, cols, encoding: StoredEncoding::Nf4(nf4), names, checks })
    }

    /// The type that bitsandbytes makes numbers of.
    fn dtype(&self) -> DType {
        let element = self.lookup.quantization.and_then(|quantization| quantization.format.element());
        element.unwrap_or(DType::BF16)
    }

    fn zeros_of_groups(&self, (name, tensor): Named<'a>, bits: usize, interleaved: bool, added: u8) -> Offset<'a> {
        let (row_stride, group_stride) = (1, self.rows * bits / 32);
        Offset::Zeros(Zeros { name, tensor, signed: false, row_stride, group_stride, interleaved, added })
    }

    /// Integers in `groups` groups.
    fn ints(
        &self,
        (codes, order, bits): (&'a Tensor, Order, usize),
        groups: usize,
        scales: PerGroup<'a>,
        offset: Offset<'a>,
        (names, checks): (Vec<&'a str>, Vec<ContentCheck<'a>>),
    ) -> LookupResult<'a> {
        self.whole_blocks((names[0], codes))?;
        let multiple = if bits == 3 { 32 } else { 8 };
        if matches!(order, Order::InterleavedColumns | Order::ColumnWords) && !self.rows.is_multiple_of(multiple) {
            return Err(vec![wrong((names[0], codes), format!("a multiple of {multiple} rows"))]);
        }
        let announced = self.lookup.quantization.and_then(|q| q.group(self.cols, groups));
        let Some(group) = announced else {
            return Err(vec![wrong(
                (scales.name, scales.tensor),
                "as many groups as the group_size of config.json makes",
            )]);
        };
        let index = match checks.iter().find_map(|check| check.index()) {
            Some((_, index)) if self.is_in(self.lookup.scattered) => Some(index),
            _ => None,
        };
        if index.is_none() && group < self.cols && !group.is_multiple_of(BLOCK) {
            return Err(vec![wrong((scales.name, scales.tensor), "groups of a multiple of 32 columns")]);
        }
        let by_itself = QuantFormat::plain(scales.tensor.element().unwrap_or(DType::F32));
        let format = match (offset, bits) {
            // A token that goes to another expert is not a rounding error.
            _ if self.role == Role::Router || self.is_in(self.lookup.widened) => QuantFormat::F32,
            _ if index.is_some() => by_itself,
            (Offset::Middle, ..=4) | (Offset::Zeros(_), ..=3) => QuantFormat::Q4_0,
            (Offset::Middle, 5) | (Offset::Zeros(_), 4) => QuantFormat::Q5_0,
            (Offset::Middle, _) | (Offset::Zeros(_), ..=7) => QuantFormat::Q8_0,
            (Offset::Biases(_), ..=4) => QuantFormat::Q4_1,
            (Offset::Biases(_), 5) => QuantFormat::Q5_1,
            (Offset::Zeros(_) | Offset::Biases(_), _) => by_itself,
        };
        let (rows, cols) = (self.rows, self.cols);
        let ints = IntGroups { rows, cols, bits, codes, order, group, index, scales, offset, format };
        Ok(StoredMatrix { rows, cols, encoding: StoredEncoding::Ints(ints), names, checks })
    }

    fn whole_blocks(&self, of: Named<'a>) -> Result<(), Vec<TensorProblem>> {
        if self.cols.is_multiple_of(BLOCK) { Ok(()) } else { Err(vec![wrong(of, "rows of a multiple of 32 numbers")]) }
    }

    /// Bits of an integer, one of `widths`, where words hold as many as `dims`, in which 0 is to be found, says.
    fn bits(
        &self,
        codes: Named<'a>,
        dims: &[usize; 2],
        dtype: &str,
        widths: &[usize],
    ) -> Result<usize, Vec<TensorProblem>> {
        let dims_of = |bits: usize| dims.map(|n| if n == 0 { (self.cols * bits).div_ceil(32) } else { n });
        let fits = |bits: &&usize| expect(codes, &dims_of(**bits), dtype).is_ok();
        widths.iter().find(fits).copied().ok_or_else(|| {
            let shapes: Vec<String> = widths.iter().map(|&bits| format!("{:?} ({bits} bits)", dims_of(bits))).collect();
            vec![wrong(codes, format!("{dtype} {}", shapes.join(" or "))).mended_by(OTHER_WIDTH)]
        })
    }

    /// Groups of a row, by the shape of `scales`, in which 0 is to be found.
    fn groups(&self, scales: Named<'a>, dims: [usize; 2]) -> Result<usize, Vec<TensorProblem>> {
        let at = usize::from(dims[1] == 0);
        let groups = scales.1.shape.get(at).map_or(0, |&n| n as usize);
        let plain = matches!(scales.1.element(), Some(DType::F32 | DType::F16 | DType::BF16));
        let other = scales.1.shape.get(1 - at) == Some(&(dims[1 - at] as u64));
        if plain && other && scales.1.shape.len() == 2 && (1..=self.cols).contains(&groups) {
            return Ok(groups);
        }
        let dims = dims.map(|n| if n == 0 { "groups".to_owned() } else { n.to_string() });
        Err(vec![wrong(scales, format!("F16, BF16 or F32 [{}, {}]", dims[0], dims[1]))])
    }

    /// The group of each column, if it is stored, as it is where they are not simply one behind the other.
    fn group_index(
        &self,
        suffix: &str,
        scales: Named<'_>,
        groups: usize,
    ) -> Result<Option<Named<'a>>, Vec<TensorProblem>> {
        let index = self.part(suffix);
        match index {
            Some(index) => expect(index, &[self.cols], "I32")?,
            None if groups > 1 && self.lookup.quantization.is_some_and(|q| q.act_order) => {
                let expected =
                    format!("`{}.{suffix}` beside it, since columns are in the order of activations", self.module);
                return Err(vec![wrong(scales, expected).mended_by(ACT_ORDER)]);
            }
            None => {}
        }
        Ok(index)
    }

    /// What `index` says of the groups of columns.
    fn groups_check(&self, index: Named<'a>, count: usize) -> ContentCheck<'a> {
        let group = self.lookup.quantization.and_then(|q| q.group(self.cols, count));
        ContentCheck::Groups { index, group: group.unwrap_or(self.cols).max(1), count }
    }
}

/// What to do with other integers.
const OTHER_WIDTH: &str = "Take a checkpoint of 4 or 8 bits, the official FP8 checkpoint or a GGUF file of the same model, \
    or the BF16 checkpoint with --quantization q4_k_m.";

/// Whether a tensor has this shape and type.
fn expect(of: Named<'_>, dims: &[usize], dtype: &str) -> Result<(), Vec<TensorProblem>> {
    let same = of.1.shape.len() == dims.len() && of.1.shape.iter().zip(dims).all(|(a, b)| *a == *b as u64);
    if same && of.1.dtype == dtype { Ok(()) } else { Err(vec![wrong(of, format!("{dtype} {dims:?}"))]) }
}
