// The voxel query on the GPU, compiled as one text for one student: this file, field.cu or cells.cu, and words.cu. Here is
// what both kinds of students share. It says the state of every voxel and lists the occupied ones. Readable twins:
// march, states, label_logits_reference, class_cosines_reference of the tests, and SceneDecoder of the training.
//
//   UNITS, CLASSES  units that labels and words follow from (0: none), and classes
//   CHANNELS        of a field student: units of the density
//   CONTEXT         of one that completes cells: channels that cells look up
// No header is needed, so that NVRTC compiles this text without a toolkit. It compiles as C++ for the tests, see
// tests/inference/gpu/cuda_on_cpu.h. The arguments of kernels are plain pointers and numbers; what has many numbers lies
// in memory.

#if !defined(UNITS) || !defined(CLASSES) || defined(CHANNELS) == defined(CONTEXT)
#error "UNITS, CLASSES, and CHANNELS or CONTEXT say for which student this is compiled"
#endif
#if UNITS % 32
#error "UNITS must be a multiple of 32: eight threads take four each"
#endif

#define LANES 8
#define COARSE 17  // bits of a float behind those by which intervals of the calibration are found
#define LAST 8128  // what the leading bits of 1.0 are
#define WARP 0xffffffffu
// Voxels that a block of `classify` and `compact` takes, and its threads.
#define SPAN 1024
#define THREADS 256

#define FREE_SEEN 1
#define FREE_INFERRED 2
#define SURFACE 3
#define COMPLETED 4
#define SPENT 1e-3f
#define SEEN 0.5f

typedef unsigned char byte;
typedef unsigned int word;

struct Four {
    float a, b, c, d;
};

#ifndef CUDA_ON_CPU
static __device__ __forceinline__ float infinity() { return __int_as_float(0x7f800000); }
static __device__ __forceinline__ float not_a_number() { return __int_as_float(0x7fc00000); }
#endif

// Sum over the LANES threads of a point; all threads of the warp take part.
static __device__ __forceinline__ float sum_of_lanes(float value) {
    for (int step = LANES / 2; step > 0; step /= 2) value += __shfl_xor_sync(WARP, value, step);
    return value;
}

// A voxel grid, the camera in it, and the pinhole of the rays: pixels of the depth image.
struct Scene {
    int size_x, size_y, size_z, width, height;
    float edge;               // of a voxel, metres
    float fx, fy, cx, cy;     // of the rays, pixels
    float pose[12];           // camera from voxel coordinates: rotation times edge, row by row, then translation, metres
    float camera[3];          // the camera's centre, voxel coordinates
};

// The voxel in which a ray is at a distance, in voxel edges.
static __device__ __forceinline__ int voxel_at(const Scene& scene, float along, float d_x, float d_y, float d_z) {
    const int x = min(max(int(scene.camera[0] + along * d_x), 0), scene.size_x - 1);
    const int y = min(max(int(scene.camera[1] + along * d_y), 0), scene.size_y - 1);
    const int z = min(max(int(scene.camera[2] + along * d_z), 0), scene.size_z - 1);
    return (x * scene.size_y + y) * scene.size_z + z;
}

struct Projected {
    float column, row, distance, depth;
};

// A point in voxel coordinates, as the ray camera sees it.
static __device__ __forceinline__ Projected projected(
    const Scene& scene, float x, float y, float z) {
    const float* pose = scene.pose;
    const float p_x = pose[0] * x + pose[1] * y + pose[2] * z + pose[9];
    const float p_y = pose[3] * x + pose[4] * y + pose[5] * z + pose[10];
    const float p_z = pose[6] * x + pose[7] * y + pose[8] * z + pose[11];
    const float inverse = 1.0f / fmaxf(p_z, 1e-6f);
    return {scene.fx * p_x * inverse + scene.cx, scene.fy * p_y * inverse + scene.cy,
            sqrtf(p_x * p_x + p_y * p_y + p_z * p_z), p_z};
}

static __device__ __forceinline__ int clamped(float value, int size) {
    return int(fminf(fmaxf(floorf(value), 0.0f), float(size - 1)));
}

