// Keys and values in pages: [page][k|v][kv head][slot][128] of one layer, the features past head_dim zero.

constexpr int HEAD = 128;
enum PageFormat { PAGE_BF16 = 0, PAGE_E4M3 = 1, PAGE_E5M2 = 2 };
template <int PAGE> DEV constexpr int head_bytes() { return PAGE == PAGE_BF16 ? 2 * HEAD : HEAD; }

// A sequence's part of a step; `pages`: where its table begins.
struct Span { u32 q_start, q_len, kv_len, pages; };

// A byte of e4m3 or e5m2: moved to binary32's places it is 2^-120 or 2^-112 times its value. Not the hardware's
// conversion, which on gfx942 reads another e4m3.
template <int PAGE> DEV float page_float(u32 b) {
  constexpr int SHIFT = PAGE == PAGE_E4M3 ? 20 : 21;
  constexpr float SCALE = PAGE == PAGE_E4M3 ? 1.329227995784916e36f : 5.192296858534828e33f;
  if ((b & 0x7f) == 0x7f) return from_bits(0x7fc00000u);
  return from_bits((b & 0x80) << 24 | (b & 0x7f) << SHIFT) * SCALE;
}
// Four of them as two pairs of bfloat16, exactly.
template <int PAGE> DEV void page_to_bf16(u32 w, u32& lo, u32& hi) {
  lo = permute(bits(page_float<PAGE>(w & 0xff)), bits(page_float<PAGE>(w >> 8 & 0xff)), 0x7632);
  hi = permute(bits(page_float<PAGE>(w >> 16 & 0xff)), bits(page_float<PAGE>(w >> 24)), 0x7632);
}
// Eight features of a head from feature `d` on, a multiple of 8, as bfloat16.
template <int PAGE> DEV U4 load_features(const u8* head, int d) {
  if constexpr (PAGE == PAGE_BF16) {
    return load_stream((const U4*)(head + 2 * d));
  } else {
    U2 bytes = load_stream((const U2*)(head + d));
    U4 out;
    page_to_bf16<PAGE>(bytes.v[0], out.v[0], out.v[1]);
    page_to_bf16<PAGE>(bytes.v[1], out.v[2], out.v[3]);
    return out;
  }
}

// The byte nearest to x, ties to even, large values saturated, NaN kept: what KvFormat::encode defines.
DEV u32 page_byte(float x, int mantissa, int bias, float max, u32 largest) {
  u32 sign = bits(x) >> 24 & 0x80;
  float magnitude = from_bits(bits(x) & 0x7fffffff);
  if (magnitude != magnitude) return sign | 127;
  if (magnitude >= max) return sign | largest;
  int exponent = (int)(bits(magnitude) >> 23) - 127;
  if (exponent < 1 - bias) exponent = 1 - bias;
  // In steps of the format at this magnitude; adding 1.5 * 2^23 rounds to a whole number of them.
  float scaled = magnitude * from_bits((u32)(127 + mantissa - exponent) << 23);
  u32 steps = (u32)(scaled + 12582912.0f - 12582912.0f), one = 1u << mantissa;
  u32 code = steps < one ? steps : ((u32)(exponent + bias) << mantissa) + (steps - one);
  return sign | (code < largest ? code : largest);
}

// One block a row.
struct StoreArgs {
  const float* qkv; u8* pages; const Span* spans; const u32* row_span; const u32* table;
  u32 q_heads, kv_heads, dim, page_size, stride, format;
};
static_assert(sizeof(StoreArgs) == 64, "the size in src/driver/kernels.rs");
KERNEL(THREADS) kv_store(StoreArgs a) {
  int row = bx();
  Span span = a.spans[a.row_span[row]];
  u32 position = span.kv_len - span.q_len + (row - span.q_start);
  u64 page = a.table[span.pages + position / a.page_size], slot = position % a.page_size;
  const float* from = a.qkv + (u64)row * a.stride + a.q_heads * a.dim;
  for (int i = tid(); i < (int)(2 * a.kv_heads * a.dim); i += THREADS) {
    u32 head = i / a.dim;  // of the keys, then of the values, as in the page
    u64 at = ((page * 2 * a.kv_heads + head) * a.page_size + slot) * HEAD + i % a.dim;
    float x = from[i];
    if (a.format == PAGE_BF16) ((u16*)a.pages)[at] = x == x ? (u16)pack(x, 0) : 0x7fc0;
    if (a.format == PAGE_E4M3) a.pages[at] = (u8)page_byte(x, 3, 7, 448.0f, 126);
    if (a.format == PAGE_E5M2) a.pages[at] = (u8)page_byte(x, 2, 15, 57344.0f, 123);
  }
}
EXPORT(kv_store)
