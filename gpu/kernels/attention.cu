// Attention over pages. One block: 16 queries (rows of a span times heads of a group), one KV head, one partition of 512
// positions. A warp takes every fourth 16 positions. Partitions and steps begin at fixed positions, whatever the batch,
// the chunk and the window: what a query does not see has a weight of exactly 0, so that it changes no bit.
//
// NVIDIA computes S = Q K^T, AMD its transpose: so each lane ends up with the weights that it feeds to the product with
// the values, and nothing goes through shared memory within the loop.

constexpr int PARTITION = 512;
constexpr int PART_FLOATS = 16 * (HEAD + 2);  // of each query its output, its largest score, the sum of its weights
constexpr float NONE = -1e30f;                // the score of a position that a query does not see

struct QueryTile { u32 span, first; };
// `window`: most positions that a row sees.
struct AttentionArgs {
  const float* qkv; const u8* pages; const Span* spans; const u32* table; const QueryTile* tiles; float* partial;
  u32 q_heads, kv_heads, dim, page_size, stride, partitions, window; float scale;
};
static_assert(sizeof(AttentionArgs) == 80, "the size in src/driver/kernels.rs");

// The pages of one KV head of a sequence.
template <int PAGE> struct Keys {
  const u8* pages;
  const u32* table;
  u32 page_size, kv_heads, kv_len;
  // `head` counts those of keys, then those of values. Positions past the end read the last one; their weight is 0.
  DEV_MEMBER const u8* at(int position, u32 head) const {
    if (position >= (int)kv_len) position = kv_len - 1;
    u64 page = table[position / page_size];
    return pages + ((page * 2 * kv_heads + head) * page_size + position % page_size) * head_bytes<PAGE>();
  }
};

