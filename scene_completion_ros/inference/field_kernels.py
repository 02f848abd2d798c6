"""Compiled loops over prepared points: the density of the field there, and labels or phrases of some of them.

`FieldKernel` and `LabelQuery` call them.
"""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
from numba import prange

from scene_completion_ros.jit import always_inlined, kernel
from scene_completion_ros.voxels import occupancy_kernel
from scene_completion_ros.voxels.occupancy_kernel import ONE, ZERO, density_of_logit, exp_negative, opacity

BLOCK = 1024
# Points whose labels are computed side by side; BLOCK is a multiple of it.
LANES = 128
# Rows and units that `dense_tile` takes at a time; its arrays are padded to multiples of it.
TILE = 4
LARGEST = np.finfo(np.float32).max


@functools.cache
def density_kernel(channels: int) -> Callable[..., None]:
    """Density of the first so many channels of longer rows, a constant for the compiler, which unrolls the loop."""

    @kernel(inlines=(occupancy_kernel,))
    def query(  # type: ignore[no-untyped-def] # numba finds the types
        features, width, table_x, table_y, table_z, weight, bias, target, cell, share, rows, length, out
    ) -> None:
        count = target.size
        end_x, end_y, end_z = table_x.shape[0] - 2, table_y.shape[0] - 2, table_z.shape[0] - 2
        for block in prange((count + BLOCK - 1) // BLOCK):
            start = block * BLOCK
            stop = min(count, start + BLOCK)
            logit = np.empty(BLOCK, np.float32)
            for i in range(start, stop):
                corner = np.uint32(cell[i])
                tap_0, tap_1 = features[corner], features[corner + np.uint32(1)]
                tap_2, tap_3 = features[corner + np.uint32(width)], features[corner + np.uint32(width + 1)]
                right, below = share[i, 0], share[i, 1]
                left, above = ONE - right, ONE - below
                w_0, w_1, w_2, w_3 = left * above, right * above, left * below, right * below
                row_x = np.uint32(min(max(np.int32(rows[i, 0]), 0), end_x))
                row_y = np.uint32(min(max(np.int32(rows[i, 1]), 0), end_y))
                row_z = np.uint32(min(max(np.int32(rows[i, 2]), 0), end_z))
                next_x = rows[i, 0] - np.float32(row_x)
                next_y = rows[i, 1] - np.float32(row_y)
                next_z = rows[i, 2] - np.float32(row_z)
                here_x, here_y, here_z = ONE - next_x, ONE - next_y, ONE - next_z
                x_0, x_1 = table_x[row_x], table_x[row_x + 1]
                y_0, y_1 = table_y[row_y], table_y[row_y + 1]
                z_0, z_1 = table_z[row_z], table_z[row_z + 1]
                total = bias
                for c in range(channels):
                    hidden = w_0 * tap_0[c] + w_1 * tap_1[c] + w_2 * tap_2[c] + w_3 * tap_3[c]
                    hidden += here_x * x_0[c] + next_x * x_1[c]
                    hidden += here_y * y_0[c] + next_y * y_1[c]
                    hidden += here_z * z_0[c] + next_z * z_1[c]
                    total += weight[c] * max(hidden, ZERO)
                logit[i - start] = total
            # A loop of its own, so that this runs in vector lanes too: it costs as much as the rest otherwise.
            for j in range(stop - start):
                logit[j] = density_of_logit(logit[j])
            if length > ZERO:
                for j in range(stop - start):
                    logit[j] = opacity(logit[j], length)
            for i in range(start, stop):
                out[target[i]] = logit[i - start]

    return query


@always_inlined
def label_units(  # type: ignore[no-untyped-def] # numba finds the types
    features, first, units, width, table_x, table_y, table_z, cell, share, rows, i, hidden
) -> None:
    """Writes the label units [E] of prepared point i, after their ReLU.

    `features`: [h * w, at least first + E]; `first`: channel of the first unit; `units`: E; `width`: w; `table_x`,
    `table_y`, `table_z`: positional tables [entries, E] of the units; `cell`, `share`, `rows`: of all prepared points,
    see `FieldSamples`; `hidden`: [E].
    """
    corner = np.uint32(cell[i])
    tap_0, tap_1 = features[corner, first:], features[corner + np.uint32(1), first:]
    tap_2, tap_3 = features[corner + np.uint32(width), first:], features[corner + np.uint32(width + 1), first:]
    right, below = share[i, 0], share[i, 1]
    left, above = ONE - right, ONE - below
    w_0, w_1, w_2, w_3 = left * above, right * above, left * below, right * below
    row_x = np.uint32(min(max(np.int32(rows[i, 0]), 0), table_x.shape[0] - 2))
    row_y = np.uint32(min(max(np.int32(rows[i, 1]), 0), table_y.shape[0] - 2))
    row_z = np.uint32(min(max(np.int32(rows[i, 2]), 0), table_z.shape[0] - 2))
    next_x = rows[i, 0] - np.float32(row_x)
    next_y = rows[i, 1] - np.float32(row_y)
    next_z = rows[i, 2] - np.float32(row_z)
    here_x, here_y, here_z = ONE - next_x, ONE - next_y, ONE - next_z
    x_0, x_1 = table_x[row_x], table_x[row_x + 1]
    y_0, y_1 = table_y[row_y], table_y[row_y + 1]
    z_0, z_1 = table_z[row_z], table_z[row_z + 1]
    for e in range(units):
        value = w_0 * tap_0[e] + w_1 * tap_1[e] + w_2 * tap_2[e] + w_3 * tap_3[e]
        value += here_x * x_0[e] + next_x * x_1[e]
        value += here_y * y_0[e] + next_y * y_1[e]
        value += here_z * z_0[e] + next_z * z_1[e]
        hidden[e] = max(value, ZERO)


@always_inlined
def pack_active(lanes: Any, units: Any, hidden: Any, largest: Any, active: Any, packed: Any) -> Any:
    """Number of units that any of the points has above 0; their numbers to ``active``, their values to ``packed``.

    `lanes`: L, number of points; `units`: E; `hidden`: [L, E]; `largest`: [E], room to work in; `active`: int32 [E +
    TILE]; filled up with unit 0 to a multiple of TILE; `packed`: [E + TILE, L], unit by unit; filled up with zeros.
    """
    for e in range(units):
        largest[e] = ZERO
    for lane in range(lanes):
        of_lane = hidden[lane]
        for e in range(units):
            largest[e] = max(largest[e], of_lane[e])
    count = 0
    for e in range(units):
        active[count] = e
        count += largest[e] > ZERO
    for j in range(count):
        e = active[j]
        for lane in range(lanes):
            packed[j, lane] = hidden[lane, e]
    for j in range(count, count + TILE):
        active[j] = 0
        for lane in range(lanes):
            packed[j, lane] = ZERO
    return count


@always_inlined
def dense_tile(  # type: ignore[no-untyped-def] # numba finds the types
    lanes, weight, bias, o, columns, start, count, values, out_0, out_1, out_2, out_3
) -> None:
    """Rows o to o + 3 of weight[:, columns] values + bias for points side by side.

    Four outputs and four inputs at a time, written out. One at a time, the compiler's checks whether the arrays overlap
    take longer than the sums. `lanes`: L, number of points; `weight`: [R, any], R a multiple of TILE; `bias`: [R]; `o`:
    first row, a multiple of TILE; `columns`: columns of the weight that take part, one a row of ``values``; `start`:
    first row of ``values`` that takes part, a multiple of TILE; `count`: where they end; rows up to the next multiple
    of TILE are read as well; `values`: [at least count, L]; `out_0`, `out_1`, `out_2`, `out_3`: [L].
    """
    of_0, of_1, of_2, of_3 = weight[o], weight[o + 1], weight[o + 2], weight[o + 3]
    for lane in range(lanes):
        out_0[lane], out_1[lane], out_2[lane], out_3[lane] = bias[o], bias[o + 1], bias[o + 2], bias[o + 3]
    for j in range(start, count, TILE):
        a, b, c, d = columns[j], columns[j + 1], columns[j + 2], columns[j + 3]
        a_0, b_0, c_0, d_0 = of_0[a], of_0[b], of_0[c], of_0[d]
        a_1, b_1, c_1, d_1 = of_1[a], of_1[b], of_1[c], of_1[d]
        a_2, b_2, c_2, d_2 = of_2[a], of_2[b], of_2[c], of_2[d]
        a_3, b_3, c_3, d_3 = of_3[a], of_3[b], of_3[c], of_3[d]
        in_a, in_b, in_c, in_d = values[j], values[j + 1], values[j + 2], values[j + 3]
        for lane in range(lanes):
            x, y, z, w = in_a[lane], in_b[lane], in_c[lane], in_d[lane]
            out_0[lane] += a_0 * x + b_0 * y + c_0 * z + d_0 * w
            out_1[lane] += a_1 * x + b_1 * y + c_1 * z + d_1 * w
            out_2[lane] += a_2 * x + b_2 * y + c_2 * z + d_2 * w
            out_3[lane] += a_3 * x + b_3 * y + c_3 * z + d_3 * w


@always_inlined
def inverse_norms(
    lanes: Any, root: Any, bias: Any, rest: Any, columns: Any, count: Any, values: Any, out: Any, inverse: Any
) -> None:
    """``inverse`` [L] = 1 / sqrt(|root[:, columns] values + bias|^2 + rest); 0 where that is no positive number.

    `root`: [R, any], upper triangular, R a multiple of TILE: what lies before its diagonal takes no time; `bias`: [R];
    `rest`: added to the squares; `lanes`, `columns`, `count`, `values`: see `dense_tile`; columns rise; `out`: [TILE,
    L], room to work in.
    """
    out_0, out_1, out_2, out_3 = out[0], out[1], out[2], out[3]
    for lane in range(lanes):
        inverse[lane] = rest
    start = 0
    for o in range(0, root.shape[0], TILE):
        while start + TILE <= count and columns[start + TILE - 1] < o:
            start += TILE
        dense_tile(lanes, root, bias, o, columns, start, count, values, out_0, out_1, out_2, out_3)
        for lane in range(lanes):
            x, y, z, w = out_0[lane], out_1[lane], out_2[lane], out_3[lane]
            inverse[lane] += x * x + y * y + z * z + w * w
    for lane in range(lanes):
        norm = inverse[lane]
        inverse[lane] = ONE / np.sqrt(norm) if ZERO < norm <= LARGEST else ZERO


@always_inlined
def largest_scores(  # type: ignore[no-untyped-def] # numba finds the types
    lanes, weight, bias, group, groups, columns, count, values, out, scale, score
) -> None:
    """The largest of the rows of each group, times a scale, to ``score`` [at least groups, L].

    `group`: int32 [rows], the group of each row of the weight that is no padding; `groups`: number of groups; `out`:
    [TILE, L], room to work in; `scale`: [L]; `lanes`, `weight`, `bias`, `columns`, `count`, `values`: see `dense_tile`.
    """
    for k in range(groups):
        for lane in range(lanes):
            score[k, lane] = -LARGEST
    for o in range(0, weight.shape[0], TILE):
        dense_tile(lanes, weight, bias, o, columns, 0, count, values, out[0], out[1], out[2], out[3])
        for j in range(min(TILE, group.size - o)):
            of_group, of_row = score[group[o + j]], out[j]
            for lane in range(lanes):
                of_group[lane] = max(of_group[lane], of_row[lane])
    for k in range(groups):
        for lane in range(lanes):
            score[k, lane] *= scale[lane]


@functools.cache
def label_kernel(channels: int, units: int, computed: bool = False) -> Callable[..., None]:
    """Labels by logits or cosines, and matches with the cosines of a second set of rows at the same label units.

    The units come behind the channels of the density; or they are `computed`: each point's row of the map. How many
    rows and groups there are is known when it runs: another vocabulary needs no other kernel. Of N points, point i
    matches group k, of which there are as many as in
    ``least``, where its score is ahead of ``common`` times that of the group behind them by that: ``match`` [blocks,
    any, 2] has i and k, ``contrast`` how far it is ahead, and ``matches`` [blocks, K] how many there are of a block.
    """

    @kernel(inlines=(occupancy_kernel,))
    def label_points(  # type: ignore[no-untyped-def] # numba finds the types
        features, width, table_x, table_y, table_z, weight, bias, group, groups, classes, by_cosine, margin,
        sharpness, other_weight, other_bias, other_group, other_groups, root, root_bias, rest,
        chosen, place, cell, share, rows, label, confidence, common, least, match, contrast, matches
    ) -> None:  # fmt: skip
        points = chosen.size
        for block in prange((points + BLOCK - 1) // BLOCK):
            # Lanes without a point keep what an earlier point left there; the result is not used.
            hidden = np.zeros((LANES, units), np.float32)
            largest = np.empty(units, np.float32)
            active = np.zeros(units + TILE, np.int32)
            packed = np.empty((units + TILE, LANES), np.float32)
            out, score = np.empty((TILE, LANES), np.float32), np.empty((max(groups, other_groups), LANES), np.float32)
            inverse, one = np.empty(LANES, np.float32), np.ones(LANES, np.float32)
            best, total = np.empty(LANES, np.int32), np.empty(LANES, np.float32)
            top, second = np.empty(LANES, np.float32), np.empty(LANES, np.float32)
            found = 0
            for start in range(block * BLOCK, min(points, (block + 1) * BLOCK), LANES):
                lanes = min(points - start, LANES)
                for lane in range(lanes):
                    i = chosen[start + lane]
                    if computed:
                        hidden[lane] = features[i]
                    else:
                        label_units(
                            features, channels, units, width, table_x, table_y, table_z, cell, share, rows, i,
                            hidden[lane]
                        )  # fmt: skip
                count = pack_active(LANES, units, hidden, largest, active, packed)
                if by_cosine or other_groups > 0:
                    inverse_norms(LANES, root, root_bias, rest, active, count, packed, out, inverse)
                if label.size > 0:
                    scale = inverse if by_cosine else one
                    largest_scores(LANES, weight, bias, group, groups, active, count, packed, out, scale, score)
                    for lane in range(LANES):
                        best[lane], top[lane], second[lane], total[lane] = 0, -LARGEST, -LARGEST, ZERO
                    for k in range(groups):
                        of_group = score[k]
                        for lane in range(LANES):
                            value = of_group[lane]
                            second[lane] = max(second[lane], min(value, top[lane]))
                            best[lane] = k if value > top[lane] else best[lane]
                            top[lane] = max(top[lane], value)
                    for k in range(groups):
                        for lane in range(LANES):
                            total[lane] += exp_negative((score[k, lane] - top[lane]) * sharpness)
                    for lane in range(lanes):
                        at = place[start + lane]
                        sure = scale[lane] > ZERO and top[lane] - second[lane] >= margin
                        label[at] = best[lane] if sure else classes
                        confidence[at] = ONE / total[lane] if scale[lane] > ZERO else ZERO
                if other_groups == 0:
                    continue
                largest_scores(
                    LANES, other_weight, other_bias, other_group, other_groups, active, count, packed, out, inverse,
                    score
                )  # fmt: skip
                for k in range(least.size):
                    of_phrase, general, hits = score[k], score[least.size], 0
                    for lane in range(LANES):
                        ahead = of_phrase[lane] - common * general[lane]
                        of_phrase[lane] = ahead
                        hits += ahead >= least[k]
                    if hits > 0:  # most phrases match none of the points
                        for lane in range(lanes):
                            if of_phrase[lane] >= least[k] and inverse[lane] > ZERO:
                                match[block, found, 0], match[block, found, 1] = place[start + lane], k
                                contrast[block, found] = of_phrase[lane]
                                matches[block, k] += 1
                                found += 1

    return label_points


@kernel()
def place_matches(match: Any, contrast: Any, matches: Any, first: Any, points: Any, scores: Any) -> None:
    """Sorts the M matches of blocks by phrase: point and contrast; ``first`` [blocks, K] is where each begins."""
    for block in prange(matches.shape[0]):
        place = first[block].copy()
        for n in range(matches[block].sum()):
            k = match[block, n, 1]
            points[place[k]], scores[place[k]] = match[block, n, 0], contrast[block, n]
            place[k] += 1


@kernel(parallel=False)
def sort_numbers(values: Any, ordered: Any, place: Any) -> None:
    """Sorts whole numbers [N], none of them negative, and gives the place that each one came from.

    By eleven bits at a time, number and place as one element: 65 000 of them take a tenth of the time of NumPy's sort.
    """
    largest = np.int64(0)
    pairs, moved = np.empty(values.size, np.int64), np.empty(values.size, np.int64)
    for i in range(values.size):
        largest = max(largest, values[i])
        pairs[i] = (np.int64(values[i]) << 32) | i
    shift = 32
    while largest << 32 >> shift > 0:
        before = np.zeros(2049, np.int32)
        for i in range(values.size):
            before[(pairs[i] >> shift & 2047) + 1] += 1
        for digit in range(2048):
            before[digit + 1] += before[digit]
        for i in range(values.size):
            digit = pairs[i] >> shift & 2047
            at = before[digit]
            before[digit] = at + 1
            moved[at] = pairs[i]
        pairs, moved = moved, pairs
        shift += 11
    for i in range(values.size):
        ordered[i], place[i] = pairs[i] >> 32, pairs[i] & 0xFFFFFFFF
