// Mixture of experts: route, then plan, gate and up, down, sum. A route is a row's visit to one of its experts, numbered
// row * top_k + rank.

constexpr int MAX_EXPERTS = 512;

// One warp a row: softmax over all experts, then top_k rounds of the largest, ties to the lower index.
struct RouteArgs {
  const float* logits; u32* experts; float* weights;
  u32 rows, num_experts, top_k, stride, renormalise, pad;
};
static_assert(sizeof(RouteArgs) == 48, "the size in src/driver/kernels.rs");
KERNEL(THREADS) route(RouteArgs a) {
  SHARED float shared[4 * MAX_EXPERTS];
  int lane = tid() % WARP, warp = tid() / WARP, row = bx() * 4 + warp;
  if (row >= (int)a.rows) return;
  // Each lane reads and writes the same experts throughout, so that no barrier is needed.
  float* p = shared + warp * MAX_EXPERTS;
  const float* logits = a.logits + (u64)row * a.stride;
  float top = from_bits(0xff800000u), sum = 0;
  for (int e = lane; e < (int)a.num_experts; e += WARP) top = max_(top, logits[e]);
  top = warp_max(top);
  for (int e = lane; e < (int)a.num_experts; e += WARP) {
    float v = exp2_((logits[e] - top) * LOG2E);
    p[e] = v;
    sum += v;
  }
  sum = warp_sum(sum);
  for (int e = lane; e < (int)a.num_experts; e += WARP) p[e] /= sum;
  float kept = 0;
  for (u32 k = 0; k < a.top_k; ++k) {
    constexpr u32 NOBODY = 0xffffffffu;
    float best = -1;
    u32 at = NOBODY;
    for (int e = lane; e < (int)a.num_experts; e += WARP)
      if (p[e] > best) { best = p[e]; at = e; }
    for (int m = WARP / 2; m > 0; m >>= 1) {
      float other = shuffle_xor(best, m);
      u32 other_at = shuffle_xor(at, m);
      if (other > best || (other == best && other_at < at)) { best = other; at = other_at; }
    }
    // Logits that hold a NaN reach the output as NaN, through some expert.
    if (at == NOBODY) { at = k; best = from_bits(0x7fc00000u); }
    if ((int)at % WARP == lane) p[at] = -1;
    if (lane == 0) {
      a.experts[row * a.top_k + k] = at;
      a.weights[row * a.top_k + k] = best;
    }
    kept += best;
  }
  if (a.renormalise && lane == 0)
    for (u32 k = 0; k < a.top_k; ++k) a.weights[row * a.top_k + k] /= kept;
}
EXPORT(route)

// The routes by expert, in their order within each, and each expert's cut into tiles of at most 16. One block.
struct PlanTile { u32 expert, first, count, pad; };
struct PlanArgs { const u32* experts; u32* order; PlanTile* tiles; u32* num_tiles; u32 routes, num_experts; };
static_assert(sizeof(PlanArgs) == 40, "the size in src/driver/kernels.rs");
KERNEL(THREADS) moe_plan(PlanArgs a) {
  SHARED u32 start[MAX_EXPERTS + 1], tile[MAX_EXPERTS + 1];
  for (int e = tid(); e < (int)a.num_experts; e += THREADS) {
    u32 count = 0;
    for (u32 r = 0; r < a.routes; ++r) count += a.experts[r] == (u32)e;
    start[e] = count;
  }
  sync();
  if (tid() == 0) {
    u32 at = 0, tiles = 0;
    for (u32 e = 0; e < a.num_experts; ++e) {
      u32 count = start[e];
      start[e] = at;
      tile[e] = tiles;
      at += count;
      tiles += (count + 15) / 16;
    }
    start[a.num_experts] = at;
    *a.num_tiles = tiles;
  }
  sync();
  for (int e = tid(); e < (int)a.num_experts; e += THREADS) {
    u32 at = start[e], end = start[e + 1], t = tile[e];
    for (u32 first = at; first < end; first += 16)
      a.tiles[t++] = {(u32)e, first, end - first < 16 ? end - first : 16, 0};
    for (u32 r = 0; r < a.routes; ++r)
      if (a.experts[r] == (u32)e) a.order[at++] = r;
  }
}
EXPORT(moe_plan)

