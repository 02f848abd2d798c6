"""What RViz would show, for the documents: the points of a cloud as boxes, and a map of the ground from above."""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from scene_completion_ros.geometry.cameras import Camera
from scene_completion_ros.geometry.transforms import RigidTransform
from scene_completion_ros.mapping.ground_map import GroundMap
from scene_completion_ros.report.map_axes import MARGIN, MapScale, Picture, draw_axes, draw_camera, map_picture

FIELD_OF_VIEW = math.radians(45.0)  # from top to bottom, that of RViz
BACKGROUND = (48, 48, 48)
FREE_COLOUR, OCCUPIED_COLOUR, UNKNOWN_COLOUR = (255, 255, 255), (0, 0, 0), (112, 137, 134)
CLEARING_COLOUR = (0, 150, 0)
_NEAREST = 0.1  # metres before the eye in which nothing is drawn
_LINE_COLOUR = (96, 96, 98)
_CORNERS = np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)])  # around a face


@dataclass(frozen=True)
class OrbitView:
    """A viewer that looks at a point, with the z axis of the frame upward in its picture, as RViz's orbit view.

    Attributes:
        yaw: Angle of the viewer around the z axis of the frame, radians; 0 is on the side of x.
        pitch: Angle of the viewer above the plane of x and y, radians.
        distance: Metres to the point.
        focal_point: The point, metres in the frame.
    """

    yaw: float
    pitch: float
    distance: float
    focal_point: tuple[float, float, float]

    def frame_from_eye(self) -> RigidTransform:
        """Pose of the viewer: its x points right in the picture, y down, z forward."""
        level = math.cos(self.pitch)
        forward = -np.array([math.cos(self.yaw) * level, math.sin(self.yaw) * level, math.sin(self.pitch)])
        right = np.cross(forward, [0.0, 0.0, 1.0])
        right /= np.linalg.norm(right)
        rotation = np.stack([right, np.cross(forward, right), forward], axis=1)
        return RigidTransform(rotation, np.asarray(self.focal_point) - self.distance * forward)


