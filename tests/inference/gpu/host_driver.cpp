// A CUDA driver on the host, with which pycuda, the real one, can be loaded and used where there is no GPU. Signatures are
// those of cuda.h. Device memory is the host's and begins full of rubbish. What is asked of a stream is done when that
// stream is waited for, as late as a GPU may, or at once, as early as one may. A module is the path of a shared library of kernels that were compiled for
// the CPU, see cuda_cpu_device.py. Only what this package uses is here: loading stops at what is missing.
//
// Not for use by several threads at the same time.
#include <cuda.h>
#include <dlfcn.h>

#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

namespace {

constexpr size_t TOTAL = size_t(1) << 30;
constexpr int RUBBISH = 0xA5;

using Work = std::function<void()>;

struct Stream {
    std::vector<Work> waiting, captured;
    bool capturing = false, invalid = false;

    void run() {
        auto works = std::move(waiting);
        waiting.clear();
        for (auto& work : works) work();
    }
};

struct Event {
    double at_ms = NAN;
    bool captured = false;  // into a graph, where it orders nodes and has no time
};

struct Function {
    void (*launch)(int blocks, int threads, void** arguments);
    std::vector<int> sizes;  // of its parameters
};

struct Module {
    void* library;
    std::map<std::string, std::unique_ptr<Function>> functions;
};

using Graph = std::vector<Work>;

size_t left = TOTAL;
long long allocated = 0, pinned = 0, allocations = 0, retained = 0, launched_graphs = 0, live_graphs = 0, events = 0;
CUresult no_graphs = CUDA_SUCCESS, no_launches = CUDA_SUCCESS;
bool early = false;
CUresult broken = CUDA_SUCCESS;
std::map<void*, size_t> on_device, on_host;
std::set<Stream*> streams;
int context_object;
thread_local std::vector<CUcontext> stack;

CUcontext primary() { return reinterpret_cast<CUcontext>(&context_object); }

bool current() { return !stack.empty() && retained > 0; }

double now_ms() {
    using namespace std::chrono;
    return duration<double, std::milli>(steady_clock::now().time_since_epoch()).count();
}

CUresult enqueue(CUstream handle, Work work) {
    if (!current()) return CUDA_ERROR_INVALID_CONTEXT;
    auto* stream = reinterpret_cast<Stream*>(handle);
    if (!streams.count(stream)) return CUDA_ERROR_INVALID_HANDLE;  // also of the default stream, which nobody is to use
    if (stream->invalid) return CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
    (stream->capturing ? stream->captured : stream->waiting).push_back(std::move(work));
    if (early && !stream->capturing) stream->run();
    return CUDA_SUCCESS;
}

// What may not happen while work is captured, and ends the capture.
CUresult refused_in_capture() {
    bool any = false;
    for (auto* stream : streams)
        if (stream->capturing) any = stream->invalid = true;
    return any ? CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED : CUDA_SUCCESS;
}

CUresult finish() {
    if (!current()) return CUDA_ERROR_INVALID_CONTEXT;
    if (const auto refused = refused_in_capture()) return refused;
    for (auto* stream : streams) stream->run();
    return CUDA_SUCCESS;
}

// What has no stream does not wait for others: all streams here are of that kind.
CUresult at_once() { return current() ? refused_in_capture() : CUDA_ERROR_INVALID_CONTEXT; }

CUresult take(std::map<void*, size_t>& from, void* at, size_t* size) {
    if (const auto failed = finish()) return failed;
    const auto found = from.find(at);
    if (found == from.end()) return CUDA_ERROR_INVALID_VALUE;
    *size = found->second;
    std::free(at);
    from.erase(found);
    return CUDA_SUCCESS;
}

bool holds(const std::map<void*, size_t>& in, const void* at, size_t size) {
    auto after = in.upper_bound(const_cast<void*>(at));
    if (after == in.begin()) return false;
    const auto& [begin, length] = *--after;
    return static_cast<const char*>(at) + size <= static_cast<char*>(begin) + length;
}

void* pointer(CUdeviceptr at) { return reinterpret_cast<void*>(at); }

}  // namespace