// Whether one of the four rays around a point reaches it with half of its light.
static __device__ __forceinline__ bool reached(
    const Scene& scene, const float* __restrict__ half_distance, float x, float y, float z) {
    const Projected at = projected(scene, x, y, z);
    if (at.depth <= 0.0f) return false;
    const int c_0 = clamped(at.column, scene.width), c_1 = clamped(at.column + 1.0f, scene.width);
    const int r_0 = clamped(at.row, scene.height), r_1 = clamped(at.row + 1.0f, scene.height);
    const float upper = fmaxf(half_distance[r_0 * scene.width + c_0], half_distance[r_0 * scene.width + c_1]);
    const float lower = fmaxf(half_distance[r_1 * scene.width + c_0], half_distance[r_1 * scene.width + c_1]);
    return at.distance <= fmaxf(upper, lower);
}

// Probability, float32 [X, Y, Z], and state, uint8 [X, Y, Z], of every voxel, and how many of each SPAN are occupied.
//   in_view, stands [X, Y, Z]; knots, values [K] and intervals [LAST + 1] of the calibration, see VoxelClassifier; occupied
//   [blocks].
extern "C" __global__ void __launch_bounds__(THREADS) classify(
    const float* __restrict__ alpha, const byte* __restrict__ in_view, const float* __restrict__ half_distance,
    const Scene* __restrict__ of_scene, const float* __restrict__ knots, const float* __restrict__ values,
    const int* __restrict__ intervals, int last_interval, float of_ground, float of_obstacle,
    const byte* __restrict__ stands, float* __restrict__ probability, byte* __restrict__ state,
    int* __restrict__ occupied) {
    const Scene& scene = *of_scene;
    const int voxels = scene.size_x * scene.size_y * scene.size_z;
    int found = 0;
    for (int turn = 0; turn < SPAN / THREADS; ++turn) {
        const int voxel = blockIdx.x * SPAN + turn * THREADS + threadIdx.x;
        if (voxel < voxels) {
            float p = 0.0f;
            byte what = 0;
            if (in_view[voxel]) {
                const float a = alpha[voxel];
                int at = intervals[min(max(__float_as_int(a) >> COARSE, 0), LAST)];
                while (at < last_interval && a > knots[at + 1]) ++at;
                const float share = (a - knots[at]) / (knots[at + 1] - knots[at]);
                // fminf and fmaxf would make a number of NaN.
                const float within = share < 0.0f ? 0.0f : (share > 1.0f ? 1.0f : share);
                p = values[at] + within * (values[at + 1] - values[at]);
                const int z_index = voxel % scene.size_z, column_index = voxel / scene.size_z;
                const float x = float(column_index / scene.size_y) + 0.5f, y = float(column_index % scene.size_y) + 0.5f;
                const float z = float(z_index) + 0.5f;
                const Projected seen_at = projected(scene, x, y, z);
                const int c = clamped(seen_at.column + 0.5f, scene.width);
                const int r = clamped(seen_at.row + 0.5f, scene.height);
                bool seen = seen_at.distance <= half_distance[r * scene.width + c] + 0.5f * scene.edge;
                if (p >= (stands[voxel] ? of_obstacle : of_ground)) {
                    const float offset_x = scene.camera[0] - x, offset_y = scene.camera[1] - y;
                    const float offset_z = scene.camera[2] - z;
                    const float to_x = copysignf(0.5f, offset_x), to_y = copysignf(0.5f, offset_y);
                    const float to_z = copysignf(0.5f, offset_z);
                    seen = seen || (fabsf(offset_x) > 0.5f && reached(scene, half_distance, x + to_x, y, z));
                    seen = seen || (fabsf(offset_y) > 0.5f && reached(scene, half_distance, x, y + to_y, z));
                    seen = seen || (fabsf(offset_z) > 0.5f && reached(scene, half_distance, x, y, z + to_z));
                    what = seen ? SURFACE : COMPLETED;
                    ++found;
                } else {
                    what = seen ? FREE_SEEN : FREE_INFERRED;
                }
            }
            probability[voxel] = p;
            state[voxel] = what;
        }
    }
    __shared__ int of_block;
    if (threadIdx.x == 0) of_block = 0;
    __syncthreads();
    if (found) atomicAdd(&of_block, found);
    __syncthreads();
    if (threadIdx.x == 0) occupied[blockIdx.x] = of_block;
}