template <int PAGE> DEV void attention(const AttentionArgs& a, float* merge, float* shares) {
  int lane = tid() % WARP, warp = tid() / WARP;
  u32 kv_head = by();
  QueryTile tile = a.tiles[bx()];
  Span span = a.spans[tile.span];
  u32 group = a.q_heads / a.kv_heads, items = span.q_len * group;
  u32 last_item = tile.first + 15 < items ? tile.first + 15 : items - 1;
  // Positions before `seen` are visible to the last query of the tile, those before `unseen` to none.
  int seen = span.kv_len - span.q_len + last_item / group + 1;
  int first_seen = span.kv_len - span.q_len + tile.first / group + 1;
  int unseen = first_seen > (int)a.window ? first_seen - (int)a.window : 0;
  int begin = bz() * PARTITION, end = seen < begin + PARTITION ? seen : begin + PARTITION;
  if (begin < unseen) begin = begin + PARTITION < unseen ? end : unseen / 64 * 64;
  Keys<PAGE> keys = {a.pages, a.table + span.pages, a.page_size, a.kv_heads, span.kv_len};

  // The queries, as A (NVIDIA: 16 queries by k) or B (AMD: k by 16 queries), and what each of them sees.
  u32 q[HEAD / 16][A_REGS];
  int visible_from[PER_LANE], visible_to[PER_LANE];
  UNROLL for (int p = 0; p < PER_LANE; ++p) {
    u32 item = tile.first + lane_row(lane) + 8 * p;
    bool real = item < items;
    visible_to[p] = real ? span.kv_len - span.q_len + item / group + 1 : 0;
    visible_from[p] = visible_to[p] > (int)a.window ? visible_to[p] - (int)a.window : 0;
    u32 row_index = span.q_start + (real ? item / group : 0), head = kv_head * group + (real ? item % group : 0);
    const float* row = a.qkv + (u64)row_index * a.stride + head * a.dim;
    // Eight neighbouring features a lane are two steps.
    UNROLL for (int c = 0; c < HEAD / 32; ++c)
      UNROLL for (int s = 0; s < 2; ++s) {
        float v[4];
        UNROLL for (int j = 0; j < 4; ++j) {
          int d = 32 * c + 8 * lane_k(lane) + 4 * s + j;
          v[j] = real && d < (int)a.dim ? row[d] : 0.0f;
        }
#if Q_NVIDIA
        q[2 * c + s][p] = pack(v[0], v[1]);
        q[2 * c + s][2 + p] = pack(v[2], v[3]);
#else
        q[2 * c + s][0] = pack(v[0], v[1]);
        q[2 * c + s][1] = pack(v[2], v[3]);
#endif
      }
  }

  float out[8][C_REGS] = {}, top[PER_LANE], sum[PER_LANE];
  UNROLL for (int p = 0; p < PER_LANE; ++p) { top[p] = NONE; sum[p] = 0; }

  for (int base = begin + 16 * warp; base < end; base += 64) {
    // Keys: 16 positions by k.
    U4 key[PER_LANE][HEAD / 32];
    UNROLL for (int p = 0; p < PER_LANE; ++p) {
      const u8* k = keys.at(base + lane_row(lane) + 8 * p, kv_head);
      UNROLL for (int c = 0; c < HEAD / 32; ++c) key[p][c] = load_features<PAGE>(k, 32 * c + 8 * lane_k(lane));
    }
    // Values: this lane's four positions, eight features at a time.
    U4 value[4][PER_LANE];
    UNROLL for (int j = 0; j < 4; ++j) {
#if Q_NVIDIA
      int position = base + 2 * lane_k(lane) + (j & 1) + 8 * (j >> 1);
#else
      int position = base + 4 * lane_k(lane) + j;
#endif
      const u8* v = keys.at(position, a.kv_heads + kv_head);
      UNROLL for (int h = 0; h < PER_LANE; ++h) value[j][h] = load_features<PAGE>(v, 64 * h + 8 * lane_row(lane));
    }
    float score[C_REGS] = {};
    UNROLL for (int c = 0; c < HEAD / 32; ++c)
      UNROLL for (int s = 0; s < 2; ++s) {
        u32 k[B_REGS];
        UNROLL for (int p = 0; p < PER_LANE; ++p) {
          k[2 * p] = key[p][c].v[2 * s];
          k[2 * p + 1] = key[p][c].v[2 * s + 1];
        }
#if Q_NVIDIA
        mma(score, q[2 * c + s], k);
#else
        mma(score, k, q[2 * c + s]);
#endif
      }
    // NVIDIA's eight scores of a lane are four of each of two queries, AMD's four are of one query.
    float best[PER_LANE];
    UNROLL for (int p = 0; p < PER_LANE; ++p) best[p] = top[p];
    UNROLL for (int i = 0; i < C_REGS; ++i) {
#if Q_NVIDIA
      int p = i >> 1 & 1, position = base + c_n(lane, i);
#else
      int p = 0, position = base + c_m(lane, i);
#endif
      bool visible = position >= visible_from[p] && position < visible_to[p];
      score[i] = visible ? score[i] * a.scale : NONE;
      best[p] = max_(best[p], score[i]);
    }
    float shrink[PER_LANE];
    UNROLL for (int p = 0; p < PER_LANE; ++p) {
      best[p] = max_(best[p], shuffle_xor(best[p], MASK_1));
      best[p] = max_(best[p], shuffle_xor(best[p], MASK_2));
      shrink[p] = exp2_(top[p] - best[p]);
      top[p] = best[p];
      sum[p] *= shrink[p];
    }
    UNROLL for (int i = 0; i < C_REGS; ++i) {
      int p = PER_LANE == 2 ? i >> 1 & 1 : 0;
      score[i] = score[i] == NONE ? 0.0f : exp2_(score[i] - top[p]);
      sum[p] += score[i];
    }
    u32 weight[A_REGS];
    UNROLL for (int r = 0; r < A_REGS; ++r) weight[r] = pack(score[2 * r], score[2 * r + 1]);
    UNROLL for (int f = 0; f < 8; ++f) {
      UNROLL for (int i = 0; i < C_REGS; ++i) out[f][i] *= shrink[PER_LANE == 2 ? i >> 1 & 1 : 0];
      // Feature f of each lane's eight, of four positions.
      u32 v[B_REGS], pick = f & 1 ? 0x7632 : 0x5410;
      UNROLL for (int h = 0; h < PER_LANE; ++h) {
        v[2 * h] = permute(value[0][h].v[f / 2], value[1][h].v[f / 2], pick);
        v[2 * h + 1] = permute(value[2][h].v[f / 2], value[3][h].v[f / 2], pick);
      }
#if Q_NVIDIA
      mma(out[f], weight, v);
#else
      mma(out[f], v, weight);
#endif
    }
  }
  // The shares of the four warps in each query, in order.
  UNROLL for (int p = 0; p < PER_LANE; ++p) {
    sum[p] += shuffle_xor(sum[p], MASK_1);
    sum[p] += shuffle_xor(sum[p], MASK_2);
    if (lane_k(lane) == 0) {
      float* m = merge + (warp * 16 + lane_row(lane) + 8 * p) * (HEAD + 2);
      m[HEAD] = top[p];
      m[HEAD + 1] = sum[p];
    }
  }
  UNROLL for (int f = 0; f < 8; ++f)
    UNROLL for (int i = 0; i < C_REGS; ++i) {
#if Q_NVIDIA
      int item = c_m(lane, i), n = c_n(lane, i), d = 64 * (n / 8) + 8 * (n % 8) + f;
#else
      int item = c_n(lane, i), d = 8 * c_m(lane, i) + f;
#endif
      merge[(warp * 16 + item) * (HEAD + 2) + d] = out[f][i];
    }
  sync();
  float* to = a.partial + (((u64)bx() * a.kv_heads + kv_head) * a.partitions + bz()) * PART_FLOATS;
  for (int i = tid(); i < 64; i += THREADS) {
    float most = NONE;
    for (int w = 0; w < 4; ++w) most = max_(most, merge[(w * 16 + i / 4) * (HEAD + 2) + HEAD]);
    shares[i] = exp2_(merge[(i % 4 * 16 + i / 4) * (HEAD + 2) + HEAD] - most);
  }
  sync();
  for (int i = tid(); i < PART_FLOATS; i += THREADS) {
    int item = i / (HEAD + 2), d = i % (HEAD + 2);
    float most = NONE, total = 0;
    for (int w = 0; w < 4; ++w) {
      const float* m = merge + (w * 16 + item) * (HEAD + 2);
      most = max_(most, m[HEAD]);
      total += shares[item * 4 + w] * m[d];
    }
    to[i] = d == HEAD ? most : total;
  }
}
#define ATTENTION(name, page)                              \
  KERNEL(THREADS) name(AttentionArgs a) {                  \
    SHARED float merge[4 * 16 * (HEAD + 2)], shares[64];   \
    attention<page>(a, merge, shares);                     \
  }                                                        \
  EXPORT(name)
