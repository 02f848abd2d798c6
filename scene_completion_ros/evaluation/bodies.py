"""Lengths of things along the camera's rays: cars, persons, poles and trunks are bodies, and no walls behind a surface.

One image does not show where a thing ends. A student that does not know fills the ray behind a surface, so that a car
is 20 m long, which IoU hardly tells. Here the rays of `ray_camera` go through the voxels of the truth, in steps of one
voxel edge. A ray belongs to a thing where the first known voxel in its way that is occupied has that class; unknown
voxels are transparent, as in `truth`. Its true length is that of the run of such voxels from there on, in which single
other ones are bridged. Its predicted length is that of the run of voxels that a method calls occupied, bridged alike,
from the first one on that is near the true surface: within 1 m (in rooms a quarter of that) or 10 % of the distance.

Only known space counts. A predicted run therefore ends, at the latest, where behind the true body the next occupied or
unknown voxel lies: what is predicted within a wall behind a person is no part of the person, and what nobody measured
is nobody's error. There the overhang, predicted minus true length, is the least that it can be. Where the true run
itself ends in unknown space, or the grid does, its length is not known: such a ray is *cut*, and so is one whose
prediction may begin in unknown space. A ray with no prediction near the surface is *missed*. Neither has an overhang.
"""

from collections.abc import Iterator, Sequence
from itertools import product
from typing import Any

import numpy as np
from numba import prange
from numpy.typing import NDArray
from scipy.ndimage import label as components

from scene_completion_ros.arrays import Bytes, Doubles, Mask
from scene_completion_ros.evaluation import occupancy
from scene_completion_ros.evaluation.metric import Answer, Metric, Row, Tally, columns
from scene_completion_ros.evaluation.truth import FREE, UNKNOWN, VoxelTruth
from scene_completion_ros.geometry.grids import GridRays, grid_rays, measure_of, ray_camera
from scene_completion_ros.jit import inlined, kernel

# Classes of street and room that are bodies: things with a back, which one goes around.
THINGS = ("car", "person", "pole", "trunk", "bed", "chair", "sofa", "table", "cabinet", "desk", "refrigerator")
# How far off a predicted surface may be: metres in a street, or a share of the distance.
TOLERANCE_M, TOLERANCE_SHARE = 1.0, 0.1
OTHER = 254  # occupied by what is none of the things
NO_THING, CUT, MISSED = -1, -1, 0
LENGTHS = ("true_m", "predicted_m", "overhang_m", "overhang_90_m")


def coded(truth: VoxelTruth, things: Sequence[str], covered: Mask | None = None) -> Bytes:
    """What is known of the voxels in view, uint8 [X, Y, Z]: `FREE`, `UNKNOWN`, things from 1 on by name, or `OTHER`.

    `covered`: where the method has an answer, bool [X, Y, Z]. Raises GridError where the truth has no classes.
    """
    codes = np.where(truth.occupied, np.uint8(OTHER), np.uint8(FREE))
    for number, name in enumerate(things, 1):
        codes[truth.occupied & (truth.labels == truth.class_map.source.index(name))] = number
    seen = truth.known & truth.in_view
    codes[~(seen if covered is None else seen & covered)] = UNKNOWN
    return codes


def bodies(codes: Bytes, predicted: Mask, rays: GridRays, tolerance: float) -> NDArray[np.int32]:
    """Measure the things that rays meet.

    Returns int32 [4, R]: the flat index of the first voxel of a thing, `NO_THING` where a ray meets none; the step at
    which the ray reaches it, i is at (i + 1/2) edges from the camera; the length of the body and that of the
    prediction, edges, `MISSED` if there is none, `CUT` where it cannot be told. `codes`: of `coded`, uint8 [X, Y, Z];
    `predicted`: what a method calls occupied, bool [X, Y, Z]; `tolerance`: least distance that a predicted surface may
    be off, edges.
    """
    called = np.ascontiguousarray(predicted & (codes != UNKNOWN))
    out = np.empty((4, rays.first.size), np.int32)
    _follow(codes, called, tolerance, rays.origin, rays.direction, rays.first, rays.stop, *out)
    return out


@inlined
def _end_of_run(values: Any, wanted: Any, start: int, stop: int) -> int:
    """One after the last voxel of a run that begins at `start`, with gaps of one voxel."""
    end = start + 1
    while (end < stop and values[end] == wanted) or (end + 1 < stop and values[end + 1] == wanted):
        end += 1
    return end


@inlined
def _measured(codes: Any, called: Any, first: int, tolerance: float) -> tuple[int, int, int]:
    """Of the voxels along a ray from step `first` on: those before the thing, and both lengths."""
    count, start = len(codes), 0
    while start < count and (codes[start] == FREE or codes[start] == UNKNOWN):
        start += 1
    if start == count or codes[start] == OTHER:
        return NO_THING, 0, MISSED
    end = _end_of_run(codes, codes[start], start, count)
    if end == count or codes[end] == UNKNOWN:
        return start, end - start, CUT
    limit = end
    while limit < count and codes[limit] == FREE:
        limit += 1
    near = max(tolerance, TOLERANCE_SHARE * (first + start + 0.5))
    begin = max(0, int(np.ceil(start - near)))
    while begin < limit and begin <= start + near and not called[begin]:
        begin += 1
    if begin < limit and begin <= start + near:
        return start, end - start, _end_of_run(called, True, begin, limit) - begin
    unknown = limit <= start + near and (limit == count or codes[limit] == UNKNOWN)
    return start, end - start, CUT if unknown else MISSED


