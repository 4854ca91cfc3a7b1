// The largest logit of each row, ties to the lower index, and whether the row is a distribution at all: what greedy
// sampling needs. Everything else is sampled on the host. One block a row.

struct Greedy { u32 token, is_fault; };
struct ArgmaxArgs { const float* logits; Greedy* out; u32 vocab, stride; };
static_assert(sizeof(ArgmaxArgs) == 24, "the size in src/driver/kernels.rs");
KERNEL(THREADS) argmax(ArgmaxArgs a) {
  SHARED float largest[THREADS];
  SHARED u32 index[THREADS], fault[THREADS];
  const float* logits = a.logits + (u64)bx() * a.stride;
  const float infinity = from_bits(0x7f800000u);
  float best = -infinity;
  u32 at = 0, is_fault = 0;
  for (u32 i = tid(); i < a.vocab; i += THREADS) {
    float x = logits[i];
    is_fault |= x != x || x == infinity;
    if (x > best) { best = x; at = i; }
  }
  largest[tid()] = best;
  index[tid()] = at;
  fault[tid()] = is_fault;
  sync();
  if (tid() != 0) return;
  for (int t = 1; t < THREADS; ++t) {
    is_fault |= fault[t];
    if (largest[t] > best || (largest[t] == best && index[t] < at)) { best = largest[t]; at = index[t]; }
  }
  a.out[bx()] = {at, is_fault || best == -infinity};
}
EXPORT(argmax)
