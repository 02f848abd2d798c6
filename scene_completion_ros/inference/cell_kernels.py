"""Compiled loops over cells and voxels of a volume: what cells look up in the image, and what voxels follow from.

`CellSampler` calls them; `SceneDecoder` of the training is their readable twin. Taps are gathered one place
after the other into a block; the arithmetic on a block runs in vector lanes.
"""

from typing import Any

import numpy as np
from numba import prange

from scene_completion_ros.inference import cells
from scene_completion_ros.inference.cells import STRIDE
from scene_completion_ros.jit import inlined, kernel
from scene_completion_ros.voxels import occupancy_kernel
from scene_completion_ros.voxels.occupancy_kernel import HALF, L_3, L_5, L_7, LN_2, ONE, TWO, ZERO, exp_negative

BLOCK = 512
# Rational approximation of erf, absolute errors below 1e-6 in float32 (Abramowitz and Stegun 1964, 7.1.28).
A_1, A_2, A_3, A_4, A_5, A_6 = (
    np.float32(value) for value in (0.0705230784, 0.0422820123, 0.0092705272, 1.520143e-4, 2.765672e-4, 4.30638e-5)
)
# From so far on a bell curve is as good as 0; nearer to it, products of it would be denormal, and slow.
FAR_OUT = np.float32(8.0)
ROOT_HALF, STEEP, FOUR = np.float32(0.5**0.5), np.float32(1.7), np.float32(4.0)
EXPONENT_BIAS, MANTISSA_BITS, MANTISSA = np.int32(127), np.int32(23), np.int32(0x007FFFFF)
ROOT_TWO = np.float32(2.0**0.5)
LEAST, MOST, LEAST_SHARE = np.float32(cells.CERTAIN), np.float32(1.0 - cells.CERTAIN), np.float32(cells.LEAST_CLASS)
SUBS = STRIDE**3
SCALES = np.array(cells.DISTANCES_M, np.float32)
FARTHEST, STANDS = np.float32(cells.FARTHEST_FROM_LEVEL), np.float32(cells.STANDS_M)
# Rows of what a block of voxels has gathered.
LOG, DEVIATION, UNSEEN, BEFORE, THERE, SHOWN, LEVEL, DOUBT, UP, DEPTH, NEAR_EDGE, FAR_EDGE, TOP, BOTTOM = range(14)
ROWS = 14
RIGHT, LOWER, SHARE, ACROSS, ALONG = TOP, BOTTOM, ROWS, DOUBT, UP  # at first; the depth comes behind these two
PIXEL, CELL, SUB, COLUMN, PLACE, LOWEST = range(6)  # where it gathers
PRIOR, OF_PRIOR = ROWS + 3, ROWS + 4  # behind the shares
# Of a block of cells, behind the first two: metres behind the surface, and then how they lie against it.
BEHIND, GEOMETRY_ROW = 2, 3
AFTER, AT, DOUBTED = GEOMETRY_ROW, GEOMETRY_ROW + 1, GEOMETRY_ROW + 2
TO_RIGHT, DOWN, IN_VIEW, AWAY = range(GEOMETRY_ROW + cells.GEOMETRY, GEOMETRY_ROW + cells.GEOMETRY + 4)
NEAREST, LAST_COLUMN, LAST_ROW = 4, 5, 6  # of `CellSampler.view`, behind the pinhole


@inlined
def exponential(x: Any) -> Any:
    """exp(x)."""
    power = exp_negative(-abs(x))
    return ONE / power if x > ZERO else power


@inlined
def logarithm(x: Any) -> Any:
    """ln(x) for x > 0: of its exponent and, by the series of artanh, of its mantissa in 0.7..1.4."""
    bits = np.float32(x).view(np.int32)
    exponent = np.float32((bits >> MANTISSA_BITS) - EXPONENT_BIAS)
    mantissa = np.int32((bits & MANTISSA) | (EXPONENT_BIAS << MANTISSA_BITS)).view(np.float32)
    large = mantissa > ROOT_TWO
    mantissa = mantissa * HALF if large else mantissa
    exponent = exponent + ONE if large else exponent
    q = (mantissa - ONE) / (mantissa + ONE)
    s = q * q
    return exponent * LN_2 + TWO * q * (ONE + s * (L_3 + s * (L_5 + s * L_7)))


