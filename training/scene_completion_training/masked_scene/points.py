"""Scenes of points for masked scene modelling: what a network takes of them, and views that are voxelised anew (MSM).

As in the source, a voxel has the colour and the normal of one of its points, drawn at random, and no coordinates.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray

from scene_completion_ros.errors import SequenceError
from scene_completion_ros.untrusted_files import read_tensors
from scene_completion_ros.whole_files import whole_file
from scene_completion_training.masked_scene.views import SceneViewSettings, View, distinct
from scene_completion_training.points.checks import require
from scene_completion_training.points.scene import PointScene

# Columns of features: colours in -1..1, x/127.5 - 1 of bytes as published, and normals; zeros for what is unknown.
POINT_FEATURES = ("red", "green", "blue", "normal_x", "normal_y", "normal_z")
_COLOURS, _NORMALS = slice(0, 3), slice(3, 6)
_CURE = "Delete it: it is made again at the next start"


def point_features(
    count: int, colours: NDArray[np.floating] | None, normals: NDArray[np.floating] | None
) -> NDArray[np.float32]:
    """What a network takes of points, [N, 6], of colours [N, 3] in 0..1 and normals [N, 3]; see `POINT_FEATURES`."""
    found = np.zeros((count, len(POINT_FEATURES)), np.float32)
    if colours is not None:
        found[:, _COLOURS] = 2.0 * colours - 1.0
    if normals is not None:
        found[:, _NORMALS] = normals
    return found


def voxels_of(
    place: NDArray[np.floating], generator: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """The voxels that hold points [N, 3], which are given in edges of voxels, none below 0.

    Returns:
        Voxels [M, 3]; for each the row of one of its points, drawn at random [M]; for each point its voxel's row [N].
    """
    order = generator.permutation(len(place))
    cells = place.astype(np.int64)
    first, number = distinct(cells[order])
    voxel = np.empty(len(place), np.int64)
    voxel[order] = number
    return cells[order[first]], order[first], voxel


def point_views(
    file: Path, generator: np.random.Generator, settings: SceneViewSettings, voxel_size: float, shift: int
) -> tuple[View, View]:
    """Two views of the nearest points of a kept scene to one of them: of all, if it has no more than are taken.

    `file`: as `keep_points` wrote it; `voxel_size`: edge of a voxel, metres; `shift`: voxels by which a view is shifted
    against the raster of coarser voxels, at most.
    """
    arrays = read_tensors(file, SequenceError, cure=_CURE)
    try:
        points, features = arrays["points"], arrays["features"].astype(np.float32)
    except KeyError as error:
        raise SequenceError(f"holds no {error}", where=str(file), cure=_CURE) from error
    if len(points) > settings.points:
        away = np.square(points - points[generator.integers(len(points))]).sum(axis=1)
        rows = np.sort(np.argpartition(away, settings.points)[: settings.points])
        points, features = points[rows], features[rows]
    place = np.asarray(points / voxel_size, np.float32)
    one, other = (_view(place, features, settings, shift, generator) for _ in range(2))
    return one, other


def _view(
    place: NDArray[np.float32],
    features: NDArray[np.float32],
    settings: SceneViewSettings,
    shift: int,
    generator: np.random.Generator,
) -> View:
    """Points in edges of voxels, turned by any yaw, half of the time mirrored, scaled, recoloured and voxelised."""
    yaw, mirror = generator.uniform(0.0, 2.0 * np.pi), generator.choice((-1.0, 1.0))
    cosine, sine = np.cos(yaw), np.sin(yaw)
    turn = np.array([[cosine, -sine * mirror, 0.0], [sine, cosine * mirror, 0.0], [0.0, 0.0, 1.0]], np.float32)
    place = place @ turn.T * np.float32(1.0 + settings.scale * generator.uniform(-1.0, 1.0))
    place = place - place.min(axis=0) + generator.uniform(0.0, shift, 3).astype(np.float32)
    index, chosen, voxel = voxels_of(place, generator)
    changed = features[chosen]
    contrast, brightness = 1.0 + settings.jitter * generator.uniform(-1.0, 1.0, (2, 3)).astype(np.float32)
    known = changed[:, _COLOURS].any(axis=1, keepdims=True)
    changed[:, _COLOURS] = known * np.clip(changed[:, _COLOURS] * contrast + brightness - 1.0, -1.0, 1.0)
    changed[:, _NORMALS] = changed[:, _NORMALS] @ turn.T
    for columns in _COLOURS, _NORMALS:
        changed[:, columns] *= generator.random() >= settings.blind
    changed[generator.random(len(changed)) < settings.dropped] = 0.0
    return View(index, changed, place, voxel)


def keep_points(scenes: Mapping[str, PointScene], cache: Path) -> list[Path]:
    """Files of scenes, by name and in order, once all are kept in a folder; those that are there are not read again."""
    cache.mkdir(parents=True, exist_ok=True)
    files = [cache / f"{name.replace('/', '-')}.safetensors" for name in scenes]
    for name, file in zip(scenes, files, strict=True):
        if not file.exists():
            scene = scenes[name]
            require(scene)
            features = point_features(len(scene), scene.colours, scene.normals).astype(np.float16)
            with whole_file(file) as part:
                points = scene.points - scene.points.min(axis=0)
                safetensors.numpy.save_file({"points": points, "features": features}, part)
    return files
