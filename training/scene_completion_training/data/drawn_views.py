"""The views of a sample: which frames and cameras they are, what they show in the canonical camera, how ground lies."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from scene_completion_ros.evaluation.semantic_classes import INVALID
from scene_completion_ros.geometry import Camera, RigidTransform
from scene_completion_ros.geometry.road_plane import LEAST_POINTS, fitted_plane
from scene_completion_training.arrays import Bytes, Doubles, Floats, Ints, Random, Reals
from scene_completion_training.data.prepared import Drive, PreparedFrame
from scene_completion_training.data.voxel_evidence import POINT_UNIT
from scene_completion_training.viewpoint import STREET_HEIGHT_M, Viewpoint

OTHER = {"left": "right", "right": "left"}
_SAME = 0.01  # pixels: an image whose camera is the canonical one, but for less, is taken as it is


def homography(source: Camera, target: Camera, turn: Doubles | None) -> Doubles:
    """Source pixel from target pixel, of pinholes at one place, the target turned by `source_from_target` rotation."""
    rotation = np.eye(3) if turn is None else turn
    return np.asarray(source.matrix @ rotation @ np.linalg.inv(target.matrix))


def canonical_image(image: Bytes, camera: Camera, canonical: Camera, turn: Doubles | None = None) -> Bytes:
    """Image [H, W, 3] of a pinhole camera in the canonical one, which is turned by `turn` (source from target)."""
    size = (canonical.width, canonical.height)
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    matrix = homography(camera, canonical, turn)
    if image.shape[:2] == size[::-1] and np.abs((matrix - np.eye(3)) @ [*size, 1.0]).max() < _SAME:
        return image
    return np.asarray(cv2.warpPerspective(image, matrix, size, flags=flags, borderMode=cv2.BORDER_REPLICATE), np.uint8)


def nearest_values(
    values: NDArray[Any], camera: Camera, canonical: Camera, turn: Doubles | None = None, beyond: int = 0
) -> NDArray[Any]:
    """Values [h, w] of the nearest pixels of a pinhole camera in the canonical one [H, W], and beyond its edges."""
    size, flags = (canonical.width, canonical.height), cv2.INTER_NEAREST | cv2.WARP_INVERSE_MAP
    return cv2.warpPerspective(values, homography(camera, canonical, turn), size, flags=flags, borderValue=beyond)


def canonical_classes(classes: Bytes, camera: Camera, canonical: Camera) -> Bytes:
    """Classes [h, w] of a pinhole camera's pixels in the canonical one [H, W], 255 beyond its edges."""
    return np.asarray(nearest_values(classes, camera, canonical, beyond=INVALID), np.uint8)


def canonical_depth(depth: Reals, camera: Camera, canonical: Camera, turn: Doubles | None = None) -> Floats:
    """z-depth along the axis of the (turned) canonical camera."""
    warped = nearest_values(depth.astype(np.float32), camera, canonical, turn)
    if turn is not None:
        v, u = np.mgrid[: canonical.height, : canonical.width]
        ray = np.stack([u, v, np.ones_like(u)], axis=-1) @ np.linalg.inv(canonical.matrix).T
        warped = warped / (ray @ turn[2])  # z along the source's axis of a ray that has z = 1 along the turned one
    return np.asarray(warped, np.float32)


