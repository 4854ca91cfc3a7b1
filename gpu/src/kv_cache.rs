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

/// Bytes of keys and values of one token over all layers as pages hold them, the padding of heads included; `u64::MAX`
/// past the address space.
pub fn kv_bytes_per_token(spec: &KvSpec) -> u64 {
    let token = KvSpec { page_size: 1, num_pages: 1, ..*spec };
    let bytes = layer_bytes(&token).and_then(|bytes| bytes.checked_mul(spec.num_layers));
    bytes.map_or(u64::MAX, |bytes| bytes as u64)
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

#[cfg(test)]
mod tests {
    use quern_backend::HeadLayout;

    use super::*;

    #[test]
    fn the_tokens_of_a_pool_are_its_pages() {
        let heads = HeadLayout { num_heads: 4, num_kv_heads: 2, head_dim: 16 };
        let spec = KvSpec { num_layers: 3, heads, page_size: 32, num_pages: 5, format: KvFormat::BF16 };
        assert_eq!(kv_bytes_per_token(&spec), 3 * 2 * 2 * 128 * 2);
        assert_eq!(layer_bytes(&spec).map(|bytes| 3 * bytes as u64), Some(5 * 32 * kv_bytes_per_token(&spec)));
        assert_eq!(kv_bytes_per_token(&KvSpec { num_layers: usize::MAX, ..spec }), u64::MAX);
    }
}
