//! The experts of a layer: a plan of which of them gets which rows, their two products, the sum.

use crate::{
    GpuBackend, GpuError,
    buffer::{Buffer, Routing, RoutingMemory},
    driver::{
        DownArgs, GateUpArgs, GpuDevice, MOE_DOWN_BF16, MOE_DOWN_FP8, MOE_GATE_UP_BF16, MOE_GATE_UP_FP8, MOE_PLAIN,
        MOE_PLAN, MOE_SUM, MoePlainArgs, PlanArgs, SumArgs,
    },
    layout::{TILE_ROWS, padded},
    scratch::Scratch,
    weights::{Experts, Part, Storage},
};

/// Make room for what the widest experts so far compute for `routes` routes.
pub(super) fn reserve(device: &GpuDevice, scratch: &mut Scratch, routes: usize) -> Result<(), GpuError> {
    let (inner, hidden) = scratch.expert_cols;
    if inner > 0 {
        scratch.inner.reserve(device, Buffer::bytes(routes, inner))?;
        scratch.routed.reserve(device, Buffer::bytes(routes, hidden))?;
    }
    Ok(())
}

/// What all kernels of a call share.
struct Call<'a> {
    b: &'a GpuBackend,
    routing: &'a RoutingMemory,
    experts: &'a Experts,
    routes: usize,
    /// Results of gate and up, and of down: where they lie, and their strides.
    inner: (u64, usize),
    routed: (u64, usize),
}

/// `out = Σ w_e · down_e(silu(gate_e(x)) * up_e(x))`.
pub(super) fn moe(b: &GpuBackend, x: &Buffer, routing: &Routing, experts: &Experts, out: &mut Buffer) {
    assert_eq!(x.rows(), routing.rows(), "rows of the input and of the routing");
    assert_eq!((x.cols(), out.cols()), (experts.hidden, experts.hidden), "columns of the input and of the output");
    out.set_rows(x.rows());
    let Some(memory) = routing.memory() else { return };
    let routes = x.rows() * routing.top_k();
    let space = b.attempt(|device| {
        let scratch = &mut *b.scratch();
        let inner = scratch.inner.reserve(device, Buffer::bytes(routes, experts.inner))?;
        Ok((inner, scratch.routed.reserve(device, Buffer::bytes(routes, experts.hidden))?))
    });
    let Some((inner, routed)) = space else { return };
    let (inner, routed) = ((inner, padded(experts.inner)), (routed, padded(experts.hidden)));
    let call = Call { b, routing: memory, experts, routes, inner, routed };

    let is_tiled = |part: &Part| matches!(part.storage, Storage::Tiles { .. });
    if is_tiled(&experts.gate) || is_tiled(&experts.down) {
        call.plan();
    }
    call.gate_up(x, routing.top_k());
    call.down();
    let args = SumArgs {
        y: routed.0,
        weights: memory.weights.address(),
        out: out.address(),
        cols: experts.hidden as u32,
        top_k: routing.top_k() as u32,
        y_stride: routed.1 as u32,
        out_stride: out.stride() as u32,
    };
    b.launch(MOE_SUM, [experts.hidden.div_ceil(b.arch().threads()), x.rows(), 1], args);
}

impl Call<'_> {
    fn plan(&self) {
        let args = PlanArgs {
            experts: self.routing.experts.address(),
            order: self.routing.order.address(),
            tiles: self.routing.tiles.address(),
            num_tiles: self.routing.num_tiles.address(),
            routes: self.routes as u32,
            num_experts: self.experts.num_experts as u32,
        };
        self.b.launch(MOE_PLAN, [1, 1, 1], args);
    }

    /// Most tiles of routes that there can be: the last of each expert may be short. Blocks past those that there are
    /// end at once, so that the host need not know.
    fn most_tiles(&self) -> usize {
        self.routes.min(self.routes / TILE_ROWS + self.experts.num_experts)
    }

    fn gate_up(&self, x: &Buffer, top_k: usize) {
        let Experts { gate, up, inner, hidden, .. } = self.experts;
        match (&gate.storage, &up.storage) {
            (Storage::Tiles { fp8, scales, .. }, Storage::Tiles { scales: up_scales, .. }) => {
                let row_tiles = inner.div_ceil(TILE_ROWS);
                let args = GateUpArgs {
                    gate: gate.bytes.address(),
                    up: up.bytes.address(),
                    gate_scales: scales.address(),
                    up_scales: up_scales.address(),
                    x: x.address(),
                    order: self.routing.order.address(),
                    tiles: self.routing.tiles.address(),
                    num_tiles: self.routing.num_tiles.address(),
                    out: self.inner.0,
                    inner: *inner as u32,
                    blocks: gate.blocks() as u32,
                    row_tiles: row_tiles as u32,
                    top_k: top_k as u32,
                    x_stride: x.stride() as u32,
                    out_stride: self.inner.1 as u32,
                };
                let kernel = if *fp8 { MOE_GATE_UP_FP8 } else { MOE_GATE_UP_BF16 };
                self.b.launch(kernel, [row_tiles, self.most_tiles(), 1], args);
            }
            _ => {
                let args = MoePlainArgs {
                    gate: gate.bytes.address(),
                    up: up.bytes.address(),
                    x: x.address(),
                    experts: self.routing.experts.address(),
                    out: self.inner.0,
                    w_rows: *inner as u32,
                    cols: *hidden as u32,
                    routes_per_x: top_k as u32,
                    x_stride: x.stride() as u32,
                    out_stride: self.inner.1 as u32,
                    half: gate.format_number(),
                };
                self.b.launch(MOE_PLAIN, [self.routes, self.inner.1.div_ceil(4), 1], args);
            }
        }
    }

    fn down(&self) {
        let Experts { down, inner, hidden, .. } = self.experts;
        match &down.storage {
            Storage::Tiles { fp8, scales, .. } => {
                let row_tiles = hidden.div_ceil(TILE_ROWS);
                let args = DownArgs {
                    down: down.bytes.address(),
                    scales: scales.address(),
                    x: self.inner.0,
                    order: self.routing.order.address(),
                    tiles: self.routing.tiles.address(),
                    num_tiles: self.routing.num_tiles.address(),
                    out: self.routed.0,
                    hidden: *hidden as u32,
                    blocks: down.blocks() as u32,
                    row_tiles: row_tiles as u32,
                    x_stride: self.inner.1 as u32,
                    out_stride: self.routed.1 as u32,
                    pad: 0,
                };
                let kernel = if *fp8 { MOE_DOWN_FP8 } else { MOE_DOWN_BF16 };
                self.b.launch(kernel, [row_tiles, self.most_tiles(), 1], args);
            }
            Storage::Plain { half } => {
                let args = MoePlainArgs {
                    gate: down.bytes.address(),
                    up: 0,
                    x: self.inner.0,
                    experts: self.routing.experts.address(),
                    out: self.routed.0,
                    w_rows: *hidden as u32,
                    cols: *inner as u32,
                    routes_per_x: 1,
                    x_stride: self.inner.1 as u32,
                    out_stride: self.routed.1 as u32,
                    half: u32::from(*half),
                };
                self.b.launch(MOE_PLAIN, [self.routes, self.routed.1.div_ceil(4), 1], args);
            }
        }
    }
}
