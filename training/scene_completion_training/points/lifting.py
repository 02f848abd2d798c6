"""Features of pixels at the points of a scene: the mean over the views that see a point, kept on disk in fp16.

The rules are those of OpenScene and CUA-O3D (section 2D feature fusion): pixels are rounded, a border sees nothing, a
point is visible where the depth of the view is nearly its own, and the mean is plain. All teachers share one mask.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import safetensors.numpy
import torch
from numpy.typing import NDArray

from scene_completion_ros.errors import ConfigurationError, SequenceError
from scene_completion_ros.untrusted_files import read_array, read_tensors
from scene_completion_ros.whole_files import whole_file
from scene_completion_training.foundation.feature_lifter import FeatureLifter
from scene_completion_training.foundation.targets import as_half
from scene_completion_training.points.checks import require
from scene_completion_training.points.pixel_teachers import PixelFeatures
from scene_completion_training.points.scene import PointScene

_POINTS = "points.safetensors"


@dataclass(frozen=True)
class LiftingSettings:
    """Which views see a point, and which points get features."""

    width: int = 320  # pixels that images and depth are resized to
    # Share of its depth by which a point may miss the surface; OpenScene has 0.02 on Matterport3D.
    tolerance: float = 0.25
    border: int = 10  # pixels of the resized image that see nothing
    points: int = 300_000  # most points of a scene, drawn at random; 0 for all

    def check(self, where: str) -> None:
        """Raises a `ConfigurationError` for numbers that cannot be."""
        if self.width < 1 or min(self.tolerance, self.border, self.points) < 0:
            raise ConfigurationError(f"{self}", where=where, cure="Take positive numbers")


@dataclass(frozen=True, eq=False)
class LiftedScene:
    """A scene with what teachers say of some of its points."""

    points: NDArray[np.float32]  # [N, 3], metres
    colours: NDArray[np.float32]  # [N, 3] in 0..1; zero where they are not known
    rows: NDArray[np.int64]  # of the points that some view sees [M], ascending
    features: Mapping[str, NDArray[np.float16]]  # of those, by teacher [M, D]; read from disk when they are asked for

    def at(self, teacher: str, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Features [n, D] of points at some rows [n] of the scene; zeros where no view sees them."""
        place = np.searchsorted(self.rows, rows).clip(max=max(len(self.rows) - 1, 0))
        known = np.isin(rows, self.rows)
        found = np.zeros((len(rows), self.features[teacher].shape[1]), np.float32)
        found[known] = self.features[teacher][place[known]]
        return found


def lift(
    scene: PointScene, teachers: Mapping[str, PixelFeatures], settings: LiftingSettings
) -> tuple[NDArray[np.int64], dict[str, NDArray[np.float16]]]:
    """Rows of the points that some view sees [M], ascending, and what teachers say of them [M, D].

    It holds the features of all teachers in single precision. Raises SequenceError where no view sees a point.
    """
    generator = np.random.default_rng(0)
    chosen = np.sort(generator.permutation(len(scene))[: settings.points or len(scene)])
    points = scene.points[chosen].astype(np.float64)
    totals: dict[str, torch.Tensor] = {}
    views = np.zeros(len(points), np.int64)
    for view in scene.views:
        height = max(1, round(view.camera.height * settings.width / view.camera.width))
        camera = view.camera.resized(settings.width, height)
        lifter = FeatureLifter(camera, float("inf"), tolerance=settings.tolerance, border=settings.border)
        seen = view.world_from_camera.inverse().apply(points)
        projected, shown = camera.project(seen)
        pixels = torch.from_numpy(np.round(projected))
        depth = cv2.resize(view.depth(), (settings.width, height), interpolation=cv2.INTER_NEAREST)
        places = torch.from_numpy(np.where(shown, seen[:, 2], -1.0))[None]
        visible = lifter.visible(pixels[None], places, torch.from_numpy(depth)[None])[0].numpy()
        if not visible.any():
            continue
        views += visible
        image = cv2.resize(view.image(), (settings.width, height), interpolation=cv2.INTER_AREA)
        for name, teacher in teachers.items():
            found = teacher.at(scene, view, np.asarray(image, np.uint8), pixels[visible].float())
            total = totals.setdefault(name, torch.zeros(len(points), found.shape[1]))
            total.index_add_(0, torch.from_numpy(np.flatnonzero(visible)), found)
    known = views > 0
    if not known.any():
        cure = "Check depth and poses of its views, or leave it out"
        what = f"none of its {len(scene.views)} views sees a point"
        raise SequenceError(what, where=f"scene {scene.name}", cure=cure)
    count = torch.from_numpy(views[known])[:, None]
    halves = {name: as_half(total[torch.from_numpy(known)] / count, scene.name) for name, total in totals.items()}
    return chosen[known], {name: half.numpy() for name, half in halves.items()}


def keep_lifted(
    place: Mapping[str, Any],  # what names the scene: its source, how that is read, its name
    read: Callable[[], PointScene],
    teachers: Mapping[str, PixelFeatures],
    settings: LiftingSettings,
    cache: Path,
) -> LiftedScene:
    """The lifted scene of a cache; what is missing there is made first, and then alone the scene is read.

    Raises SequenceError where what lies there is damaged, the scene has too few points or no views; or see `lift`.
    """
    folder = cache / _digest({**place, **asdict(settings)})
    files = {name: folder / f"{_digest({'teacher': teacher.key})}.npy" for name, teacher in teachers.items()}
    missing = {name: teacher for name, teacher in teachers.items() if not files[name].is_file()}
    if missing or not (folder / _POINTS).is_file():
        scene = read()
        require(scene, "views")
        rows, features = lift(scene, missing, settings)
        folder.mkdir(parents=True, exist_ok=True)
        for name, values in features.items():
            with whole_file(files[name]) as part, part.open("wb") as stream:
                np.save(stream, values, allow_pickle=False)
        colours = np.zeros_like(scene.points) if scene.colours is None else scene.colours
        with whole_file(folder / _POINTS) as part:
            safetensors.numpy.save_file({"points": scene.points, "colours": colours, "rows": rows}, part)
    cure = "Delete it: it is made again at the next start"
    found = read_tensors(folder / _POINTS, SequenceError, cure=cure)
    features = {name: read_array(file, SequenceError, cure=cure) for name, file in files.items()}
    if {"points", "colours", "rows"} - set(found) or any(len(of) != len(found["rows"]) for of in features.values()):
        raise SequenceError("holds no lifted scene, or that of other points", where=str(folder), cure=cure)
    return LiftedScene(found["points"], found["colours"], found["rows"], features)


def _digest(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[:24]
