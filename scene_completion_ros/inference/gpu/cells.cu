// The cells of a student: what they look up, the voxels that follow, and their classes.
// Readable twin: SceneDecoder of the training; the CPU's are in cell_kernels.py.

#define STRIDE 2  // voxels to a cell, along every axis
#define SUBS (STRIDE * STRIDE * STRIDE)
#define SCALES 3  // on which a place is compared with the surface that its pixel sees
#define LOOKED_UP (CONTEXT + 3 + 2 * SCALES)
#define OF_CELL (SUBS + 1 + CLASSES + 1)

#define CERTAIN 1e-4f
#define LEAST_CLASS 1e-3f
#define FARTHEST_FROM_LEVEL 1.5f
#define STANDS_M 0.35f
#define PRIOR_EDGE 8

// What depends on a student, and on where its camera stands in its volume: poses [3, 4] of that, for one image.
struct Volume {
    int size_x, size_y, size_z;   // voxels
    int width, height;            // of the map of pixels
    float pinhole[4];             // column and row of the map by x / z and y / z
    float nearest;                // depth from which nearer points are projected, metres
    float pose[12];               // voxel coordinates of the volume from the camera
    float camera[12];             // the camera from these
    float grid[12];               // these from voxel coordinates of the grid
    float known;                  // 1 where it is known how the camera stands
    int low;                      // voxels of a column, from below, in which a ground may be seen
    float bottom, edge;           // of the volume and of its voxels, metres
    float base, measure;          // bottom above the expected ground, metres; lengths over those of a street
};

static __device__ __forceinline__ float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }

// Share of a normal distribution below x standard deviations.
static __device__ __forceinline__ float below(float x) { return 0.5f * erfcf(-0.70710678f * x); }

// Unlike fminf and fmaxf it keeps what is not a number.
static __device__ __forceinline__ float limited(float value, float least, float most) {
    return value < least ? least : (value > most ? most : value);
}

static __device__ __forceinline__ bool is_number(float value) { return value > -infinity() && value < infinity(); }

// A coordinate of a point that a pose [3, 4] moves.
static __device__ __forceinline__ float turned(const float* pose, int axis, float x, float y, float z) {
    const float* row = pose + 4 * axis;
    return row[0] * x + row[1] * y + row[2] * z + row[3];
}

// Where a place is seen: column and row of the map, limited to it, whether the image shows it, and its depth, metres.
struct Seen {
    float across, along, depth;
    bool shown;
};

static __device__ __forceinline__ Seen seen_in_camera(const Volume& volume, float x, float y, float z) {
    const float inverse = 1.0f / fmaxf(z, volume.nearest);
    const float column = volume.pinhole[0] * x * inverse + volume.pinhole[1];
    const float row = volume.pinhole[2] * y * inverse + volume.pinhole[3];
    const float across = fminf(fmaxf(column, 0.0f), float(volume.width - 1));
    const float along = fminf(fmaxf(row, 0.0f), float(volume.height - 1));
    // Outside of the image a coordinate moves by more than half a pixel. Nothing is seen behind the camera.
    const bool outside = fmaxf(fabsf(column - across), fabsf(row - along)) > 0.5f || z < 0.0f;
    return {across, along, z, !outside};
}

// The same of a place in voxels of the volume.
static __device__ __forceinline__ Seen seen_in_volume(const Volume& volume, float x, float y, float z) {
    return seen_in_camera(
        volume, turned(volume.camera, 0, x, y, z), turned(volume.camera, 1, x, y, z), turned(volume.camera, 2, x, y, z));
}

static __device__ __forceinline__ int cells_along(int voxels) { return (voxels + STRIDE - 1) / STRIDE; }

// The same of the middle of a cell.
static __device__ __forceinline__ Seen seen_cell(const Volume& volume, int cell) {
    const int heights = cells_along(volume.size_z), column = cell / heights, across = cells_along(volume.size_y);
    return seen_in_volume(
        volume, STRIDE * (float(column / across) + 0.5f), STRIDE * (float(column % across) + 0.5f),
        STRIDE * (float(cell % heights) + 0.5f));
}

// Four taps of a map of rows of `channels` numbers: the first of them, and their weights.
struct Taps {
    const float* first;
    int right, below;
    float upper_left, upper_right, lower_left, lower_right;
    __device__ __forceinline__ float at(int channel) const {
        return upper_left * first[channel] + upper_right * first[right + channel] + lower_left * first[below + channel] +
               lower_right * first[below + right + channel];
    }
};