@inlined
def sigmoid(x: Any) -> Any:
    """1 / (1 + exp(-x))."""
    power = exp_negative(-abs(x))
    return (ONE if x > ZERO else power) / (ONE + power)


@inlined
def tangent(x: Any) -> Any:
    """tanh(x)."""
    power = exp_negative(-TWO * abs(x))
    size = (ONE - power) / (ONE + power)
    return size if x > ZERO else -size


@inlined
def bell(x: Any) -> Any:
    """exp(-x²)."""
    x = min(abs(x), FAR_OUT)
    return exp_negative(-x * x)


@inlined
def below(x: Any) -> Any:
    """Φ(x), the share of a normal distribution below x standard deviations."""
    size = min(abs(x) * ROOT_HALF, FAR_OUT)
    root = ONE + size * (A_1 + size * (A_2 + size * (A_3 + size * (A_4 + size * (A_5 + size * A_6)))))
    root *= root
    root *= root
    root *= root
    beyond = HALF / (root * root)
    return ONE - beyond if x > ZERO else beyond


@inlined
def turned(x: Any, y: Any, z: Any, pose: Any, row: Any) -> Any:
    """A coordinate of a point that a pose [3 4] moves."""
    return pose[4 * row] * x + pose[4 * row + 1] * y + pose[4 * row + 2] * z + pose[4 * row + 3]


@inlined
def projected(x: Any, y: Any, z: Any, view: Any) -> Any:
    """Column and row in the map of a point in the camera, limited to the map, and whether the image shows the point."""
    inverse = ONE / max(z, view[NEAREST])
    column, row = view[0] * x * inverse + view[1], view[2] * y * inverse + view[3]
    across = min(max(column, ZERO), view[LAST_COLUMN])
    along = min(max(row, ZERO), view[LAST_ROW])
    # Outside of the image a coordinate moves by more than half a pixel. Nothing is seen behind the camera.
    outside = max(max(abs(column - across), abs(row - along)) - HALF, -z)
    return across, along, ZERO if outside > ZERO else ONE


@inlined
def seen(x: Any, y: Any, z: Any, camera: Any, view: Any) -> Any:
    """As `projected`, and with the depth, metres, of a place in voxels of the volume."""
    depth = turned(x, y, z, camera, 2)
    across, along, shown = projected(turned(x, y, z, camera, 0), turned(x, y, z, camera, 1), depth, view)
    return across, along, shown, depth


