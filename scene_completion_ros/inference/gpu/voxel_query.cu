// The student's field on the GPU. The kernels compute the density of all voxels in view and march the camera's rays.
// They then say the state of every voxel, list the occupied ones, and label those. Readable twins: density_reference,
// march, states, label_logits_reference, class_cosines_reference.
//
// Compiled for one student:
//   CHANNELS        units of the density
//   UNITS, CLASSES  units of the labels (0: none), and classes
// The encoder's map is float16.
// No header is needed, so that NVRTC compiles this text without a toolkit. It compiles as C++ for the tests, see
// tests/inference/gpu/cuda_on_cpu.h.
//
// Density and labels: LANES threads share a point, four channels each at a time. Every load of a tap or of a table's
// row is then one whole line of the cache. Samples are ordered by cell of the feature map. A group of threads takes RUN of
// them in a row, and reads the four taps again only where the cell changes.

#if !defined(CHANNELS) || !defined(UNITS) || !defined(CLASSES)
#error "CHANNELS, UNITS and CLASSES say for which student this is compiled"
#endif
#if CHANNELS % 32 || UNITS % 32
#error "CHANNELS and UNITS must be multiples of 32: eight threads take four each"
#endif

#define LANES 8
#define RUN 8
#define BINS 4096
#define WARP 0xffffffffu
// Voxels that a block of `classify` and `compact` takes, and its threads.
#define SPAN 1024
#define THREADS 256

// Taps of many channels do not fit into the registers.
#define TAPS_STAY (CHANNELS <= 128)

#define FREE_SEEN 1
#define FREE_INFERRED 2
#define SURFACE 3
#define COMPLETED 4
#define SPENT 1e-3f
#define SEEN 0.5f

typedef unsigned char byte;
typedef unsigned int word;
typedef unsigned short half_bits;

typedef half_bits feature;

struct Four {
    float a, b, c, d;
};

#ifndef CUDA_ON_CPU
static __device__ __forceinline__ float half_to_float(half_bits value) {
    float result;
    asm("cvt.f32.f16 %0, %1;" : "=f"(result) : "h"(value));
    return result;
}
static __device__ __forceinline__ float infinity() { return __int_as_float(0x7f800000); }
static __device__ __forceinline__ float not_a_number() { return __int_as_float(0x7fc00000); }
#endif

// Four neighbouring channels of the feature map as they lie there: registers are scarce.
typedef uint2 four_features;

// `at` is a multiple of four.
static __device__ __forceinline__ four_features taps_at(const feature* __restrict__ features, word at) {
    return *reinterpret_cast<const four_features*>(features + at);
}

static __device__ __forceinline__ void add_row(Four& sum, const float* __restrict__ row, float share) {
    const float4 found = *reinterpret_cast<const float4*>(row);
    sum.a += share * found.x;
    sum.b += share * found.y;
    sum.c += share * found.z;
    sum.d += share * found.w;
}

static __device__ __forceinline__ void add_taps(Four& sum, const four_features& tap, float share) {
    sum.a += share * half_to_float(half_bits(tap.x & 0xffffu));
    sum.b += share * half_to_float(half_bits(tap.x >> 16));
    sum.c += share * half_to_float(half_bits(tap.y & 0xffffu));
    sum.d += share * half_to_float(half_bits(tap.y >> 16));
}

// ReLU; unlike fmaxf it keeps what is not a number, so that a broken map is not taken for an empty one.
static __device__ __forceinline__ float rectified(float value) { return value < 0.0f ? 0.0f : value; }

// Sum over the LANES threads of a point; all threads of the warp take part.
static __device__ __forceinline__ float sum_of_lanes(float value) {
    for (int step = LANES / 2; step > 0; step /= 2) value += __shfl_xor_sync(WARP, value, step);
    return value;
}

// A fractional row of a table: the row before it, and the share of the one after it.
static __device__ __forceinline__ int row_before(float row, int last) { return min(max(int(row), 0), last); }

// The arguments of kernels are plain pointers and numbers; what has many numbers lies in memory. Two lists occur twice:
// prepared points, see FieldSamples,
#define SAMPLES                                                                                       \
    const int *__restrict__ target, const int *__restrict__ cell, const float *__restrict__ share_of, \
        const float *__restrict__ rows
// and positional tables [entries, C], with the number of the last row that has one after it.
#define TABLES                                                                                                    \
    const float *__restrict__ table_x, const float *__restrict__ table_y, const float *__restrict__ table_z,      \
        int last_x, int last_y, int last_z

