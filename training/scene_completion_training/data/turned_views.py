"""Views of a recorded image by a camera that is turned, zoomed and cropped, and what is true of their pixels.

A turn about the optical centre is a homography, exact for any depth. A zoom is another focal length, and its picture is
shown as one of the canonical camera, which knows none: what it shows seems nearer by the zoom. So depth is divided by
it, as Metric3D does with its labels (Yin et al., ICCV 2023). Seen so, sizes across the axis, the height of the camera
and a roll stay as they are, as does how large a thing is at a distance; lengths along the axis are divided by the zoom:
with 0.85 to 1.2, a car of 4.2 m is one of 3.5 to 4.9 m. What stands then leans where the camera looks up or down, by
0.4 of its pitch at most. Cameras that look down more than a car's are better not zoomed.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import cv2
import numpy as np

from scene_completion_ros.errors import ConfigurationError
from scene_completion_ros.geometry import Camera, RigidTransform
from scene_completion_ros.geometry.depth_images import sparse_depth
from scene_completion_ros.geometry.road_plane import RoadPlane
from scene_completion_ros.geometry.transforms import about
from scene_completion_training.arrays import Bytes, Doubles, Floats, Mask, Random, Reals
from scene_completion_training.data.drawn_views import canonical_image, homography, nearest_values

_MOST_DEGREES, _ZOOMS = 15.0, (0.5, 2.0)
_EDGES = 2  # of other views, by which pictures are cropped: where one ends would tell by how much it is turned
_ONE_SURFACE = 0.05  # share of inverse depth by which neighbouring pixels of one surface differ at most


@dataclass
class Turns:
    """How far views are turned and zoomed, evenly from one end to the other."""

    roll: float = 4.0  # largest turn about the optical axis, degrees
    pitch: float = 3.0  # largest turn up or down, degrees
    # Smallest and largest focal length over that of the canonical camera; smaller than 1 as far as pictures reach.
    zooms: tuple[float, float] = (0.85, 1.2)

    def check(self, where: str) -> None:
        """Raises a `ConfigurationError` for what is no turn or zoom; `where`: name of these settings."""
        refuse_angles({f"{where}.{name}": getattr(self, name) for name in ("roll", "pitch")}, _MOST_DEGREES)
        low, high = self.zooms
        if not _ZOOMS[0] <= low <= 1.0 <= high <= _ZOOMS[1]:
            what = f"[{low:g}, {high:g}] is no range of zooms around 1"
            cure = f"Give the smallest, then the largest, from {_ZOOMS[0]:g} to {_ZOOMS[1]:g}; [1, 1] for none"
            raise ConfigurationError(what, where=f"{where}.zooms", cure=cure)

    def drawn(self, chance: Random, camera: Camera, canonical: Camera) -> TurnedView:
        """A view of an image of a pinhole camera; no wider than the image, where the canonical one shows all of it."""
        widest = min(1.0, max(_reach(canonical) / _reach(camera)))
        low, high = np.log([max(self.zooms[0], widest), self.zooms[1]])
        zoom = float(np.exp(chance.uniform(low, high)))
        turns = [chance.uniform(-1.0, 1.0, 2) * np.radians([self.roll, self.pitch]) for _ in range(1 + _EDGES)]
        rotation, *edges = (turned(*each) for each in turns)
        return TurnedView(rotation, zoom, tuple(edges))


def refuse_angles(angles: dict[str, float], most: float) -> None:
    """Raises a `ConfigurationError` where an angle, degrees, by the name of its setting, is not from 0 to the most."""
    for name, degrees in angles.items():
        if not 0.0 <= degrees <= most:
            raise ConfigurationError(f"{degrees:g}°", where=name, cure=f"Take 0 for none, or up to {most:g} degrees")


def _reach(camera: Camera) -> Doubles:
    """How far a pinhole's image reaches to the left, the top, the right and the bottom, at a depth of 1."""
    focal, centre = np.array([camera.fx, camera.fy]), np.array([camera.cx, camera.cy]) + 0.5
    return np.concatenate([centre / focal, (np.array([camera.width, camera.height]) - centre) / focal])


def turned(roll: float, pitch: float) -> Doubles:
    """Rotation [3, 3] to the optical frame from that of a camera that is turned there.

    `roll`: to the right, `pitch`: down, radians: a level camera that is turned so has this roll and this pitch.
    """
    return about(2, roll) @ about(0, -pitch)


