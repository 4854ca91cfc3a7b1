//! [`Kernels`]: the table of kernels, chosen once at start.

use quern_backend::{KernelChoice, KvFormat, Precision, QuantFormat};

use crate::{
    arch::{self, AttendEntry, GemmEntry, KernelEntries, PanelEntry, ThroughputEntry},
    attention::{PARTITION, Partition, QueryLayout},
    detect::{Isa, loads_are_scarce},
    dot::ActivationLayout,
    error::CpuError,
    gemm::Gemm,
    matrix::Matrix,
};

/// The kernel of a product, by where its weights lie.
#[derive(Clone, Copy)]
enum Product {
    Mapped(GemmEntry),
    Panels(PanelEntry),
}

/// The kernels chosen for this run. Each method checks what its kernel relies on.
#[derive(Clone, Copy)]
pub(crate) struct Kernels {
    isa: Isa,
    precision: Precision,
    entries: KernelEntries,
}

impl Kernels {
    /// The kernels of `isa`, or of the best there is.
    pub(crate) fn choose(isa: Option<Isa>, precision: Precision) -> Result<Self, CpuError> {
        let isa = isa.unwrap_or_else(Isa::detect);
        let missing = isa.missing();
        if !missing.is_empty() {
            return Err(CpuError::UnsupportedIsa { isa, missing: missing.join(", ") });
        }
        let mut entries = entries_of(isa);
        if let Some(wide) = entries.wide_panels_int8.filter(|_| loads_are_scarce()) {
            entries.panels_int8 = wide;
        }
        Ok(Self { isa, precision, entries })
    }

    /// The same with the other way through panels, where the instruction set has two of them.
    pub(crate) fn with_wide_panels(self, wide: bool) -> Option<Self> {
        let entries = entries_of(self.isa);
        let panels_int8 = if wide { entries.wide_panels_int8? } else { entries.panels_int8 };
        Some(Self { entries: KernelEntries { panels_int8, ..self.entries }, ..self })
    }

    pub(crate) fn isa(&self) -> Isa {
        self.isa
    }

    /// The kernel for weights of `format`, how its inputs lie, and its name.
    fn product(&self, format: QuantFormat) -> (Product, ActivationLayout, &'static str) {
        let e = &self.entries;
        let (plain, native) = match format {
            QuantFormat::F32 => return (Product::Mapped(e.gemm_f32), ActivationLayout::Plain, "f32 fma"),
            QuantFormat::F16 => return (Product::Mapped(e.gemm_f16), ActivationLayout::Plain, "f16 expanded, f32 fma"),
            QuantFormat::BF16 => (e.gemm_bf16, e.native_bf16),
            QuantFormat::Fp8Block128 => (e.gemm_fp8, e.native_fp8),
            blocks => {
                return match self.precision {
                    Precision::F32 => {
                        (Product::Panels((e.panels_f32)(blocks)), ActivationLayout::Plain, "expanded, f32 fma")
                    }
                    Precision::Bf16 => (Product::Panels((e.panels_int8)(blocks)), ActivationLayout::Int8, e.int8),
                };
            }
        };
        let (kernel, layout, name) = match (self.precision, native) {
            (Precision::F32, _) => (plain, ActivationLayout::Split, "expanded, f32 fma"),
            (Precision::Bf16, None) => (plain, ActivationLayout::SplitRounded, "expanded, f32 fma, bf16 inputs"),
            (Precision::Bf16, Some(native)) => (native, ActivationLayout::Bf16, "bf16 dot product"),
        };
        (Product::Mapped(kernel), layout, name)
    }

    /// How inputs must lie to meet weights of `format`.
    pub(crate) fn layout(&self, format: QuantFormat) -> ActivationLayout {
        self.product(format).1
    }

    /// See [`ActivationLayout::prepare`].
    pub(crate) fn prepare(&self, layout: ActivationLayout, x: &[f32], out: &mut [f32]) {
        // SAFETY: `choose` found the CPU's features; slices know their lengths.
        unsafe { (self.entries.prepare)(layout, x, out) }
    }

    /// One unit of a matrix product.
    ///
    /// # Safety
    /// Nobody else reads or writes the outputs that `task` names.
    pub(crate) unsafe fn gemm(&self, task: &Gemm<'_, Matrix>) {
        let (kernel, layout, _) = self.product(task.matrix.format());
        task.check(layout.row_bytes(task.matrix.cols()) / 4);
        match (kernel, task.matrix) {
            // SAFETY: `choose` found the CPU's features; `check` the bounds; the rest is the caller's.
            (Product::Mapped(kernel), Matrix::Mapped(matrix)) => unsafe { kernel(&task.of(matrix)) },
            // SAFETY: as above.
            (Product::Panels(kernel), Matrix::Panels(panels)) => unsafe { kernel(&task.of(panels)) },
            _ => unreachable!("formats made of blocks, and only those, are panels"),
        }
    }

    /// See `norm_rope.rs`.
    pub(crate) fn add_rms_norm(&self, residual: &mut [f32], delta: &[f32], gain: &[f32], eps: f32, out: &mut [f32]) {
        // SAFETY: `choose` found the CPU's features; the kernel asserts its lengths.
        unsafe { (self.entries.add_rms_norm)(residual, delta, gain, eps, out) }
    }