ATTENTION(attention_bf16, PAGE_BF16)
ATTENTION(attention_e4m3, PAGE_E4M3)
ATTENTION(attention_e5m2, PAGE_E5M2)

// The partitions of 16 queries, in order. Those that a query sees nothing of weigh 0.
struct MergeArgs {
  const float* partial; const Span* spans; const QueryTile* tiles; float* out;
  u32 q_heads, kv_heads, dim, out_stride, partitions, pad;
};
static_assert(sizeof(MergeArgs) == 56, "the size in src/driver/kernels.rs");
KERNEL(THREADS) attention_merge(MergeArgs a) {
  QueryTile tile = a.tiles[bx()];
  Span span = a.spans[tile.span];
  u32 group = a.q_heads / a.kv_heads, items = span.q_len * group;
  const float* from = a.partial + ((u64)bx() * a.kv_heads + by()) * a.partitions * PART_FLOATS;
  for (int i = tid(); i < 16 * (int)a.dim; i += THREADS) {
    u32 n = i / a.dim, d = i % a.dim, item = tile.first + n;
    if (item >= items) continue;
    float most = NONE, total = 0, sum = 0;
    for (u32 p = 0; p < a.partitions; ++p) most = max_(most, from[p * PART_FLOATS + n * (HEAD + 2) + HEAD]);
    for (u32 p = 0; p < a.partitions; ++p) {
      const float* m = from + p * PART_FLOATS + n * (HEAD + 2);
      float w = exp2_(m[HEAD] - most);
      sum += w * m[HEAD + 1];
      total += w * m[d];
    }
    u64 row = span.q_start + item / group, head = by() * group + item % group;
    a.out[row * a.out_stride + head * a.dim + d] = total / sum;
  }
}
EXPORT(attention_merge)
