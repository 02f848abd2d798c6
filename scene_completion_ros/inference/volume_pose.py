"""Where the volume of a student stands that is told how its camera is mounted, and what its graph is given of that.

One definition for NumPy and torch (array API), so that training and the robot cannot drift apart.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import array_api_compat
import numpy as np
from numpy.typing import NDArray

from scene_completion_ros.geometry.cameras import Camera
from scene_completion_ros.geometry.grids import DEFAULT_GRID_FROM_CAMERA, VoxelGrid
from scene_completion_ros.geometry.transforms import RigidTransform
from scene_completion_ros.inference.head import PointCodeSpec

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
    """The ground of what a graph says of it, see `EncodedImage.surface`; arguments as those of `graph_inputs`."""
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
    # As `volume_pose` says; where nobody knows it the usual one is taken, and told apart.
    volume_from_camera: RigidTransform | None,
) -> dict[str, NDArray[np.float32]]:
    """What a graph is given beside the image, by name."""
    known = volume_from_camera is not None
    pose = np.asarray((volume_from_camera or DEFAULT_GRID_FROM_CAMERA).matrix, np.float32)[None]
    given: dict[str, NDArray[np.float32]] = {}
    for name, of_step in (("cell", stride), ("voxel", 1)):
        where = cell_lookups(grid, of_step, camera, spec, pose, np.ones(1, np.float32))
        given |= {f"{name}_{part}": values for part, values in where._asdict().items()}
    code = ground_code(camera.resized(camera.width // 2, camera.height // 2), spec, pose, -height)
    given["ground"] = np.concatenate([code, np.ones_like(code)], axis=1) * np.float32(known)
    return {name: np.ascontiguousarray(values, np.float32) for name, values in given.items()}


def no_evidence(camera: Camera) -> dict[str, NDArray[np.float32]]:
    """What a decoder is given where nobody knows anything of depth, by name.

    ``scale`` [1, 2] is the logarithm of the factor on the depths of all pixels and the precision of that, one over its
    variance; ``sensed`` [1, 2, H / 2, W / 2] is the logarithm of the depth that a sensor saw, metres, and its
    precision. A precision of 0 says that nothing is known.
    """
    size = camera.height // 2, camera.width // 2
    return {"scale": np.zeros((1, 2), np.float32), "sensed": np.zeros((1, 2, *size), np.float32)}