static __device__ __forceinline__ Taps taps_of(
    const float* __restrict__ map, int channels, int width, int height, float across, float along) {
    const int first = min(int(across), width - 2), above = min(int(along), height - 2);
    const float right = across - float(first), lower = along - float(above), left = 1.0f - right, upper = 1.0f - lower;
    return {map + word(above * width + first) * channels, channels,     width * channels, left * upper,
            right * upper,                                left * lower, right * lower};
}

// What cells look up: context of their pixels, and how they lie against the surfaces there.
//   surfaces [h w, 2] of `Standing`; context [h w, CONTEXT]; local [count, LOOKED_UP], 0 out of view; columns [x y,
//   stride], which first say what cells of a column are in view, and behind its place whether the pose is known.
extern "C" __global__ void __launch_bounds__(THREADS) lift_cells(
    const float* __restrict__ surfaces, const float* __restrict__ context, const Volume* __restrict__ of_volume,
    int count, int stride, float* __restrict__ local, float* __restrict__ columns) {
    const Volume& volume = *of_volume;
    const int cell = blockIdx.x * blockDim.x + threadIdx.x, heights = cells_along(volume.size_z);
    if (cell >= count) return;
    const Seen place = seen_cell(volume, cell);
    float* row = local + word(cell) * LOOKED_UP;
    columns[(cell / heights) * stride + cell % heights] = place.shown ? 1.0f : 0.0f;
    if (cell % heights == 0) columns[(cell / heights) * stride + heights + 2] = volume.known;
    if (!place.shown) {
        for (int channel = 0; channel < LOOKED_UP; ++channel) row[channel] = 0.0f;
        return;
    }
    const Taps seen = taps_of(surfaces, 2, volume.width, volume.height, place.across, place.along);
    const float here = place.depth, log_depth = seen.at(0), deviation = seen.at(1);
    const Taps shown = taps_of(context, CONTEXT, volume.width, volume.height, place.across, place.along);
    for (int channel = 0; channel < CONTEXT; ++channel) row[channel] = shown.at(channel);
    const float behind = (here - expf(log_depth)) / volume.measure;
    const float off = (logf(fmaxf(here, 0.5f * volume.measure)) - log_depth) / deviation;
    row[CONTEXT] = sigmoid(1.7f * off);
    row[CONTEXT + 1] = expf(-0.5f * off * off);
    row[CONTEXT + 2] = 4.0f * deviation;
    float reach = 0.5f;
    for (int number = 0; number < SCALES; ++number, reach *= 4.0f) {
        const float share_of_it = behind / reach;
        row[CONTEXT + 3 + 2 * number] = tanhf(share_of_it);
        row[CONTEXT + 4 + 2 * number] = expf(-share_of_it * share_of_it);
    }
}

// How much of a voxel lies behind the surface of its pixel: from its near to its far edge.
static __device__ __forceinline__ void edges(
    const Volume& volume, const float* __restrict__ surfaces, const Seen& place, float& near_edge, float& far_edge) {
    const float* surface = surfaces + 2 * (int(rintf(place.along)) * volume.width + int(rintf(place.across)));
    const float least = 0.1f * volume.measure;
    near_edge = below((logf(fmaxf(place.depth - volume.edge, least)) - surface[0]) / surface[1]);
    far_edge = below((logf(fmaxf(place.depth + volume.edge, least)) - surface[0]) / surface[1]);
}

// Where the rays of pixels meet the columns of cells, metres above the expected ground: the last of `stride` numbers of
// each of `count` columns. What is out of view counts as behind.
extern "C" __global__ void __launch_bounds__(THREADS) find_lowest(
    const float* __restrict__ surfaces, const Volume* __restrict__ of_volume, int count, int stride,
    float* __restrict__ columns) {
    const Volume& volume = *of_volume;
    const int column = blockIdx.x * blockDim.x + threadIdx.x, across = cells_along(volume.size_y);
    if (column >= count) return;
    const int first_x = STRIDE * (column / across), first_y = STRIDE * (column % across);
    const int wide = min(STRIDE, volume.size_x - first_x), broad = min(STRIDE, volume.size_y - first_y);
    float total = 0.0f, near_edge, far_edge;
    for (int x = 0; x < wide; ++x) {
        for (int y = 0; y < broad; ++y) {
            for (int z = 0; z < volume.low; ++z) {
                const Seen place = seen_in_volume(
                    volume, float(first_x + x) + 0.5f, float(first_y + y) + 0.5f, float(z) + 0.5f);
                edges(volume, surfaces, place, near_edge, far_edge);
                total += place.shown ? 0.5f * (near_edge + far_edge) : 1.0f;
            }
        }
    }
    const float farthest = FARTHEST_FROM_LEVEL * volume.measure, metres = volume.edge / float(wide * broad);
    columns[(column + 1) * stride - 1] = limited(volume.base + metres * total, -farthest, farthest);
}

