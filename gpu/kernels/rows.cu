// Operations on rows: embed, add_rms_norm, silu_mul, gather_rows.

DEV float fp8_to_float(u8 b) { u32 lo, hi; fp8_to_bf16(b, lo, hi); return from_bits(lo << 16); }

// One block a token.
struct EmbedArgs {
  const void* w; const float* scales; const u32* ids; float* out;
  u32 cols, blocks, tile_stride, out_stride, format, pad;
};
static_assert(sizeof(EmbedArgs) == 56, "the size in src/driver/kernels.rs");
KERNEL(THREADS) embed(EmbedArgs a) {
  u32 id = a.ids[bx()], m = id % 16;
  u64 plain = (u64)id * a.cols;
  const u8* tile = (const u8*)a.w + (u64)(id / 16) * a.tile_stride * 16;
  const float* scales = a.scales + (u64)(id / 16) * a.blocks;
  for (int k = tid(); k < (int)a.cols; k += THREADS) {
    float v = 0;
    if (a.format == F32) v = ((const float*)a.w)[plain + k];
    if (a.format == F16) v = half_to_float(((const u16*)a.w)[plain + k]);
    if (a.format == BF16) v = from_bits((u32)((const u16*)tile)[tile_index<BF16>(m, k)] << 16);
    if (a.format == FP8) v = fp8_to_float(tile[tile_index<FP8>(m, k)]) * scales[k / 128];
    a.out[(u64)bx() * a.out_stride + k] = v;
  }
}
EXPORT(embed)

// Sum over a block's threads, the same in all of them: lanes as a tree, warps in order.
DEV float block_sum(float x, float* shared) {
  x = warp_sum(x);
  if (tid() % WARP == 0) shared[tid() / WARP] = x;
  sync();
  float sum = shared[0];
  for (int w = 1; w < 4; ++w) sum += shared[w];
  return sum;
}

// One block a row.
struct NormArgs {
  float* residual; const float* delta; const float* gain; float* out;
  u32 cols, stride; float eps; u32 pad;
};
static_assert(sizeof(NormArgs) == 48, "the size in src/driver/kernels.rs");
KERNEL(THREADS) add_rms_norm(NormArgs a) {
  SHARED float shared[4];
  float* residual = a.residual + (u64)bx() * a.stride;
  const float* delta = a.delta + (u64)bx() * a.stride;
  float sum = 0;
  for (int i = tid(); i < (int)a.cols; i += THREADS) {
    float v = residual[i] + delta[i];
    residual[i] = v;
    sum += v * v;
  }
  sum = block_sum(sum, shared);
  float scale = 1.0f / sqrt_(sum / (float)a.cols + a.eps);
  float* out = a.out + (u64)bx() * a.stride;
  for (int i = tid(); i < (int)a.cols; i += THREADS) out[i] = residual[i] * scale * a.gain[i];
}
EXPORT(add_rms_norm)

struct SiluArgs { const float* x; float* out; u32 inner, x_stride, out_stride, pad; };
static_assert(sizeof(SiluArgs) == 32, "the size in src/driver/kernels.rs");
KERNEL(THREADS) silu_mul(SiluArgs a) {
  const float* x = a.x + (u64)by() * a.x_stride;
  int i = bx() * THREADS + tid();
  if (i < (int)a.inner) a.out[(u64)by() * a.out_stride + i] = silu(x[i]) * x[i + a.inner];
}
EXPORT(silu_mul)

// One block a row.
struct GatherArgs { const float* x; const u32* rows; float* out; u32 cols, stride; };
static_assert(sizeof(GatherArgs) == 32, "the size in src/driver/kernels.rs");
KERNEL(THREADS) gather_rows(GatherArgs a) {
  const float* x = a.x + (u64)a.rows[bx()] * a.stride;
  for (int i = tid(); i < (int)a.cols; i += THREADS) a.out[(u64)bx() * a.stride + i] = x[i];
}
EXPORT(gather_rows)
