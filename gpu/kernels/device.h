// What the kernels need of a device: for CUDA (NVRTC) and HIP (hipRTC). A third implementation, for the host's C++
// compiler, belongs to the tests (twin/emu.h). No vendor header is included: the text compiles where only the run-time
// compiler is installed.
//
// A matrix product is 16 x 16 x 16 on every device: D[m][n] += sum over k of A[m][k] * B[k][n], inputs bfloat16, sums
// f32. Which lane holds which element differs by device; `lane_row`, `lane_k`, `c_m` and `c_n` say it once.
#ifndef QUERN_DEVICE_H
#define QUERN_DEVICE_H

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

#if defined(__CUDACC__) || defined(__CUDACC_RTC__)
#define Q_CUDA 1
#elif defined(__HIP__) || defined(__HIPCC_RTC__)
#define Q_HIP 1
#else
#define Q_EMULATED 1
#endif

// CUDA
#if Q_CUDA
#define Q_NVIDIA 1
#define KERNEL(threads) extern "C" __global__ void __launch_bounds__(threads)
// Kernels are found by name; the emulated device needs an entry for each.
#define EXPORT(name)
#define DEV static __device__ __forceinline__
#define DEV_MEMBER __device__ __forceinline__
#define SHARED __shared__
#define UNROLL _Pragma("unroll")
struct alignas(8) U2 { u32 v[2]; };
struct alignas(16) U4 { u32 v[4]; };
struct alignas(16) F4 { float v[4]; };
DEV int tid() { return threadIdx.x; }
DEV int bx() { return blockIdx.x; }
DEV int by() { return blockIdx.y; }
DEV int bz() { return blockIdx.z; }
DEV int grid_x() { return gridDim.x; }
DEV void sync() { __syncthreads(); }
DEV float shuffle_xor(float x, int mask) { return __shfl_xor_sync(0xffffffffu, x, mask); }
DEV u32 shuffle_xor(u32 x, int mask) { return __shfl_xor_sync(0xffffffffu, x, mask); }
DEV float exp2_(float x) { float y; asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x)); return y; }
DEV float sqrt_(float x) { return sqrtf(x); }
DEV u32 bits(float x) { return __float_as_uint(x); }
DEV float from_bits(u32 x) { return __uint_as_float(x); }
// Two floats to two bfloat16, the first in the lower half.
DEV u32 pack(float lo, float hi) { u32 d; asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(d) : "f"(hi), "f"(lo)); return d; }
// Bytes of b:a picked by nibbles.
DEV u32 permute(u32 a, u32 b, u32 select) { return __byte_perm(a, b, select); }
// For weights, which are read once: they do not enter the first-level cache.
DEV U4 load_stream(const U4* p) {
  U4 r;
  asm("ld.global.nc.L1::no_allocate.v4.u32 {%0,%1,%2,%3}, [%4];"
      : "=r"(r.v[0]), "=r"(r.v[1]), "=r"(r.v[2]), "=r"(r.v[3]) : "l"(p));
  return r;
}
DEV U2 load_stream(const U2* p) {
  U2 r;
  asm("ld.global.nc.L1::no_allocate.v2.u32 {%0,%1}, [%2];" : "=r"(r.v[0]), "=r"(r.v[1]) : "l"(p));
  return r;
}
// Four e4m3 to two pairs of bfloat16. The bits, moved to bfloat16's places, are 2^-120 times the value.
DEV void fp8_to_bf16(u32 w, u32& lo, u32& hi) {
  u32 a = __byte_perm(w, 0, 0x1404), b = __byte_perm(w, 0, 0x3424);
  a = (a & 0x80008000u) | ((a & 0x7f007f00u) >> 4);
  b = (b & 0x80008000u) | ((b & 0x7f007f00u) >> 4);
  asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(lo) : "r"(a), "r"(0x7b807b80u), "r"(0x80008000u));
  asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(hi) : "r"(b), "r"(0x7b807b80u), "r"(0x80008000u));
}
DEV void mma(float* c, const u32* a, const u32* b) {
  UNROLL for (int h = 0; h < 2; ++h)
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(c[4 * h]), "+f"(c[4 * h + 1]), "+f"(c[4 * h + 2]), "+f"(c[4 * h + 3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[2 * h]), "r"(b[2 * h + 1]));
}
#endif