// A coordinate in voxels of the volume of a point that a pose moves, at its outer voxels where the point lies outside.
static __device__ __forceinline__ float volume_place(const float* pose, int axis, int size, float x, float y, float z) {
    return fminf(fmaxf(turned(pose, axis, x, y, z), 0.5f), float(size) - 0.5f);
}

// The number of the cell of a voxel, and that of the voxel in it.
static __device__ __forceinline__ int cell_of_voxel(const Volume& volume, int x, int y, int z, int& sub) {
    sub = ((x % STRIDE) * STRIDE + y % STRIDE) * STRIDE + z % STRIDE;
    return ((x / STRIDE) * cells_along(volume.size_y) + y / STRIDE) * cells_along(volume.size_z) + z / STRIDE;
}

// Opacity over a length of points, which are what their pixels see, or lie before or behind that, to out[target], and
// whether they stand on the ground, to stands[target].
//   hidden [cells, SUBS], others [cells, OF_CELL], ground [columns, 2], prior of PredictedCells, or null without one;
//   points [3, count] in the camera's optical frame, metres. between: 1 where points lie between the centres of the volume's voxels. broken: set
//   where a number is none.
extern "C" __global__ void __launch_bounds__(THREADS) query_cells(
    const float* __restrict__ surfaces, const float* __restrict__ hidden, const float* __restrict__ others,
    const float* __restrict__ ground, const float* __restrict__ prior, const Volume* __restrict__ of_volume,
    const float* __restrict__ points, const int* __restrict__ target, int count, int between, float length, float* __restrict__ out,
    byte* __restrict__ stands, int* __restrict__ broken) {
    const Volume& volume = *of_volume;
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= count) return;
    const float x = points[i], y = points[count + i], z = points[2 * count + i];
    const Seen place = seen_in_camera(volume, x, y, z);
    const float shown = place.shown ? 1.0f : 0.0f;
    const float v_x = volume_place(volume.pose, 0, volume.size_x, x, y, z);
    const float v_y = volume_place(volume.pose, 1, volume.size_y, x, y, z);
    const float v_z = volume_place(volume.pose, 2, volume.size_z, x, y, z);
    int sub;
    const int cell = cell_of_voxel(volume, int(v_x), int(v_y), int(v_z), sub);
    float unseen = hidden[word(cell) * SUBS + sub], before = others[word(cell) * OF_CELL + sub];
    const float there = others[word(cell) * OF_CELL + SUBS];
    if (between) {
        const int x_0 = min(int(v_x - 0.5f), volume.size_x - 2), y_0 = min(int(v_y - 0.5f), volume.size_y - 2);
        const int z_0 = min(int(v_z - 0.5f), volume.size_z - 2);
        const float s_x = v_x - 0.5f - float(x_0), s_y = v_y - 0.5f - float(y_0), s_z = v_z - 0.5f - float(z_0);
        unseen = before = 0.0f;
        for (int corner = 0; corner < 8; ++corner) {
            const int o_x = corner >> 2, o_y = (corner >> 1) & 1, o_z = corner & 1;
            const float weight = fabsf(1.0f - float(o_x) - s_x) * fabsf(1.0f - float(o_y) - s_y) *
                                 fabsf(1.0f - float(o_z) - s_z);
            const int other = cell_of_voxel(volume, x_0 + o_x, y_0 + o_y, z_0 + o_z, sub);
            unseen += weight * hidden[word(other) * SUBS + sub];
            before += weight * others[word(other) * OF_CELL + sub];
        }
    }
    const int count_x = cells_along(volume.size_x), count_y = cells_along(volume.size_y);
    const float g_x = fminf(fmaxf(v_x / float(STRIDE) - 0.5f, 0.0f), float(count_x - 1));
    const float g_y = fminf(fmaxf(v_y / float(STRIDE) - 0.5f, 0.0f), float(count_y - 1));
    const Taps floor = taps_of(ground, 2, count_y, count_x, g_y, g_x);
    const float level = floor.at(0), doubt = floor.at(1);

    float near_edge, far_edge;
    edges(volume, surfaces, place, near_edge, far_edge);
    const float up = volume.bottom + volume.edge * v_z - level;
    const float top = below((up + 0.5f * volume.edge) / doubt), under = below((up - 0.5f * volume.edge) / doubt);
    const float rest = sigmoid(before), at = shown * (far_edge - near_edge);
    const float behind = 1.0f - shown * (1.0f - near_edge), on_ground = top - under;
    float value = rest + at * (sigmoid(there) - rest) + behind * (sigmoid(unseen) - rest);
    value = on_ground + (1.0f - on_ground) * top * value;
    if (prior && up <= STANDS_M * volume.measure) {
        const int along_y = (volume.size_y + PRIOR_EDGE - 1) / PRIOR_EDGE, last = volume.size_z - 1;
        const float* row = prior + ((int(v_x) / PRIOR_EDGE) * along_y + int(v_y) / PRIOR_EDGE) * (last + 2);
        const float above = limited((up - volume.base) / volume.edge - 0.5f, 0.0f, float(last));
        const int lower = min(int(above), last - 1);
        value += row[lower] + (above - float(lower)) * (row[lower + 1] - row[lower]) - row[last + 1] * value;
    }
    // Infinite logits would make a value that is a number.
    if (!(is_number(unseen) && is_number(before) && is_number(there) && is_number(level) && is_number(doubt) &&
          is_number(value))) {
        *broken = 1;
    }
    const float density = -logf(1.0f - limited(value, CERTAIN, 1.0f - CERTAIN));  // softplus of the logit
    out[target[i]] = 1.0f - expf(-density * length);
    stands[target[i]] = up > STANDS_M * volume.measure;
}

