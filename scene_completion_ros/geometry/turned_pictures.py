"""Tell images that are turned by 180° against their poses, by how their corners move.

What an image shows lies in front of the camera, and moves along epipolar lines. Of turned images neither holds where
the camera turns, or moves along its image. Motion straight ahead tells nothing; nor does the side that near things are
on, where ceilings are nearer than floors.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from typing import TypeAlias

import cv2
import numpy as np

from scene_completion_ros.arrays import Bytes, Floats, Mask
from scene_completion_ros.errors import SceneCompletionError
from scene_completion_ros.geometry.cameras import Camera
from scene_completion_ros.geometry.transforms import RigidTransform

# Stamp, pose of the camera's optical frame, and what reads the image, uint8 RGB [H, W, 3].
Moment: TypeAlias = tuple[int, RigidTransform, Callable[[], Bytes]]
AWAY_AND_BACK_PX = 0.4  # a corner that is followed away and back again ends where it began
PAIRS, STARTS, APART_NS = 10, 500, 1_000_000_000  # pairs of images, of so many, and the longest time between two
WAY_M, LEAST_TURN, MOST_TURN = 0.3, np.radians(1.0), np.radians(20.0)  # between two
WIDTH, CORNERS, FEWEST = 640, 500, 30  # of images that are followed
OFF_PX, NEAREST_M = 1.0, 0.3  # poses that are off by 0.1° move corners by 0.7 pixels; nothing nearer can be followed
# As stated, turned, and mirrored: odometry that turns to the wrong side looks like a mirror, or on a plane like both.
SIGNS = np.array([(1.0, 1.0), (-1.0, -1.0), (-1.0, 1.0), (1.0, -1.0)])[:, None]
# A pair tells by the share of its corners that one of the first two alone explains, if they outnumber those of the
# other. So many pairs, and such a share, have to tell a turn, which explains a share of all corners, and about what
# mirrors do. Of turned KITTI, demo and towns 80 to 100 % of the pairs did, with 56 to 99 % of the corners; as they
# are, one pair of ten at most.
TELLING, OUTNUMBER, FEWEST_PAIRS, LEAST_PAIRS, EXPLAINED, AS_MIRRORED = 0.2, 3.0, 3, 0.7, 0.55, 0.98


def follow_corners(first: Bytes, second: Bytes, corners: Floats, levels: int) -> tuple[Floats, Mask]:
    """Find corners [N, 1, 2] of a grey image in another, and tell which are there [N] (Bouguet 2000)."""
    flow = partial(cv2.calcOpticalFlowPyrLK, winSize=(15, 15), maxLevel=levels)
    away, tracked, _ = flow(first, second, corners, corners.copy())
    back, returned, _ = flow(second, first, away, away.copy())
    found = np.hstack([tracked, returned]).all(axis=1)
    return np.asarray(away, np.float32), found & (np.linalg.norm((back - corners)[:, 0], axis=1) < AWAY_AND_BACK_PX)


def turned_doubt(topic: str, camera: Camera, moments: Sequence[Moment], hangs: bool) -> str:
    """Find that images are turned by 180° against their poses; empty where they are not, or where nothing tells.

    Images that cannot be read are left out. `hangs`: by tf the camera does so upside down.
    """
    scale = min(1.0, WIDTH / camera.width)
    small = camera.resized(round(camera.width * scale), round(camera.height * scale))
    explained, votes, corners, pairs = np.zeros(len(SIGNS)), np.zeros(2), 0, 0
    for first, second, second_from_first in _pairs(moments):
        with suppress(SceneCompletionError):
            found = _explained(small, first(), second(), second_from_first)
            only = (found[:2] & ~found[1::-1]).sum(axis=1)
            if found.shape[1] >= FEWEST and only.max() >= TELLING * found.shape[1]:
                votes += only > OUTNUMBER * only[::-1]
                explained, corners, pairs = explained + found.sum(axis=1), corners + found.shape[1], pairs + 1
    stated, turned, *mirrored = explained.round().astype(int).tolist()
    least = max(EXPLAINED * corners, AS_MIRRORED * max(mirrored))
    if votes[1] < max(FEWEST_PAIRS, LEAST_PAIRS * pairs) or turned < least:
        return ""
    what = "upright, while the camera hangs upside down by" if hangs else "turned by 180° against"
    return (
        f"by their motion the images of {topic} are {what} tf: of {corners} corners in {pairs} pairs of images "
        f"{turned} move so, {stated} as tf has it. Either the driver turns the images by 180°, or the roll of the "
        "camera in tf is wrong by that: correct one of them. If neither is so, odometry turns left for right"
    )


def _pairs(moments: Sequence[Moment]) -> Iterator[tuple[Callable[[], Bytes], Callable[[], Bytes], RigidTransform]]:
    """Of each part of a recording the images with the largest turn about axes of the image, and second_from_first."""
    found: list[tuple[float, int, int, RigidTransform]] = []
    for first in range(0, len(moments), -(-len(moments) // STARTS) or 1):
        for second in range(first + 1, len(moments)):
            step = moments[second][1].inverse() @ moments[first][1]
            turn = cv2.Rodrigues(step.rotation.copy())[0][:, 0]
            if moments[second][0] - moments[first][0] > APART_NS or np.linalg.norm(turn) > MOST_TURN:
                break
            if np.linalg.norm(step.translation) > WAY_M or np.linalg.norm(turn) > LEAST_TURN:
                found.append((float(np.linalg.norm(turn[:2])), first, second, step))
                break
    for part in filter(len, np.array_split(np.arange(len(found)), PAIRS)):
        _, first, second, step = found[max(part, key=lambda index: found[index][0])]
        yield moments[first][2], moments[second][2], step


def _explained(camera: Camera, one: Bytes, other: Bytes, step: RigidTransform) -> Mask:
    """Tell which corners [4, N] something in front of the camera explains, if both images have such `SIGNS`."""
    small = (cv2.resize(image, (camera.width, camera.height), interpolation=cv2.INTER_AREA) for image in (one, other))
    first, second = (np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), np.uint8) for image in small)
    if (corners := cv2.goodFeaturesToTrack(first, CORNERS, 0.003, 7)) is None:
        return np.zeros((len(SIGNS), 0), bool)
    there, kept = follow_corners(first, second, np.asarray(corners, np.float32), 4)
    rays = camera.unproject(np.stack([corners, there])[:, kept, 0].astype(np.float64))
    far = np.insert(SIGNS * rays[0, :, :2], 2, 1.0, axis=-1) @ step.rotation.T
    far = far[..., :2] / far[..., 2:]  # where it would be at an infinite distance; nearer, it is moved along the way
    flow = camera.fx * (SIGNS * rays[1, :, :2] - far)
    way = camera.fx * (step.translation[:2] - far * step.translation[2])
    length = np.maximum(np.linalg.norm(way, axis=-1), 1e-9)
    along = (flow * way).sum(axis=-1) / length
    across = (flow[..., 0] * way[..., 1] - flow[..., 1] * way[..., 0]) / length
    return np.asarray((np.abs(across) < OFF_PX) & (along > -OFF_PX) & (along < length / NEAREST_M + OFF_PX), bool)
