//! Products with weights, and their rows as embeddings.

use crate::{
    GpuBackend,
    buffer::Buffer,
    driver::{
        EMBED, EmbedArgs, LINEAR_BF16, LINEAR_BF16_X4, LINEAR_FP8, LINEAR_FP8_X4, LINEAR_PLAIN, LinearArgs, PlainArgs,
    },
    layout::TILE_ROWS,
    step::Step,
    weights::{Part, Storage, Weight},
};

/// `out = x · wᵀ`, part by part.
pub(super) fn linear(b: &GpuBackend, x: &Buffer, weight: &Weight, out: &mut Buffer) {
    let (rows, columns) = (x.rows(), weight.0.iter().map(|part| part.rows).sum::<usize>());
    assert_eq!(x.cols(), weight.0[0].cols, "columns of the input and of the weight");
    assert_eq!(out.cols(), columns, "columns of the output and rows of the weight");
    out.set_rows(rows);
    for part in &weight.0 {
        match &part.storage {
            Storage::Plain { half } => plain(b, x, part, *half, out),
            Storage::Tiles { fp8, scales, info, num_tiles, tile_bytes } => {
                let args = LinearArgs {
                    tiles: part.bytes.address(),
                    scales: scales.address(),
                    info: info.address(),
                    x: x.address(),
                    out: out.address(),
                    rows: rows as u32,
                    blocks: part.blocks() as u32,
                    tile_stride: (tile_bytes / 16) as u32,
                    x_stride: x.stride() as u32,
                    out_stride: out.stride() as u32,
                    pad: 0,
                };
                // With more rows each block loads its weights once for 64 of them. The bits are the same.
                let many = rows > TILE_ROWS;
                let kernel = match (fp8, many) {
                    (false, false) => LINEAR_BF16,
                    (false, true) => LINEAR_BF16_X4,
                    (true, false) => LINEAR_FP8,
                    (true, true) => LINEAR_FP8_X4,
                };
                let rows_per_block = if many { 4 * TILE_ROWS } else { TILE_ROWS };
                b.launch(kernel, [*num_tiles, rows.div_ceil(rows_per_block), 1], args);
            }
        }
    }
}

fn plain(b: &GpuBackend, x: &Buffer, part: &Part, half: bool, out: &Buffer) {
    let args = PlainArgs {
        w: part.bytes.address(),
        x: x.address(),
        out: out.address(),
        rows: x.rows() as u32,
        cols: part.cols as u32,
        w_rows: part.rows as u32,
        column: part.column as u32,
        x_stride: x.stride() as u32,
        out_stride: out.stride() as u32,
        half: u32::from(half),
        pad: 0,
    };
    b.launch(LINEAR_PLAIN, [part.rows.div_ceil(4), x.rows(), 1], args);
}

/// `out[i] = table[token i of the step]`.
pub(super) fn embed(b: &GpuBackend, table: &Weight, step: &Step, out: &mut Buffer) {
    let [table] = &table.0[..] else { panic!("an embedding table is one matrix, not {}", table.0.len()) };
    assert_eq!(out.cols(), table.cols, "columns of the output and of the table");
    let tokens = step.batch.token_ids.len();
    out.set_rows(tokens);
    let (scales, tile_bytes) = match &table.storage {
        Storage::Plain { .. } => (0, 0),
        Storage::Tiles { scales, tile_bytes, .. } => (scales.address(), *tile_bytes),
    };
    let args = EmbedArgs {
        w: table.bytes.address(),
        scales,
        ids: step.tables.token_ids,
        out: out.address(),
        cols: table.cols as u32,
        blocks: table.blocks() as u32,
        tile_stride: (tile_bytes / 16) as u32,
        out_stride: out.stride() as u32,
        format: table.format_number(),
        pad: 0,
    };
    b.launch(EMBED, [tokens, 1, 1], args);
}
