//! [`KvCache`]: pages of keys and values, `[page][k|v][head][slot][128]` for each layer.

use quern_backend::{KvFormat, KvSpec, UploadError};

use crate::driver::{Allocation, HEAD};

/// Encodings of keys and values that the kernels read.
pub const KV_FORMATS: [KvFormat; 3] = [KvFormat::BF16, KvFormat::F8E4M3, KvFormat::F8E5M2];

/// Pages of all layers.
pub struct KvCache {
    spec: KvSpec,
    layers: Vec<Allocation>,
}

/// Refuse what no kernel can attend to.
pub(crate) fn check(spec: &KvSpec, backend: &'static str) -> Result<(), UploadError> {
    let refused = |what| Err(UploadError::Unsupported { what, backend });
    if !KV_FORMATS.contains(&spec.format) {
        let known = KV_FORMATS.map(|format| format.to_string()).join(", ");
        return refused(format!("keys and values in {}; it has {known}", spec.format));
    }
    if spec.heads.head_dim > HEAD {
        return refused(format!("heads of {} features; at most {HEAD}", spec.heads.head_dim));
    }
    Ok(())
}

/// Bytes of one layer's pages, the padding of heads included; `None` past the address space.
pub(crate) fn layer_bytes(spec: &KvSpec) -> Option<usize> {
    [2, spec.heads.num_kv_heads, spec.page_size, spec.format.head_bytes(HEAD)]
        .into_iter()
        .try_fold(spec.num_pages, usize::checked_mul)
}

impl KvCache {
    pub(crate) fn new(spec: &KvSpec, layers: Vec<Allocation>) -> Self {
        Self { spec: *spec, layers }
    }

    /// What the pages were made for.
    pub(crate) fn spec(&self) -> &KvSpec {
        &self.spec
    }

    /// Where a layer's pages begin.
    pub(crate) fn address(&self, layer: usize) -> u64 {
        self.layers[layer].address()
    }
}

/// The kernels' number of `format`: `PageFormat` in kernels/pages.cu.
pub(crate) fn number(format: KvFormat) -> u32 {
    match format {
        KvFormat::F8E4M3 => 1,
        KvFormat::F8E5M2 => 2,
        _ => 0,
    }
}
