//! Attention over pages, in as many rounds as its partial results need.

use std::sync::{Arc, PoisonError};

use quern_backend::{AttentionSpec, KvSpec};

use crate::{
    GpuBackend, GpuError,
    buffer::Buffer,
    driver::{
        ATTENTION_BF16, ATTENTION_E4M3, ATTENTION_E5M2, ATTENTION_MERGE, AttentionArgs, GpuDevice, KV_STORE, MergeArgs,
        PART_BYTES, PARTITION, StoreArgs,
    },
    kv_cache::{self, KvCache},
    scratch::Scratch,
    step::{QUERY_TILE_BYTES, QueryTiles, Step},
};

/// Bytes of partial results that a step may have at once: thousands of blocks, enough to keep a device busy. Those of one
/// tile at the pool's full length are more for very long contexts alone.
const PARTIAL_BYTES: usize = 32 << 20;

/// Make room for the partial results of attention over pages of `spec`.
pub(super) fn reserve(device: &GpuDevice, scratch: &mut Scratch, spec: &KvSpec) -> Result<(), GpuError> {
    let partitions = spec.num_pages.saturating_mul(spec.page_size).div_ceil(PARTITION);
    let one_tile = partitions.saturating_mul(spec.heads.num_kv_heads).saturating_mul(PART_BYTES);
    scratch.partial.reserve(device, one_tile.max(PARTIAL_BYTES)).map(|_| ())
}

/// Store the rows' keys and values, then attend.
pub(super) fn attention(
    b: &GpuBackend,
    qkv: &Buffer,
    spec: &AttentionSpec,
    kv: &KvCache,
    step: &Step,
    out: &mut Buffer,
) {
    let heads = spec.heads;
    assert_eq!(qkv.rows(), step.batch.paged.num_rows(), "rows of qkv and of the batch");
    assert_eq!(heads, kv.spec().heads, "heads of the layer and of the pages");
    assert!(qkv.cols() == heads.qkv_dim() && out.cols() == heads.q_dim(), "columns of qkv and of the output");
    assert_ne!(spec.window, Some(0), "a row sees its own position");
    out.set_rows(qkv.rows());

    let Some(tiles) = query_tiles(b, heads.num_heads / heads.num_kv_heads, step) else { return };
    let (q_heads, kv_heads, dim) = (heads.num_heads as u32, heads.num_kv_heads as u32, heads.head_dim as u32);
    let (pages, page_size, format) = (kv.address(spec.layer), kv.spec().page_size as u32, kv.spec().format);
    let store = StoreArgs {
        qkv: qkv.address(),
        pages,
        spans: step.tables.spans,
        row_span: step.tables.row_span,
        table: step.tables.pages,
        q_heads,
        kv_heads,
        dim,
        page_size,
        stride: qkv.stride() as u32,
        format: kv_cache::number(format),
    };
    b.launch(KV_STORE, [qkv.rows(), 1, 1], store);

    let partial_of = |partitions: usize| partitions * heads.num_kv_heads * PART_BYTES;
    let mut first = 0;
    while first < tiles.kv_lens.len() {
        // As many tiles as fit, at least one; their results depend neither on the round nor on the space of others.
        let (mut count, mut partitions) = (0, 0);
        for kv_len in &tiles.kv_lens[first..] {
            let wider = partitions.max(kv_len.div_ceil(PARTITION));
            if count > 0 && (count + 1) * partial_of(wider) > PARTIAL_BYTES {
                break;
            }
            (count, partitions) = (count + 1, wider);
        }
        let bytes = count * partial_of(partitions);
        let Some(partial) = b.attempt(|device| b.scratch().partial.reserve(device, bytes)) else { return };
        let tiles_at = tiles.address + (first * QUERY_TILE_BYTES) as u64;
        let attend = AttentionArgs {
            qkv: qkv.address(),
            pages,
            spans: step.tables.spans,
            table: step.tables.pages,
            tiles: tiles_at,
            partial,
            q_heads,
            kv_heads,
            dim,
            page_size,
            stride: qkv.stride() as u32,
            partitions: partitions as u32,
            window: spec.window.map_or(i32::MAX as u32, |window| window.min(i32::MAX as usize) as u32),
            // The kernel's exponentials are of base 2.
            scale: spec.scale * std::f32::consts::LOG2_E,
        };
        let kernel = [ATTENTION_BF16, ATTENTION_E4M3, ATTENTION_E5M2][kv_cache::number(format) as usize];
        b.launch(kernel, [count, heads.num_kv_heads, partitions], attend);
        let merge = MergeArgs {
            partial,
            spans: step.tables.spans,
            tiles: tiles_at,
            out: out.address(),
            q_heads,
            kv_heads,
            dim,
            out_stride: out.stride() as u32,
            partitions: partitions as u32,
            pad: 0,
        };
        b.launch(ATTENTION_MERGE, [count, heads.num_kv_heads, 1], merge);
        first += count;
    }
}

/// The step's tiles for groups of `group` heads, copied to the device by the first layer.
fn query_tiles(b: &GpuBackend, group: usize, step: &Step) -> Option<Arc<QueryTiles>> {
    let mut kept = step.query_tiles.lock().unwrap_or_else(PoisonError::into_inner);
    if kept.as_ref().is_none_or(|tiles| tiles.group != group) {
        let tiles = b.attempt(|device| QueryTiles::copy(device, &mut b.scratch(), &step.batch, group));
        *kept = tiles.map(Arc::new);
    }
    kept.clone()
}
