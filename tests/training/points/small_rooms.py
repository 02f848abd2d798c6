"""Small rooms of points whose views are cast by hand: floor, walls, and two boxes that hide what is behind them."""

from collections.abc import Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray

from scene_completion_ros.geometry import Camera, RigidTransform
from scene_completion_training.points.scene import PointScene, RgbdView

CLASSES = ("floor", "wall", "table", "other")
CAMERA = Camera(40.0, 40.0, 31.5, 23.5, 64, 48)
ROOM = np.array([[0.0, 0.0, 0.0], [4.0, 3.0, 2.4]])
COLOURS = np.array([[0.5, 0.3, 0.1], [0.9, 0.9, 0.8], [0.7, 0.2, 0.2], [0.2, 0.3, 0.8]], np.float32)


def boxes(seed: int) -> list[tuple[int, NDArray[np.float64]]]:
    """Class and corners of a low and a high box."""
    x, y = np.random.default_rng(seed).uniform(0.0, 0.4, 2)
    return [
        (2, np.array([[1.5 + x, 1.0 + y, 0.0], [2.3 + x, 1.6 + y, 0.7]])),
        (3, np.array([[3.0, 0.2 + y, 0.0], [3.5, 1.2 + y, 1.9]])),
    ]


def surfaces(seed: int, edge: float) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Points [N, 3] on all of them, a grid of this edge, and their classes [N]."""
    points, labels = [], []
    faces = [(axis, side, ROOM, -1) for axis, side in ((2, 0), (0, 0), (0, 1), (1, 0), (1, 1))]
    faces += [(axis, side, corners, kind) for kind, corners in boxes(seed) for axis in range(3) for side in range(2)]
    for axis, side, corners, kind in faces:
        if kind >= 0 and (axis, side) == (2, 0):
            continue
        one, other = (np.arange(corners[0, k] + edge / 2, corners[1, k], edge) for k in range(3) if k != axis)
        grid = np.stack(np.meshgrid(one, other, indexing="ij"), axis=-1).reshape(-1, 2)
        points.append(np.insert(grid, axis, corners[side, axis], axis=1))
        labels.append(np.full(len(grid), kind if kind >= 0 else int(axis != 2)))
    return np.concatenate(points).astype(np.float32), np.concatenate(labels)


def cast(
    origin: NDArray[np.float64], directions: NDArray[np.float64], seed: int
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """How far rays [..., 3] go, in lengths of their directions [...], and the class they hit; -1 for the ceiling."""

    def slabs(corners: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.sort((corners[:, None] - origin) / directions.reshape(1, -1, 3), axis=0)

    leaving = slabs(ROOM)[1]
    distance, axis = leaving.min(axis=1), leaving.argmin(axis=1)
    up = directions.reshape(-1, 3)[:, 2] > 0.0
    kind = np.where(axis == 2, np.where(up, -1, 0), 1)
    for number, corners in boxes(seed):
        near, far = slabs(corners)
        enter = near.max(axis=1)
        hit = (enter < far.min(axis=1)) & (enter > 0.0) & (enter < distance)
        distance, kind = np.where(hit, enter, distance), np.where(hit, number, kind)
    return distance.reshape(directions.shape[:-1]), kind.reshape(directions.shape[:-1])


def view(seed: int, number: int) -> RgbdView:
    """A view from a corner, or from the middle of a wall, to the middle of the room, some down and some level."""
    place = np.array([[0.3, 0.3, 1.7], [3.7, 2.7, 1.6], [0.3, 2.7, 1.5], [2.0, 0.2, 1.4]][number % 4])
    ahead = np.array([2.0, 1.5, 0.4 * (number + 1)]) - place
    ahead /= np.linalg.norm(ahead)
    right = np.cross(ahead, [0.0, 0.0, 1.0])
    right /= np.linalg.norm(right)
    pose = RigidTransform(np.stack([right, np.cross(ahead, right), ahead], axis=1), place)
    u, v = np.meshgrid(np.arange(CAMERA.width), np.arange(CAMERA.height))
    rays = np.stack([(u - CAMERA.cx) / CAMERA.fx, (v - CAMERA.cy) / CAMERA.fy, np.ones(u.shape)], axis=-1)

    def seen() -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        return cast(place, rays @ pose.rotation.T, seed)

    def image() -> NDArray[np.uint8]:
        colours = np.concatenate([COLOURS, np.ones((1, 3), np.float32)])
        return (255 * colours[seen()[1]]).astype(np.uint8)

    depth, label = (lambda: seen()[0].astype(np.float32)), (lambda: seen()[1])
    return RgbdView(f"view_{number}", CAMERA, pose, image, depth, label)


def small_room(seed: int = 0, edge: float = 0.1, views: int = 3) -> PointScene:
    """A room whose boxes stand a little elsewhere with every seed."""
    points, label = surfaces(seed, edge)
    return PointScene(
        f"room_{seed}",
        points,
        COLOURS[label],
        classes=CLASSES,
        label=label,
        views=tuple(view(seed, number) for number in range(views)),
    )


def small_rooms(seeds: Sequence[int], **changes: float) -> dict[str, partial[PointScene]]:
    """Readers of such rooms by name."""
    return {f"room_{seed}": partial(small_room, seed, **changes) for seed in seeds}