@kernel()
def _follow(  # type: ignore[no-untyped-def] # numba finds the types
    codes, predicted, tolerance, origin, direction, first, stop, voxel, step, true, found
) -> None:  # fmt: skip
    flat_codes, flat_predicted = codes.reshape(-1), predicted.reshape(-1)
    size_x, size_y, size_z = codes.shape
    for ray in prange(first.size):
        at = np.empty(stop[ray] - first[ray], np.int32)
        for i in range(at.size):
            along = first[ray] + i + 0.5
            # Truncation is the floor inside the grid; the clamps catch rounding at its sides.
            x = min(max(int(origin[0] + along * direction[ray, 0]), 0), size_x - 1)
            y = min(max(int(origin[1] + along * direction[ray, 1]), 0), size_y - 1)
            z = min(max(int(origin[2] + along * direction[ray, 2]), 0), size_z - 1)
            at[i] = (x * size_y + y) * size_z + z
        start, true[ray], found[ray] = _measured(flat_codes[at], flat_predicted[at], first[ray], tolerance)
        voxel[ray] = NO_THING if start == NO_THING else at[start]
        step[ray] = first[ray] + start


class BodyTally(Tally):
    """Overhang of the things that a method calls occupied by its own rule.

    No recording tells instances, so that a thing is what hangs together of a class in a frame (26 neighbours): it
    counts once, by the median over its rays, in the ring that the median of their distances lies in.
    """

    def __init__(self, _: object) -> None:
        self._things: dict[tuple[str, float], list[Doubles]] = {}  # of `_things`, by class and radius of the ring

    def add(self, answer: Answer) -> None:
        """Measure the things of a frame whose voxels have classes. Raises GridError if no range fits into the grid."""
        truth, found = answer.truth.voxels, answer.voxels
        if truth is None or found is None or truth.label is None:
            return
        grid, ranges = truth.grid, tuple(occupancy.crops_within(truth.grid))
        names = [name for name in THINGS if name in truth.class_map.source]
        self._things = {key: [] for key in product(names, ranges)} | self._things
        codes, predicted = coded(truth, names, found.covered), found.occupied[found.own or next(iter(found.occupied))]
        rays = grid_rays(grid, truth.grid_from_camera.inverse(), ray_camera(answer.camera))
        measured = bodies(codes, predicted, rays, TOLERANCE_M * measure_of(grid) / grid.voxel_size)
        for number, name in enumerate(names, 1):
            for distance_m, thing in _things(codes == number, measured, grid.voxel_size):
                if distance_m <= ranges[-1]:
                    self._things[name, next(edge for edge in ranges if distance_m <= edge)].append(thing)
        self.frames += 1

    def rows(self) -> Iterator[Row]:
        """By class of the truth's vocabulary and ring; NaN where no thing is, or none was measured."""
        for (name, range_m), things in self._things.items():
            table = np.reshape(things, (-1, 6))
            rays, cut, missed = table[:, :3].sum(axis=0).astype(int).tolist()
            lengths = table[~np.isnan(table[:, 3]), 3:]
            middle, high = np.percentile(lengths, (50, 90), axis=0) if len(lengths) else np.full((2, 3), np.nan)
            shares = {"cut": occupancy.ratio(cut, rays), "missed": occupancy.ratio(missed, rays - cut)}
            figures = dict(zip(LENGTHS, [*middle.tolist(), float(high[2])], strict=True))
            counts = {"things": len(things), "measured": len(lengths), "rays": rays}
            yield {"class": name, "range_m": range_m, **counts, **shares, **figures}


def _things(mask: Mask, measured: NDArray[np.int32], edge: float) -> Iterator[tuple[float, Doubles]]:
    """Distance, metres, of the connected parts of a mask [X, Y, Z] that rays meet, and six numbers.

    Those are how many rays, how many of them are cut, and missed; then true and predicted length and overhang, metres,
    medians over the others: NaN without any.
    """
    of_voxel = components(mask, np.ones((3, 3, 3)))[0].reshape(-1)
    of_ray = np.where(measured[0] == NO_THING, 0, of_voxel[measured[0]])
    for thing in np.unique(of_ray[of_ray > 0]):
        _, step, true, predicted = measured[:, of_ray == thing]
        told = predicted > MISSED
        lengths = np.stack([true, predicted, predicted - true])[:, told] * edge
        medians = np.median(lengths, axis=1) if told.any() else np.full(3, np.nan)
        counts = len(step), int((predicted == CUT).sum()), int((predicted == MISSED).sum())
        yield float(np.median(step + 0.5)) * edge, np.array([*counts, *medians])


BODIES = Metric(
    "bodies",
    "Lengths of things along the rays of the camera, metres, from their first surface on, at the most to what is next "
    "behind them in truth: medians over things, and the 90th percentile of the overhang, by rings of distance. Where "
    "it is unknown what is behind a thing, its rays are cut; where nothing is predicted within 1 m (rooms: 0.25 m) or "
    "10 % of its surface, they are missed: percent of all rays, and of those that are not cut. A class that the truth "
    "has no id for has no line.",
    columns("things, measured", percent=False)
    + columns("cut, missed")
    + columns("true_m: true, predicted_m: predicted, overhang_m: overhang, overhang_90_m: 90th", percent=False),
    BodyTally,
    by=("class",),
    across="range_m",
    headline={"class": "car"},
)