// Depth that pixels of the rays' camera see, and where the rays end: there, or at the first occupied voxel before.
//   surfaces [h w, 2] of `Standing`; direction [R, 3], cosine, first, stop [R] of GridRays; see March.
extern "C" __global__ void __launch_bounds__(THREADS) see_rays(
    const float* __restrict__ surfaces, const Volume* __restrict__ of_volume, const float* __restrict__ alpha,
    const byte* __restrict__ stands, const Scene* __restrict__ of_scene, float occupied_from, float obstacle_from,
    float far, const float* __restrict__ direction, const float* __restrict__ cosine, const int* __restrict__ first,
    const int* __restrict__ stop, int count, float* __restrict__ depth, float* __restrict__ half_distance,
    float* __restrict__ transmittance) {
    const int ray = blockIdx.x * blockDim.x + threadIdx.x;
    if (ray >= count) return;
    const Volume& volume = *of_volume;
    const Scene& scene = *of_scene;
    const float column = (float(ray % scene.width) + 0.5f) * float(volume.width) / float(scene.width) - 0.5f;
    const float row = (float(ray / scene.width) + 0.5f) * float(volume.height) / float(scene.height) - 0.5f;
    const float across = fminf(fmaxf(column, 0.0f), float(volume.width - 1));
    const float along = fminf(fmaxf(row, 0.0f), float(volume.height - 1));
    const int left = int(across), upper = int(along);
    const int right = min(left + 1, volume.width - 1), lower = min(upper + 1, volume.height - 1);
    const float to_right = across - float(left), down = along - float(upper);
    const float above = (1.0f - to_right) * expf(-surfaces[2 * (upper * volume.width + left)]) +
                        to_right * expf(-surfaces[2 * (upper * volume.width + right)]);
    const float under = (1.0f - to_right) * expf(-surfaces[2 * (lower * volume.width + left)]) +
                        to_right * expf(-surfaces[2 * (lower * volume.width + right)]);
    const float seen = 1.0f / ((1.0f - down) * above + down * under), end = seen / cosine[ray];
    const float d_x = direction[3 * ray], d_y = direction[3 * ray + 1], d_z = direction[3 * ray + 2];
    float turned = infinity();
    for (int step = first[ray]; step < stop[ray]; ++step) {
        const float reached_at = float(step) + 0.5f;
        if (!(reached_at * scene.edge < end)) {
            turned = end == end ? end : 0.0f;
            break;
        }
        const int voxel = voxel_at(scene, reached_at, d_x, d_y, d_z);
        if (alpha[voxel] >= (stands[voxel] ? obstacle_from : occupied_from)) {
            turned = reached_at * scene.edge;
            break;
        }
    }
    depth[ray] = seen;
    half_distance[ray] = turned;
    transmittance[ray] = seen >= far ? 1.0f : 0.0f;
}

