#if UNITS
// Labels of occupied voxels by the cosines of their features with phrases, and the cosine of each group of phrases.
//   weight [phrases, UNITS], bias, group [phrases]. Groups rise from 0 to classes - 1; `classes` is the background.
//   root [roots, UNITS], root_bias [roots], and rest: see FoldedVocabulary. sharpness is one over the temperature.
//   label, confidence [total] or null; cosines [total, groups] or null. The others are as for query_labels.
extern "C" __global__ void __launch_bounds__(THREADS, 4) query_phrases(
    UNIT_SOURCE, const float* __restrict__ weight, const float* __restrict__ bias, const int* __restrict__ group,
    int phrases, int groups, int classes, const float* __restrict__ root, const float* __restrict__ root_bias, int roots,
    float rest, float margin, float sharpness, const int* __restrict__ index, const int* __restrict__ total,
    int capacity, byte* __restrict__ label, float* __restrict__ confidence, float* __restrict__ cosines) {
    const int lane = threadIdx.x % LANES, count = min(*total, capacity);
    FOR_EACH_POINT(i, count) {
        Four hidden[UNIT_PARTS];
        units_of_lane(hidden, UNIT_VALUES, index[min(i, count - 1)], lane);
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
