"""Scores of a completion without labels: what later frames saw of the space that a frame had called occupied or free.

A frame's completion says something of every voxel in its view, seen or hidden. The drive goes on, and later frames see
part of that space themselves: their depth ends in a voxel or passes through it. Stereo, the next frame's depth or
another observer may measure the depth; no label and no LiDAR is needed. What later frames never saw stays unknown and
does not count.

Depth has an error, and the verdict knows it. Every measurement comes with its standard deviation:

- A view sees through a voxel where all pixels that show any part of it end behind it, by `DEVIATIONS` of their errors.
- A view ends in a voxel where at least `LEAST_PIXELS` of its points lie in it. Points count whose error is at most one
  voxel edge.
- Views that contradict each other outvote a minority of a quarter; otherwise something moved, and nothing is known.
"""

import math
from collections import deque
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from scene_completion_ros.errors import GridError
from scene_completion_ros.evaluation.metric import Column
from scene_completion_ros.evaluation.occupancy import SSCBENCH_RANGES
from scene_completion_ros.geometry.cameras import Camera
from scene_completion_ros.geometry.grids import VoxelGrid
from scene_completion_ros.geometry.transforms import RigidTransform

Measure: TypeAlias = Literal["average_precision", "iou", "brier", "log_loss", "depth_abs_rel"]

DEVIATIONS = 2.0  # standard deviations that a measured depth has to lie behind a voxel, for the voxel to be free
# Points of a view in a voxel from which it counts as hit: a single one is a speckle as often as a surface.
LEAST_PIXELS = 2
AGREEMENT = 0.75  # share of the views with something to say that has to agree
REGIONS = ("seen now", "hidden now", "all")
# What two models are compared by. Of the last three, less is better.
MEASURES: tuple[Measure, ...] = ("average_precision", "iou", "brier", "log_loss", "depth_abs_rel")
LEAST_BLOCKS = 4  # independent places below which no uncertainty can be stated
# Probabilities are clipped to this and its complement before their logarithm is taken: no model is that sure.
SMALLEST_PROBABILITY = 1e-3
_REACHES = (1, 2, 4, 8, 16, 32)  # pixels to each side of a centre over which the nearest depth is prepared
_LOGIT_BINS, _LOGIT_STEP = 385, 1.0 / 16.0  # of the log odds, from -12 to 12: what average precision is computed of
_TRUE_POSITIVE, _FALSE_NEGATIVE, _VOXELS = 0, 2, 3  # places in the sums of a frame, see `_sums`


@dataclass(frozen=True, eq=False)
class DepthObservation:
    """Depth that one view measured."""

    depth: NDArray[np.float32]  # z-depth [H, W] in metres; 0 or not finite where nothing was measured
    deviation: NDArray[np.float32]  # its standard deviation [H, W], metres
    camera: Camera
    grid_from_camera: RigidTransform  # pose of the view's optical frame in the frame of the judged grid

    def __post_init__(self) -> None:
        size = (self.camera.height, self.camera.width)
        if self.depth.shape != size or self.deviation.shape != size:
            what = f"depth {self.depth.shape} and deviation {self.deviation.shape}, camera {size}"
            raise GridError(what, where="depth observation", cure="Give both in the size of the camera's image")

    @property
    def measured(self) -> NDArray[np.bool_]:
        """Pixels [H, W] with a depth and a finite error."""
        return np.isfinite(self.depth) & (self.depth > 0.0) & np.isfinite(self.deviation)


@dataclass(frozen=True, eq=False)
class Verdict:
    """What observers found in the voxels of a grid, bool [X, Y, Z] each; where neither is set, nothing is known."""

    free: NDArray[np.bool_]  # seen through
    occupied: NDArray[np.bool_]  # something was measured in it

    @property
    def known(self) -> NDArray[np.bool_]:
        """Voxels with a verdict, bool [X, Y, Z]."""
        return self.free | self.occupied

    def only(self, wanted: NDArray[np.bool_]) -> "Verdict":
        """The verdict of some voxels, bool [X, Y, Z]; the others are unknown."""
        return Verdict(self.free & wanted, self.occupied & wanted)