// HIP
#if Q_HIP
#define Q_NVIDIA 0
#ifndef __HIPCC_RTC__
#define __global__ __attribute__((global))
#define __device__ __attribute__((device))
#define __shared__ __attribute__((shared))
#endif
#define KERNEL(threads) extern "C" __global__ void __attribute__((amdgpu_flat_work_group_size(threads, threads)))
#define EXPORT(name)
#define DEV static inline __device__ __attribute__((always_inline))
#define DEV_MEMBER inline __device__ __attribute__((always_inline))
#define SHARED __shared__
#define UNROLL _Pragma("unroll")
struct alignas(8) U2 { u32 v[2]; };
struct alignas(16) U4 { u32 v[4]; };
struct alignas(16) F4 { float v[4]; };
typedef u32 q_u32x2 __attribute__((ext_vector_type(2)));
typedef u32 q_u32x4 __attribute__((ext_vector_type(4)));
typedef float q_f32x4 __attribute__((ext_vector_type(4)));
typedef float q_f32x2 __attribute__((ext_vector_type(2)));
typedef short q_s16x4 __attribute__((ext_vector_type(4)));
DEV int tid() { return __builtin_amdgcn_workitem_id_x(); }
DEV int bx() { return __builtin_amdgcn_workgroup_id_x(); }
DEV int by() { return __builtin_amdgcn_workgroup_id_y(); }
DEV int bz() { return __builtin_amdgcn_workgroup_id_z(); }
DEV void sync() {
  __builtin_amdgcn_fence(__ATOMIC_RELEASE, "workgroup");
  __builtin_amdgcn_s_barrier();
  __builtin_amdgcn_fence(__ATOMIC_ACQUIRE, "workgroup");
}
DEV u32 bits(float x) { return __builtin_bit_cast(u32, x); }
DEV float from_bits(u32 x) { return __builtin_bit_cast(float, x); }
DEV u32 shuffle_xor(u32 x, int mask) {
  int lane = __builtin_amdgcn_mbcnt_hi(~0u, __builtin_amdgcn_mbcnt_lo(~0u, 0));
  return __builtin_amdgcn_ds_bpermute((lane ^ mask) * 4, x);
}
DEV float shuffle_xor(float x, int mask) { return from_bits(shuffle_xor(bits(x), mask)); }
// The hardware's exp2 flushes subnormal results; attention's weights do not need them.
#if __has_builtin(__builtin_amdgcn_exp2f)
DEV float exp2_(float x) { return __builtin_amdgcn_exp2f(x); }
#else
DEV float exp2_(float x) { return __builtin_exp2f(x); }
#endif
DEV float sqrt_(float x) { return __builtin_sqrtf(x); }
DEV u32 permute(u32 a, u32 b, u32 select) {
  // v_perm_b32 takes a byte for each selector, and counts from its second source.
  u32 s = (select & 7) | (select >> 4 & 7) << 8 | (select >> 8 & 7) << 16 | (select >> 12 & 7) << 24;
  return __builtin_amdgcn_perm(b, a, s);
}
DEV u32 pack(float lo, float hi) {
  u32 a = bits(lo), b = bits(hi);
  a += 0x7fff + (a >> 16 & 1);
  b += 0x7fff + (b >> 16 & 1);
  return permute(a, b, 0x7632);
}
DEV U4 load_stream(const U4* p) {
  return __builtin_bit_cast(U4, __builtin_nontemporal_load((const q_u32x4*)p));
}
DEV U2 load_stream(const U2* p) {
  return __builtin_bit_cast(U2, __builtin_nontemporal_load((const q_u32x2*)p));
}
#if (defined(__gfx942__) || defined(__gfx950__)) && !defined(Q_FP8_BY_HAND)
// gfx942 decodes e4m3 as FNUZ, which is half of the OCP value and has no negative zero: weights are uploaded there with
// doubled scales, and 0x80 (NaN in FNUZ) as 0.
DEV void fp8_to_bf16(u32 w, u32& lo, u32& hi) {
  q_f32x2 a = __builtin_amdgcn_cvt_pk_f32_fp8(w, false), b = __builtin_amdgcn_cvt_pk_f32_fp8(w, true);
  lo = permute(bits(a.x), bits(a.y), 0x7632);
  hi = permute(bits(b.x), bits(b.y), 0x7632);
}
#else
// OCP by hand: the bits, moved to binary32's places, are 2^-120 times the value.
DEV float fp8_bits(u32 b) { return from_bits((b & 0x80) << 24 | (b & 0x7f) << 20) * 1.329227995784916e36f; }
DEV void fp8_to_bf16(u32 w, u32& lo, u32& hi) {
  lo = permute(bits(fp8_bits(w)), bits(fp8_bits(w >> 8)), 0x7632);
  hi = permute(bits(fp8_bits(w >> 16)), bits(fp8_bits(w >> 24)), 0x7632);
}
#endif
DEV void mma(float* c, const u32* a, const u32* b) {
  struct Two { u32 x, y; };
  q_s16x4 va = __builtin_bit_cast(q_s16x4, Two{a[0], a[1]}), vb = __builtin_bit_cast(q_s16x4, Two{b[0], b[1]});
  q_f32x4 vc = {c[0], c[1], c[2], c[3]};
  vc = __builtin_amdgcn_mfma_f32_16x16x16bf16_1k(va, vb, vc, 0, 0, 0);
  UNROLL for (int i = 0; i < 4; ++i) c[i] = vc[i];
}
#endif

#if Q_EMULATED
#include "emu.h"
#endif

// Where the elements of a product lie.
#if Q_NVIDIA
constexpr int WARP = 32, A_REGS = 4, B_REGS = 4, C_REGS = 8;
// Columns of B that a lane holds; in attention, queries of a tile.
constexpr int PER_LANE = 2;
// The lanes that hold the other k of the same row differ in these bits.
constexpr int MASK_1 = 1, MASK_2 = 2;
DEV int lane_row(int lane) { return lane >> 2; }   // 0..7: m of A, n of B
DEV int lane_k(int lane) { return lane & 3; }      // which four of a step's sixteen k
DEV int c_m(int lane, int s) { return (lane >> 2) + 8 * (s >> 1 & 1); }
DEV int c_n(int lane, int s) { return 2 * (lane & 3) + (s & 1) + 8 * (s >> 2); }
#else
constexpr int WARP = 64, A_REGS = 2, B_REGS = 2, C_REGS = 4;
constexpr int PER_LANE = 1;
constexpr int MASK_1 = 16, MASK_2 = 32;
DEV int lane_row(int lane) { return lane & 15; }
DEV int lane_k(int lane) { return lane >> 4; }
DEV int c_m(int lane, int s) { return 4 * (lane >> 4) + s; }
DEV int c_n(int lane, int s) { return lane & 15; }
#endif

DEV float warp_sum(float x) {
  for (int m = WARP / 2; m > 0; m >>= 1) x += shuffle_xor(x, m);
  return x;
}
DEV float warp_max(float x) {
  for (int m = WARP / 2; m > 0; m >>= 1) { float y = shuffle_xor(x, m); x = x > y ? x : y; }
  return x;
}
#endif
