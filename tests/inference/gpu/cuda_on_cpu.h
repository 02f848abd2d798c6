// Enough of CUDA to run kernels on the CPU as they are, one block at a time. Every thread of a block is a fiber that runs
// until it meets the others: at a barrier, a shuffle or a vote. Where they would not meet on a GPU (a thread that has left,
// or is at another operation), the process aborts with a message: such a kernel hangs or reads garbage there.
#pragma once

#include <setjmp.h>
#include <ucontext.h>

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <tuple>
#include <utility>
#include <vector>

#define CUDA_ON_CPU
#define __global__
#define __device__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __shared__ static

struct Index {
    unsigned x;
};
struct uint2 {
    unsigned x, y;
};
struct alignas(16) float4 {
    float x, y, z, w;
};

static Index threadIdx, blockIdx, blockDim, gridDim;

static inline int min(int a, int b) { return a < b ? a : b; }
static inline int max(int a, int b) { return a > b ? a : b; }
static inline int __popc(unsigned value) { return __builtin_popcount(value); }
static inline float infinity() { return INFINITY; }
static inline int __float_as_int(float value) {
    int bits;
    std::memcpy(&bits, &value, sizeof bits);
    return bits;
}
static inline float not_a_number() { return NAN; }

static inline float half_to_float(unsigned short half) {
    const uint32_t sign = uint32_t(half & 0x8000u) << 16, exponent = (half >> 10) & 31u, fraction = half & 1023u;
    if (exponent == 0) return (sign ? -1.0f : 1.0f) * float(fraction) * 5.9604644775390625e-8f;  // 2^-24
    const uint32_t bits = sign | (exponent == 31 ? 0x7f800000u : (exponent + 112u) << 23) | (fraction << 13);
    float result;
    std::memcpy(&result, &bits, sizeof result);
    return result;
}

static inline int atomicAdd(int* at, int value) {
    const int before = *at;
    *at += value;
    return before;
}

namespace on_cpu {

enum Operation { RUNNING, BARRIER, SHUFFLE, VOTE, LEFT };

struct Fiber {
    ucontext_t start;  // once; from then on jumps, which ask nothing of the kernel
    jmp_buf place;
    bool started = false;
    std::vector<char> stack = std::vector<char>(1 << 16);
    Operation at = RUNNING;
    uint32_t value = 0;
};

static std::vector<Fiber> fibers;
static jmp_buf scheduler;
static unsigned current;

[[noreturn]] inline void fail(const char* what) {
    std::fprintf(stderr, "block %u, thread %u: %s\n", blockIdx.x, current, what);
    std::abort();
}

// Waits until all threads that take part are at the same operation.
inline void meet(Operation operation) {
    fibers[current].at = operation;
    if (!_setjmp(fibers[current].place)) _longjmp(scheduler, 1);
}

inline uint32_t of_lane(unsigned lane, Operation operation) {
    const unsigned other = current / 32 * 32 + lane;
    if (other >= fibers.size() || fibers[other].at != operation) fail("a thread of the warp is not here");
    return fibers[other].value;
}

struct Call {
    void (*invoke)(void*);
    void* data;
};
static Call call;

inline void enter() {
    call.invoke(call.data);
    fibers[current].at = LEFT;
    _longjmp(scheduler, 1);
}

inline void resume(Fiber& fiber) {
    if (_setjmp(scheduler)) return;
    if (fiber.started) _longjmp(fiber.place, 1);
    fiber.started = true;
    setcontext(&fiber.start);
}

inline void run_block() {
    for (auto& fiber : fibers) {
        getcontext(&fiber.start);
        fiber.start.uc_stack.ss_sp = fiber.stack.data();
        fiber.start.uc_stack.ss_size = fiber.stack.size();
        fiber.start.uc_link = nullptr;
        makecontext(&fiber.start, enter, 0);
        fiber.at = RUNNING;
        fiber.started = false;
    }
    for (bool any = true; any;) {
        any = false;
        for (unsigned i = 0; i < fibers.size(); ++i) {
            if (fibers[i].at == LEFT) continue;
            current = threadIdx.x = i;
            any = true;
            resume(fibers[i]);
        }
        for (unsigned i = 0; i < fibers.size(); ++i) {  // a barrier is for the block, all else for the warp
            current = i;
            const unsigned with = fibers[i].at == BARRIER ? 0 : i / 32 * 32;
            if (fibers[i].at != LEFT && fibers[with].at != fibers[i].at) fail("the threads are at different operations");
            if (fibers[i].at == LEFT && fibers[0].at == BARRIER) fail("left before a barrier");
        }
    }
}

template <typename... Parameters, std::size_t... I>
void launch(void (*kernel)(Parameters...), int blocks, int threads, void** arguments, std::index_sequence<I...>) {
    auto values = std::make_tuple(*static_cast<std::remove_cv_t<Parameters>*>(arguments[I])...);
    auto body = [&] { kernel(std::get<I>(values)...); };
    call = {[](void* data) { (*static_cast<decltype(body)*>(data))(); }, &body};
    fibers.resize(threads);
    gridDim.x = blocks;
    blockDim.x = threads;
    for (int block = 0; block < blocks; ++block) {
        blockIdx.x = block;
        run_block();
    }
}

template <typename... Parameters>
void launch(void (*kernel)(Parameters...), int blocks, int threads, void** arguments) {
    launch(kernel, blocks, threads, arguments, std::index_sequence_for<Parameters...>{});
}

// Sizes of a kernel's parameters, in bytes, and how many there are.
template <typename... Parameters>
int layout(void (*)(Parameters...), int* sizes) {
    ((*sizes++ = sizeof(Parameters)), ...);
    return sizeof...(Parameters);
}

}  // namespace on_cpu

static inline void __syncthreads() { on_cpu::meet(on_cpu::BARRIER); }

static inline float __shfl_xor_sync(unsigned, float value, int mask) {
    std::memcpy(&on_cpu::fibers[on_cpu::current].value, &value, sizeof value);
    on_cpu::meet(on_cpu::SHUFFLE);
    const uint32_t bits = on_cpu::of_lane((on_cpu::current % 32) ^ unsigned(mask), on_cpu::SHUFFLE);
    on_cpu::meet(on_cpu::SHUFFLE);  // no thread writes the next value before all have read this one
    float result;
    std::memcpy(&result, &bits, sizeof result);
    return result;
}

static inline unsigned __ballot_sync(unsigned, bool vote) {
    on_cpu::fibers[on_cpu::current].value = vote;
    on_cpu::meet(on_cpu::VOTE);
    unsigned votes = 0;
    for (unsigned lane = 0; lane < 32; ++lane) votes |= on_cpu::of_lane(lane, on_cpu::VOTE) << lane;
    on_cpu::meet(on_cpu::VOTE);
    return votes;
}