    /// See `norm_rope.rs`.
    pub(crate) fn norm_rope(&self, head: &mut [f32], gain: &[f32], eps: f32, rotation: &[f32]) {
        // SAFETY: as above.
        unsafe { (self.entries.norm_rope)(head, gain, eps, rotation) }
    }

    /// See `norm_rope.rs`.
    pub(crate) fn bias_rope(&self, head: &mut [f32], bias: &[f32], rotation: &[f32]) {
        // SAFETY: as above.
        unsafe { (self.entries.bias_rope)(head, bias, rotation) }
    }

    /// See `pointwise.rs`.
    pub(crate) fn silu_mul(&self, gate: &[f32], up: &[f32], out: &mut [f32]) {
        // SAFETY: as above.
        unsafe { (self.entries.silu_mul)(gate, up, out) }
    }

    /// See `pointwise.rs`.
    pub(crate) fn weighted_sum(&self, weights: &[f32], terms: &[f32], stride: usize, column: usize, out: &mut [f32]) {
        // SAFETY: as above.
        unsafe { (self.entries.weighted_sum)(weights, terms, stride, column, out) }
    }

    /// See `pointwise.rs`.
    pub(crate) fn peak(&self, values: &[f32]) -> Option<f32> {
        // SAFETY: as above.
        unsafe { (self.entries.peak)(values) }
    }

    /// The kernel for keys and values in `format`, and how queries must lie to meet them.
    fn attention(&self, format: KvFormat) -> (AttendEntry, QueryLayout) {
        let plain = (self.entries.attend)(format);
        if self.precision == Precision::F32 || !format.is_in_bf16() {
            return (plain, QueryLayout::F32);
        }
        (self.entries.native_attend)(format)
            .map_or((plain, QueryLayout::Bf16InF32), |native| (native, QueryLayout::Bf16Pairs))
    }

    /// How queries must lie to meet keys in `format`.
    pub(crate) fn query_layout(&self, format: KvFormat) -> QueryLayout {
        self.attention(format).1
    }

    /// See `attention/kernel.rs`.
    ///
    /// # Safety
    /// The keys and values of the partition are heads of `dim` features in `format` and nobody writes them; its
    /// queries lie as [`Kernels::query_layout`] says.
    pub(crate) unsafe fn attend(&self, format: KvFormat, task: &mut Partition<'_>) {
        // SAFETY: as above, and the pointers by this function's contract.
        unsafe { self.attention(format).0(task) }
    }

    /// See `attention/kernel.rs`.
    pub(crate) fn fold(&self, state: &mut [f32], partial: &[f32], dim: usize) {
        // SAFETY: as above.
        unsafe { (self.entries.fold)(state, partial, dim) }
    }

    /// See `throughput.rs`: loops of f32 multiply-adds, of bfloat16 ones where products use them, of integer ones.
    pub(crate) fn throughput_loops(&self) -> (ThroughputEntry, Option<ThroughputEntry>, ThroughputEntry) {
        let e = &self.entries;
        (e.fma_throughput, e.native_fma_throughput.filter(|_| self.precision == Precision::Bf16), e.int8_throughput)
    }

    /// Every choice, for the start-up summary.
    pub(crate) fn choices(&self) -> Vec<KernelChoice> {
        let isa = self.isa;
        let mut choices = Vec::new();
        for op in ["linear", "moe"] {
            for format in QuantFormat::ALL {
                let kernel = format!("{isa}: {}", self.product(format).2);
                choices.push(KernelChoice { op, format: Some(format.to_string()), kernel });
            }
        }
        for format in KvFormat::ALL {
            let how = match self.query_layout(format) {
                QueryLayout::F32 => "f32 fma",
                QueryLayout::Bf16InF32 => "f32 fma, bf16 inputs",
                QueryLayout::Bf16Pairs => "bf16 dot product",
            };
            let kernel = format!("{isa}: {how}, partitions of {}", PARTITION);
            choices.push(KernelChoice { op: "attention", format: Some(format.to_string()), kernel });
        }
        for op in ["add_rms_norm", "qk_norm_rope", "bias_rope", "silu_mul"] {
            choices.push(KernelChoice { op, format: None, kernel: format!("{isa}: f32") });
        }
        for op in ["embed", "route", "gather_rows"] {
            choices.push(KernelChoice { op, format: None, kernel: "portable: f32".to_string() });
        }
        let kernel = format!("portable: f64; {isa} for plain greedy rows");
        choices.push(KernelChoice { op: "sample", format: None, kernel });
        choices
    }
}

/// The entry points compiled for `isa`.
fn entries_of(isa: Isa) -> KernelEntries {
    match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Scalar if std::arch::is_x86_feature_detected!("fma") => arch::scalar::fused::ENTRIES,
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => arch::avx2::ENTRIES,
        #[cfg(target_arch = "x86_64")]
        Isa::AvxVnni => arch::avxvnni::ENTRIES,
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => arch::avx512::ENTRIES,
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512Vnni => arch::avx512vnni::ENTRIES,
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512Bf16 => arch::avx512bf16::ENTRIES,
        #[cfg(target_arch = "aarch64")]
        Isa::Neon => arch::neon::ENTRIES,
        #[cfg(target_arch = "aarch64")]
        Isa::NeonDot => arch::neondot::ENTRIES,
        // The others are not available on this architecture, and `Kernels::choose` refuses them.
        _ => arch::scalar::ENTRIES,
    }
}
