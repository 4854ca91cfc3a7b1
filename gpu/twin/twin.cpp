// A driver twin: a shared library with the symbols of libcuda and libnvrtc (Q_TARGET 90), or of libamdhip64 with hipRTC
// (942, 950), whose device is emulated by the host (emu.h) and whose run-time compiler is the host's C++ compiler.
//
// A stream only queues its work, which is done when the host waits: freeing or overwriting too early shows. Allocations
// end at a page that may not be touched, and begin as NaNs. The functions quern_twin_* make calls fail.
//
//   c++ -std=c++20 -O1 -shared -fPIC -DQ_TARGET=90 -DQ_VERSION=1 -DQ_INCLUDE='"<folder of emu.h>"' twin.cpp -o libcuda.so.1
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <fstream>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <vector>
#include <dlfcn.h>
#include <sys/mman.h>
#include <unistd.h>

#define Q_NVIDIA (Q_TARGET < 900)
#define STR_(x) #x
#define STR(x) STR_(x)
#define EXPORTED extern "C" __attribute__((visibility("default")))
#if Q_NVIDIA
#define API(cuda, hip) EXPORTED int cuda
#else
#define API(cuda, hip) EXPORTED int hip
#endif
// The numbers of both vendors; 6 is that of their compilers.
enum { OK = 0, INVALID = 1, NO_MEMORY = 2, COMPILATION_FAILED = 6, NO_DEVICE = 101, NO_CONTEXT = 201, BAD_IMAGE = 209,
       BAD_HANDLE = 400, NOT_FOUND = 500 };

namespace {
std::recursive_mutex mutex;
#define LOCK std::lock_guard<std::recursive_mutex> lock(mutex)

struct Allocation { size_t size, mapped; char* base; };
std::map<uintptr_t, Allocation> allocations;
std::map<void*, size_t> host_allocations;
size_t used, capacity = (size_t)4 << 30;
struct Module { void* handle; };
struct Function { Module* module; void (*launch)(const unsigned*, unsigned, void*); unsigned size; };
// Work that has not been done. Of a copy to the host, where it will write.
struct Work { std::function<void()> run; char* to = nullptr; size_t bytes = 0; };
struct Stream { std::deque<Work> queue; };
std::set<Stream*> streams;
std::set<Module*> modules;
unsigned contexts;  // retained and not released
unsigned compilations;

// The n-th call of a kind fails, once; a lost device fails every call.
struct Failure { long countdown = 0; int code = 0; };
std::map<std::string, Failure> failures;
int lost;
int injected(const char* kind) {
  auto it = failures.find(kind);
  if (it == failures.end() || --it->second.countdown > 0) return OK;
  int code = it->second.code;
  failures.erase(it);
  return code;
}
int failing(const char* kind) { return lost ? lost : injected(kind); }

void drain(Stream& s) {
  while (!s.queue.empty()) {
    if (!lost) s.queue.front().run();
    s.queue.pop_front();
  }
}
void forget_all() {
  for (auto& entry : allocations) munmap(entry.second.base, entry.second.mapped);
  for (auto& entry : host_allocations) free(entry.first);
  for (Stream* s : streams) delete s;
  allocations.clear(), host_allocations.clear(), streams.clear(), modules.clear();
  used = 0;
}
bool inside(uintptr_t p, size_t n) {
  auto it = allocations.upper_bound(p);
  if (it == allocations.begin()) return false;
  --it;
  return p >= it->first && p + n <= it->first + it->second.size;
}
std::string read_file(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  return std::string(std::istreambuf_iterator<char>(in), {});
}
}  // namespace

// What tests ask of the twin itself.

