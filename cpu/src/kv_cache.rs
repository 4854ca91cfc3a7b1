//! [`KvCache`]: pages of keys and values, `[layer][page][k|v][head][slot][dim]`.

use quern_backend::{KeyOrValue, KvSpec};

use crate::{
    attention::FEATURES,
    memory::{DisjointMut, Region},
};

/// Pages of all layers. A head's `dim` is padded in memory, so kernels have no rest to mind; Qwen3's 128
/// needs none.
#[derive(Debug)]
pub struct KvCache {
    spec: KvSpec,
    region: Region,
}

impl KvCache {
    /// Zeroed pages; `None` if they do not fit the address space or the operating system refuses.
    pub(crate) fn new(spec: &KvSpec) -> Option<Self> {
        let region = Region::zeroed(Self::bytes(spec)?)?;
        Some(Self { spec: *spec, region })
    }

    /// Bytes of the pages of `spec`, padding included; `None` past the address space.
    pub(crate) fn bytes(spec: &KvSpec) -> Option<usize> {
        [spec.num_pages, 2, spec.heads.num_kv_heads, spec.page_size, head_bytes(spec)]
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
        LayerPages { spec: self.spec, layer, bytes: self.region.disjoint() }
    }
}

/// Bytes of a stored head.
pub(crate) fn head_bytes(spec: &KvSpec) -> usize {
    spec.format.head_bytes(spec.heads.head_dim.next_multiple_of(FEATURES))
}

/// The pages of one layer, for several workers.
#[derive(Clone, Copy)]
pub(crate) struct LayerPages<'a> {
    spec: KvSpec,
    layer: usize,
    bytes: DisjointMut<'a, u8>,
}

impl LayerPages<'_> {
    /// What the pages were made for.
    pub(crate) fn spec(&self) -> &KvSpec {
        &self.spec
    }

    /// Byte offset of a position's key or value.
    fn offset(&self, pages: &[u32], half: KeyOrValue, head: usize, position: usize) -> usize {
        let spec = &self.spec;
        let page = pages[position / spec.page_size] as usize;
        assert!(page < spec.num_pages, "page {page} of {}", spec.num_pages);
        let plane = ((self.layer * spec.num_pages + page) * 2 + half as usize) * spec.heads.num_kv_heads + head;
        (plane * spec.page_size + position % spec.page_size) * head_bytes(spec)
    }

    /// Where the keys or values of the positions from `first` on lie, as many as `to` is long: [`head_bytes`] of
    /// each.
    pub(crate) fn addresses(&self, pages: &[u32], half: KeyOrValue, head: usize, first: usize, to: &mut [*const u8]) {
        let bytes = head_bytes(&self.spec);
        let (mut position, mut rest) = (first, to);
        while !rest.is_empty() {
            let left_in_page = self.spec.page_size - position % self.spec.page_size;
            let (run, behind) = rest.split_at_mut(left_in_page.min(rest.len()));
            let start = self.bytes.as_ptr().wrapping_add(self.offset(pages, half, head, position));
            run.iter_mut().enumerate().for_each(|(i, address)| *address = start.wrapping_add(i * bytes));
            (position, rest) = (position + run.len(), behind);
        }
    }

    /// Store one head's key or value, rounded to what the format holds. The padding stays zero.
    ///
    /// # Safety
    /// Nobody else reads or writes this position meanwhile.
    pub(crate) unsafe fn store(&self, pages: &[u32], half: KeyOrValue, head: usize, position: usize, values: &[f32]) {
        let offset = self.offset(pages, half, head, position);
        // SAFETY: this function's contract.
        let bytes = unsafe { self.bytes.part(offset..offset + self.spec.format.head_bytes(values.len())) };
        self.spec.format.encode(values, bytes);
    }
}