// Opacity over a length of prepared points, to out[target].
//   features [h w, CHANNELS + UNITS], width w; weight [CHANNELS]; count points.
extern "C" __global__ void __launch_bounds__(THREADS, 2) query_density(
    const feature* __restrict__ features, int width, TABLES, const float* __restrict__ weight, float bias, SAMPLES,
    int count, float length, float* __restrict__ out) {
    const int lane = threadIdx.x % LANES;
    const int start = ((blockIdx.x * blockDim.x + threadIdx.x) / LANES) * RUN;
    constexpr int PARTS = CHANNELS / (4 * LANES);
    four_features upper_left[PARTS], upper_right[PARTS], lower_left[PARTS], lower_right[PARTS];
    int loaded = -1;
#pragma unroll 1
    for (int i = start; i < start + RUN; ++i) {
        const int sample = min(i, count - 1);  // the last group computes the last point again and writes it once
        const int here = cell[sample];
        if (here != loaded || !TAPS_STAY) {
            const word stride = CHANNELS + UNITS, first = word(here) * stride + 4 * lane, below = word(width) * stride;
            for (int part = 0; part < PARTS; ++part) {
                const word at = first + 4 * LANES * part;
                upper_left[part] = taps_at(features, at);
                upper_right[part] = taps_at(features, at + stride);
                lower_left[part] = taps_at(features, at + below);
                lower_right[part] = taps_at(features, at + below + stride);
            }
            loaded = here;
        }
        const float right = share_of[2 * sample], lower = share_of[2 * sample + 1];
        const float left = 1.0f - right, upper = 1.0f - lower;
        const float row_x = rows[3 * sample], row_y = rows[3 * sample + 1];
        const float row_z = rows[3 * sample + 2];
        const int x = row_before(row_x, last_x), y = row_before(row_y, last_y);
        const int z = row_before(row_z, last_z);
        const float next_x = row_x - float(x), next_y = row_y - float(y), next_z = row_z - float(z);
        float total = 0.0f;
        for (int part = 0; part < PARTS; ++part) {
            const int channel = 4 * (part * LANES + lane);
            Four hidden = {0.0f, 0.0f, 0.0f, 0.0f};
            add_taps(hidden, upper_left[part], left * upper);
            add_taps(hidden, upper_right[part], right * upper);
            add_taps(hidden, lower_left[part], left * lower);
            add_taps(hidden, lower_right[part], right * lower);
            add_row(hidden, table_x + word(x) * CHANNELS + channel, 1.0f - next_x);
            add_row(hidden, table_x + word(x + 1) * CHANNELS + channel, next_x);
            add_row(hidden, table_y + word(y) * CHANNELS + channel, 1.0f - next_y);
            add_row(hidden, table_y + word(y + 1) * CHANNELS + channel, next_y);
            add_row(hidden, table_z + word(z) * CHANNELS + channel, 1.0f - next_z);
            add_row(hidden, table_z + word(z + 1) * CHANNELS + channel, next_z);
            const float4 of_part = *reinterpret_cast<const float4*>(weight + channel);
            total += of_part.x * rectified(hidden.a) + of_part.y * rectified(hidden.b) +
                     of_part.z * rectified(hidden.c) + of_part.w * rectified(hidden.d);
        }
        total = sum_of_lanes(total) + bias;
        if (lane == 0 && i < count) {
            const float density = fmaxf(total, 0.0f) + log1pf(expf(-fabsf(total)));
            out[target[sample]] = -expm1f(-density * length);
        }
    }
}

// A voxel grid, the camera in it, and the pinhole of the rays: pixels of the depth image.
struct Scene {
    int size_x, size_y, size_z, width, height;
    float edge;               // of a voxel, metres
    float fx, fy, cx, cy;     // of the rays, pixels
    float pose[12];           // camera from voxel coordinates: rotation times edge, row by row, then translation, metres
    float camera[3];          // the camera's centre, voxel coordinates
};

// Opacity of the voxel in which a ray is at a distance, in voxel edges.
static __device__ __forceinline__ float opacity_at(
    const Scene& scene, const float* __restrict__ alpha, float along, float d_x, float d_y, float d_z) {
    const int x = min(max(int(scene.camera[0] + along * d_x), 0), scene.size_x - 1);
    const int y = min(max(int(scene.camera[1] + along * d_y), 0), scene.size_y - 1);
    const int z = min(max(int(scene.camera[2] + along * d_z), 0), scene.size_z - 1);
    return alpha[(x * scene.size_y + y) * scene.size_z + z];
}

