// The product of a 16-row tile of weights with 16 rows of activations, and how weights are stored for it. Weights are
// the operand with 16 rows, also where one token is computed: they are uploaded in the order in which the lanes want
// them, so that each lane loads 16 bytes at a time and no shared memory is needed.

constexpr int THREADS = 4 * WARP;  // of every block
constexpr int TILE = 16;
constexpr float LOG2E = 1.44269504088896340736f;

DEV float min_(float a, float b) { return a < b ? a : b; }
DEV float max_(float a, float b) { return a > b ? a : b; }
DEV float silu(float x) { return x / (1.0f + exp2_(-x * LOG2E)); }

// BF16 and FP8 are stored in tiles of 16 rows: a tile is a sequence of units of 16 x 16 * steps() values, a unit the
// 16 bytes of each lane. F32 and F16 are stored row by row.
enum Format { F32 = 0, F16 = 1, BF16 = 2, FP8 = 3 };

DEV float half_to_float(u16 h) {
  u32 sign = (u32)(h & 0x8000) << 16, e = h >> 10 & 31, m = h & 0x3ff;
  if (e == 31) return from_bits(sign | 0x7f800000u | m << 13);
  if (e) return from_bits(sign | (e + 112) << 23 | m << 13);
  float v = (float)m * 5.9604644775390625e-8f;
  return sign ? -v : v;
}

template <int FORMAT> struct Element;
template <> struct Element<BF16> { static constexpr int BYTES = 2; };
template <> struct Element<FP8> { static constexpr int BYTES = 1; };
// Steps of 16 k that a lane's 16 bytes are enough for.
template <int FORMAT> DEV constexpr int steps() { return 16 / Element<FORMAT>::BYTES / (2 * A_REGS); }

// Index of the element (m, k) among those of its tile. The uploader's twin: src/layout.rs.
template <int FORMAT> DEV int tile_index(int m, int k) {
  constexpr int S = steps<FORMAT>(), PER_LANE_ELEMENTS = 2 * A_REGS * S;
  int unit = k / (16 * S), group = k / (4 * S) % 4, step = k / 4 % S, j = k % 4;
#if Q_NVIDIA
  int lane = (m % 8) * 4 + group, slot = (j & 1) + 2 * (m / 8) + 4 * (j >> 1);
#else
  int lane = group * 16 + m, slot = j;
#endif
  return (unit * WARP + lane) * PER_LANE_ELEMENTS + step * 2 * A_REGS + slot;
}

// A lane's 16 bytes as the A of its steps.
template <int FORMAT> DEV void unpack(const U4& w, u32 (*a)[A_REGS]) {
  if constexpr (FORMAT == BF16) {
    UNROLL for (int i = 0; i < 4; ++i) a[i / A_REGS][i % A_REGS] = w.v[i];
  } else {
    UNROLL for (int i = 0; i < 4; ++i) {
      int lo = 2 * i, hi = 2 * i + 1;
      fp8_to_bf16(w.v[i], a[lo / A_REGS][lo % A_REGS], a[hi / A_REGS][hi % A_REGS]);
    }
  }
}

// acc[t] += a tile of weights times 16 rows of x for each t, over the blocks of 128 columns first, first + stride, ...
// The order of additions is that of the blocks: it depends on nothing but `blocks`, `first` and `stride`.
template <int FORMAT, int NT>
DEV void product(const U4* tile, const float* scales, int blocks, int first, int stride,
                 const float* const (*x)[PER_LANE], int lane, float (*acc)[C_REGS]) {
  constexpr int S = steps<FORMAT>(), UNITS = 128 / (16 * S);
  // The next block's weights are on their way while this one's are multiplied.
  U4 w[UNITS], ahead[UNITS];
  if (first < blocks)
    UNROLL for (int u = 0; u < UNITS; ++u) ahead[u] = load_stream(tile + (first * UNITS + u) * WARP + lane);
  for (int block = first; block < blocks; block += stride) {
    UNROLL for (int u = 0; u < UNITS; ++u) w[u] = ahead[u];
    if (block + stride < blocks)
      UNROLL for (int u = 0; u < UNITS; ++u)
        ahead[u] = load_stream(tile + ((block + stride) * UNITS + u) * WARP + lane);
    float part[NT][C_REGS];
    UNROLL for (int t = 0; t < NT; ++t)
      UNROLL for (int i = 0; i < C_REGS; ++i) part[t][i] = FORMAT == FP8 ? 0.0f : acc[t][i];
    UNROLL for (int u = 0; u < UNITS; ++u) {
      u32 a[S][A_REGS];
      unpack<FORMAT>(w[u], a);
      int k = block * 128 + u * 16 * S + 4 * S * lane_k(lane);
      UNROLL for (int t = 0; t < NT; ++t) {
        u32 b[S][B_REGS];
        UNROLL for (int p = 0; p < PER_LANE; ++p)
          UNROLL for (int s = 0; s < S; ++s) {
            F4 v = {};
            if (x[t][p]) v = *(const F4*)(x[t][p] + k + 4 * s);
            b[s][2 * p] = pack(v.v[0], v.v[1]);
            b[s][2 * p + 1] = pack(v.v[2], v.v[3]);
          }
        UNROLL for (int s = 0; s < S; ++s) mma(part[t], a[s], b[s]);
      }
    }
    float scale = FORMAT == FP8 ? scales[block] : 1.0f;
    UNROLL for (int t = 0; t < NT; ++t)
      UNROLL for (int i = 0; i < C_REGS; ++i) acc[t][i] = FORMAT == FP8 ? acc[t][i] + scale * part[t][i] : part[t][i];
  }
}

// The sums of the four warps, added in the order of the warps: element (m, n) of t in sums[t * 256 + n * 16 + m].
template <int NT> DEV void add_warps(float* sums, int warp, int lane, const float (*acc)[C_REGS]) {
  UNROLL for (int t = 0; t < NT; ++t)
    UNROLL for (int i = 0; i < C_REGS; ++i)
      sums[(warp * NT + t) * 256 + c_n(lane, i) * 16 + c_m(lane, i)] = acc[t][i];
  sync();
  for (int i = tid(); i < NT * 256; i += THREADS) {
    float sum = sums[i];
    for (int w = 1; w < 4; ++w) sum += sums[w * NT * 256 + i];
    sums[i] = sum;
  }
  sync();
}