@inlined
def cell_seen(cell: Any, shape: Any, camera: Any, view: Any) -> Any:
    """As `seen`, of the middle of a cell."""
    column, edge = cell // shape[2], np.float32(STRIDE)
    x, y, z = np.float32(column // shape[1]), np.float32(column % shape[1]), np.float32(cell % shape[2])
    return seen(edge * (x + HALF), edge * (y + HALF), edge * (z + HALF), camera, view)


@inlined
def first_tap(across: Any, along: Any, view: Any) -> Any:
    """The upper left of four taps around a place in the map, and the shares of those to the right and below."""
    last_column, last_row = np.int32(view[LAST_COLUMN]), np.int32(view[LAST_ROW])
    left, above = min(np.int32(across), last_column - 1), min(np.int32(along), last_row - 1)
    return above * (last_column + 1) + left, across - np.float32(left), along - np.float32(above)


@kernel(inlines=(occupancy_kernel, cells))
def look_up(surfaces, context, view, camera, shape, measure, columns, out) -> None:  # type: ignore[no-untyped-def]
    """What cells look up: context of their pixels, and how they lie against the surfaces there.

    `surfaces`: logarithm of depth and its deviation, of pixels [h w, 2]; `context`: [h w, C]; `view`: of `CellSampler`;
    `camera`: of `CameraPlace`; `shape`: cells along each axis; `measure`: see `CellVolume`; `columns`: [x y, any],
    which first say what cells of a column are in view; `out`: [x y z, C + GEOMETRY], 0 out of view.
    """
    count, channels, width = len(out), context.shape[1], np.int32(view[LAST_COLUMN]) + 1
    for block in prange((count + BLOCK - 1) // BLOCK):
        start = block * BLOCK
        places = min(count - start, BLOCK)
        part, first = np.empty((AWAY + 1, BLOCK), np.float32), np.empty(BLOCK, np.int32)
        for j in range(places):
            across, along, part[IN_VIEW, j], part[AWAY, j] = cell_seen(start + j, shape, camera, view)
            first[j], part[TO_RIGHT, j], part[DOWN, j] = first_tap(across, along, view)
        for j in range(places):
            if part[IN_VIEW, j] == ZERO:
                out[start + j] = part[LOG, j] = ZERO
                part[DEVIATION, j] = ONE
                continue
            at, right, lower = np.uint32(first[j]), part[TO_RIGHT, j], part[DOWN, j]
            left, upper = ONE - right, ONE - lower
            w_0, w_1, w_2, w_3 = left * upper, right * upper, left * lower, right * lower
            at_1, at_2, at_3 = at + np.uint32(1), at + np.uint32(width), at + np.uint32(width + 1)
            row, s_0, s_1, s_2, s_3 = out[start + j], surfaces[at], surfaces[at_1], surfaces[at_2], surfaces[at_3]
            tap_0, tap_1, tap_2, tap_3 = context[at], context[at_1], context[at_2], context[at_3]
            part[LOG, j] = w_0 * s_0[0] + w_1 * s_1[0] + w_2 * s_2[0] + w_3 * s_3[0]
            part[DEVIATION, j] = w_0 * s_0[1] + w_1 * s_1[1] + w_2 * s_2[1] + w_3 * s_3[1]
            for c in range(channels):
                row[c] = w_0 * tap_0[c] + w_1 * tap_1[c] + w_2 * tap_2[c] + w_3 * tap_3[c]
        for j in range(places):
            depth = part[AWAY, j]
            part[BEHIND, j] = (depth - exponential(part[LOG, j])) / measure
            off = (logarithm(max(depth, HALF * measure)) - part[LOG, j]) / part[DEVIATION, j]
            part[AFTER, j], part[AT, j] = sigmoid(STEEP * off), bell(ROOT_HALF * off)
            part[DOUBTED, j] = FOUR * part[DEVIATION, j]
        for number in range(SCALES.size):
            for j in range(places):
                behind = part[BEHIND, j] / SCALES[number]
                part[GEOMETRY_ROW + 3 + 2 * number, j] = tangent(behind)
                part[GEOMETRY_ROW + 4 + 2 * number, j] = bell(behind)
        for j in range(places):
            columns[(start + j) // shape[2], (start + j) % shape[2]] = part[IN_VIEW, j]
            if part[IN_VIEW, j] > ZERO:
                for number in range(cells.GEOMETRY):
                    out[start + j, channels + number] = part[GEOMETRY_ROW + number, j]


@kernel(inlines=(occupancy_kernel, cells))
def find_lowest(surfaces, view, camera, shape, low, base, size, measure, out) -> None:  # type: ignore[no-untyped-def]
    """Where the rays of pixels meet the columns of cells, metres above the expected ground: out [x y].

    What is not behind a surface is before it: over a column of road, the share that is behind ends at the road. What is
    out of view counts as behind. `shape`: voxels along each axis; `low`: see `CellVolume`; `base`: bottom of the grid,
    metres above the expected ground; `size`: of voxels, metres; the others are as of `look_up`.
    """
    least, farthest, width = np.float32(0.1) * measure, FARTHEST * measure, np.int32(view[LAST_COLUMN]) + 1
    count_x, count_y = (shape[0] + STRIDE - 1) // STRIDE, (shape[1] + STRIDE - 1) // STRIDE
    for c_x in prange(count_x):
        work, pixel = np.empty((ROWS, SUBS * low), np.float32), np.empty(SUBS * low, np.int32)
        for c_y in range(count_y):
            voxels, total = 0, ZERO
            for x in range(STRIDE * c_x, min(STRIDE * c_x + STRIDE, shape[0])):
                for y in range(STRIDE * c_y, min(STRIDE * c_y + STRIDE, shape[1])):
                    for z in range(low):
                        middle = np.float32(x) + HALF, np.float32(y) + HALF, np.float32(z) + HALF
                        across, along, work[SHOWN, voxels + z], work[DEPTH, voxels + z] = seen(*middle, camera, view)
                        pixel[voxels + z] = np.int32(np.rint(along)) * width + np.int32(np.rint(across))
                    voxels += low
            for j in range(voxels):
                surface = surfaces[np.uint32(pixel[j])]
                work[LOG, j], work[DEVIATION, j] = surface[0], surface[1]
            for j in range(voxels):
                near, far = logarithm(max(work[DEPTH, j] - size, least)), logarithm(max(work[DEPTH, j] + size, least))
                work[NEAR_EDGE, j] = below((near - work[LOG, j]) / work[DEVIATION, j])
                work[FAR_EDGE, j] = below((far - work[LOG, j]) / work[DEVIATION, j])
            for j in range(voxels):  # behind, and half of what is there
                total += ONE - work[SHOWN, j] * (ONE - HALF * (work[NEAR_EDGE, j] + work[FAR_EDGE, j]))
            metres = size * np.float32(low) / np.float32(voxels)
            out[c_x * count_y + c_y] = min(max(base + metres * total, -farthest), farthest)


@inlined
def volume_place(x: Any, y: Any, z: Any, pose: Any, row: Any, count: Any) -> Any:
    """A coordinate of a point in voxels of a volume, at its outer voxels where the point lies outside."""
    return min(max(turned(x, y, z, pose, row), HALF), np.float32(count) - HALF)


@inlined
def cell_of(x: Any, y: Any, z: Any, count_y: Any, count_z: Any) -> Any:
    """The number of the cell of a voxel, and that of the voxel in it."""
    cell = ((x // STRIDE) * count_y + y // STRIDE) * count_z + z // STRIDE
    return cell, ((x % STRIDE) * STRIDE + y % STRIDE) * STRIDE + z % STRIDE


@kernel(inlines=(occupancy_kernel, cells))
def query_voxels(  # type: ignore[no-untyped-def] # numba finds the types
    surfaces, hidden, others, ground, prior, shape, points, view, pose, bottom, size, measure, length, base, edge,
    between, target, out, stands
) -> None:  # fmt: skip
    """Opacities, or densities, of N points, which are what their pixels see, or lie before or behind that.

    `surfaces`, `view`: as of `look_up`; `hidden`, `others`, `ground`, `prior`: see `PredictedCells`; `shape`: of the
    volume, in voxels; `points`: [3, N] in the camera's optical frame, metres; `pose`: see `CameraPlace`; `bottom`: of
    the volume, and `size`: of its voxels, metres; `measure`: see `CellVolume`; `length`: metres, of the opacity; 0 for
    densities; `base`: bottom of the volume, metres above the expected ground; `edge`: of columns that have one prior,
    voxels; `between`: points lie between the centres of voxels of the volume, whose logits are then interpolated;
    `target`: where in `out` each result goes, and in `stands`, unless that is empty, whether it lies `STANDS_M` above
    the ground.
    """
    count, least, stands_from = target.size, np.float32(0.1) * measure, STANDS * measure
    count_x, count_y = (shape[0] + STRIDE - 1) // STRIDE, (shape[1] + STRIDE - 1) // STRIDE
    count_z, priors_y = (shape[2] + STRIDE - 1) // STRIDE, (shape[1] + edge - 1) // edge
    width = np.int32(view[LAST_COLUMN]) + 1
    for block in prange((count + BLOCK - 1) // BLOCK):
        start = block * BLOCK
        stop = min(count, start + BLOCK)
        work = np.empty((ROWS + 5, BLOCK), np.float32)  # one array: the compiler need not ask whether rows overlap
        place = np.empty((8, BLOCK), np.int32)
        for axis in range(3):
            for j in range(stop - start):
                work[ACROSS + axis, j] = points[axis, start + j]
        for j in range(stop - start):
            x, y, z = work[ACROSS, j], work[ALONG, j], work[DEPTH, j]
            across, along, work[SHOWN, j] = projected(x, y, z, view)
            place[PIXEL, j] = np.int32(np.rint(along)) * width + np.int32(np.rint(across))
        for j in range(stop - start):
            x, y, z = work[ACROSS, j], work[ALONG, j], work[DEPTH, j]
            v_x = volume_place(x, y, z, pose, 0, shape[0])
            v_y = volume_place(x, y, z, pose, 1, shape[1])
            v_z = volume_place(x, y, z, pose, 2, shape[2])
            i_x, i_y, i_z = np.int32(v_x), np.int32(v_y), np.int32(v_z)
            place[CELL, j], place[SUB, j] = cell_of(i_x, i_y, i_z, count_y, count_z)
            place[PLACE, j] = (i_x // edge) * priors_y + i_y // edge
            g_x = min(max(v_x / np.float32(STRIDE) - HALF, ZERO), np.float32(count_x - 1))
            g_y = min(max(v_y / np.float32(STRIDE) - HALF, ZERO), np.float32(count_y - 1))
            f_x, f_y = min(np.int32(g_x), count_x - 2), min(np.int32(g_y), count_y - 2)
            place[COLUMN, j] = f_x * count_y + f_y
            work[RIGHT, j], work[LOWER, j] = g_y - np.float32(f_y), g_x - np.float32(f_x)
            work[UP, j] = bottom + size * v_z
        for j in range(stop - start):
            surface = surfaces[np.uint32(place[PIXEL, j])]
            work[LOG, j], work[DEVIATION, j] = surface[0], surface[1]
            cell, sub = np.uint32(place[CELL, j]), np.uint32(place[SUB, j])
            work[UNSEEN, j] = hidden[cell, sub]
            work[BEFORE, j], work[THERE, j] = others[cell, sub], others[cell, SUBS]
            first, right, lower = np.uint32(place[COLUMN, j]), work[RIGHT, j], work[LOWER, j]
            s_0, s_1 = ground[first], ground[first + np.uint32(1)]
            s_2, s_3 = ground[first + np.uint32(count_y)], ground[first + np.uint32(count_y + 1)]
            for part in range(2):
                upper = s_0[part] + right * (s_1[part] - s_0[part])
                under = s_2[part] + right * (s_3[part] - s_2[part])
                work[LEVEL + part, j] = upper + lower * (under - upper)
        for j in range(stop - start):
            work[PRIOR, j], work[OF_PRIOR, j] = ZERO, ZERO
            if prior.size and work[UP, j] - work[LEVEL, j] <= stands_from:
                row, last = prior[np.uint32(place[PLACE, j])], shape[2] - 1
                up = min(max((work[UP, j] - work[LEVEL, j] - base) / size - HALF, ZERO), np.float32(last))
                lower = min(np.int32(up), last - 1)
                work[PRIOR, j] = row[lower] + (up - np.float32(lower)) * (row[lower + 1] - row[lower])
                work[OF_PRIOR, j] = row[last + 1]
        if between:
            for j in range(stop - start):
                x, y, z = points[0, start + j], points[1, start + j], points[2, start + j]
                for axis in range(3):
                    along = volume_place(x, y, z, pose, axis, shape[axis]) - HALF
                    lowest = min(np.int32(along), shape[axis] - 2)
                    place[LOWEST + axis, j], work[SHARE + axis, j] = lowest, along - np.float32(lowest)
            for j in range(stop - start):
                unseen, before = ZERO, ZERO
                for corner in range(8):
                    o_x, o_y, o_z = corner >> 2, (corner >> 1) & 1, corner & 1
                    weight = abs(ONE - np.float32(o_x) - work[SHARE, j])
                    weight *= abs(ONE - np.float32(o_y) - work[SHARE + 1, j])
                    weight *= abs(ONE - np.float32(o_z) - work[SHARE + 2, j])
                    i_x, i_y, i_z = place[LOWEST, j] + o_x, place[LOWEST + 1, j] + o_y, place[LOWEST + 2, j] + o_z
                    cell, sub = cell_of(i_x, i_y, i_z, count_y, count_z)
                    unseen += weight * hidden[np.uint32(cell), np.uint32(sub)]
                    before += weight * others[np.uint32(cell), np.uint32(sub)]
                work[UNSEEN, j], work[BEFORE, j] = unseen, before
        # In vector lanes: short loops, for of long ones the compiler makes none.
        voxels = stop - start
        if stands.size:
            for i in range(start, stop):
                stands[target[i]] = work[UP, i - start] - work[LEVEL, i - start] > stands_from
        for j in range(voxels):
            near, far = logarithm(max(work[DEPTH, j] - size, least)), logarithm(max(work[DEPTH, j] + size, least))
            work[NEAR_EDGE, j] = (near - work[LOG, j]) / work[DEVIATION, j]
            work[FAR_EDGE, j] = (far - work[LOG, j]) / work[DEVIATION, j]
        for j in range(voxels):
            work[TOP, j] = (work[UP, j] + HALF * size - work[LEVEL, j]) / work[DOUBT, j]
            work[BOTTOM, j] = (work[UP, j] - HALF * size - work[LEVEL, j]) / work[DOUBT, j]
        for row in range(NEAR_EDGE, BOTTOM + 1):
            for j in range(voxels):
                work[row, j] = below(work[row, j])
        for row in range(UNSEEN, THERE + 1):
            for j in range(voxels):
                work[row, j] = sigmoid(work[row, j])
        for j in range(voxels):
            at = work[SHOWN, j] * (work[FAR_EDGE, j] - work[NEAR_EDGE, j])
            behind = ONE - work[SHOWN, j] * (ONE - work[NEAR_EDGE, j])
            rest, above = work[BEFORE, j], work[TOP, j]
            value = rest + at * (work[THERE, j] - rest) + behind * (work[UNSEEN, j] - rest)
            on_ground = above - work[BOTTOM, j]
            value = on_ground + (ONE - on_ground) * above * value
            value += work[PRIOR, j] - work[OF_PRIOR, j] * value
            work[LOG, j] = -logarithm(ONE - min(max(value, LEAST), MOST))  # softplus of the logit
        if length > ZERO:
            for j in range(voxels):
                work[LOG, j] = ONE - exp_negative(-work[LOG, j] * length)
        for i in range(start, stop):
            out[target[i]] = work[LOG, i - start]


@kernel(inlines=(occupancy_kernel, cells))
def classify_cells(others, first, of_pixels, view, camera, shape, chosen, units, label, confidence) -> None:  # type: ignore[no-untyped-def]
    """Probabilities of the K classes of cells, as units for words, and the likeliest class of each with its own.

    `others`: [x y z, any], of which the classes begin at `first`; `of_pixels`: probabilities of classes of pixels [h w,
    K + 1]; `chosen`: cells [N]; the others are as of `look_up`.
    """
    classes, width = units.shape[1], np.int32(view[LAST_COLUMN]) + 1
    for i in prange(chosen.size):
        row, unit = others[chosen[i]], units[i]
        across, along, shown, _ = cell_seen(chosen[i], shape, camera, view)
        trust, largest, best = row[first + classes], -np.float32(np.inf), 0
        for k in range(classes):
            unit[k] = row[first + k]
        if shown > ZERO:
            at, right, lower = first_tap(across, along, view)
            upper = ONE - lower
            tap_0, tap_1 = of_pixels[at], of_pixels[at + 1]
            tap_2, tap_3 = of_pixels[at + width], of_pixels[at + width + 1]
            for k in range(classes):
                above = tap_0[k] + right * (tap_1[k] - tap_0[k])
                under = tap_2[k] + right * (tap_3[k] - tap_2[k])
                unit[k] += trust * logarithm(max(upper * above + lower * under, LEAST_SHARE))
        for k in range(classes):
            if unit[k] > largest:
                largest, best = unit[k], k
        total = ZERO
        for k in range(classes):
            unit[k] = exp_negative(unit[k] - largest)
            total += unit[k]
        for k in range(classes):
            unit[k] /= total
        label[i], confidence[i] = best, unit[best]


@kernel(inlines=(cells,))
def find_cells(points, pose, shape, out) -> None:  # type: ignore[no-untyped-def]
    """Numbers of the cells that points [N, 3] lie in; outside of the volume, of the nearest.

    `pose`: voxels of the volume from these points [3 4]; `shape`: of the volume, in voxels.
    """
    count_y, count_z = (shape[1] + STRIDE - 1) // STRIDE, (shape[2] + STRIDE - 1) // STRIDE
    for i in prange(len(points)):
        x, y, z = np.float32(points[i, 0]), np.float32(points[i, 1]), np.float32(points[i, 2])
        v_x, v_y = volume_place(x, y, z, pose, 0, shape[0]), volume_place(x, y, z, pose, 1, shape[1])
        v_z = volume_place(x, y, z, pose, 2, shape[2])
        out[i], _ = cell_of(np.int32(v_x), np.int32(v_y), np.int32(v_z), count_y, count_z)