// Sum of the counts before each of `blocks` [blocks], in place, and their total, twice; one block of THREADS threads.
extern "C" __global__ void __launch_bounds__(THREADS) offsets(
    int* __restrict__ counts, int blocks, int* __restrict__ total, int* __restrict__ total_of_host) {
    __shared__ int sums[THREADS];
    const int part = (blocks + THREADS - 1) / THREADS;
    const int begin = min(int(threadIdx.x) * part, blocks), end = min(begin + part, blocks);
    int own = 0;
    for (int i = begin; i < end; ++i) own += counts[i];
    sums[threadIdx.x] = own;
    __syncthreads();
    for (int step = 1; step < THREADS; step *= 2) {
        const int other = int(threadIdx.x) >= step ? sums[threadIdx.x - step] : 0;
        __syncthreads();
        sums[threadIdx.x] += other;
        __syncthreads();
    }
    int before = sums[threadIdx.x] - own;
    for (int i = begin; i < end; ++i) {
        const int count = counts[i];
        counts[i] = before;
        before += count;
    }
    if (threadIdx.x == THREADS - 1) *total = *total_of_host = sums[threadIdx.x];
}

// Flat indices of the occupied voxels, in order, twice, and their probabilities. What is beyond `capacity` is left out.
//   before [blocks] of `offsets`; index is read by the labels, of_host and probability_of_host lie where the host reads.
extern "C" __global__ void __launch_bounds__(THREADS) compact(
    const byte* __restrict__ state, const float* __restrict__ probability, const int* __restrict__ before, int voxels,
    int capacity, int* __restrict__ index, int* __restrict__ of_host, float* __restrict__ probability_of_host) {
    __shared__ int of_warp[THREADS / 32];
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    int written = before[blockIdx.x];
    for (int turn = 0; turn < SPAN / THREADS; ++turn) {
        const int voxel = blockIdx.x * SPAN + turn * THREADS + threadIdx.x;
        const bool chosen = voxel < voxels && state[voxel] >= SURFACE;
        const word votes = __ballot_sync(WARP, chosen);
        if (lane == 0) of_warp[warp] = __popc(votes);
        __syncthreads();
        int place = written + __popc(votes & ((1u << lane) - 1u));
        for (int other = 0; other < THREADS / 32; ++other) {
            if (other < warp) place += of_warp[other];
            written += of_warp[other];
        }
        if (chosen && place < capacity) {
            index[place] = voxel;
            of_host[place] = voxel;
            probability_of_host[place] = probability[voxel];
        }
        __syncthreads();
    }
}

#if UNITS
#define UNIT_PARTS (UNITS / (4 * LANES))

// Point after point for each LANES threads, with any number of blocks. All groups of a warp go on until the last of them
// is done, with an i beyond count: they sum together.
#define FOR_EACH_POINT(i, count)                                                                               \
    for (int warp_ = (blockIdx.x * blockDim.x + threadIdx.x) / 32 * (32 / LANES), i = warp_ + threadIdx.x % 32 / LANES; \
         warp_ < count; warp_ += gridDim.x * blockDim.x / LANES, i += gridDim.x * blockDim.x / LANES)

// Product of a row [UNITS] with the units of a sample; all threads of the warp take part.
static __device__ __forceinline__ float product(
    const float* __restrict__ row, const Four (&hidden)[UNIT_PARTS], int lane) {
    float sum = 0.0f;
    for (int part = 0; part < UNIT_PARTS; ++part) {
        const float4 own = *reinterpret_cast<const float4*>(row + 4 * (part * LANES + lane));
        sum += own.x * hidden[part].a + own.y * hidden[part].b + own.z * hidden[part].c + own.w * hidden[part].d;
    }
    return sum_of_lanes(sum);
}
#endif