// out = silu(gate(x)) * up(x), a row for each route, zeros up to `out_stride`. One block a tile of weights and of routes;
// blocks past the planned tiles end at once.
struct GateUpArgs {
  const U4* gate; const U4* up; const float* gate_scales; const float* up_scales;
  const float* x; const u32* order; const PlanTile* tiles; const u32* num_tiles; float* out;
  u32 inner, blocks, row_tiles, top_k, x_stride, out_stride;
};
static_assert(sizeof(GateUpArgs) == 96, "the size in src/driver/kernels.rs");
template <int FORMAT> DEV u64 expert_tile(u32 expert, u32 row_tiles, u32 blocks) {
  return ((u64)expert * row_tiles + bx()) * (blocks * 128 / (16 * steps<FORMAT>()) * WARP);
}
template <int FORMAT> DEV void moe_gate_up(const GateUpArgs& a, float* sums) {
  if (by() >= (int)*a.num_tiles) return;
  PlanTile plan = a.tiles[by()];
  int lane = tid() % WARP, warp = tid() / WARP;
  const float* x[1][PER_LANE];
  UNROLL for (int p = 0; p < PER_LANE; ++p) {
    u32 n = lane_row(lane) + 8 * p;
    x[0][p] = n < plan.count ? a.x + (u64)(a.order[plan.first + n] / a.top_k) * a.x_stride : nullptr;
  }
  u64 at = expert_tile<FORMAT>(plan.expert, a.row_tiles, a.blocks);
  u64 scale = ((u64)plan.expert * a.row_tiles + bx()) * a.blocks;
  float gate[1][C_REGS] = {}, up[1][C_REGS] = {};
  product<FORMAT, 1>(a.gate + at, a.gate_scales + scale, a.blocks, warp, 4, x, lane, gate);
  product<FORMAT, 1>(a.up + at, a.up_scales + scale, a.blocks, warp, 4, x, lane, up);
  add_warps<1>(sums, warp, lane, gate);
  add_warps<1>(sums + 1024, warp, lane, up);
  for (int i = tid(); i < 256; i += THREADS) {
    u32 m = bx() * 16 + i % 16, n = i / 16;
    if (m < a.inner && n < plan.count)
      a.out[(u64)a.order[plan.first + n] * a.out_stride + m] = silu(sums[i]) * sums[1024 + i];
  }
  // The next product reads whole blocks of 128.
  if (bx() == (int)a.row_tiles - 1)
    for (u32 n = 0; n < plan.count; ++n)
      for (u32 m = a.inner + tid(); m < a.out_stride; m += THREADS)
        a.out[(u64)a.order[plan.first + n] * a.out_stride + m] = 0;
}
KERNEL(THREADS) moe_gate_up_bf16(GateUpArgs a) { SHARED float s[2048]; moe_gate_up<BF16>(a, s); }
EXPORT(moe_gate_up_bf16)
KERNEL(THREADS) moe_gate_up_fp8(GateUpArgs a) { SHARED float s[2048]; moe_gate_up<FP8>(a, s); }
EXPORT(moe_gate_up_fp8)

// out = down(x), a row for each route.
struct DownArgs {
  const U4* down; const float* scales; const float* x; const u32* order; const PlanTile* tiles; const u32* num_tiles;
  float* out; u32 hidden, blocks, row_tiles, x_stride, out_stride, pad;
};
static_assert(sizeof(DownArgs) == 80, "the size in src/driver/kernels.rs");
template <int FORMAT> DEV void moe_down(const DownArgs& a, float* sums) {
  if (by() >= (int)*a.num_tiles) return;
  PlanTile plan = a.tiles[by()];
  int lane = tid() % WARP, warp = tid() / WARP;
  const float* x[1][PER_LANE];
  UNROLL for (int p = 0; p < PER_LANE; ++p) {
    u32 n = lane_row(lane) + 8 * p;
    x[0][p] = n < plan.count ? a.x + (u64)a.order[plan.first + n] * a.x_stride : nullptr;
  }
  u64 at = expert_tile<FORMAT>(plan.expert, a.row_tiles, a.blocks);
  u64 scale = ((u64)plan.expert * a.row_tiles + bx()) * a.blocks;
  float acc[1][C_REGS] = {};
  product<FORMAT, 1>(a.down + at, a.scales + scale, a.blocks, warp, 4, x, lane, acc);
  add_warps<1>(sums, warp, lane, acc);
  for (int i = tid(); i < 256; i += THREADS) {
    u32 m = bx() * 16 + i % 16, n = i / 16;
    if (m < a.hidden && n < plan.count) a.out[(u64)a.order[plan.first + n] * a.out_stride + m] = sums[i];
  }
}
KERNEL(THREADS) moe_down_bf16(DownArgs a) { SHARED float s[1024]; moe_down<BF16>(a, s); }
EXPORT(moe_down_bf16)
KERNEL(THREADS) moe_down_fp8(DownArgs a) { SHARED float s[1024]; moe_down<FP8>(a, s); }
EXPORT(moe_down_fp8)

// Weights row by row in f32 or f16, one warp an output: gate and up where `up` is given, else one matrix. Writes zeros
// up to `out_stride`.
struct MoePlainArgs {
  const void* gate; const void* up; const float* x; const u32* experts; float* out;
  u32 w_rows, cols, routes_per_x, x_stride, out_stride, half;
};
static_assert(sizeof(MoePlainArgs) == 64, "the size in src/driver/kernels.rs");
KERNEL(THREADS) moe_plain(MoePlainArgs a) {
  int lane = tid() % WARP, r = by() * 4 + tid() / WARP, route = bx();
  float* out = a.out + (u64)route * a.out_stride;
  if (r >= (int)a.w_rows) {
    if (r < (int)a.out_stride && lane == 0) out[r] = 0;
    return;
  }
  const float* x = a.x + (u64)(route / a.routes_per_x) * a.x_stride;
  u64 at = ((u64)a.experts[route] * a.w_rows + r) * a.cols;
  float gate = 0, up = 0;
  for (int k = lane; k < (int)a.cols; k += WARP) {
    gate += plain_weight(a.gate, at + k, a.half) * x[k];
    if (a.up) up += plain_weight(a.up, at + k, a.half) * x[k];
  }
  gate = warp_sum(gate);
  up = warp_sum(up);
  if (lane == 0) out[r] = a.up ? silu(gate) * up : gate;
}
EXPORT(moe_plain)

// out = sum of the rows of a row's routes by weight, in the order of the routing.
struct SumArgs { const float* y; const float* weights; float* out; u32 cols, top_k, y_stride, out_stride; };
static_assert(sizeof(SumArgs) == 40, "the size in src/driver/kernels.rs");
KERNEL(THREADS) moe_sum(SumArgs a) {
  int i = bx() * THREADS + tid();
  if (i >= (int)a.cols) return;
  u64 route = (u64)by() * a.top_k;
  float sum = 0;
  for (u32 k = 0; k < a.top_k; ++k) sum += a.weights[route + k] * a.y[(route + k) * a.y_stride + i];
  a.out[(u64)by() * a.out_stride + i] = sum;
}
EXPORT(moe_sum)
