//! [`KvCache`]: pages of keys and values, `[layer][page][k|v][head][slot][dim]`.

use half::bf16;
use quern_backend::{DType, KvSpec};

use crate::{
    lanes::{LANES, to_bf16},
    memory::{Disjoint, Region},
};

/// Pages of all layers. A head's `dim` is padded to whole vectors in memory, so kernels have no rest to
/// mind; Qwen3's 128 needs none.
#[derive(Debug)]
pub struct KvCache {
    spec: KvSpec,
    region: Region,
}

/// A stored element: f32 or bfloat16.
pub(crate) trait Stored: Copy {
    /// `value` as it is stored.
    fn encode(value: f32) -> Self;
}

impl Stored for f32 {
    fn encode(value: f32) -> Self {
        value
    }
}

impl Stored for bf16 {
    fn encode(value: f32) -> Self {
        bf16::from_bits(to_bf16(value))
    }
}

impl KvCache {
    /// Zeroed pages; `None` if they do not fit the address space or the operating system refuses.
    pub(crate) fn new(spec: &KvSpec) -> Option<Self> {
        let region = Region::zeroed(Self::bytes(spec)?)?;
        Some(Self { spec: *spec, region })
    }

    /// Bytes of the pages of `spec`, padding included; `None` past the address space.
    pub(crate) fn bytes(spec: &KvSpec) -> Option<usize> {
        [spec.num_pages, 2, spec.heads.num_kv_heads, spec.page_size, padded(spec), spec.dtype.size()]
            .into_iter()
            .try_fold(spec.num_layers, usize::checked_mul)
    }

    /// What the pages were made for.
    pub(crate) fn spec(&self) -> &KvSpec {
        &self.spec
    }

    /// The pages of one layer.
    pub(crate) fn layer(&mut self, layer: usize) -> LayerPages<'_> {
        assert!(layer < self.spec.num_layers, "layer {layer} of {}", self.spec.num_layers);
        assert!(matches!(self.spec.dtype, DType::F32 | DType::BF16), "keys are stored as f32 or bf16");
        LayerPages { spec: self.spec, layer, bytes: self.region.disjoint() }
    }
}

/// Elements of a stored head.
pub(crate) fn padded(spec: &KvSpec) -> usize {
    spec.heads.head_dim.next_multiple_of(LANES)
}

/// The pages of one layer, for several workers.
#[derive(Clone, Copy)]
pub(crate) struct LayerPages<'a> {
    spec: KvSpec,
    layer: usize,
    bytes: Disjoint<'a, u8>,
}

impl LayerPages<'_> {
    /// Byte offset of a position's key or value.
    fn offset(&self, pages: &[u32], value: bool, head: usize, position: usize) -> usize {
        let spec = &self.spec;
        let page = pages[position / spec.page_size] as usize;
        assert!(page < spec.num_pages, "page {page} of {}", spec.num_pages);
        let plane = ((self.layer * spec.num_pages + page) * 2 + usize::from(value)) * spec.heads.num_kv_heads + head;
        (plane * spec.page_size + position % spec.page_size) * padded(spec) * spec.dtype.size()
    }

    /// Where a position's key or value lies: `padded` elements.
    pub(crate) fn address(&self, pages: &[u32], value: bool, head: usize, position: usize) -> *const u8 {
        let offset = self.offset(pages, value, head, position);
        self.bytes.as_ptr().wrapping_add(offset)
    }

    /// Store one head's key or value, rounded to the stored element. The padding stays zero.
    ///
    /// # Safety
    /// Nobody else reads or writes this position meanwhile.
    pub(crate) unsafe fn store(&self, pages: &[u32], value: bool, head: usize, position: usize, values: &[f32]) {
        let offset = self.offset(pages, value, head, position);
        // SAFETY: this function's contract.
        let bytes = unsafe { self.bytes.part(offset..offset + values.len() * self.spec.dtype.size()) };
        match self.spec.dtype {
            DType::BF16 => {
                for (stored, &v) in bytes.chunks_exact_mut(2).zip(values) {
                    stored.copy_from_slice(&bf16::encode(v).to_bits().to_ne_bytes());
                }
            }
            _ => {
                for (stored, &v) in bytes.chunks_exact_mut(4).zip(values) {
                    stored.copy_from_slice(&f32::encode(v).to_ne_bytes());
                }
            }
        }
    }
}
