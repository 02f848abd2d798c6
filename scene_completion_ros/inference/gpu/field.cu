// The field of a student: the density of all voxels in view, the rays through them, and label units.
//
// The encoder's map is float16. Density and labels: LANES threads share a point, four channels each at a time. Every load
// of a tap or of a table's row is then one whole line of the cache. Samples are ordered by cell of the feature map. A group
// of threads takes RUN of them in a row, and reads the four taps again only where the cell changes.

#if CHANNELS % 32
#error "CHANNELS must be a multiple of 32: eight threads take four each"
#endif

#define RUN 8
// Taps of many channels do not fit into the registers.
#define TAPS_STAY (CHANNELS <= 128)

typedef unsigned short half_bits;

#ifndef CUDA_ON_CPU
static __device__ __forceinline__ float half_to_float(half_bits value) {
    float result;
    asm("cvt.f32.f16 %0, %1;" : "=f"(result) : "h"(value));
    return result;
}
#endif

// Four neighbouring channels of the feature map as they lie there: registers are scarce.

// `at` is a multiple of four.
static __device__ __forceinline__ uint2 taps_at(const half_bits* __restrict__ features, word at) {
    return *reinterpret_cast<const uint2*>(features + at);
}

static __device__ __forceinline__ void add_row(Four& sum, const float* __restrict__ row, float share) {
    const float4 found = *reinterpret_cast<const float4*>(row);
    sum.a += share * found.x;
    sum.b += share * found.y;
    sum.c += share * found.z;
    sum.d += share * found.w;
}

static __device__ __forceinline__ void add_taps(Four& sum, const uint2& tap, float share) {
    sum.a += share * half_to_float(half_bits(tap.x & 0xffffu));
    sum.b += share * half_to_float(half_bits(tap.x >> 16));
    sum.c += share * half_to_float(half_bits(tap.y & 0xffffu));
    sum.d += share * half_to_float(half_bits(tap.y >> 16));
}

// ReLU; unlike fmaxf it keeps what is not a number, so that a broken map is not taken for an empty one.
static __device__ __forceinline__ float rectified(float value) { return value < 0.0f ? 0.0f : value; }

// A fractional row of a table: the row before it, and the share of the one after it.
static __device__ __forceinline__ int row_before(float row, int last) { return min(max(int(row), 0), last); }

// Two lists of arguments occur twice: prepared points, see FieldSamples,
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
    const half_bits* __restrict__ features, int width, TABLES, const float* __restrict__ weight, float bias, SAMPLES,
    int count, float length, float* __restrict__ out) {
    const int lane = threadIdx.x % LANES;
    const int start = ((blockIdx.x * blockDim.x + threadIdx.x) / LANES) * RUN;
    constexpr int PARTS = CHANNELS / (4 * LANES);
    uint2 upper_left[PARTS], upper_right[PARTS], lower_left[PARTS], lower_right[PARTS];
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
        const float opacity = alpha[voxel_at(scene, along, d_x, d_y, d_z)];
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

#if UNITS
// Where label units are read: the encoder's map [h w, CHANNELS + UNITS] of width w, tables [entries, UNITS], prepared
// points, and the point of each voxel [X Y Z].
#define UNIT_SOURCE \
    const half_bits *__restrict__ features, int width, TABLES, SAMPLES, const int *__restrict__ sample_of
#define UNIT_VALUES \
    features, width, table_x, table_y, table_z, last_x, last_y, last_z, target, cell, share_of, rows, sample_of

// What one lane has of the label units of a voxel, after their ReLU.
static __device__ __forceinline__ void units_of_lane(Four (&hidden)[UNIT_PARTS], UNIT_SOURCE, int voxel, int lane) {
    const int sample = sample_of[voxel];
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

// Label and confidence of occupied voxels: the largest logit and its softmax probability.
//   weight [CLASSES, UNITS], bias [CLASSES]. index [total]: flat voxels. label, confidence [total]. Any number of blocks.
extern "C" __global__ void __launch_bounds__(THREADS, 4) query_labels(
    UNIT_SOURCE, const float* __restrict__ weight, const float* __restrict__ bias, const int* __restrict__ index,
    const int* __restrict__ total, int capacity, byte* __restrict__ label, float* __restrict__ confidence) {
    const int lane = threadIdx.x % LANES, count = min(*total, capacity);
    FOR_EACH_POINT(i, count) {
        Four hidden[UNIT_PARTS];
        units_of_lane(hidden, UNIT_VALUES, index[min(i, count - 1)], lane);
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
#endif