// Let the n-th call from now of `kind` (context, stream, module, alloc, host_alloc, copy, launch, execute, wait; program
// and compile of the run-time compiler) fail with `code`; 0: forget it.
EXPORTED void quern_twin_fail(const char* kind, long n, int code) {
  LOCK;
  if (n) failures[kind] = {n, code};
  else failures.erase(kind);
}
// Every later call fails with `code`; 0: the device is back. What it has not done it never does.
EXPORTED void quern_twin_lose(int code) {
  LOCK;
  lost = code;
  for (Stream* s : streams) s->queue.clear();
}
EXPORTED void quern_twin_capacity(size_t bytes) { LOCK; capacity = bytes; }
EXPORTED size_t quern_twin_used() { LOCK; return used; }
// Contexts, streams, modules and memory of the host that have not been given back.
EXPORTED size_t quern_twin_held() {
  LOCK;
  return contexts + streams.size() + modules.size() + host_allocations.size();
}
EXPORTED unsigned quern_twin_compilations() { LOCK; return compilations; }

// The driver.

API(cuInit, hipInit)(unsigned) { return lost; }
API(cuDeviceGetCount, hipGetDeviceCount)(int* n) { *n = 1; return OK; }
API(cuDeviceGet, hipDeviceGet)(int* d, int i) { *d = i; return i ? NO_DEVICE : OK; }
API(cuDeviceGetName, hipDeviceGetName)(char* s, int n, int) { snprintf(s, n, "emulated %s", STR(Q_TARGET)); return OK; }
API(cuDeviceComputeCapability, hipDeviceComputeCapability)(int* major, int* minor, int) {
  *major = 9;
  *minor = Q_TARGET == 90 ? 0 : Q_TARGET == 942 ? 4 : 5;
  return OK;
}
API(cuDevicePrimaryCtxRetain, hipDevicePrimaryCtxRetain)(void** c, int) {
  LOCK;
  if (int code = failing("context")) return code;
  contexts++;
  *c = (void*)1;
  return OK;
}
API(cuDevicePrimaryCtxRelease_v2, hipDevicePrimaryCtxRelease)(int) {
  LOCK;
  if (!contexts) return NO_CONTEXT;
  // With a lost context goes what it had. Of one that works, quern_twin_held would say what was forgotten.
  if (!--contexts && lost) forget_all();
  return lost;
}
API(cuCtxSetCurrent, hipCtxSetCurrent)(void* c) {
  LOCK;
  return lost ? lost : !c ? INVALID : contexts ? OK : NO_CONTEXT;
}
API(cuMemGetInfo_v2, hipMemGetInfo)(size_t* f, size_t* t) {
  LOCK;
  *t = capacity;
  *f = capacity - used;
  return lost;
}
API(cuMemAlloc_v2, hipMalloc)(void** p, size_t n) {
  LOCK;
  if (int code = failing("alloc")) return code;
  if (!n) return INVALID;
  if (used > capacity || n > capacity - used) return NO_MEMORY;
  size_t page = 4096, whole = (n + 15) / 16 * 16, mapped = (whole + page - 1) / page * page + page;
  int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
  char* base = (char*)mmap(nullptr, mapped, PROT_READ | PROT_WRITE, flags, -1, 0);
  if (base == MAP_FAILED) return NO_MEMORY;
  mprotect(base + mapped - page, page, PROT_NONE);
  *p = base + mapped - page - whole;
  if (n < ((size_t)1 << 24)) memset(*p, 0xff, n);
  allocations[(uintptr_t)*p] = {n, mapped, base};
  used += n;
  return OK;
}
API(cuMemFree_v2, hipFree)(void* p) {
  LOCK;
  auto it = allocations.find((uintptr_t)p);
  if (it == allocations.end()) return INVALID;
  for (Stream* s : streams) drain(*s);  // both drivers wait for the device here
  used -= it->second.size;
  munmap(it->second.base, it->second.mapped);
  allocations.erase(it);
  return lost;
}
API(cuMemHostAlloc, hipHostMalloc)(void** p, size_t n, unsigned) {
  LOCK;
  if (int code = failing("host_alloc")) return code;
  *p = malloc(n);
  memset(*p, 0xff, n);
  host_allocations[*p] = n;
  return OK;
}
API(cuMemFreeHost, hipHostFree)(void* p) {
  LOCK;
  auto it = host_allocations.find(p);
  if (it == host_allocations.end()) return INVALID;
  // Neither driver promises to wait here; a lost device writes no more.
  char *begin = (char*)p, *end = begin + it->second;
  for (Stream* s : streams)
    for (const Work& work : s->queue)
      if (!lost && work.to < end && work.to + work.bytes > begin) {
        fprintf(stderr, "host memory is freed while a copy of %zu bytes to it is queued\n", work.bytes);
        abort();
      }
  host_allocations.erase(it);
  free(p);
  return lost;
}
API(cuMemcpyHtoDAsync_v2, hipMemcpyHtoDAsync)(uintptr_t d, const void* h, size_t n, void* s) {
  LOCK;
  if (int code = failing("copy")) return code;
  if (!inside(d, n)) return INVALID;
  // From pageable memory both drivers stage the bytes before they return.
  auto bytes = std::make_shared<std::vector<char>>((const char*)h, (const char*)h + n);
  ((Stream*)s)->queue.push_back({[=] { memcpy((void*)d, bytes->data(), n); }});
  return OK;
}
API(cuMemcpyDtoHAsync_v2, hipMemcpyDtoHAsync)(void* h, uintptr_t d, size_t n, void* s) {
  LOCK;
  if (int code = failing("copy")) return code;
  if (!inside(d, n)) return INVALID;
  ((Stream*)s)->queue.push_back({[=] { memcpy(h, (void*)d, n); }, (char*)h, n});
  return OK;
}
API(cuMemsetD8Async, hipMemsetD8Async)(uintptr_t d, unsigned char v, size_t n, void* s) {
  LOCK;
  if (lost) return lost;
  if (!inside(d, n)) return INVALID;
  ((Stream*)s)->queue.push_back({[=] { memset((void*)d, v, n); }});
  return OK;
}
API(cuStreamCreate, hipStreamCreateWithFlags)(void** s, unsigned) {
  LOCK;
  if (int code = failing("stream")) return code;
  auto stream = new Stream;
  streams.insert(stream);
  *s = stream;
  return OK;
}
API(cuStreamDestroy_v2, hipStreamDestroy)(void* s) {
  LOCK;
  if (!streams.erase((Stream*)s)) return BAD_HANDLE;
  drain(*(Stream*)s);  // both drivers let the work end
  delete (Stream*)s;
  return lost;
}
API(cuStreamSynchronize, hipStreamSynchronize)(void* s) {
  LOCK;
  if (int code = failing("wait")) return code;
  drain(*(Stream*)s);
  return lost;
}
API(cuModuleLoadData, hipModuleLoadData)(void** m, const void* image) {
  LOCK;
  if (int code = failing("module")) return code;
  // The image: "QUERNEMU", the length, a shared object.
  if (memcmp(image, "QUERNEMU", 8)) return BAD_IMAGE;
  size_t n;
  memcpy(&n, (const char*)image + 8, 8);
  int fd = memfd_create("quern-module", 0);
  if (write(fd, (const char*)image + 16, n) != (ssize_t)n) return INVALID;
  char path[64];
  snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
  // The loader knows objects by their paths: the file stays open, so that no other module gets this one's.
  void* h = dlopen(path, RTLD_NOW | RTLD_LOCAL);
  if (!h) { fprintf(stderr, "%s\n", dlerror()); return BAD_IMAGE; }
  auto module = new Module{h};
  modules.insert(module);
  *m = module;
  return OK;
}
// The code stays, and with it its functions: one that is launched later is refused, not jumped to.
API(cuModuleUnload, hipModuleUnload)(void* m) {
  LOCK;
  return modules.erase((Module*)m) ? lost : BAD_HANDLE;
}
API(cuModuleGetFunction, hipModuleGetFunction)(void** f, void* m, const char* name) {
  void* h = ((Module*)m)->handle;
  auto launch = dlsym(h, (std::string(name) + "__launch").c_str());
  auto size = (unsigned (*)())dlsym(h, (std::string(name) + "__size").c_str());
  if (!launch || !size) return NOT_FOUND;
  *f = new Function{(Module*)m, (void (*)(const unsigned*, unsigned, void*))launch, size()};
  return OK;
}
API(cuLaunchKernel, hipModuleLaunchKernel)(void* f, unsigned gx, unsigned gy, unsigned gz, unsigned tx, unsigned ty,
                                           unsigned tz, unsigned, void* s, void** params, void**) {
  LOCK;
  if (int code = failing("launch")) return code;
  Function& k = *(Function*)f;
  if (!modules.count(k.module)) return BAD_HANDLE;
  if (!gx || !gy || !gz || gy > 65535 || gz > 65535 || ty != 1 || tz != 1 || !tx || tx > 1024) return INVALID;
  auto bytes = std::make_shared<std::vector<char>>((char*)params[0], (char*)params[0] + k.size);
  ((Stream*)s)->queue.push_back({[=, &k] {
    unsigned grid[3] = {gx, gy, gz};
    // What a kernel does wrong is a lost device, which shows at the next call that waits.
    if (int code = failing("execute")) lost = code;
    else k.launch(grid, tx, bytes->data());
  }});
  return OK;
}

