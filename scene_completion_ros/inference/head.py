"""The head of a student: the code of a point, the weights, checked when they are loaded, and where its volume stands.

The 39-d code of a point: where it projects and how deep it lies, with sines and cosines of both. For a student that
takes its camera's mounting also the inputs of its graph. One definition for NumPy and torch (array API), so
that training and the robot cannot drift apart.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import array_api_compat
import numpy as np
from numpy.typing import NDArray

from scene_completion_ros.errors import BundleError
from scene_completion_ros.geometry.cameras import Camera
from scene_completion_ros.geometry.grids import DEFAULT_GRID_FROM_CAMERA, MOST_VOXELS, VoxelGrid
from scene_completion_ros.geometry.transforms import OPTICAL_FROM_FORWARD, RigidTransform
from scene_completion_ros.untrusted_files import CURE, read_tensors


@dataclass(frozen=True)
class PointCodeSpec:
    """How a point in the camera's optical frame becomes the code the head was trained with.

    The code input is c = (x~, y~, z~). x~, y~ are normalised pixel coordinates (-1..1 inside the image) clamped to
    ``xy_limit``. z~ is the inverse depth, scaled so that ``near`` gives 1 and ``far`` gives -1. The code is
    gamma(c) = [c, sin(f0 c), cos(f0 c), sin(f1 c), cos(f1 c), ...] (Behind the Scenes, section 3.1).
    """

    near: float = 3.0  # depth at which z~ = 1, metres
    far: float = 80.0  # depth at which z~ = -1, metres
    minimum_depth: float = 1.0  # depths below are raised to it, which keeps points behind the camera finite, metres
    frequencies: tuple[float, ...] = (1.5, 3.0, 6.0, 12.0, 24.0, 48.0)  # angular frequencies f of the sines and cosines
    xy_limit: float = 8.0  # clamp of x~ and y~

    @property
    def size(self) -> int:
        """Length of the code: 3 coordinates, and a sine and a cosine of each at every frequency."""
        return 3 * (1 + 2 * len(self.frequencies))

    @property
    def depth_code_range(self) -> tuple[float, float]:
        """Smallest z~ (infinite depth) and largest z~ (``minimum_depth``)."""
        return self.depth_code_of_inverse(0.0), self.depth_code_of_inverse(1.0 / self.minimum_depth)

    def inverse_depth(self, code: Any) -> Any:
        """Inverse depth, per metre, of z~ [...]: what `depth_code_of_inverse` undoes."""
        inverse_far = 1.0 / self.far
        return (code + 1.0) / 2.0 * (1.0 / self.near - inverse_far) + inverse_far

    def depth_code_of_inverse(self, inverse_depth: Any) -> Any:
        """z~ of an inverse depth [...], per metre; not limited to `depth_code_range`."""
        inverse_far = 1.0 / self.far
        return 2.0 * (inverse_depth - inverse_far) / (1.0 / self.near - inverse_far) - 1.0

    def depth_code(self, depth: Any) -> Any:
        """z~ of a z-depth [...] in metres; depths below ``minimum_depth`` are raised to it."""
        xp = array_api_compat.array_namespace(depth)
        return self.depth_code_of_inverse(1.0 / xp.clip(depth, min=self.minimum_depth))

    def image_coordinates(self, points_camera: Any, camera: Camera) -> Any:
        """Normalised, unclamped pixel coordinates of points: where the feature map is sampled.

        Returns [..., 2], x and y = 2 (u + 0.5) / W - 1: -1 and 1 are the outer edges of the image. `points_camera`:
        [..., 3], optical frame of the canonical camera, metres; `camera`: the canonical camera, without distortion.
        """
        xp = array_api_compat.array_namespace(points_camera)
        depth = xp.clip(points_camera[..., 2], min=self.minimum_depth)
        u = camera.fx * points_camera[..., 0] / depth + camera.cx
        v = camera.fy * points_camera[..., 1] / depth + camera.cy
        return xp.stack([2.0 * (u + 0.5) / camera.width - 1.0, 2.0 * (v + 0.5) / camera.height - 1.0], axis=-1)

    def coordinates(self, points_camera: Any, camera: Camera) -> Any:
        """Code input c = (x~, y~, z~) of points [..., 3] (optical frame, metres): [..., 3]."""
        xp = array_api_compat.array_namespace(points_camera)
        xy = xp.clip(self.image_coordinates(points_camera, camera), min=-self.xy_limit, max=self.xy_limit)
        return xp.concat([xy, self.depth_code(points_camera[..., 2])[..., None]], axis=-1)

    def encode(self, coordinates: Any) -> Any:
        """gamma(c) of code inputs [..., 3]: [..., 39]. Blocks of three: c, sin(f0 c), cos(f0 c), sin(f1 c), ..."""
        xp = array_api_compat.array_namespace(coordinates)
        blocks = [coordinates]
        for frequency in self.frequencies:
            blocks += [xp.sin(frequency * coordinates), xp.cos(frequency * coordinates)]
        return xp.concat(blocks, axis=-1)

    def encode_axis(self, values: Any) -> Any:
        """One coordinate's share of the code, for values [N]: [N, 13]. Its columns in the code are ``axis::3``."""
        xp = array_api_compat.array_namespace(values)
        columns = [values]
        for frequency in self.frequencies:
            columns += [xp.sin(frequency * values), xp.cos(frequency * values)]
        return xp.stack(columns, axis=-1)