def jittered(image: Bytes, generator: Random, strength: float = 0.3, washed: float = 0.2) -> Bytes:
    """Brightness, contrast and saturation jitter of a strength, hue ±0.1; greyscale and blur each in a share of images.

    Stronger than in BTS (±0.2, neither grey nor blurred): few drives would be identified by their colours.
    """
    brightness, contrast, saturation = generator.uniform(1.0 - strength, 1.0 + strength, 3)
    hue = generator.uniform(-0.1, 0.1)
    grey, blurred = generator.random(2) < washed
    out = image.astype(np.float32) * brightness
    out = (out - out.mean()) * contrast + out.mean()
    jittered = np.clip(out, 0, 255).astype(np.uint8)
    if blurred:
        jittered = np.asarray(cv2.GaussianBlur(jittered, (0, 0), generator.uniform(0.4, 1.2)), np.uint8)
    if grey:
        return np.asarray(cv2.cvtColor(cv2.cvtColor(jittered, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB), np.uint8)
    hsv = cv2.cvtColor(jittered, cv2.COLOR_RGB2HSV).astype(np.float32)
    hsv[..., 0] = (hsv[..., 0] + hue * 180.0) % 180.0
    hsv[..., 1] = np.clip(hsv[..., 1] * saturation, 0, 255)
    return np.asarray(cv2.cvtColor(hsv.astype(np.uint8), cv2.COLOR_HSV2RGB), np.uint8)


@dataclass(frozen=True, eq=False)
class Draw:
    """What chance chose for a sample."""

    frames: Drive
    index: int
    travelled: Doubles
    side: str
    mirror: bool
    turn: Doubles
    encoder_from_world: RigidTransform


@dataclass(frozen=True, eq=False)
class DrawnViews:
    """The V views of a sample in the canonical camera, mirrored where the sample is."""

    draw: Draw
    names: list[tuple[int, str]]  # frame and camera of each view
    camera: Camera
    # The colour jitter, the same for all views; without one they keep their colours.
    jitter: Callable[[Bytes], Bytes] | None = None

    @property
    def images(self) -> Tensor:
        """RGB [V, 3, H, W] in 0..1."""
        images = [canonical_image(frame.images[name], frame.cameras[name], self.camera) for frame, name in self._seen]
        jittered = images if self.jitter is None else map(self.jitter, images)
        return self._stacked(jittered).permute(0, 3, 1, 2).float() / 255.0

    @property
    def masks(self) -> Tensor:
        """Tells if a pixel shows the world [V, H, W]; false for the vehicle, and for a view that comes again."""
        again = torch.tensor([name in self.names[:k] for k, name in enumerate(self.names)])
        stored = [(frame.mask(name).astype(np.uint8), frame.cameras[name]) for frame, name in self._seen]
        return (
            self._stacked(nearest_values(mask, camera, self.camera) > 0 for mask, camera in stored)
            & ~again[:, None, None]
        )

    @property
    def hints(self) -> Tensor:
        """Stereo z-depth [V, H, W], metres; 0 where unknown, as everywhere in a camera without a partner."""
        return self._stacked(depth_hint(frame, name, self.camera) for frame, name in self._seen)

    @property
    def poses(self) -> Tensor:
        """`encoder_from_view` [V, 4, 4]."""
        flip = np.diag([-1.0, 1.0, 1.0, 1.0]) if self.draw.mirror else np.eye(4)
        poses = [(self.draw.encoder_from_world @ frame.world_from_camera[name]).matrix for frame, name in self._seen]
        return torch.from_numpy(flip @ np.stack(poses) @ flip).float()

    @property
    def _seen(self) -> list[tuple[PreparedFrame, str]]:
        return [(self.draw.frames[index], name) for index, name in self.names]

    def _stacked(self, values: Iterable[NDArray[Any]]) -> Tensor:
        stacked = np.stack(list(values))
        return as_tensor(stacked[:, :, ::-1] if self.draw.mirror else stacked)


def depth_hint(frame: PreparedFrame, name: str, canonical: Camera, turn: Doubles | None = None) -> Floats:
    """Stereo z-depth [H, W] of a camera in the (turned) canonical one, metres; 0 where unknown."""
    if name not in frame.depths:
        return np.zeros((canonical.height, canonical.width), np.float32)
    return canonical_depth(frame.depths[name], frame.cameras[name], canonical, turn)


def published_views(frames: Drive, index: int, side: str, near: int, far: int | None) -> list[tuple[int, str]]:
    """The views of a sample as Behind the Scenes has them: of each camera a frame, and the one `near` frames later.

    The sample's own camera comes first, then the other of the pair, then the side cameras (or the pair once more),
    `far` frames on. Beyond the end of the drive its last frame stands in.
    """
    last = len(frames) - 1
    pair = [name for name in (side, OTHER.get(side, "")) if name in frames[index].images]
    views = [(min(index + later, last), name) for name in pair for later in (0, near)]
    if far is not None:
        aside = frames[index].far_cameras
        views += [(min(index + far + later, last), name) for name in aside for later in (0, near)]
    return views


def roles_of_views(views: int, generator: Random, *, in_turn: bool = False, alternate: bool = False) -> Ints:
    """Which views are rendered (first half) and which supply colours.

    Of eight views, each camera renders one of its two frames and supplies the other: by chance, as in SceneDINO, or
    `in_turn`, first and second from camera to camera (BTS `kitti360-mono`), so that each instant is supplied by some
    camera. With `alternate`, every second view is rendered: the first and third, or the others.
    """
    if alternate:
        first = np.arange(0, views, 2) + int(generator.integers(2))
        return np.concatenate([first, first ^ 1])
    if views in (3, 4):
        return generator.permutation(views)
    if in_turn:
        later = (np.arange(views // 2) + int(generator.integers(2))) % 2
    else:
        later = (generator.random(views // 2) < 0.5).astype(np.int64)
    first = 2 * np.arange(views // 2)
    return np.concatenate([first + later, first + 1 - later])


def unused_frame(frames: Drive, wanted: int, camera: str, used: Sequence[tuple[int, str]]) -> tuple[int, str]:
    """The nearest frame to the wanted one, later first, whose view of a camera is not used yet; itself without any."""
    order = sorted(range(len(frames)), key=lambda index: (abs(index - wanted), -index))
    return next(((index, camera) for index in order if (index, camera) not in used), (wanted, camera))


def neighbouring_frame(frames: Drive, index: int, generator: Random, apart: float = 0.3) -> int:
    """A frame before or after that is at least so many metres away, or the third one where the rig hardly moves."""
    step = 1 if generator.random() < 0.5 else -1
    if not 0 <= index + step < len(frames):
        step = -step
    here = frames[index].world_from_camera["left"].translation
    other = index
    for _ in range(3):
        if not 0 <= other + step < len(frames):
            break
        other += step
        if np.linalg.norm(frames[other].world_from_camera["left"].translation - here) > apart:
            break
    return other


def metres_travelled(places: ArrayLike) -> Doubles:
    """Distance along the drive [N] of positions [N, 3] in its order, metres."""
    return np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(places, axis=0), axis=1))])


def nearest_along(travelled: Doubles, index: int, metres: float) -> int:
    """The place nearest to so many metres (or back) from another, by `metres_travelled`; the last where drives end."""
    return int(np.argmin(np.abs(travelled - travelled[index] - metres)))


def as_tensor(array: NDArray[np.generic]) -> Tensor:
    """A tensor of a contiguous copy of an array, or of itself where it is contiguous."""
    return torch.from_numpy(np.ascontiguousarray(array))


_FRAMES = 12
_STEEPEST = 0.1  # a fit that is steeper met a wall or a kerb


def ground_roll(frames: Drive, viewpoint: Viewpoint) -> float:
    """Angle by which the ground's y (down) grows with the left camera's x, radians: the mean over up to a dozen frames.

    Cameras are rarely level with the road (KITTI's stands about 1° askew): a scene mirrored in the camera's own plane
    would tilt it to the other side. It is 0 where no ground is seen at the viewpoint's height.
    """
    slopes = [_slope(frame, viewpoint) for frame in frames[:: -(-len(frames) // _FRAMES)]]
    found = [slope for slope in slopes if slope is not None and abs(slope) < _STEEPEST]
    return float(np.arctan(np.mean(found))) if found else 0.0


def _slope(frame: PreparedFrame, viewpoint: Viewpoint) -> float | None:
    """Slope along x of a plane fitted to occupied voxels of the road ahead; None without one."""
    scale = viewpoint.height_above_ground / STREET_HEIGHT_M
    points = frame.points[frame.target > 180] * POINT_UNIT
    ahead = (points[:, 2] > 4.0 * scale) & (points[:, 2] < 20.0 * scale)
    road = points[ahead & (np.abs(points[:, 0]) < 5.0 * scale)]
    # The road is the lowest big thing: what lies well above the median of the lower half is no road.
    road = road[road[:, 1] > 0.5 * scale]
    if len(road) < LEAST_POINTS:
        return None
    height = np.median(road[road[:, 1] >= np.median(road[:, 1]), 1])
    road = road[np.abs(road[:, 1] - height) < max(0.4 * scale, 2.0 * viewpoint.volume.voxel_size)]
    plane = fitted_plane(road)
    return None if plane is None else -float(np.tan(plane.roll))