// The run-time compiler.

namespace { struct Program { std::string source, log, code; }; }
API(nvrtcVersion, hiprtcVersion)(int* major, int* minor) { *major = 0; *minor = Q_VERSION; return OK; }
API(nvrtcCreateProgram, hiprtcCreateProgram)(void** p, const char* source, const char*, int, const char**, const char**) {
  LOCK;
  if (int code = injected("program")) return code;
  *p = new Program{source, "", ""};
  return OK;
}
API(nvrtcDestroyProgram, hiprtcDestroyProgram)(void** p) { delete (Program*)*p; *p = nullptr; return OK; }
API(nvrtcCompileProgram, hiprtcCompileProgram)(void* program, int, const char**) {
  Program& p = *(Program*)program;
  {
    LOCK;
    compilations++;
    if (int code = injected("compile")) { p.log = "refused, as it was told"; return code; }
  }
  auto image = [&](const std::string& object) {
    size_t size = object.size();
    p.code = std::string("QUERNEMU") + std::string((char*)&size, 8) + object;
  };
  if (const char* made = getenv("QUERN_TWIN_MODULE")) {  // translated from what a vendor's compiler made
    image(read_file(made));
    return p.code.size() > 16 ? OK : COMPILATION_FAILED;
  }
  const char* tmp = getenv("TMPDIR");
  std::string dir = std::string(tmp ? tmp : "/tmp") + "/quern-twin-XXXXXX";
  if (!mkdtemp(dir.data())) return COMPILATION_FAILED;
  { std::ofstream(dir + "/k.cpp") << p.source; }
  const char* cxx = getenv("CXX");
  std::string command = std::string(cxx ? cxx : "c++") +
      " -std=c++20 -O2 -march=native -ffp-contract=off -fPIC -shared -fvisibility=hidden -w -DQ_TARGET=" STR(Q_TARGET)
      " -I" Q_INCLUDE " -o " + dir + "/k.so " + dir + "/k.cpp 2> " + dir + "/log";
  int rc = system(command.c_str());
  p.log = read_file(dir + "/log");
  if (rc == 0) image(read_file(dir + "/k.so"));
  for (auto f : {"/k.cpp", "/k.so", "/log"}) unlink((dir + f).c_str());
  rmdir(dir.c_str());
  return rc ? COMPILATION_FAILED : OK;
}
API(nvrtcGetProgramLogSize, hiprtcGetProgramLogSize)(void* p, size_t* n) { *n = ((Program*)p)->log.size() + 1; return OK; }
API(nvrtcGetProgramLog, hiprtcGetProgramLog)(void* p, char* s) { strcpy(s, ((Program*)p)->log.c_str()); return OK; }
API(nvrtcGetCUBINSize, hiprtcGetCodeSize)(void* p, size_t* n) { *n = ((Program*)p)->code.size(); return OK; }
API(nvrtcGetCUBIN, hiprtcGetCode)(void* p, char* s) {
  auto& code = ((Program*)p)->code;
  memcpy(s, code.data(), code.size());
  return OK;
}