extern "C" {

// --- for tests ---

void host_driver_counts(long long* out) {
    const long long counts[] = {(long long)left, allocated, pinned, allocations, retained, (long long)stack.size(),
                                launched_graphs, live_graphs, events};
    std::memcpy(out, counts, sizeof counts);
}

void host_driver_leave(long long bytes) { left = size_t(bytes); }

// Every wait for a stream fails so from now on; 0 mends it.
void host_driver_break(int how) { broken = CUresult(how); }

CUresult CUDAAPI cuGetErrorString(CUresult error, const char** text) {
    switch (error) {
        case CUDA_ERROR_OUT_OF_MEMORY: *text = "out of memory"; break;
        case CUDA_ERROR_LAUNCH_FAILED: *text = "unspecified launch failure"; break;
        case CUDA_ERROR_ILLEGAL_ADDRESS: *text = "an illegal memory access was encountered"; break;
        case CUDA_ERROR_NOT_SUPPORTED: *text = "operation not supported"; break;
        case CUDA_ERROR_INVALID_IMAGE: *text = "device kernel image is invalid"; break;
        case CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED:
            *text = "operation not permitted when stream is capturing";
            break;
        case CUDA_ERROR_STREAM_CAPTURE_INVALIDATED:
            *text = "operation failed due to a previous error during capture";
            break;
        default: *text = "an error of the driver on the host"; break;
    }
    return CUDA_SUCCESS;
}

// Every graph that is to be made fails so from now on.
void host_driver_without_graphs(int how) { no_graphs = CUresult(how); }

// Every graph that is launched fails so from now on.
void host_driver_without_launches(int how) { no_launches = CUresult(how); }

int host_driver_capturing(void* stream) { return reinterpret_cast<Stream*>(stream)->capturing; }

// Work is done when it is asked for from now on.
void host_driver_at_once(int yes) { early = yes; }

// --- device and context ---

CUresult CUDAAPI cuInit(unsigned) { return CUDA_SUCCESS; }

CUresult CUDAAPI cuDriverGetVersion(int* version) {
    *version = CUDA_VERSION;
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuDeviceGetCount(int* count) {
    *count = 1;
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuDeviceGet(CUdevice* device, int ordinal) {
    *device = 0;
    return ordinal ? CUDA_ERROR_INVALID_DEVICE : CUDA_SUCCESS;
}

CUresult CUDAAPI cuDeviceGetName(char* name, int length, CUdevice) {
    std::strncpy(name, "Host", size_t(length));
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuDeviceTotalMem(size_t* bytes, CUdevice) {
    *bytes = TOTAL;
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuDeviceComputeCapability(int* major, int* minor, CUdevice) {
    *major = 8;
    *minor = 7;
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuDeviceGetAttribute(int* value, CUdevice_attribute attribute, CUdevice) {
    switch (attribute) {
        case CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT: *value = 16; break;
        case CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE: *value = 1 << 22; break;
        default: return CUDA_ERROR_NOT_SUPPORTED;
    }
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuDevicePrimaryCtxRetain(CUcontext* context, CUdevice) {
    *context = primary();
    ++retained;
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuDevicePrimaryCtxRelease(CUdevice) {
    if (!retained) return CUDA_ERROR_INVALID_CONTEXT;
    --retained;
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuCtxPushCurrent(CUcontext context) {
    if (context != primary() || !retained) return CUDA_ERROR_INVALID_CONTEXT;
    stack.push_back(context);
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuCtxPopCurrent(CUcontext* context) {
    if (stack.empty()) return CUDA_ERROR_INVALID_CONTEXT;
    if (context) *context = stack.back();
    stack.pop_back();
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuCtxGetDevice(CUdevice* device) {
    *device = 0;
    return current() ? CUDA_SUCCESS : CUDA_ERROR_INVALID_CONTEXT;
}

CUresult CUDAAPI cuCtxSynchronize() { return finish(); }

// --- memory ---

CUresult CUDAAPI cuMemGetInfo(size_t* free, size_t* total) {
    *free = left;
    *total = TOTAL;
    return current() ? CUDA_SUCCESS : CUDA_ERROR_INVALID_CONTEXT;
}

CUresult CUDAAPI cuMemAlloc(CUdeviceptr* at, size_t size) {
    if (!current()) return CUDA_ERROR_INVALID_CONTEXT;
    if (const auto refused = refused_in_capture()) return refused;
    if (!size) return CUDA_ERROR_INVALID_VALUE;
    if (size > left) return CUDA_ERROR_OUT_OF_MEMORY;
    void* memory = std::aligned_alloc(256, (size + 255) / 256 * 256);
    std::memset(memory, RUBBISH, size);
    on_device[memory] = size;
    left -= size;
    allocated += (long long)size;
    ++allocations;
    *at = reinterpret_cast<CUdeviceptr>(memory);
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuMemFree(CUdeviceptr at) {
    size_t size;
    if (const auto failed = take(on_device, pointer(at), &size)) return failed;
    left += size;
    allocated -= (long long)size;
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuMemHostAlloc(void** at, size_t size, unsigned) {
    if (!current()) return CUDA_ERROR_INVALID_CONTEXT;
    if (const auto refused = refused_in_capture()) return refused;
    *at = std::aligned_alloc(256, (size + 255) / 256 * 256);
    std::memset(*at, RUBBISH, size);
    on_host[*at] = size;
    pinned += (long long)size;
    ++allocations;
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuMemFreeHost(void* at) {
    size_t size;
    if (const auto failed = take(on_host, at, &size)) return failed;
    pinned -= (long long)size;
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuMemHostGetDevicePointer(CUdeviceptr* at, void* host, unsigned flags) {
    if (!on_host.count(host) || flags) return CUDA_ERROR_INVALID_VALUE;
    *at = reinterpret_cast<CUdeviceptr>(host);
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuMemcpyHtoD(CUdeviceptr to, const void* from, size_t size) {
    if (const auto failed = at_once()) return failed;
    if (!holds(on_device, pointer(to), size)) return CUDA_ERROR_INVALID_VALUE;
    std::memcpy(pointer(to), from, size);
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuMemcpyDtoH(void* to, CUdeviceptr from, size_t size) {
    if (const auto failed = at_once()) return failed;
    if (!holds(on_device, pointer(from), size)) return CUDA_ERROR_INVALID_VALUE;
    std::memcpy(to, pointer(from), size);
    return CUDA_SUCCESS;
}

// What is not page-locked is copied at once to memory that is.
CUresult CUDAAPI cuMemcpyHtoDAsync(CUdeviceptr to, const void* from, size_t size, CUstream stream) {
    if (!holds(on_device, pointer(to), size)) return CUDA_ERROR_INVALID_VALUE;
    if (holds(on_host, from, size)) return enqueue(stream, [=] { std::memcpy(pointer(to), from, size); });
    const auto* bytes = static_cast<const char*>(from);
    auto staged = std::make_shared<std::vector<char>>(bytes, bytes + size);
    return enqueue(stream, [=] { std::memcpy(pointer(to), staged->data(), size); });
}

// Memory of the host that is not page-locked would make this wait.
CUresult CUDAAPI cuMemcpyDtoHAsync(void* to, CUdeviceptr from, size_t size, CUstream stream) {
    if (!holds(on_device, pointer(from), size) || !holds(on_host, to, size)) return CUDA_ERROR_INVALID_VALUE;
    return enqueue(stream, [=] { std::memcpy(to, pointer(from), size); });
}

CUresult CUDAAPI cuMemcpyDtoDAsync(CUdeviceptr to, CUdeviceptr from, size_t size, CUstream stream) {
    if (!holds(on_device, pointer(from), size) || !holds(on_device, pointer(to), size)) return CUDA_ERROR_INVALID_VALUE;
    return enqueue(stream, [=] { std::memcpy(pointer(to), pointer(from), size); });
}

CUresult CUDAAPI cuMemsetD8Async(CUdeviceptr at, unsigned char value, size_t size, CUstream stream) {
    if (!holds(on_device, pointer(at), size)) return CUDA_ERROR_INVALID_VALUE;
    return enqueue(stream, [=] { std::memset(pointer(at), value, size); });
}

// --- streams and events ---

CUresult CUDAAPI cuStreamCreate(CUstream* stream, unsigned flags) {
    if (flags != CU_STREAM_NON_BLOCKING) return CUDA_ERROR_NOT_SUPPORTED;
    if (!current()) return CUDA_ERROR_INVALID_CONTEXT;
    auto* made = new Stream;
    streams.insert(made);
    *stream = reinterpret_cast<CUstream>(made);
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuStreamDestroy(CUstream handle) {
    auto* stream = reinterpret_cast<Stream*>(handle);
    if (!streams.count(stream)) return CUDA_ERROR_INVALID_HANDLE;
    stream->run();
    streams.erase(stream);
    delete stream;
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuStreamSynchronize(CUstream handle) {
    if (!current()) return CUDA_ERROR_INVALID_CONTEXT;
    auto* stream = reinterpret_cast<Stream*>(handle);
    if (!streams.count(stream)) return CUDA_ERROR_INVALID_HANDLE;
    if (stream->capturing) return refused_in_capture();
    if (broken) {
        stream->waiting.clear();
        return broken;
    }
    stream->run();
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuLaunchHostFunc(CUstream stream, CUhostFn work, void* data) {
    return enqueue(stream, [=] { work(data); });
}

CUresult CUDAAPI cuEventCreate(CUevent* event, unsigned) {
    if (!current()) return CUDA_ERROR_INVALID_CONTEXT;
    *event = reinterpret_cast<CUevent>(new Event);
    ++events;
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuEventDestroy(CUevent event) {
    --events;
    delete reinterpret_cast<Event*>(event);
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuEventRecordWithFlags(CUevent handle, CUstream stream, unsigned flags) {
    auto* event = reinterpret_cast<Event*>(handle);
    const bool capturing = streams.count(reinterpret_cast<Stream*>(stream)) && reinterpret_cast<Stream*>(stream)->capturing;
    if (!capturing && flags == CU_EVENT_RECORD_EXTERNAL) return CUDA_ERROR_INVALID_VALUE;
    event->captured = capturing && flags != CU_EVENT_RECORD_EXTERNAL;
    if (!capturing) event->at_ms = NAN;
    return enqueue(stream, [=] { event->at_ms = now_ms(); });
}

CUresult CUDAAPI cuEventRecord(CUevent event, CUstream stream) { return cuEventRecordWithFlags(event, stream, 0); }

CUresult CUDAAPI cuEventSynchronize(CUevent handle) {
    if (const auto failed = finish()) return failed;
    return std::isnan(reinterpret_cast<Event*>(handle)->at_ms) ? CUDA_ERROR_NOT_READY : CUDA_SUCCESS;
}

CUresult CUDAAPI cuEventElapsedTime(float* ms, CUevent from, CUevent to) {
    const auto *start = reinterpret_cast<Event*>(from), *end = reinterpret_cast<Event*>(to);
    if (start->captured || end->captured) return CUDA_ERROR_CAPTURED_EVENT;
    if (std::isnan(start->at_ms + end->at_ms)) return CUDA_ERROR_NOT_READY;
    *ms = float(end->at_ms - start->at_ms);
    return CUDA_SUCCESS;
}

#ifdef cuEventElapsedTime  // the header calls it by another name from some version on, and libcuda has both
#undef cuEventElapsedTime
CUresult CUDAAPI cuEventElapsedTime(float* ms, CUevent from, CUevent to) { return cuEventElapsedTime_v2(ms, from, to); }
#endif

// --- kernels ---

CUresult CUDAAPI cuModuleLoadDataEx(CUmodule* module, const void* image, unsigned, CUjit_option*, void**) {
    if (!current()) return CUDA_ERROR_INVALID_CONTEXT;
    void* library = dlopen(static_cast<const char*>(image), RTLD_NOW | RTLD_LOCAL);
    if (!library) return CUDA_ERROR_INVALID_IMAGE;
    *module = reinterpret_cast<CUmodule>(new Module{library, {}});
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuModuleUnload(CUmodule module) {
    delete reinterpret_cast<Module*>(module);  // the library stays
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuModuleGetFunction(CUfunction* function, CUmodule handle, const char* name) {
    auto* module = reinterpret_cast<Module*>(handle);
    auto launch = dlsym(module->library, (std::string("launch_") + name).c_str());
    auto layout = dlsym(module->library, (std::string("layout_") + name).c_str());
    if (!launch || !layout) return CUDA_ERROR_NOT_FOUND;
    int sizes[64];
    const int count = reinterpret_cast<int (*)(int*)>(layout)(sizes);
    auto& made = module->functions[name];
    made.reset(new Function{reinterpret_cast<void (*)(int, int, void**)>(launch), {sizes, sizes + count}});
    *function = reinterpret_cast<CUfunction>(made.get());
    return CUDA_SUCCESS;
}

// pycuda calls this before every launch, which then says it again.
CUresult CUDAAPI cuFuncSetBlockShape(CUfunction, int, int, int) { return CUDA_SUCCESS; }

CUresult CUDAAPI cuLaunchKernel(CUfunction handle, unsigned x, unsigned y, unsigned z, unsigned threads, unsigned tall,
                                unsigned deep, unsigned shared, CUstream stream, void** parameters, void** extra) {
    const auto* function = reinterpret_cast<Function*>(handle);
    if (y != 1 || z != 1 || tall != 1 || deep != 1 || shared || parameters || !extra) return CUDA_ERROR_NOT_SUPPORTED;
    if (!x || !threads || threads > 1024) return CUDA_ERROR_INVALID_VALUE;
    const char* packed = nullptr;
    size_t size = 0;
    for (; *extra != CU_LAUNCH_PARAM_END; extra += 2) {
        if (*extra == CU_LAUNCH_PARAM_BUFFER_POINTER) packed = static_cast<const char*>(extra[1]);
        if (*extra == CU_LAUNCH_PARAM_BUFFER_SIZE) size = *static_cast<const size_t*>(extra[1]);
    }
    // Parameters lie behind each other, each at a multiple of its size.
    std::vector<size_t> offsets;
    size_t end = 0;
    for (const int bytes : function->sizes) {
        offsets.push_back((end + size_t(bytes) - 1) / size_t(bytes) * size_t(bytes));
        end = offsets.back() + size_t(bytes);
    }
    if (!packed || size != end) return CUDA_ERROR_INVALID_VALUE;
    auto values = std::make_shared<std::vector<char>>(packed, packed + size);
    const auto launch = function->launch;
    return enqueue(stream, [=] {
        std::vector<void*> arguments;
        for (const size_t offset : offsets) arguments.push_back(values->data() + offset);
        launch(int(x), int(threads), arguments.data());
    });
}

// --- graphs ---

CUresult CUDAAPI cuStreamBeginCapture(CUstream handle, CUstreamCaptureMode mode) {
    auto* stream = reinterpret_cast<Stream*>(handle);
    if (!current()) return CUDA_ERROR_INVALID_CONTEXT;
    if (!streams.count(stream) || mode != CU_STREAM_CAPTURE_MODE_THREAD_LOCAL) return CUDA_ERROR_INVALID_VALUE;
    if (stream->capturing) return CUDA_ERROR_ILLEGAL_STATE;
    stream->capturing = true;
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuStreamEndCapture(CUstream handle, CUgraph* graph) {
    auto* stream = reinterpret_cast<Stream*>(handle);
    if (!streams.count(stream) || !stream->capturing) return CUDA_ERROR_ILLEGAL_STATE;
    const bool invalid = stream->invalid;
    live_graphs += !invalid;
    *graph = invalid ? nullptr : reinterpret_cast<CUgraph>(new Graph(std::move(stream->captured)));
    stream->captured.clear();
    stream->capturing = stream->invalid = false;
    return invalid ? CUDA_ERROR_STREAM_CAPTURE_INVALIDATED : CUDA_SUCCESS;
}

CUresult CUDAAPI cuGraphInstantiateWithFlags(CUgraphExec* made, CUgraph graph, unsigned long long flags) {
    if (flags) return CUDA_ERROR_NOT_SUPPORTED;
    if (no_graphs) return no_graphs;
    ++live_graphs;
    *made = reinterpret_cast<CUgraphExec>(new Graph(*reinterpret_cast<Graph*>(graph)));
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuGraphLaunch(CUgraphExec handle, CUstream stream) {
    const auto* graph = reinterpret_cast<Graph*>(handle);
    if (no_launches) return no_launches;
    ++launched_graphs;
    return enqueue(stream, [=] {
        for (const auto& work : *graph) work();
    });
}

CUresult CUDAAPI cuGraphDestroy(CUgraph graph) {
    --live_graphs;
    delete reinterpret_cast<Graph*>(graph);
    return CUDA_SUCCESS;
}

CUresult CUDAAPI cuGraphExecDestroy(CUgraphExec graph) {
    --live_graphs;
    delete reinterpret_cast<Graph*>(graph);
    return CUDA_SUCCESS;
}

}  // extern "C"
