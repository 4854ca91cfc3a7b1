// out = x * w^T.

// Where the results of a 16-row tile go, and how many of its rows are no padding.
struct TileInfo { u32 column, rows; };

// One block a tile of weights and 16 * NT rows of x. `blocks`: of 128 columns; `tile_stride`: in U4s.
struct LinearArgs {
  const U4* tiles; const float* scales; const TileInfo* info; const float* x; float* out;
  u32 rows, blocks, tile_stride, x_stride, out_stride, pad;
};
static_assert(sizeof(LinearArgs) == 64, "the size in src/driver/kernels.rs");

// NT changes how often weights are loaded, not one bit of the result.
template <int FORMAT, int NT> DEV void linear(const LinearArgs& a, float* sums) {
  int lane = tid() % WARP, warp = tid() / WARP, first = by() * TILE * NT;
  const float* x[NT][PER_LANE];
  UNROLL for (int t = 0; t < NT; ++t)
    UNROLL for (int p = 0; p < PER_LANE; ++p) {
      int row = first + t * TILE + lane_row(lane) + 8 * p;
      x[t][p] = row < (int)a.rows ? a.x + (u64)row * a.x_stride : nullptr;
    }
  float acc[NT][C_REGS] = {};
  const U4* tile = a.tiles + (u64)bx() * a.tile_stride;
  product<FORMAT, NT>(tile, a.scales + (u64)bx() * a.blocks, a.blocks, warp, 4, x, lane, acc);
  add_warps<NT>(sums, warp, lane, acc);
  TileInfo info = a.info[bx()];
  for (int i = tid(); i < NT * 256; i += THREADS) {
    int m = i % 16, row = first + i / 16;
    if (m < (int)info.rows && row < (int)a.rows) a.out[(u64)row * a.out_stride + info.column + m] = sums[i];
  }
}
KERNEL(THREADS) linear_bf16(LinearArgs a) { SHARED float s[4 * 256]; linear<BF16, 1>(a, s); }
EXPORT(linear_bf16)
KERNEL(THREADS) linear_fp8(LinearArgs a) { SHARED float s[4 * 256]; linear<FP8, 1>(a, s); }
EXPORT(linear_fp8)
KERNEL(THREADS) linear_bf16_x4(LinearArgs a) { SHARED float s[4 * 4 * 256]; linear<BF16, 4>(a, s); }
EXPORT(linear_bf16_x4)
KERNEL(THREADS) linear_fp8_x4(LinearArgs a) { SHARED float s[4 * 4 * 256]; linear<FP8, 4>(a, s); }
EXPORT(linear_fp8_x4)

// Weights row by row in f32 or f16, one warp an output: for matrices that are small and must not be rounded.
struct PlainArgs {
  const void* w; const float* x; float* out;
  u32 rows, cols, w_rows, column, x_stride, out_stride, half, pad;
};
static_assert(sizeof(PlainArgs) == 56, "the size in src/driver/kernels.rs");

DEV float plain_weight(const void* w, u64 at, u32 half) {
  return half ? half_to_float(((const u16*)w)[at]) : ((const float*)w)[at];
}
KERNEL(THREADS) linear_plain(PlainArgs a) {
  int lane = tid() % WARP, r = bx() * 4 + tid() / WARP, row = by();
  if (r >= (int)a.w_rows) return;
  float sum = 0;
  for (int k = lane; k < (int)a.cols; k += WARP)
    sum += plain_weight(a.w, (u64)r * a.cols + k, a.half) * a.x[(u64)row * a.x_stride + k];
  sum = warp_sum(sum);
  if (lane == 0) a.out[(u64)row * a.out_stride + a.column + r] = sum;
}
EXPORT(linear_plain)