def judge(
    observations: Iterable[DepthObservation], grid: VoxelGrid, wanted: NDArray[np.bool_] | None = None
) -> Verdict:
    """What views found in the voxels of a grid.

    `observations`: depth of later frames, or of any other observer; `grid`: the voxels, in whose frame the observers'
    poses are; `wanted`: voxels that count, bool [X, Y, Z]: those in the view of the judged frame. All if left out.
    """
    counted = np.ones(grid.shape, np.bool_) if wanted is None else wanted
    voxels = np.flatnonzero(counted)
    centres = _centres(grid, voxels)
    through, hits = np.zeros(len(voxels), np.int32), np.zeros(len(voxels), np.int32)
    for view in observations:
        through += _sees_through(view, centres, grid.voxel_size)
        hits += _points_in(view, grid)[voxels] >= LEAST_PIXELS
    needed = AGREEMENT * (through + hits)
    free, occupied = np.zeros(grid.shape, np.bool_), np.zeros(grid.shape, np.bool_)
    free.reshape(-1)[voxels] = (through > 0) & (through >= needed)
    occupied.reshape(-1)[voxels] = (hits > 0) & (hits >= needed)
    return Verdict(free, occupied)


def in_sight(
    view: DepthObservation, grid: VoxelGrid, wanted: NDArray[np.bool_] | None = None
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Which wanted voxels (see `judge`) a view sees now, and which lie hidden behind it; bool [X, Y, Z] each.

    A voxel is seen where its near side lies no farther than what its centre's pixel measured, by `DEVIATIONS` of the
    error. In neither are voxels outside of the image, and those whose pixel measured nothing.
    """
    voxels = np.arange(math.prod(grid.shape)) if wanted is None else np.flatnonzero(wanted)
    distance, pixel, inside = _projected(view, _centres(grid, voxels))
    known = inside & view.measured[pixel]
    reach = np.where(view.measured, view.depth + np.float32(DEVIATIONS) * view.deviation, np.float32(0.0))
    near = known & (distance - 0.5 * math.sqrt(3.0) * grid.voxel_size <= reach[pixel])
    seen, hidden = np.zeros(grid.shape, np.bool_), np.zeros(grid.shape, np.bool_)
    seen.reshape(-1)[voxels], hidden.reshape(-1)[voxels] = near, known & ~near
    return seen, hidden


def _centres(grid: VoxelGrid, voxels: NDArray[np.int64]) -> NDArray[np.float32]:
    """Centres [N, 3] of voxels by their flat index, metres, frame of the grid."""
    index = np.stack(np.unravel_index(voxels, grid.shape), axis=-1)
    return np.asarray((index + 0.5) * grid.voxel_size + np.asarray(grid.origin), np.float32)


def _projected(
    view: DepthObservation, centres: NDArray[np.float32]
) -> tuple[NDArray[np.float32], tuple[NDArray[np.int64], NDArray[np.int64]], NDArray[np.bool_]]:
    """Depth [N] of points in a view, row and column of their pixels (0 where there is none), and whether there is."""
    points = np.asarray(view.grid_from_camera.inverse().apply(centres))
    pixels, inside = (np.asarray(found) for found in view.camera.project(points))
    nearest = np.floor(np.where(inside[:, None], pixels, 0.0) + 0.5).astype(np.int64)
    return points[:, 2].astype(np.float32), (nearest[:, 1], nearest[:, 0]), inside


def _sees_through(view: DepthObservation, centres: NDArray[np.float32], edge: float) -> NDArray[np.bool_]:
    """Whether all measured pixels around a voxel's centre that may show it end behind it; bool [N]."""
    half = 0.5 * math.sqrt(3.0) * edge
    distance, pixel, inside = _projected(view, centres)
    measured = view.measured
    surely_free = np.where(measured, view.depth - np.float32(DEVIATIONS) * view.deviation, np.float32(np.inf))
    with np.errstate(divide="ignore", invalid="ignore"):
        radius = np.where(distance > 0.0, max(view.camera.axial_focal_lengths) * half / distance, np.inf)
    through = np.zeros(len(centres), np.bool_)
    smallest = 0.0
    for reach in _REACHES:  # a voxel that is larger in the image than the last one is too near to be judged
        of_size = np.flatnonzero(inside & (radius > smallest) & (radius <= reach))
        row, column = pixel[0][of_size], pixel[1][of_size]
        kernel = np.ones((2 * reach + 1, 2 * reach + 1), np.uint8)
        nearest = np.asarray(cv2.erode(surely_free.astype(np.float32), kernel))
        through[of_size] = measured[row, column] & (distance[of_size] + half < nearest[row, column])
        smallest = float(reach)
    return through


def _points_in(view: DepthObservation, grid: VoxelGrid) -> NDArray[np.int64]:
    """How many points of a view lie in each voxel, by flat index; those alone that are known to a voxel edge."""
    sure = view.measured & (view.deviation <= grid.voxel_size)
    rays = np.asarray(view.camera.unproject(view.camera.pixel_centres()[sure]))
    points = np.asarray(view.grid_from_camera.apply(rays * view.depth[sure].astype(np.float64)[:, None]))
    index, inside = (np.asarray(found) for found in grid.index_of(points))
    return np.bincount(np.ravel_multi_index(tuple(index[inside].T), grid.shape), minlength=math.prod(grid.shape))


@dataclass(frozen=True)
class LabelFreeScore:
    """Scores over the voxels of a region within a range that have a verdict; NaN where not defined."""

    voxels: int  # how many there are
    occupied_share: float  # share that is occupied: the average precision of a constant
    average_precision: float  # mean precision over recall, of the probability (log odds in steps of 1/16)
    iou: float  # intersection over union at the threshold
    brier: float  # mean squared difference between probability and verdict
    log_loss: float  # mean cross-entropy, nats; probabilities are clipped to `SMALLEST_PROBABILITY`


COLUMNS = (
    Column("voxels", "known"),
    Column("occupied_share", "occupied"),
    Column("average_precision", "AP"),
    Column("iou", "IoU"),
    Column("brier", "Brier"),
)  # the figures of `LabelFreeScore` that tables show


class _FrameCounts(NamedTuple):
    """What one frame adds: sums [regions, ranges, 6], histograms [regions, ranges, 2, bins], depth [2], its place."""

    sums: NDArray[np.float64]
    histogram: NDArray[np.int32]
    depth: NDArray[np.float64]
    place: Hashable


class LabelFreeScores:
    """Accumulates scores of one model over frames, and keeps each frame's share for `compare`."""

    def __init__(
        self,
        grid: VoxelGrid,
        threshold: float,
        # Metres ahead of the grid's lower x, half of it to each side of y = 0: those of the street by default.
        ranges: tuple[float, ...] = SSCBENCH_RANGES,
        *,
        most_frames: int | None = None,  # how many of the last frames count; None for all
    ) -> None:
        self.grid, self.threshold, self.ranges = grid, threshold, tuple(ranges)
        self._within = [_within(grid, reach) for reach in self.ranges]
        self._frames: deque[_FrameCounts] = deque(maxlen=most_frames)

    def __len__(self) -> int:
        return len(self._frames)

    def add(
        self,
        probability: NDArray[np.float32],  # of being occupied [X, Y, Z], 0..1, as the model said it at the frame
        # Voxels that the frame itself saw [X, Y, Z]; all others with a verdict count as hidden.
        seen_now: NDArray[np.bool_],
        verdict: Verdict,  # what later frames found; unknown outside of the frame's view
        *,
        # Predicted and measured z-depth, [H, W] each, metres; measured is 0 where there is none.
        depth: tuple[NDArray[np.float32], NDArray[np.float32]] | None = None,
        # Frames of one place are drawn together in `compare`: a stretch of road, a drive. By default each frame counts
        # as a place of its own, which states too small an uncertainty for successive frames.
        place: Hashable = None,
    ) -> None:
        """Counts one frame. Raises GridError for a shape not of the grid, or a probability outside of 0..1."""
        shapes = {array.shape for array in (probability, seen_now, verdict.free, verdict.occupied)}
        if shapes != {self.grid.shape}:
            what = f"shapes {sorted(shapes)}, grid {self.grid.shape}"
            raise GridError(what, where="label-free scores", cure="Give one grid")
        scored = probability[verdict.known]
        if scored.size and not (scored.min() >= 0.0 and scored.max() <= 1.0):
            raise GridError("probabilities outside of 0..1", where="label-free scores", cure="Give probabilities")
        regions = (verdict.known & seen_now, verdict.known & ~seen_now, verdict.known)
        sums = np.zeros((len(REGIONS), len(self.ranges), 6))
        histogram = np.zeros((len(REGIONS), len(self.ranges), 2, _LOGIT_BINS), np.int32)
        for r, region in enumerate(regions):
            for d, within in enumerate(self._within):
                counted = region & within
                found, truth = probability[counted].astype(np.float64), verdict.occupied[counted]
                sums[r, d] = _sums(found, truth, self.threshold)
                histogram[r, d] = _histogram(found, truth)
        place = len(self._frames) if place is None else place
        self._frames.append(_FrameCounts(sums, histogram, _depth_sums(depth), place))

    def extend(self, other: "LabelFreeScores") -> None:
        """Counts the frames that another counted, with places. Raises GridError if it is not made alike."""
        if (other.grid, other.threshold, other.ranges) != (self.grid, self.threshold, self.ranges):
            raise GridError("another grid, threshold or range", where="label-free scores", cure="Score with the same")
        self._frames.extend(other._frames)

    def compute(self) -> dict[tuple[str, float], LabelFreeScore]:
        """(region, range in metres) -> scores over all frames."""
        shape = (len(REGIONS), len(self.ranges))
        sums, histogram = np.zeros((*shape, 6)), np.zeros((*shape, 2, _LOGIT_BINS))
        for frame in self._frames:
            sums += frame.sums
            histogram += frame.histogram
        found = {}
        for r, region in enumerate(REGIONS):
            for d, reach in enumerate(self.ranges):
                of = sums[r, d]
                found[region, reach] = LabelFreeScore(
                    voxels=int(of[_VOXELS]),
                    occupied_share=float(_divided(of[_TRUE_POSITIVE] + of[_FALSE_NEGATIVE], of[_VOXELS])),
                    average_precision=float(_average_precision(histogram[r, d])),
                    iou=float(_mean("iou", of)),
                    brier=float(_mean("brier", of)),
                    log_loss=float(_mean("log_loss", of)),
                )
        return found

    def iou_by_threshold(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Thresholds of the probability [B], falling, and the IoU [B] of each on all voxels within the longest range.

        The thresholds lie between the steps of the log odds that average precision is computed of.
        """
        bins = _LOGIT_BINS // 2 - np.arange(_LOGIT_BINS, dtype=np.float64)
        threshold = 1.0 / (1.0 + np.exp(-(bins - 0.5) * _LOGIT_STEP))
        free, occupied = np.stack([frame.histogram[-1, -1] for frame in self._frames]).sum(axis=0).astype(np.float64)
        return threshold, _divided(np.cumsum(occupied), occupied.sum() + np.cumsum(free))

    @property
    def depth_abs_rel(self) -> float:
        """Mean of |predicted - measured| / measured over all pixels with a measured depth; NaN where there is none."""
        error, pixels = np.sum([frame.depth for frame in self._frames], axis=0) if self._frames else (0.0, 0.0)
        return float(_divided(error, pixels))

    @property
    def last_log_loss(self) -> float:
        """Mean log loss over all voxels of the frame that was added last; NaN where it has none."""
        return float(_mean("log_loss", self._frames[-1].sums[-1, -1])) if self._frames else math.nan

    @property
    def places(self) -> list[Hashable]:
        """The place of each frame."""
        return [frame.place for frame in self._frames]

    def totals(self, measure: Measure, region: str, reach: float, draws: NDArray[np.float64]) -> NDArray[np.float64]:
        """A measure [B] over frames that count as often as `draws` [B, frames] says."""
        if measure == "depth_abs_rel":
            drawn = draws @ np.stack([frame.depth for frame in self._frames])
            return _divided(drawn[:, 0], drawn[:, 1])
        r, d = REGIONS.index(region), self.ranges.index(reach)
        sums = draws @ np.stack([frame.sums[r, d] for frame in self._frames])
        if measure != "average_precision":
            return _mean(measure, sums)
        histogram = np.stack([frame.histogram[r, d].ravel() for frame in self._frames]).astype(np.float64)
        return _average_precision((draws @ histogram).reshape(len(draws), 2, _LOGIT_BINS))


@dataclass(frozen=True)
class Comparison:
    """How much better a new model is than an old one on the same frames; more is better, whatever the measure."""

    measure: Measure  # what they are compared by, one of `MEASURES`
    region: str
    reach: float
    old: float
    new: float
    gain: float  # new - old, or old - new where less is better
    low: float  # gain that is exceeded with 95 % probability; minus infinity where there are too few places to say
    high: float  # gain that is not exceeded with 95 % probability; infinite likewise
    places: int  # independent places that the interval rests on

    def better_by(self, margin: float) -> bool:
        """Whether the gain is larger than a margin with 95 % probability."""
        return self.low > margin

    def not_worse_by(self, tolerance: float) -> bool:
        """Whether a loss is smaller than a tolerance with 95 % probability."""
        return self.low > -tolerance


def compare(
    old: LabelFreeScores,
    new: LabelFreeScores,  # scores of the new one, frame by frame in the same order
    measure: Measure = "average_precision",
    *,
    region: str = "all",  # one of `REGIONS`
    reach: float | None = None,  # one of the ranges, metres; the longest if left out
    draws: int = 1000,
    seed: int = 0,
) -> Comparison:
    """Compares two models on the same frames, with the uncertainty of a block bootstrap over their places.

    Places are drawn with replacement, with all their frames, for both models alike. See Künsch, "The Jackknife and the
    Bootstrap for General Stationary Observations", Annals of Statistics 1989. Raises GridError where the frames of the
    two are not the same.
    """
    if old.places != new.places or old.ranges != new.ranges or not len(old):
        what = f"{len(old)} and {len(new)} frames, or other places"
        raise GridError(what, where="comparison", cure="Score both on the same")
    reach = max(old.ranges) if reach is None else reach
    names = list(dict.fromkeys(old.places))
    member = np.array([[place == name for place in old.places] for name in names], np.float64)  # [places, frames]
    generator = np.random.default_rng(seed)
    drawn = generator.multinomial(len(names), np.full(len(names), 1.0 / len(names)), size=draws) @ member
    sign = 1.0 if measure in ("average_precision", "iou") else -1.0
    every = np.ones((1, len(old)))
    before, after = (float(scores.totals(measure, region, reach, every)[0]) for scores in (old, new))
    low, high = -math.inf, math.inf
    if len(names) >= LEAST_BLOCKS:
        gains = sign * (new.totals(measure, region, reach, drawn) - old.totals(measure, region, reach, drawn))
        if np.isfinite(gains).any():
            low, high = (float(value) for value in np.nanquantile(gains, (0.05, 0.95)))
    return Comparison(measure, region, reach, before, after, sign * (after - before), low, high, len(names))


def places_along(travelled: Sequence[float], length: float) -> list[int]:
    """The stretch of road that each frame stands on, by the distance travelled [frames], metres."""
    return [math.floor(distance / length) for distance in travelled]


def _within(grid: VoxelGrid, reach: float) -> NDArray[np.bool_]:
    x, y, _ = grid.axis_centres()
    mask = ((x - grid.origin[0]) < reach)[:, None, None] & (np.abs(y) < reach / 2.0)[None, :, None]
    return np.broadcast_to(mask, grid.shape)


def _sums(probability: NDArray[np.float64], truth: NDArray[np.bool_], threshold: float) -> NDArray[np.float64]:
    """Hits, false alarms, misses, voxels, squared differences and cross-entropy: [6]."""
    called = probability >= np.float32(threshold)
    clipped = np.clip(probability, SMALLEST_PROBABILITY, 1.0 - SMALLEST_PROBABILITY)
    return np.array(
        [
            np.count_nonzero(called & truth),
            np.count_nonzero(called & ~truth),
            np.count_nonzero(~called & truth),
            truth.size,
            np.sum((probability - truth) ** 2),
            -np.sum(np.log(np.where(truth, clipped, 1.0 - clipped))),
        ]
    )


def _histogram(probability: NDArray[np.float64], truth: NDArray[np.bool_]) -> NDArray[np.int32]:
    """Free and occupied voxels by their log odds, from the largest down; int32 [2, bins]."""
    with np.errstate(divide="ignore"):
        logit = np.log(probability) - np.log1p(-probability)
    last = _LOGIT_BINS // 2
    bins = last - np.round(np.clip(logit / _LOGIT_STEP, -last, last)).astype(np.int64)
    return np.stack([np.bincount(bins[truth == state], minlength=_LOGIT_BINS) for state in (False, True)]).astype(
        np.int32
    )


def _average_precision(histogram: NDArray[np.float64]) -> NDArray[np.float64]:
    """Average precision [...] of histograms [..., 2, bins]; NaN without occupied voxels."""
    free, occupied = histogram[..., 0, :], histogram[..., 1, :]
    hit = np.cumsum(occupied, axis=-1)
    precision = hit / np.maximum(hit + np.cumsum(free, axis=-1), 1e-9)
    return _divided(np.sum(precision * occupied, axis=-1), hit[..., -1])


def _mean(measure: Measure, sums: NDArray[np.float64]) -> NDArray[np.float64]:
    hit, false_positive, false_negative, voxels, squares, loss = np.moveaxis(sums, -1, 0)
    if measure == "iou":
        return _divided(hit, hit + false_positive + false_negative)
    return _divided(squares if measure == "brier" else loss, voxels)


def _depth_sums(depth: tuple[NDArray[np.float32], NDArray[np.float32]] | None) -> NDArray[np.float64]:
    if depth is None:
        return np.zeros(2)
    predicted, measured = (np.asarray(image, np.float64) for image in depth)
    known = np.isfinite(measured) & (measured > 0.0) & np.isfinite(predicted)
    error = np.abs(predicted[known] - measured[known]) / measured[known]
    return np.array([error.sum(), float(error.size)])


def _divided(part: NDArray[np.float64] | float, whole: NDArray[np.float64] | float) -> NDArray[np.float64]:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.asarray(part, np.float64) / np.asarray(whole, np.float64))