_FORWARD = OPTICAL_FROM_FORWARD.inverse()


LARGEST_WEIGHT = 1e12  # products of larger ones leave float32
_OF_VOLUME = ("gain", "lattice")


@dataclass(frozen=True, eq=False)
class VolumeReading:
    """How the head reads the volume: logits at knots before the camera, by default in its axes (forward, left, up).

    Between knots the logits are linear, and constant beyond the outer ones. Raises BundleError for fewer than two knots
    along an axis, or more than `MOST_VOXELS`, or a distance that is not positive.
    """

    gain: NDArray[np.float32]  # factor on the logits, float32 [1]
    # float32 [2, 3], place of the first knot and distance of knots along each axis, metres.
    lattice: NDArray[np.float32]
    knots: tuple[int, int, int]  # shape (X, Y, Z) of the volume

    def __post_init__(self) -> None:
        if min(self.knots) < 2 or math.prod(self.knots) > MOST_VOXELS or self.lattice[1].min() <= 0.0:
            what = f"{self.knots} knots at distances of {self.lattice[1].tolist()} m are no volume"
            raise BundleError(what, where="volume", cure=CURE)

    def taps(
        self, points_camera: NDArray[np.floating], volume_from_camera: RigidTransform = _FORWARD
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """The lowest of the eight knots around points [N, 3] (optical, metres), and shares of the next, 0..1."""
        size = np.array(self.knots)
        placed = volume_from_camera.apply(points_camera.astype(np.float64))
        position = np.clip((placed - self.lattice[0]) / self.lattice[1], 0.0, size - 1.0)
        lowest = np.minimum(position.astype(np.int64), size - 2)
        return lowest, (position - lowest).astype(np.float32)


@dataclass(frozen=True, eq=False)
class HeadWeights:
    """sigma = softplus(w . h + d) with h = ReLU(F(u, v) + W_gamma gamma(c) + b), the feature weights folded into F.

    Where the student has classes, it has hidden units for them besides those of the density: logits = V . h_l + v with
    h_l = ReLU(F_l(u, v) + W_l gamma(c) + b_l). The encoder gives F and F_l as one map, the channels of F first. A
    student with a decoder in space has no hidden units, C = 0: sigma = softplus(g v(p) + d), v the volume that
    the encoder gives at the point p. Its label units are those of cells of the volume, each ``unit_stride`` knots wide.
    The encoder gives them as a map whose rows are lines of cells along y, one line behind the other along x, and one
    height above the other.
    """

    positional_weight: NDArray[np.float32]  # W_gamma, float32 [C, 39]
    hidden_bias: NDArray[np.float32]  # b, float32 [C]
    density_weight: NDArray[np.float32]  # w, float32 [C]
    density_bias: NDArray[np.float32]  # d, float32 [1]
    # W_l, float32 [E, 39]; all four of the labels, or none. Zeros for units of cells.
    label_positional_weight: NDArray[np.float32] | None = None
    label_hidden_bias: NDArray[np.float32] | None = None  # b_l, float32 [E]
    label_weight: NDArray[np.float32] | None = None  # V, float32 [K, E]
    label_bias: NDArray[np.float32] | None = None  # v, float32 [K]
    volume: VolumeReading | None = None  # how the volume of the encoder is read; None where it gives none
    unit_stride: int = 0  # knots of the volume to a cell that has label units; 0 where pixels have them

    @classmethod
    def in_space(
        cls, volume: VolumeReading, unit_stride: int, code_size: int, label_weight: NDArray[np.float32]
    ) -> "HeadWeights":
        """That of a student with a decoder in space. `label_weight`: V, float32 [K, E]."""
        classes, units = label_weight.shape
        return cls(
            positional_weight=np.zeros((0, code_size), np.float32),
            hidden_bias=np.zeros(0, np.float32),
            density_weight=np.zeros(0, np.float32),
            density_bias=np.zeros(1, np.float32),
            label_positional_weight=np.zeros((units, code_size), np.float32),
            label_hidden_bias=np.zeros(units, np.float32),
            label_weight=label_weight,
            label_bias=np.zeros(classes, np.float32),
            volume=volume,
            unit_stride=unit_stride,
        )

    @property
    def unit_cells(self) -> tuple[int, int, int]:
        """Cells (x, y, z) that have label units. Raises ValueError: pixels have them."""
        if self.volume is None:
            raise ValueError("pixels have the label units")
        x, y, z = (-(-count // self.unit_stride) for count in self.volume.knots)
        return x, y, z

    @property
    def hidden(self) -> int:
        """Hidden units C of the density, which is the number of channels of F."""
        return int(self.hidden_bias.shape[0])

    @property
    def label_hidden(self) -> int:
        """Hidden units E of the labels; 0 without labels."""
        return 0 if self.label_hidden_bias is None else int(self.label_hidden_bias.shape[0])

    @property
    def volume_knots(self) -> tuple[int, ...]:
        """Shape (X, Y, Z) of the encoder's volume; empty without one."""
        return () if self.volume is None else self.volume.knots

    @property
    def channels(self) -> int:
        """Channels C + E of the encoder's output: first those of the density, then those of the labels."""
        return self.hidden + self.label_hidden

    @property
    def classes(self) -> int:
        """Number K of classes; 1 without labels, the only one there is."""
        return 1 if self.label_bias is None else int(self.label_bias.shape[0])

    def label_layers(self) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
        """W_l [E, 39], b_l [E], V [K, E], v [K]. Raises ValueError where the head has no labels."""
        positional_weight, hidden_bias = self.label_positional_weight, self.label_hidden_bias
        weight, bias = self.label_weight, self.label_bias
        if positional_weight is None or hidden_bias is None or weight is None or bias is None:
            raise ValueError("the head has no labels")
        return positional_weight, hidden_bias, weight, bias

    def tensors(self) -> dict[str, NDArray[np.float32]]:
        """All tensors by name; those of labels and of the volume where there are any."""
        tensors = {name: getattr(self, name) for name in expected_shapes(1, 1, 1)}
        if self.volume is not None:
            tensors |= {f"volume_{name}": getattr(self.volume, name) for name in _OF_VOLUME}
        return {name: tensor for name, tensor in tensors.items() if tensor is not None}

    def shapes(self, code_size: int) -> dict[str, tuple[int, ...]]:
        """Name and shape that each of its tensors has to have for a code of this length."""
        return expected_shapes(self.hidden, code_size, self.label_hidden, self.classes, self.volume_knots)

    @classmethod
    def load(
        cls,
        file: Path,
        hidden: int,  # C
        code_size: int,  # length of the point code
        label_hidden: int = 0,  # E; 0 where the student has no classes
        classes: int = 1,  # K
        volume_knots: tuple[int, ...] = (),  # (X, Y, Z) of the encoder's volume; none where it gives none
        unit_stride: int = 0,  # knots of the volume to a cell that has label units; 0 where pixels have them
    ) -> "HeadWeights":
        """Reads ``head.safetensors``.

        Raises BundleError where the file is no safetensors, or `check_tensors` does.
        """
        tensors = read_tensors(file, BundleError, cure=CURE)
        expected = expected_shapes(hidden, code_size, label_hidden, classes, volume_knots)
        check_tensors(tensors, expected, str(file))
        volume = None
        if volume_knots:
            x, y, z = volume_knots
            volume = VolumeReading(**{name: tensors[f"volume_{name}"] for name in _OF_VOLUME}, knots=(x, y, z))
        own = {name: tensors[name] for name in expected if not name.startswith("volume_")}
        return cls(**own, volume=volume, unit_stride=unit_stride)


def expected_shapes(
    hidden: int,
    code_size: int,
    label_hidden: int = 0,
    classes: int = 1,
    volume_knots: tuple[int, ...] = (),
) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor of the head; those of labels and volume where sizes are given."""
    shapes: dict[str, tuple[int, ...]] = {
        "positional_weight": (hidden, code_size),
        "hidden_bias": (hidden,),
        "density_weight": (hidden,),
        "density_bias": (1,),
    }
    if label_hidden:
        shapes |= {"label_positional_weight": (label_hidden, code_size), "label_hidden_bias": (label_hidden,)}
        shapes |= {"label_weight": (classes, label_hidden), "label_bias": (classes,)}
    if volume_knots:
        shapes |= {"volume_gain": (1,), "volume_lattice": (2, 3)}
    return shapes


def check_tensors(
    tensors: Mapping[str, NDArray[np.float32]], expected: Mapping[str, tuple[int, ...]], where: str
) -> None:
    """Raises BundleError where a tensor is missing or too many, not float32, of another shape, not finite or huge."""
    for name in sorted(tensors.keys() - expected.keys()):
        raise BundleError("is none of this head", where=f"{where}: tensor {name}", cure=CURE)
    for name, shape in expected.items():
        if name not in tensors:
            raise BundleError("is missing", where=f"{where}: tensor {name}", cure=CURE)
        tensor = tensors[name]
        if tensor.dtype != np.float32 or tensor.shape != shape:
            what = f"is {tensor.dtype} {tensor.shape} where float32 {shape} is needed"
            raise BundleError(what, where=f"{where}: tensor {name}", cure=CURE)
        if not np.all(np.abs(tensor) <= LARGEST_WEIGHT):
            what = f"holds NaN, or values beyond {LARGEST_WEIGHT:g}"
            raise BundleError(what, where=f"{where}: tensor {name}", cure="The training diverged: export again.")


LOOK_LIMIT = 2.0  # cells beyond so many half widths of the image look at its border from there


class Lookups(NamedTuple):
    """Where the cells of a volume look at an image: x y cells of the bird's-eye view, z heights."""

    pixels: Any  # normalised coordinates [B, z, x y, 2], from -1 to 1 at the edges of the image
    depth: Any  # z-depth of the cells [B, 1, z, x y], metres
    in_view: Any  # 1 where a cell lies in the image [B, 1, z, x y]


def cell_lookups(
    grid: VoxelGrid, stride: int, camera: Camera, spec: PointCodeSpec, volume_from_camera: Any, side: Any
) -> Lookups:
    """Where the cells of a volume look at the image, for each pose of the camera in it.

    `stride`: voxels to a cell along each axis; `volume_from_camera`: poses [B, 4, 4]; the volume is that of `grid`;
    `side`: 1, or -1 for scenes [B] whose image and volume are mirrored from left to right.
    """
    xp = array_api_compat.array_namespace(volume_from_camera)
    kind, one = volume_from_camera.dtype, xp.ones_like(side)
    edge = grid.voxel_size * stride
    device = array_api_compat.device(volume_from_camera)
    axes = [
        origin + edge * (xp.arange(-(-count // stride), dtype=kind, device=device) + 0.5)
        for origin, count in zip(grid.origin, grid.shape, strict=True)
    ]
    z, x, y = xp.meshgrid(axes[2], axes[0], axes[1], indexing="ij")
    cells = xp.reshape(xp.stack([x, y, z], axis=-1), (1, -1, 3))
    places = cells * xp.stack([one, side, one], axis=-1)[:, None, :]
    # The inverse of a rigid transform, for rows.
    points = (places - volume_from_camera[:, None, :3, 3]) @ volume_from_camera[:, :3, :3]
    pixels = spec.image_coordinates(points, camera)
    in_view = xp.all(xp.abs(pixels) <= 1.0, axis=-1) & (points[..., 2] > 0.0)
    pixels = xp.clip(pixels, -LOOK_LIMIT, LOOK_LIMIT) * xp.stack([side, one], axis=-1)[:, None, :]
    heights = -(-grid.shape[2] // stride)
    shape = (pixels.shape[0], heights, pixels.shape[1] // heights)
    depth, shown = xp.reshape(points[..., 2], shape), xp.reshape(xp.astype(in_view, kind), shape)
    return Lookups(xp.reshape(pixels, (*shape, 2)), depth[:, None], shown[:, None])


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


def volume_pose(upright_from_camera: RigidTransform, height: float) -> RigidTransform:
    """Pose of a camera in a volume that stands upright below it and looks where the camera looks.

    `upright_from_camera`: its pose in a frame whose z axis points up and begins on the ground; `height`: of the
    volume's origin above the ground, metres: that of the cameras of the training.
    """
    return RigidTransform(np.eye(3), np.array([0.0, 0.0, -height])) @ upright_from_camera.levelled()


@dataclass(frozen=True, eq=False)
class GroundSurface:
    """The ground ahead of a camera, on a regular grid that looks where the camera looks."""

    # float32 [x, y, 3], metres, in the camera's optical frame. Rows lead away from the camera, columns from right to
    # left. NaN where the image does not show its place.
    points: NDArray[np.float32]
    deviation: NDArray[np.float32]  # float32 [x, y], standard deviation of its height, metres


def ground_surface(
    surface: NDArray[np.float32],
    grid: VoxelGrid,
    stride: int,
    camera: Camera,
    volume_from_camera: RigidTransform | None,
) -> GroundSurface:
    """The ground as a graph predicts it, see `EncodedImage.surface`; arguments as those of `graph_inputs`."""
    height, deviation = surface
    edge = stride * grid.voxel_size
    x, y = (grid.origin[axis] + edge * (np.arange(count) + 0.5) for axis, count in enumerate(height.shape))
    places = np.stack([*np.meshgrid(x, y, indexing="ij"), height], axis=-1)
    points = (volume_from_camera or DEFAULT_GRID_FROM_CAMERA).inverse().apply(places.reshape(-1, 3))
    shown = np.asarray(camera.project(points)[1])
    points = np.where(shown[:, None], points, np.nan).astype(np.float32)
    return GroundSurface(points.reshape(places.shape), np.ascontiguousarray(deviation))


def graph_inputs(
    grid: VoxelGrid,
    stride: int,
    camera: Camera,  # canonical camera
    spec: PointCodeSpec,
    height: float,  # of the volume's origin above the ground, metres
    # See `volume_pose`; where it is unknown the usual one is taken, and marked so.
    volume_from_camera: RigidTransform | None,
) -> dict[str, NDArray[np.float32]]:
    """The inputs of the graphs besides the image, by name, without evidence of depth.

    Of evidence, ``scale`` [1, 2] is the logarithm of the factor on the depths of all pixels and the precision of that,
    one over its variance; ``sensed`` [1, 2, H / 2, W / 2] is the logarithm of the depth that a sensor saw, metres, and
    its precision. A precision of 0 means unknown.
    """
    known = volume_from_camera is not None
    pose = np.asarray((volume_from_camera or DEFAULT_GRID_FROM_CAMERA).matrix, np.float32)[None]
    given: dict[str, NDArray[Any]] = {}
    for name, of_step in (("cell", stride), ("voxel", 1)):
        where = cell_lookups(grid, of_step, camera, spec, pose, np.ones(1, np.float32))
        given |= {f"{name}_{part}": values for part, values in where._asdict().items()}
    half = camera.resized(camera.width // 2, camera.height // 2)
    code = ground_code(half, spec, pose, -height)
    given["ground"] = np.concatenate([code, np.ones_like(code)], axis=1) * np.float32(known)
    given |= {"scale": np.zeros((1, 2)), "sensed": np.zeros((1, 2, half.height, half.width))}
    return {name: np.ascontiguousarray(values, np.float32) for name, values in given.items()}
