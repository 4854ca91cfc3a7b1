// Rotary embeddings of queries and keys, behind a norm of each head (Qwen3) or a bias (Qwen2). One warp a head.

DEV void rotate(float* head, float x, float y, int i, int half, const float* rotation) {
  float c = rotation[i], s = rotation[i + half];
  head[i] = x * c - y * s;
  head[i + half] = y * c + x * s;
}

struct NormRopeArgs {
  float* qkv; const float* q_gain; const float* k_gain; const float* rotation;
  u32 heads, q_heads, dim, stride, rotation_stride; float eps;
};
static_assert(sizeof(NormRopeArgs) == 56, "the size in src/driver/kernels.rs");
KERNEL(THREADS) qk_norm_rope(NormRopeArgs a) {
  int lane = tid() % WARP, head = by() * 4 + tid() / WARP, half = a.dim / 2;
  if (head >= (int)a.heads) return;
  float* v = a.qkv + (u64)bx() * a.stride + head * a.dim;
  const float* gain = head < (int)a.q_heads ? a.q_gain : a.k_gain;
  const float* rotation = a.rotation + (u64)bx() * a.rotation_stride;
  float sum = 0;
  for (int i = lane; i < (int)a.dim; i += WARP) sum += v[i] * v[i];
  sum = warp_sum(sum);
  float scale = 1.0f / sqrt_(sum / (float)a.dim + a.eps);
  for (int i = lane; i < half; i += WARP)
    rotate(v, v[i] * scale * gain[i], v[i + half] * scale * gain[i + half], i, half, rotation);
}
EXPORT(qk_norm_rope)

// `rotated`: heads of queries and keys; behind them come those of values.
struct BiasRopeArgs {
  float* qkv; const float* bias; const float* rotation;
  u32 heads, rotated, dim, stride, rotation_stride, pad;
};
static_assert(sizeof(BiasRopeArgs) == 48, "the size in src/driver/kernels.rs");
KERNEL(THREADS) bias_rope(BiasRopeArgs a) {
  int lane = tid() % WARP, head = by() * 4 + tid() / WARP, half = a.dim / 2;
  if (head >= (int)a.heads) return;
  float* v = a.qkv + (u64)bx() * a.stride + head * a.dim;
  const float* bias = a.bias + head * a.dim;
  const float* rotation = a.rotation + (u64)bx() * a.rotation_stride;
  for (int i = lane; i < half; i += WARP) {
    float x = v[i] + bias[i], y = v[i + half] + bias[i + half];
    if (head < (int)a.rotated) {
      rotate(v, x, y, i, half, rotation);
    } else {
      v[i] = x;
      v[i + half] = y;
    }
  }
}
EXPORT(bias_rope)