@dataclass(frozen=True, eq=False)
class TurnedView:
    """A camera at the place of a recorded one; by default it looks as that, with the canonical lens."""

    rotation: Doubles = field(default_factory=lambda: np.eye(3))  # [3, 3], recorded optical frame from its own
    zoom: float = 1.0  # its focal length over that of the canonical camera
    edges: tuple[Doubles, ...] = ()  # rotations of others with this lens, whose edges crop its picture, too

    @property
    def camera_from_seen(self) -> Doubles:
        """Where in the recorded optical frame a place is that the view shows, to the canonical camera: matrix [4, 4].

        It is affine: the axis is stretched by the zoom.
        """
        matrix = np.eye(4)
        matrix[:3, :3] = self.rotation @ np.diag([1.0, 1.0, self.zoom])
        return matrix

    def lens(self, canonical: Camera) -> Camera:
        """The canonical camera with the focal length of this one."""
        return replace(canonical, fx=self.zoom * canonical.fx, fy=self.zoom * canonical.fy)

    def picture(self, image: Bytes, camera: Camera, canonical: Camera) -> Bytes:
        """The view of a pinhole camera's image [h, w, 3], as large as the canonical one; its border is repeated."""
        return canonical_image(image, camera, self.lens(canonical), self.rotation)

    def shown(self, camera: Camera, canonical: Camera) -> Mask:
        """Which pixels [H, W] of the picture lie within a pinhole camera's image, and within the edges that crop it."""
        lens, whole = self.lens(canonical), np.ones((camera.height, camera.width), np.uint8)
        each = [nearest_values(whole, camera, lens, rotation) for rotation in (self.rotation, *self.edges)]
        return np.asarray(np.all(each, axis=0))

    def classes(self, classes: Bytes, camera: Camera, canonical: Camera, beyond: int) -> Bytes:
        """Classes [h, w] of a pinhole camera's pixels in the view, of the size of the canonical camera."""
        return np.asarray(nearest_values(classes, camera, self.lens(canonical), self.rotation, beyond), np.uint8)

    def depth(self, depth: Reals, camera: Camera, canonical: Camera) -> Floats:
        """z-depth [h, w] as the view shows it to the canonical camera, see `carried_depth`."""
        carried: Floats = carried_depth(depth, camera, self.lens(canonical), self.rotation) / np.float32(self.zoom)
        return carried


def carried_depth(depth: Reals, camera: Camera, target: Camera, rotation: Doubles | None = None) -> Floats:
    """z-depth [h, w] of a pinhole at the place of another one, of whose pixels it is known; turned by a rotation.

    Points are turned, not their depths copied. Between the pixels of a surface inverse depth is linear, as that of a
    plane is; at edges that of the nearest one counts. Points alone, as those of LiDAR, fall into the pixel that sees
    them, of several the nearest. Depth is 0 where unknown, infinite in the sky. `rotation`: [3, 3], to the optical
    frame of `camera` from that of the target.
    """
    turn, size, known = np.eye(3) if rotation is None else rotation, (target.width, target.height), depth > 0.0
    inverse = np.divide(1.0, depth, out=np.full(depth.shape, np.nan, np.float32), where=known, dtype=np.float32)
    matrix = homography(camera, target, turn)
    near, between = (
        cv2.warpPerspective(inverse, matrix, size, flags=kind | cv2.WARP_INVERSE_MAP, borderValue=np.nan)
        for kind in (cv2.INTER_NEAREST, cv2.INTER_LINEAR)
    )
    along = target.unproject(target.pixel_centres()) @ turn[2]  # depth in `camera` of what is 1 deep in the target
    smooth = np.where(np.abs(between - near) <= _ONE_SURFACE * near, between, near) * along
    v, u = np.nonzero(known & np.isfinite(depth))
    rays = np.stack([u, v, np.ones_like(u)], axis=-1) @ np.linalg.inv(camera.matrix).T
    alone = sparse_depth(rays * depth[v, u, None] @ turn, target)
    with np.errstate(divide="ignore"):
        found = np.where(np.isfinite(between), 1.0 / smooth, np.where(near == 0.0, np.inf, alone))
    return found.astype(np.float32)


def turned_pose(volume_from_camera: RigidTransform, camera_from_seen: Doubles, level: float) -> RigidTransform:
    """Pose in the volume of the camera as a view shows it: above the same ground, looking where the view looks.

    `level`: height of the ground in the volume, metres; see `TurnedView.camera_from_seen`.
    """
    up = volume_from_camera.rotation[2] @ camera_from_seen[:3, :3]
    stretch = float(np.linalg.norm(up))
    height = float(volume_from_camera.translation[2] - level) / stretch
    above = RoadPlane.below(-up / stretch, height).upright_from_camera
    return RigidTransform(above.rotation, above.translation + (0.0, 0.0, level))


def margined(camera: Camera) -> Camera:
    """A pinhole with a tenth of its width more to each side: what comes into view where it is turned and zoomed."""
    more = camera.width // 10
    width, height = camera.width + 2 * more, camera.height + 2 * more
    return replace(camera, cx=camera.cx + more, cy=camera.cy + more, width=width, height=height)