// Where classes are read: others [cells, OF_CELL] of PredictedCells, and of_pixels [h w, CLASSES + 1]; of the cells of
// voxels of a scene. Poses are not restricted: kept from voxel to voxel, they would take more registers than there are.
#define UNIT_SOURCE                                                                                                    \
    const float *__restrict__ others, const float *__restrict__ of_pixels, const Volume *of_volume, const Scene *of_scene
#define UNIT_VALUES others, of_pixels, of_volume, of_scene

// What one lane has of the probabilities of the classes of a voxel; 0 for units without a class.
static __device__ __forceinline__ void units_of_lane(Four (&units)[UNIT_PARTS], UNIT_SOURCE, int voxel, int lane) {
    const Volume& volume = *of_volume;
    const Scene& scene = *of_scene;
    const float x = float(voxel / (scene.size_y * scene.size_z)) + 0.5f;
    const float y = float(voxel / scene.size_z % scene.size_y) + 0.5f, z = float(voxel % scene.size_z) + 0.5f;
    int sub;
    const int cell = cell_of_voxel(
        volume, int(volume_place(volume.grid, 0, volume.size_x, x, y, z)),
        int(volume_place(volume.grid, 1, volume.size_y, x, y, z)),
        int(volume_place(volume.grid, 2, volume.size_z, x, y, z)), sub);
    const Seen place = seen_cell(volume, cell);
    const float* predicted = others + word(cell) * OF_CELL + SUBS + 1;
    const float trust = predicted[CLASSES];
    const Taps shown = taps_of(of_pixels, CLASSES + 1, volume.width, volume.height, place.across, place.along);
    float largest = -infinity(), total = 0.0f;
    for (int part = 0; part < UNIT_PARTS; ++part) {
        float* of_part = &units[part].a;
        for (int k = 0; k < 4; ++k) {
            const int own = 4 * (part * LANES + lane) + k;
            of_part[k] = own < CLASSES ? predicted[own] : -infinity();
            if (own < CLASSES && place.shown) of_part[k] += trust * logf(limited(shown.at(own), LEAST_CLASS, infinity()));
            largest = fmaxf(largest, of_part[k]);
        }
    }
    for (int step = LANES / 2; step > 0; step /= 2) largest = fmaxf(largest, __shfl_xor_sync(WARP, largest, step));
    for (int part = 0; part < UNIT_PARTS; ++part) {
        float* of_part = &units[part].a;
        for (int k = 0; k < 4; ++k) total += of_part[k] = expf(of_part[k] - largest);
    }
    total = sum_of_lanes(total);
    for (int part = 0; part < UNIT_PARTS; ++part) {
        units[part] = {units[part].a / total, units[part].b / total, units[part].c / total, units[part].d / total};
    }
}

// Label and confidence of occupied voxels: the likeliest class and its probability.
//   index [total]: flat voxels. label, confidence [total]. Any number of blocks.
extern "C" __global__ void __launch_bounds__(THREADS, 4) query_labels(
    UNIT_SOURCE, const int* __restrict__ index, const int* __restrict__ total, int capacity, byte* __restrict__ label,
    float* __restrict__ confidence) {
    const int lane = threadIdx.x % LANES, count = min(*total, capacity);
    FOR_EACH_POINT(i, count) {
        Four units[UNIT_PARTS];
        units_of_lane(units, UNIT_VALUES, index[min(i, count - 1)], lane);
        float top = -1.0f, best = 0.0f;  // of classes of one probability, the first
        for (int part = 0; part < UNIT_PARTS; ++part) {
            const float* of_part = &units[part].a;
            for (int k = 0; k < 4; ++k) {
                if (of_part[k] > top || of_part[k] != of_part[k]) {
                    top = of_part[k];
                    best = float(4 * (part * LANES + lane) + k);
                }
            }
        }
        for (int other = LANES / 2; other > 0; other /= 2) {
            const float its_top = __shfl_xor_sync(WARP, top, other), its_best = __shfl_xor_sync(WARP, best, other);
            if (its_top > top || (its_top == top && its_best < best)) {
                top = its_top;
                best = its_best;
            }
        }
        if (lane == 0 && i < count) {
            label[i] = byte(best);
            confidence[i] = top;
        }
    }
}
