"""Students that complete cells in space: their volume, where it looks at the image, and the scale of what pixels see.

A pixel shows a surface: its depth with a deviation, and a class. Cells of the volume look up the surfaces of their
pixels, a network completes the cells, and each voxel follows from its pixel and its cell (`cell_query`). What is not
learned of this is defined here once, for NumPy and torch (array API), so that training and the robot cannot drift
apart.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import array_api_compat
import numpy as np

from scene_completion_ros.arrays import Floats
from scene_completion_ros.geometry.cameras import Camera
from scene_completion_ros.geometry.grids import DEFAULT_GRID_FROM_CAMERA, VoxelGrid, measure_of
from scene_completion_ros.geometry.transforms import RigidTransform
from scene_completion_ros.inference.head import PointCodeSpec

STRIDE = 2  # voxels to a cell of the volume, along every axis
# Scales on which a place is compared with the surface that its pixel sees: its own, that of a car, of a house. As all
# lengths here they are those of a street; smaller voxels bring their own measure.
DISTANCES_M = (0.5, 2.0, 8.0)
GEOMETRY = 3 + 2 * len(DISTANCES_M)  # numbers that say how a cell lies against the surface that its pixel sees
FARTHEST_FROM_LEVEL = 1.5  # of a ground that pixels see, metres
LEAST_CLASS = 1e-3  # probability that a pixel gives any class
CERTAIN = 1e-4  # least probability of a voxel and of its contrary
PRIOR_EDGE = 8  # voxels of the bird's-eye view, along each axis, that have one prior
STANDS_M = 0.35  # metres above the ground from which voxels count as obstacles


class Ground(NamedTuple):
    """The ground of a world, and the range in which it gives the metric scale."""

    name: str  # of its class
    # Where it is taken to be level with the place of the camera, metres: a grade of a road or a pitch matters little
    # there.
    nearest: float
    farthest: float
    scale_deviation: float  # standard deviation of the scale of depth in unknown surroundings, a share


@dataclass(frozen=True)
class CellVolume:
    """The volume of a student: what its cells look up, and what is predicted of them."""

    grid: VoxelGrid  # the voxels, `STRIDE` of them to a cell along each axis
    level: float  # height at which the ground is expected, metres in the grid
    ground: Ground
    label: int  # number of the ground's class
    classes: int  # K; pixels know the sky as one more
    context: int  # channels that a cell looks up besides how it lies against the surface
    around: int = 0  # channels that say what is around a cell
    prior: int = 0  # voxels along the edge of columns that have one prior, see `PredictedCells`; 0 without one

    @property
    def cells(self) -> tuple[int, int, int]:
        """Number of cells (x, y, z)."""
        x, y, z = (-(-count // STRIDE) for count in self.grid.shape)
        return x, y, z

    @property
    def measure(self) -> float:
        """Lengths in this world over those on a street."""
        return measure_of(self.grid)

    @property
    def low(self) -> int:
        """Voxels of a column, from below, in which a ground may be seen."""
        farthest = FARTHEST_FROM_LEVEL * self.measure
        return min(round((self.level + farthest - self.grid.origin[2]) / self.grid.voxel_size), self.grid.shape[2])

    @property
    def prior_shape(self) -> tuple[int, int]:
        """Columns that have a prior, and numbers of each."""
        x, y, z = self.grid.shape
        return -(-x // self.prior) * -(-y // self.prior), z + 1

    @property
    def looked_up(self) -> int:
        """Numbers L that a cell is given: context of its pixel, and how it lies against the surface there."""
        return self.context + GEOMETRY

    @property
    def of_column(self) -> int:
        """Numbers that a column of cells is given: which cells are in view, its place, the mounting, the ground."""
        return self.cells[2] + 4

    @property
    def of_cell(self) -> int:
        """Numbers predicted of a cell, besides logits of its voxels where they lie behind what their pixels see.

        Logits of its voxels before that; of a voxel that a pixel sees; of the classes; and how much the logarithm of
        the probability of a class of the cell's pixel adds to these.
        """
        return STRIDE**3 + 1 + self.classes + 1


ROAD, FLOOR = Ground("road", 2.0, 12.0, 0.1), Ground("floor", 0.3, 6.0, 0.2)


def ground_code(camera: Camera, spec: PointCodeSpec, volume_from_camera: Any, level: float) -> Any:
    """Inverse depth codes [B, 1, H, W] of a level ground at a height in the volume; 1/∞ above the horizon."""
    xp = array_api_compat.array_namespace(volume_from_camera)
    device, kind = array_api_compat.device(volume_from_camera), volume_from_camera.dtype
    across = (xp.arange(camera.width, dtype=kind, device=device) - camera.cx) / camera.fx
    along = (xp.arange(camera.height, dtype=kind, device=device) - camera.cy) / camera.fy
    down = volume_from_camera[:, 2, :3, None, None]
    fall = -(down[:, 0] * across + down[:, 1] * along[:, None] + down[:, 2])  # for each metre of depth
    above = xp.clip(volume_from_camera[:, 2, 3] - level, min=0.05)
    most = 3.0 / spec.near  # a third of what the code is made for, 1 m on a street
    inverse = fall / above[:, None, None]
    return spec.depth_code_of_inverse(xp.clip(inverse, 0.0, most))[:, None]


def stated_ground(
    camera: Camera, spec: PointCodeSpec, level: float, volume_from_camera: RigidTransform | None
) -> Floats:
    """What the encoder is given of the ground, float32 [2, H / 2, W / 2]: its `ground_code`, and whether that is known.

    `camera`: the canonical one; `volume_from_camera`: see `volume_pose`; None where it is unknown.
    """
    half = camera.resized(camera.width // 2, camera.height // 2)
    if volume_from_camera is None:
        return np.zeros((2, half.height, half.width), np.float32)
    code = ground_code(half, spec, np.asarray(volume_from_camera.matrix, np.float32)[None], level)[0, 0]
    return np.stack([code, np.ones_like(code)]).astype(np.float32)


def volume_pose(upright_from_camera: RigidTransform | None, height: float) -> RigidTransform:
    """Pose of a camera in a volume that stands upright below it and looks where the camera looks.

    `upright_from_camera`: its pose in a frame whose z axis points up and begins on the ground; None where it is
    unknown, for which the usual one is taken; `height`: of the volume's origin above the ground, metres: that of the
    cameras of the training.
    """
    if upright_from_camera is None:
        return DEFAULT_GRID_FROM_CAMERA
    return RigidTransform(np.eye(3), np.array([0.0, 0.0, -height])) @ upright_from_camera.levelled()


@dataclass(frozen=True, eq=False)
class GroundSurface:
    """The ground ahead of a camera, on a regular grid that looks where the camera looks."""

    # float32 [x, y, 3], metres, in the camera's optical frame. Rows lead away from the camera, columns from right to
    # left. NaN where the image does not show its place.
    points: Floats
    deviation: Floats  # float32 [x, y], standard deviation of its height, metres


def ground_surface(
    surface: Floats, volume: CellVolume, camera: Camera, volume_from_camera: RigidTransform
) -> GroundSurface:
    """The ground as a student predicts it.

    `surface`: its height in the grid and the standard deviation of that, metres, float32 [x y, 2]; `camera`: the
    canonical one; `volume_from_camera`: see `volume_pose`.
    """
    shape, edge = volume.cells[:2], STRIDE * volume.grid.voxel_size
    height, deviation = surface.T.reshape(2, *shape)
    x, y = (volume.grid.origin[axis] + edge * (np.arange(count) + 0.5) for axis, count in enumerate(shape))
    places = np.stack([*np.meshgrid(x, y, indexing="ij"), height], axis=-1)
    points = volume_from_camera.inverse().apply(places.reshape(-1, 3))
    shown = np.asarray(camera.project(points)[1])
    points = np.where(shown[:, None], points, np.nan).astype(np.float32)
    return GroundSurface(points.reshape(places.shape), deviation.copy())


# The scale of the depths that pixels see, by all that is known of metres.

# By how much the depths of a level ground that the stated mounting leads to are off, a share; standard deviation.
STATED_OFF = 0.03
# By how much depth is off besides, for each metre of it: heads are too sure of streets that they did not learn from.
# With it, the mean of |error| / σ at 12 to 60 m of window 04 is 0.7 and 0.9, as without it of window 05, which they
# learned from.
FAR_OFF = 0.005
# Mean weight of the pixels of an image, its nearest road 1, at which the road counts half as much as it can.
_LEAST_GROUND = 0.01
SENSED_OFF = 0.1  # logarithm by which the depth of most pixels is off from that of a corner, once all are scaled
_SENSED_SCALE_OFF = 0.02  # standard deviation of the logarithm of the scale that many depths of corners lead to
_FEW_SENSED = 20.0  # pixels with a depth of a corner that count half as much for the scale as many
# Pixels across the surroundings, from far to near, in which the error of a network is that at the corners.
_SENSED_AROUND = (49, 17, 5)
_SENSED_REST = 0.5  # share of the deviation of a pixel that is left next to the depth of a corner
_MOST_OFF = 0.5  # logarithm of depth from which what pixels see is a table or a ditch, and no ground at another scale
_LEAST_INVERSE = 1e-3  # per metre, of what is not the sky
_IMAGE = (-2, -1)  # axes


class Measured(NamedTuple):
    """Measurements of depth by motion; zeros where there is none."""

    # Logarithm of the factor on depth that its motion gives, and precision of that (one over the variance) [..., 2].
    scale: Any
    depth: Any  # logarithm of the depth of a corner by motion (metres), and precision of that [..., 2, h, w]


def scaled_depth(
    inverse: Any,
    deviation: Any,
    on_ground: Any,
    stated: Any,
    spec: PointCodeSpec,
    kind: Ground,
    measured: Measured | None = None,
) -> tuple[Any, Any]:
    """Inverse depths and their deviations, scaled by what is known of metres: by mounting and by motion.

    Encoders are off by a factor on unknown streets. The height of a camera above the road gives metres (the way
    monocular odometry recovers its scale), and so do the way that a robot went and the depths of corners. The
    factor is the most probable one of all these and of the prediction, each with its precision; what is left of the
    doubt about it is added to that of each pixel, as is one that grows with depth. Only pixels that are more probably
    ground than all else count: a table that might be floor would halve the room. Nothing here is learned.

    Args:
        inverse: Inverse z-depths of pixels, per metre [..., h, w].
        deviation: Standard deviations of the logarithm of these [..., h, w].
        on_ground: Probabilities that a pixel shows the ground [..., h, w].
        stated: As of `stated_ground` [..., 2, h, w].
        spec: Point code of these.
        kind: The ground.
        measured: What else is known; None for nothing.

    Returns:
        Inverse depths, not limited to positive ones, and deviations, both [..., h, w].
    """
    xp = array_api_compat.array_namespace(inverse)
    by_ground, precision = _ground_scale(inverse, on_ground, stated, spec, kind)
    total, weighed = 1.0 / kind.scale_deviation**2 + precision, precision * by_ground
    if measured is not None:
        motion = measured.scale[..., None, None]
        by_sensor, of_sensor = _sensor_scale(inverse, measured.depth)
        total = total + motion[..., 1, :, :] + of_sensor
        weighed = weighed + motion[..., 1, :, :] * motion[..., 0, :, :] + of_sensor * by_sensor
    far = FAR_OFF / xp.clip(inverse, min=1.0 / spec.far)
    deviation = xp.sqrt(deviation**2 + 1.0 / total + far**2)
    inverse = inverse * xp.exp(-weighed / total)
    return (inverse, deviation) if measured is None else _joined(inverse, deviation, measured.depth)


def stated_level(stated: Any, spec: PointCodeSpec, kind: Ground) -> tuple[Any, Any]:
    """Inverse depth of the stated ground, per metre, and the weight of a pixel that shows it, both [..., h, w]."""
    xp = array_api_compat.array_namespace(stated)
    level, known = spec.inverse_depth(stated[..., 0, :, :]), stated[..., 1, :, :]
    near = xp.astype((level > 1.0 / kind.farthest) & (level < 1.0 / kind.nearest), level.dtype)
    largest = xp.clip(xp.max(level, axis=_IMAGE, keepdims=True), min=_LEAST_INVERSE)
    return xp.clip(level, min=_LEAST_INVERSE), near * known * (level / largest) ** 2


def _ground_scale(inverse: Any, on_ground: Any, stated: Any, spec: PointCodeSpec, kind: Ground) -> tuple[Any, Any]:
    """Logarithm of the factor that brings the ground to where the mounting puts it, and its precision [..., 1, 1]."""
    xp = array_api_compat.array_namespace(inverse)
    level, weight = stated_level(stated, spec, kind)
    off = xp.log(xp.clip(inverse, min=_LEAST_INVERSE) / level)
    shown = xp.clip(2.0 * on_ground - 1.0, min=0.0)
    weight = weight * xp.astype(xp.abs(off) < _MOST_OFF, inverse.dtype) * shown
    mean = _robust_mean(off, weight, STATED_OFF)
    seen = xp.mean(weight, axis=_IMAGE, keepdims=True)
    # The ground counts fully where there is enough of it, and against the encoder by that share.
    gain = kind.scale_deviation**2 / (kind.scale_deviation**2 + STATED_OFF**2) * seen / (seen + _LEAST_GROUND)
    return mean, gain / (1.0 - gain) / kind.scale_deviation**2


def _sensor_scale(inverse: Any, sensed: Any) -> tuple[Any, Any]:
    """Logarithm of the factor that leads to the depths of corners, and its precision [..., 1, 1]."""
    xp = array_api_compat.array_namespace(inverse)
    known = xp.astype(sensed[..., 1, :, :] > 0.0, inverse.dtype)
    off = (sensed[..., 0, :, :] + xp.log(xp.clip(inverse, min=_LEAST_INVERSE))) * known
    count = xp.sum(known, axis=_IMAGE, keepdims=True)
    return _robust_mean(off, known, SENSED_OFF), count / (count + _FEW_SENSED) / _SENSED_SCALE_OFF**2


def _robust_mean(off: Any, weight: Any, spread: float) -> Any:
    """Weighted mean [..., 1, 1] that what is off by more than `spread` hardly moves: things that stand on the road."""
    xp = array_api_compat.array_namespace(off)
    mean, fitting = xp.zeros_like(off[..., :1, :1]), weight
    for again in range(3):
        if again:
            fitting = weight / (1.0 + ((off - mean) / spread) ** 2)
        total = xp.clip(xp.sum(fitting, axis=_IMAGE, keepdims=True), min=1e-6)
        mean = xp.sum(fitting * off, axis=_IMAGE, keepdims=True) / total
    return mean


def _joined(inverse: Any, deviation: Any, sensed: Any) -> tuple[Any, Any]:
    """Inverse depth and deviation with depths by motion, at their pixels and, less surely, between and around them.

    Errors of a network are alike in neighbouring pixels: an error at a corner is one around it.
    """
    xp = array_api_compat.array_namespace(inverse)
    precision = sensed[..., 1, :, :]
    known = xp.astype(precision > 0.0, inverse.dtype)
    positive = xp.clip(inverse, min=_LEAST_INVERSE)
    off = (sensed[..., 0, :, :] + xp.log(positive)) * known  # logarithm of true depth over that of the network
    aside, trusted = xp.zeros_like(off), xp.zeros_like(off)
    for size in _SENSED_AROUND:
        count = _window_sums(known, size)
        trusted = count / (count + 1.0)
        aside = aside + trusted * (_window_sums(off, size) / xp.clip(count, min=1.0) - aside)
    own = 1.0 / (deviation * (1.0 - (1.0 - _SENSED_REST) * trusted)) ** 2
    total = own + precision
    moved = aside + precision / total * (off - aside) * known
    return xp.where(trusted + known > 0.0, positive, inverse) * xp.exp(-moved), 1.0 / xp.sqrt(total)


def _window_sums(values: Any, size: int) -> Any:
    """Sums over the window of `size` by `size` pixels around each pixel, an odd number; values [..., h, w]."""
    xp = array_api_compat.array_namespace(values)
    for _ in range(2):  # along one axis after the other
        beyond = [xp.zeros_like(values[..., :1])] * (size // 2)
        sums = xp.cumulative_sum(xp.concat([*beyond, values, *beyond], axis=-1), axis=-1, include_initial=True)
        values = xp.matrix_transpose(sums[..., size:] - sums[..., :-size])
    return values
