// The device of the driver twin: kernels/*.cu for the host's C++ compiler. The threads of a block are fibers of one thread
// of the host; barriers, shuffles and matrix products are where they meet. Compiled with -DQ_TARGET=90 (NVIDIA), 942 or
// 950 (AMD).
//
// It is strict where a device is not: shared memory begins as NaNs, accesses of 8 and 16 bytes must be aligned, all lanes
// of a warp must meet at the same operation, and a block that cannot go on says which thread waits where. With
// QUERN_TWIN_REVERSED set lanes and warps run in reverse order: what differs then has a race.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <type_traits>
#include <utility>
#include <sys/mman.h>

#ifndef Q_TARGET
#define Q_TARGET 90
#endif
#define Q_NVIDIA (Q_TARGET < 900)
#define DEV static inline
#define DEV_MEMBER inline
// All shared arrays lie in one section, which is filled with NaNs before each block.
#define SHARED static __attribute__((section("quern_shared")))
#define UNROLL

namespace emu {
constexpr int LANES = Q_NVIDIA ? 32 : 64, MAX_THREADS = 1024, STACK = 64 << 10;

extern "C" void quern_twin_switch(void** from, void* to);
#if defined(__x86_64__)
asm(R"(.hidden quern_twin_switch
.globl quern_twin_switch
quern_twin_switch:
  pushq %rbp; pushq %rbx; pushq %r12; pushq %r13; pushq %r14; pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15; popq %r14; popq %r13; popq %r12; popq %rbx; popq %rbp
  ret
)");
#elif defined(__aarch64__)
asm(R"(.hidden quern_twin_switch
.globl quern_twin_switch
quern_twin_switch:
  stp x29, x30, [sp, #-160]!
  stp x19, x20, [sp, #16]; stp x21, x22, [sp, #32]; stp x23, x24, [sp, #48]; stp x25, x26, [sp, #64]
  stp x27, x28, [sp, #80]; stp d8, d9, [sp, #96]; stp d10, d11, [sp, #112]; stp d12, d13, [sp, #128]; stp d14, d15, [sp, #144]
  mov x9, sp; str x9, [x0]; mov sp, x1
  ldp x19, x20, [sp, #16]; ldp x21, x22, [sp, #32]; ldp x23, x24, [sp, #48]; ldp x25, x26, [sp, #64]
  ldp x27, x28, [sp, #80]; ldp d8, d9, [sp, #96]; ldp d10, d11, [sp, #112]; ldp d12, d13, [sp, #128]; ldp d14, d15, [sp, #144]
  ldp x29, x30, [sp], #160
  ret
)");
#endif

enum State : u8 { RUN, DONE, AT_WARP, AT_BLOCK };
struct Warp {
  int arrived = 0, live = 0;
  unsigned generation = 0;
  const void* op = nullptr;
  alignas(64) u8 in[64][64], out[64][64];
};
struct Thread { void* sp; State state; };
struct Block {
  int threads, x, y, z, gx;
  const char* name;
  int current, arrived, live;
  unsigned generation;
  Thread thread[MAX_THREADS];
  Warp warp[MAX_THREADS / LANES];
  void* host;
  void (*body)(void*);
  void* argument;
};
static Block b;
extern "C" __attribute__((weak, visibility("hidden"))) u8 __start_quern_shared[], __stop_quern_shared[];
static u8* stacks;
static bool backwards;

[[noreturn]] inline void fail(const char* what) {
  std::fprintf(stderr, "emulated device, kernel %s, block (%d,%d,%d), thread %d: %s\n", b.name, b.x, b.y, b.z, b.current, what);
  for (int i = 0; i < b.threads; ++i)
    if (b.thread[i].state != DONE) std::fprintf(stderr, "%s%d:%s", i % 16 ? " " : "\n  ", i, b.thread[i].state == AT_WARP ? "warp" : b.thread[i].state == AT_BLOCK ? "block" : "run");
  std::fprintf(stderr, "\n");
  std::abort();
}

// The next thread that can run: first of the same warp, then of the others.
inline int next() {
  int lanes = LANES, warp = b.current / lanes, lane = b.current % lanes, warps = (b.threads + lanes - 1) / lanes;
  for (int w = 0; w < warps; ++w) {
    int at = backwards ? (warp + warps - w) % warps : (warp + w) % warps;
    for (int l = 0; l < lanes; ++l) {
      int start = w == 0 ? lane + (backwards ? lanes - 1 : 1) : (backwards ? lanes - 1 : 0);
      int i = at * lanes + (backwards ? start + lanes - l : start + l) % lanes;
      if (i < b.threads && b.thread[i].state == RUN) return i;
    }
  }
  return -1;
}
inline void yield() {
  int from = b.current, to = next();
  if (to < 0) fail("no thread can go on: not all threads meet at the same barrier");
  if (to == from) return;
  b.current = to;
  quern_twin_switch(&b.thread[from].sp, b.thread[to].sp);
}
inline void release(State waiting, int first, int last) {
  for (int i = first; i < last; ++i)
    if (b.thread[i].state == waiting) b.thread[i].state = RUN;
}
inline void entry() {
  b.body(b.argument);
  Thread& t = b.thread[b.current];
  t.state = DONE;
  b.warp[b.current / LANES].live--;
  if (--b.live == 0) {
    void* unused;
    quern_twin_switch(&unused, b.host);
  }
  int to = next();
  if (to < 0) fail("a thread has ended while others wait for it");
  b.current = to;
  void* unused;
  quern_twin_switch(&unused, b.thread[to].sp);
}
inline void run_block() {
  if (!stacks) stacks = (u8*)mmap(nullptr, (size_t)MAX_THREADS * STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  b.live = b.threads;
  b.arrived = 0;
  if (__start_quern_shared) std::memset(__start_quern_shared, 0xff, __stop_quern_shared - __start_quern_shared);
  for (auto& w : b.warp) w.live = w.arrived = 0;
  for (int i = 0; i < b.threads; ++i) {
    void** top = (void**)(stacks + (size_t)(i + 1) * STACK);
#if defined(__x86_64__)
    *--top = nullptr;
    *--top = (void*)entry;
    for (int r = 0; r < 6; ++r) *--top = nullptr;
#else
    top -= 20;
    for (int r = 0; r < 20; ++r) top[r] = nullptr;
    top[1] = (void*)entry;
#endif
    b.thread[i] = {top, RUN};
    b.warp[i / LANES].live++;
  }
  b.current = backwards ? b.threads - 1 : 0;
  quern_twin_switch(&b.host, b.thread[b.current].sp);
}

inline void barrier() {
  if (b.live != b.threads) fail("a barrier after some threads have ended");
  if (++b.arrived == b.threads) {
    b.arrived = 0;
    release(AT_BLOCK, 0, b.threads);
    return;
  }
  b.thread[b.current].state = AT_BLOCK;
  yield();
}
// Each lane brings `in`, `op` is executed once for the warp, each lane takes its `out`.
template <class In, class Out> inline Out together(const In& in, void (*op)(Warp&)) {
  static_assert(sizeof(In) <= 64 && sizeof(Out) <= 64);
  int lane = b.current % LANES, first = b.current - lane;
  Warp& w = b.warp[b.current / LANES];
  if (w.live != LANES) fail("an operation of a warp after some lanes have ended");
  if (w.arrived && w.op != (const void*)op) fail("lanes of a warp at different operations");
  w.op = (const void*)op;
  std::memcpy(w.in[lane], &in, sizeof in);
  if (++w.arrived == LANES) {
    w.arrived = 0;
    op(w);
    release(AT_WARP, first, first + LANES);
  } else {
    b.thread[b.current].state = AT_WARP;
    yield();
  }
  Out out;
  std::memcpy(&out, w.out[lane], sizeof out);
  return out;
}
inline float bf(u16 x) { u32 u = (u32)x << 16; float f; std::memcpy(&f, &u, 4); return f; }
inline float e4m3(u8 x) {
  int e = x >> 3 & 15, m = x & 7;
  float v;
#if Q_TARGET == 942
  if (x == 0x80) return NAN;
  v = e ? std::ldexp(8 + m, e - 11) : std::ldexp(m, -10);
#else
  if ((x & 0x7f) == 0x7f) return NAN;
  v = e ? std::ldexp(8 + m, e - 10) : std::ldexp(m, -9);
#endif
  return x & 0x80 ? -v : v;
}

template <class F> struct Call;
template <class A> struct Call<void (*)(A)> {
  static constexpr unsigned size = sizeof(A);
  template <void (*F)(A)> static void body(void* p) { F(*(A*)p); }
};
template <auto F> inline void launch(const char* name, const unsigned* grid, unsigned threads, void* argument) {
  b.name = name;
  b.threads = threads;
  b.gx = grid[0];
  b.body = Call<decltype(F)>::template body<F>;
  b.argument = argument;
  backwards = std::getenv("QUERN_TWIN_REVERSED") != nullptr;
  for (b.z = 0; b.z < (int)grid[2]; ++b.z)
    for (b.y = 0; b.y < (int)grid[1]; ++b.y)
      for (b.x = 0; b.x < (int)grid[0]; ++b.x) run_block();
}
}  // namespace emu

#define KERNEL(threads) static void
#define EXPORT(name)                                                                                  \
  extern "C" __attribute__((visibility("default"))) unsigned name##__size() {                         \
    return emu::Call<decltype(&name)>::size;                                                          \
  }                                                                                                   \
  extern "C" __attribute__((visibility("default"))) void name##__launch(const unsigned* grid, unsigned threads, void* a) { \
    emu::launch<&name>(#name, grid, threads, a);                                                      \
  }

struct alignas(8) U2 { u32 v[2]; };
struct alignas(16) U4 { u32 v[4]; };
struct alignas(16) F4 { float v[4]; };
DEV int tid() { return emu::b.current; }
DEV int bx() { return emu::b.x; }
DEV int by() { return emu::b.y; }
DEV int bz() { return emu::b.z; }
DEV int grid_x() { return emu::b.gx; }
DEV void sync() { emu::barrier(); }
DEV u32 bits(float x) { u32 u; std::memcpy(&u, &x, 4); return u; }
DEV float from_bits(u32 x) { float f; std::memcpy(&f, &x, 4); return f; }
DEV u32 shuffle_xor(u32 x, int mask) {
  struct In { u32 x; int mask; };
  return emu::together<In, u32>({x, mask}, [](emu::Warp& w) {
    for (int l = 0; l < emu::LANES; ++l) {
      In mine;
      std::memcpy(&mine, w.in[l], sizeof mine);
      std::memcpy(w.out[l], w.in[l ^ mine.mask], 4);
    }
  });
}
DEV float shuffle_xor(float x, int mask) { return from_bits(shuffle_xor(bits(x), mask)); }
DEV float exp2_(float x) { return std::exp2(x); }
DEV float sqrt_(float x) { return std::sqrt(x); }
DEV u32 pack(float lo, float hi) {
  u32 a = bits(lo), b = bits(hi);
  a += 0x7fff + (a >> 16 & 1);
  b += 0x7fff + (b >> 16 & 1);
  return a >> 16 | (b & 0xffff0000u);
}
DEV u32 permute(u32 a, u32 b, u32 select) {
  u64 both = (u64)b << 32 | a;
  u32 r = 0;
  for (int i = 0; i < 4; ++i) r |= (u32)(both >> (select >> 4 * i & 7) * 8 & 0xff) << 8 * i;
  return r;
}
DEV U4 load_stream(const U4* p) {
  if ((uintptr_t)p & 15) emu::fail("a load of 16 bytes that is not aligned");
  return *p;
}
DEV U2 load_stream(const U2* p) {
  if ((uintptr_t)p & 7) emu::fail("a load of 8 bytes that is not aligned");
  return *p;
}
DEV void fp8_to_bf16(u32 w, u32& lo, u32& hi) {
  lo = pack(emu::e4m3(w), emu::e4m3(w >> 8));
  hi = pack(emu::e4m3(w >> 16), emu::e4m3(w >> 24));
}
// Elements of A, B and D by lane and slot, as PTX ISA 8.x "Matrix Fragments for mma.m16n8k16" and AMD's matrix
// instruction calculator (V_MFMA_F32_16X16X16_BF16) give them. Written independently of device.h, which is checked against it.
namespace emu {
constexpr int AN = Q_NVIDIA ? 8 : 4, BN = AN, CN = AN;
inline void a_at(int lane, int s, int& m, int& k) {
#if Q_NVIDIA
  int group = lane / 4, in_group = lane % 4;
  m = (s < 2 || (s >= 4 && s < 6)) ? group : group + 8;
  k = s < 4 ? in_group * 2 + (s & 1) : in_group * 2 + (s & 1) + 8;
#else
  m = lane % 16;
  k = 4 * (lane / 16) + s;
#endif
}
inline void b_at(int lane, int s, int& k, int& n) {
#if Q_NVIDIA
  int group = lane / 4, in_group = lane % 4, half = s / 4, i = s % 4;
  k = i < 2 ? in_group * 2 + (i & 1) : in_group * 2 + (i & 1) + 8;
  n = group + 8 * half;
#else
  n = lane % 16;
  k = 4 * (lane / 16) + s;
#endif
}
inline void d_at(int lane, int s, int& m, int& n) {
#if Q_NVIDIA
  int group = lane / 4, in_group = lane % 4, half = s / 4, i = s % 4;
  m = i < 2 ? group : group + 8;
  n = in_group * 2 + (i & 1) + 8 * half;
#else
  m = 4 * (lane / 16) + s % 4;
  n = lane % 16;
#endif
}
struct Mma { u16 a[AN], b[BN]; float c[CN]; };
inline void multiply(Warp& w) {
  float A[16][16], B[16][16], D[16][16];
  int i, j;
  for (int l = 0; l < LANES; ++l) {
    Mma x;
    std::memcpy(&x, w.in[l], sizeof x);
    for (int s = 0; s < AN; ++s) {
      a_at(l, s, i, j); A[i][j] = bf(x.a[s]);
      b_at(l, s, i, j); B[i][j] = bf(x.b[s]);
      d_at(l, s, i, j); D[i][j] = x.c[s];
    }
  }
  for (i = 0; i < 16; ++i)
    for (int k = 0; k < 16; ++k) {
      float a = A[i][k];
      for (j = 0; j < 16; ++j) D[i][j] += a * B[k][j];
    }
  for (int l = 0; l < LANES; ++l)
    for (int s = 0; s < CN; ++s) {
      d_at(l, s, i, j);
      std::memcpy(w.out[l] + 4 * s, &D[i][j], 4);
    }
}
}  // namespace emu
DEV void mma(float* c, const u32* a, const u32* b) {
  emu::Mma x;
  std::memcpy(x.a, a, sizeof x.a);
  std::memcpy(x.b, b, sizeof x.b);
  std::memcpy(x.c, c, sizeof x.c);
  struct Out { float c[emu::CN]; };
  Out out = emu::together<emu::Mma, Out>(x, emu::multiply);
  std::memcpy(c, out.c, sizeof out.c);
}