class BoxPicture:
    """A picture that lines, a map on the ground and boxes are drawn into, one after the other.

    Args:
        view: Where the viewer is.
        width: Of the picture, pixels.
        height: Of the picture, pixels.

    Attributes:
        picture: RGB [height, width, 3].
    """

    def __init__(self, view: OrbitView, width: int, height: int) -> None:
        focal = 0.5 * height / math.tan(0.5 * FIELD_OF_VIEW)
        self._camera = Camera(focal, focal, 0.5 * (width - 1), 0.5 * (height - 1), width, height)
        self._frame_from_eye = view.frame_from_eye()
        self._eye_from_frame = self._frame_from_eye.inverse()
        self.picture: Picture = np.full((height, width, 3), BACKGROUND, dtype=np.uint8)

    def draw_lines(self, begin: NDArray[np.float64], end: NDArray[np.float64]) -> None:
        """Draw thin lines from points [N, 3] to points [N, 3], metres in the frame."""
        for first, last in zip(self._eye_from_frame.apply(begin), self._eye_from_frame.apply(end), strict=True):
            if max(first[2], last[2]) <= _NEAREST:
                continue
            near, far = (first, last) if first[2] < last[2] else (last, first)
            if near[2] < _NEAREST:
                near = near + (far - near) * (_NEAREST - near[2]) / (far[2] - near[2])
            (u, v), (to_u, to_v) = self._pixels(np.stack([near, far]))
            cv2.line(self.picture, (u, v), (to_u, to_v), _LINE_COLOUR, 1, cv2.LINE_AA)

    def draw_map(self, colours: Picture, frame_from_map: RigidTransform, cell_size: float, opacity: float) -> None:
        """Draw a map [H, W, 3], rows along y and columns along x of a plane that has to lie before the viewer.

        Args:
            colours: RGB of its cells.
            frame_from_map: Pose of the plane, whose origin is the corner of cell [0, 0].
            cell_size: Edge of a cell, metres.
            opacity: From 0 to 1.
        """
        eye_from_map = self._eye_from_frame @ frame_from_map
        camera = self._camera
        intrinsics = np.array([[camera.fx, 0.0, camera.cx], [0.0, camera.fy, camera.cy], [0.0, 0.0, 1.0]])
        plane = np.stack([*(cell_size * eye_from_map.rotation.T[:2]), eye_from_map.translation], axis=1)
        half_a_cell = np.array([[1.0, 0.0, 0.5], [0.0, 1.0, 0.5], [0.0, 0.0, 1.0]])  # pixels are known by their centres
        size = self.picture.shape[1::-1]
        homography = intrinsics @ plane @ half_a_cell
        drawn = cv2.warpPerspective(colours, homography, size, flags=cv2.INTER_NEAREST)
        covered = cv2.warpPerspective(np.full(colours.shape[:2], 255, np.uint8), homography, size) > 0
        mixed = opacity * drawn[covered] + (1.0 - opacity) * self.picture[covered]
        self.picture[covered] = np.rint(mixed).astype(np.uint8)

    def draw_boxes(
        self,
        centres: NDArray[np.float64],
        colours: NDArray[np.uint8],
        edge: float,
        light: tuple[float, float, float] = (0.7, 0.85, 1.0),
    ) -> None:
        """Draw boxes of one size with edges along the axes of the frame, far ones first.

        They have to lie on one grid: then what hides another one is always nearer by its centre.

        Args:
            centres: [N, 3], metres in the frame.
            colours: RGB [N, 3].
            edge: Metres.
            light: Brightness of the faces across x, y and z.
        """
        eye = self._frame_from_eye.translation
        place = np.rint((centres - centres.min(axis=0, initial=np.inf)) / edge).astype(np.int64)
        taken = np.zeros(place.max(axis=0, initial=-1) + 3, dtype=bool)
        taken[tuple((place + 1).T)] = True
        order = np.argsort(-np.linalg.norm(centres - eye, axis=1), kind="stable")
        polygons, colour_of, rank = [], [], []
        rank_of = np.empty(len(order), dtype=np.int64)
        rank_of[order] = np.arange(len(order))
        for axis in range(3):
            toward = np.sign(eye[axis] - centres[:, axis])
            outside = np.abs(eye[axis] - centres[:, axis]) > 0.5 * edge
            neighbour = place + 1
            neighbour[:, axis] += toward.astype(np.int64)
            seen = np.flatnonzero(outside & ~taken[tuple(neighbour.T)])
            corners = np.repeat(centres[seen][:, None], 4, axis=1)
            corners[..., axis] += 0.5 * edge * toward[seen, None]
            corners[..., [other for other in range(3) if other != axis]] += 0.5 * edge * _CORNERS
            polygons.append(corners)
            colour_of.append(np.rint(colours[seen] * light[axis]))
            rank.append(rank_of[seen])
        corners = self._eye_from_frame.apply(np.concatenate(polygons))
        before = (corners[..., 2] > _NEAREST).all(axis=1)
        pixels = self._pixels(corners[before])
        shade, ranks = np.concatenate(colour_of)[before], np.concatenate(rank)[before]
        for face in np.argsort(ranks, kind="stable"):
            cv2.fillConvexPoly(self.picture, pixels[face], tuple(map(int, shade[face])), cv2.LINE_AA)

    def _pixels(self, points_eye: NDArray[np.float64]) -> NDArray[np.int32]:
        """Pixels [..., 2] of points [..., 3] before the viewer."""
        camera = self._camera
        u = camera.cx + camera.fx * points_eye[..., 0] / points_eye[..., 2]
        v = camera.cy + camera.fy * points_eye[..., 1] / points_eye[..., 2]
        return np.clip(np.rint(np.stack([u, v], axis=-1)), -30000, 30000).astype(np.int32)


def map_colours(cells: NDArray[np.int8]) -> Picture:
    """RGB colours [H, W, 3] of cells [H, W]: RViz's scheme "map", white for 0, black for 100, greenish grey for -1."""
    grey = np.rint(255.0 * (1.0 - cells.clip(0, 100) / 100.0)).astype(np.uint8)
    return np.where((cells < 0)[..., None], np.array(UNKNOWN_COLOUR, dtype=np.uint8), grey[..., None])


def ground_view(
    ground: GroundMap,
    *,
    upright_from_camera: RigidTransform,
    camera: Camera | None = None,
    clearing: NDArray[np.float64] | None = None,
    height: int = 620,
) -> Picture:
    """The map from above, forward up and left to the left, with axes in metres and the camera's view.

    Args:
        upright_from_camera: Pose of the camera's optical frame in the map's upright frame.
        camera: Camera whose left and right view edges are drawn; none are drawn without it.
        clearing: Ends of clearing rays [N, 2] or [N, 3], x and y in the upright frame, metres.
        height: Wished height of the picture in pixels; the map takes a whole number of pixels a cell.
    """
    along_y, along_x = ground.cells.shape
    pixels = max(1, (height - 2 * MARGIN) // max(along_x, along_y))
    scale = MapScale(ground.origin, (along_x, along_y), ground.resolution, pixels)
    picture = map_picture(np.ascontiguousarray(map_colours(ground.cells).swapaxes(0, 1)), scale)
    for x, y in [] if clearing is None else np.asarray(clearing)[:, :2]:
        column, row = scale.pixel(float(x), float(y))
        if MARGIN <= column < picture.shape[1] - MARGIN and MARGIN <= row < picture.shape[0] - MARGIN:
            picture[row, column] = CLEARING_COLOUR
    draw_axes(picture, scale)
    draw_camera(picture, scale, upright_from_camera, camera)
    return picture