// See march.march: depth, half distance and transmittance of every ray.
//   alpha [X, Y, Z]; direction [R, 3], cosine [R], first [R], stop [R], leave [R] of GridRays.
extern "C" __global__ void __launch_bounds__(THREADS) march_rays(
    const float* __restrict__ alpha, const Scene* __restrict__ of_scene, float occupied_from, const float* __restrict__ direction,
    const float* __restrict__ cosine, const int* __restrict__ first, const int* __restrict__ stop,
    const float* __restrict__ leave, int count, float* __restrict__ depth, float* __restrict__ half_distance,
    float* __restrict__ transmittance) {
    const int ray = blockIdx.x * blockDim.x + threadIdx.x;
    if (ray >= count) return;
    const Scene& scene = *of_scene;
    const float d_x = direction[3 * ray], d_y = direction[3 * ray + 1], d_z = direction[3 * ray + 2];
    const int begin = first[ray], end = stop[ray];
    float left = 1.0f, distance = 0.0f, turned = infinity();
    int step = begin;
    // "Not less" and "not at least" as in the twin: NaN spends no ray, and behind it nothing is seen.
    while (step < end && !(left < SPENT)) {
        const float along = float(step) + 0.5f;
        const float opacity = opacity_at(scene, alpha, along, d_x, d_y, d_z);
        distance += left * opacity * along;
        left *= 1.0f - opacity;
        ++step;
        if (turned == infinity() && (opacity >= occupied_from || !(left >= SEEN))) turned = along * scene.edge;
    }
    if (left < SPENT) {
        distance += left * (float(step) - 0.5f);
        left = 0.0f;
    }
    distance *= scene.edge;
    if (left > 0.0f) distance += left * leave[ray];
    if (begin == end) distance = not_a_number();
    depth[ray] = distance * cosine[ray];
    half_distance[ray] = turned;
    transmittance[ray] = left;
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
//   in_view [X, Y, Z]; knots, values [K] and bins [BINS] of the calibration, see VoxelClassifier; occupied [blocks].
extern "C" __global__ void __launch_bounds__(THREADS) classify(
    const float* __restrict__ alpha, const byte* __restrict__ in_view, const float* __restrict__ half_distance,
    const Scene* __restrict__ of_scene, const float* __restrict__ knots, const float* __restrict__ values,
    const int* __restrict__ bins, int last_interval, float threshold, float* __restrict__ probability,
    byte* __restrict__ state, int* __restrict__ occupied) {
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
                int at = bins[int(fminf(fmaxf(a * float(BINS), 0.0f), float(BINS - 1)))];  // NaN: the first bin
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
                if (p >= threshold) {
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

// What one lane has of the label units of a sample, after their ReLU.
static __device__ __forceinline__ void units_of_lane(
    Four (&hidden)[UNIT_PARTS], const feature* __restrict__ features, int width, TABLES, const int* __restrict__ cell,
    const float* __restrict__ share_of, const float* __restrict__ rows, int sample, int lane) {
    const word stride = CHANNELS + UNITS, below = word(width) * stride;
    const word first = word(cell[sample]) * stride + CHANNELS;
    const float right = share_of[2 * sample], lower = share_of[2 * sample + 1];
    const float left = 1.0f - right, upper = 1.0f - lower;
    const float row_x = rows[3 * sample], row_y = rows[3 * sample + 1];
    const float row_z = rows[3 * sample + 2];
    const int x = row_before(row_x, last_x), y = row_before(row_y, last_y);
    const int z = row_before(row_z, last_z);
    const float next_x = row_x - float(x), next_y = row_y - float(y), next_z = row_z - float(z);
    for (int part = 0; part < UNIT_PARTS; ++part) {
        const int unit = 4 * (part * LANES + lane);
        const word at = first + unit;
        Four sum = {0.0f, 0.0f, 0.0f, 0.0f};
        add_taps(sum, taps_at(features, at), left * upper);
        add_taps(sum, taps_at(features, at + stride), right * upper);
        add_taps(sum, taps_at(features, at + below), left * lower);
        add_taps(sum, taps_at(features, at + below + stride), right * lower);
        add_row(sum, table_x + word(x) * UNITS + unit, 1.0f - next_x);
        add_row(sum, table_x + word(x + 1) * UNITS + unit, next_x);
        add_row(sum, table_y + word(y) * UNITS + unit, 1.0f - next_y);
        add_row(sum, table_y + word(y + 1) * UNITS + unit, next_y);
        add_row(sum, table_z + word(z) * UNITS + unit, 1.0f - next_z);
        add_row(sum, table_z + word(z + 1) * UNITS + unit, next_z);
        hidden[part] = {rectified(sum.a), rectified(sum.b), rectified(sum.c), rectified(sum.d)};
    }
}

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

// Label and confidence of occupied voxels: the largest logit and its softmax probability.
//   tables [entries, UNITS]; weight [CLASSES, UNITS], bias [CLASSES]. sample_of [X Y Z]: the sample of each voxel.
//   index [total]: flat voxels. label, confidence [total]. Any number of blocks.
extern "C" __global__ void __launch_bounds__(THREADS, 4) query_labels(
    const feature* __restrict__ features, int width, TABLES, const float* __restrict__ weight,
    const float* __restrict__ bias, SAMPLES, const int* __restrict__ sample_of, const int* __restrict__ index,
    const int* __restrict__ total, int capacity, byte* __restrict__ label, float* __restrict__ confidence) {
    const int lane = threadIdx.x % LANES;
    const int count = min(*total, capacity), step = gridDim.x * blockDim.x / LANES;
    const int first_of_warp = (blockIdx.x * blockDim.x + threadIdx.x) / 32 * (32 / LANES);
    const int of_warp = threadIdx.x % 32 / LANES;
    // All groups of a warp go on until the last of them is done: they sum together.
    for (int start = first_of_warp; start < count; start += step) {
        const int i = start + of_warp, point = min(i, count - 1), sample = sample_of[index[point]];
        Four hidden[UNIT_PARTS];
        units_of_lane(
            hidden, features, width, table_x, table_y, table_z, last_x, last_y, last_z, cell, share_of, rows, sample, lane);
        int best = 0;
        float top = -infinity(), spread = 0.0f;  // spread: sum of exp(logit - top) so far
        for (int k = 0; k < CLASSES; ++k) {
            const float logit = product(weight + k * UNITS, hidden, lane) + bias[k];
            if (logit > top) {
                spread = spread * expf(top - logit) + 1.0f;
                top = logit;
                best = k;
            } else {
                spread += expf(logit - top);
            }
        }
        if (lane == 0 && i < count) {
            label[i] = byte(best);
            confidence[i] = 1.0f / spread;
        }
    }
}

// Labels of occupied voxels by the cosines of their features with phrases, and the cosine of each group of phrases.
//   weight [phrases, UNITS], bias, group [phrases]. Groups rise from 0 to classes - 1; `classes` is the background.
//   root [roots, UNITS], root_bias [roots], and rest: see FoldedVocabulary. sharpness is one over the temperature.
//   label, confidence [total] or null; cosines [total, groups] or null. The others are as for query_labels.
extern "C" __global__ void __launch_bounds__(THREADS, 4) query_phrases(
    const feature* __restrict__ features, int width, TABLES, const float* __restrict__ weight,
    const float* __restrict__ bias, const int* __restrict__ group, int phrases, int groups, int classes,
    const float* __restrict__ root, const float* __restrict__ root_bias, int roots, float rest, float margin,
    float sharpness, SAMPLES, const int* __restrict__ sample_of, const int* __restrict__ index,
    const int* __restrict__ total, int capacity, byte* __restrict__ label, float* __restrict__ confidence,
    float* __restrict__ cosines) {
    const int lane = threadIdx.x % LANES;
    const int count = min(*total, capacity), step = gridDim.x * blockDim.x / LANES;
    const int first_of_warp = (blockIdx.x * blockDim.x + threadIdx.x) / 32 * (32 / LANES);
    const int of_warp = threadIdx.x % 32 / LANES;
    for (int start = first_of_warp; start < count; start += step) {
        const int i = start + of_warp, point = min(i, count - 1), sample = sample_of[index[point]];
        Four hidden[UNIT_PARTS];
        units_of_lane(
            hidden, features, width, table_x, table_y, table_z, last_x, last_y, last_z, cell, share_of, rows, sample, lane);
        float norm = rest;
        for (int r = 0; r < roots; ++r) {
            const float value = product(root + r * UNITS, hidden, lane) + root_bias[r];
            norm += value * value;
        }
        const bool there = norm > 0.0f && norm < infinity();  // false where norm is not a number
        const float inverse = there ? 1.0f / sqrtf(norm) : 0.0f;
        int best = 0;
        float nearest = -infinity(), top = -infinity(), second = -infinity(), spread = 0.0f;
        for (int r = 0; r < phrases; ++r) {
            nearest = fmaxf(nearest, product(weight + r * UNITS, hidden, lane) + bias[r]);
            const int own = group[r];
            if (r + 1 < phrases && group[r + 1] == own) continue;
            const float cosine = nearest * inverse;
            nearest = -infinity();
            if (cosine > top) {
                spread = spread * expf((top - cosine) * sharpness) + 1.0f;
                second = top;
                top = cosine;
                best = own;
            } else {
                spread += expf((cosine - top) * sharpness);
                second = fmaxf(second, cosine);
            }
            if (cosines && lane == 0 && i < count) cosines[i * groups + own] = there ? cosine : 0.0f;
        }
        if (label && lane == 0 && i < count) {
            label[i] = byte(there && top - second >= margin ? best : classes);
            confidence[i] = there ? 1.0f / spread : 0.0f;
        }
    }
}
#endif
