"""Poses out of the images themselves, by incremental structure from motion (Schönberger and Frahm 2016, COLMAP)."""

import json
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TypeAlias

import cv2
import numpy as np

from scene_completion_ros.errors import SequenceError
from scene_completion_ros.geometry import Camera, RigidTransform
from scene_completion_training.arrays import Bytes, Doubles, Ints, Mask
from scene_completion_training.extraction.rectification import Cameras, Poses

OVERLAP = 6  # keyframes that each one is matched with
FEATURES = 3000
Masks: TypeAlias = Mapping[str, Mask]


@dataclass(frozen=True, eq=False)
class Model:
    """One connected reconstruction; its unit of length is arbitrary unless the rig's baseline fixes it."""

    world_from_first: dict[int, RigidTransform]  # frame index -> pose of the first camera
    points: Doubles  # sparse points [P, 3] in the world
    seen: dict[int, Ints]  # frame index -> indices of the points that the first camera sees in it
    # Frame index -> number of points that several cameras see in it: they carry the scale of a rig.
    shared: dict[int, int] = field(default_factory=dict)

    def scaled(self, factor: float) -> "Model":
        """Return the model with another unit of length."""
        every = self.world_from_first.items()
        poses = {k: RigidTransform(pose.rotation, factor * pose.translation) for k, pose in every}
        return replace(self, world_from_first=poses, points=factor * self.points)


def reconstruct(
    # Camera -> grey images [H, W], one of every camera a frame, in order of time; taken one by one.
    frames: Mapping[str, Iterable[Bytes]],
    cameras: Mapping[str, Camera],  # camera -> pinhole camera; the first is the origin
    # Camera -> pose in the first camera; the distances are taken for metres.
    first_from_camera: Mapping[str, RigidTransform],
    folder: Path,  # an empty folder for images and the database
    *,
    masks: Mapping[str, Mask] | None = None,  # camera -> pixels to be used, bool [H, W]
    width: int = 800,  # images are reduced to at most this width
    threads: int = 1,
    smallest_model: int = 5,
) -> list[Model]:
    """Reconstruct a drive. Raises SequenceError: pycolmap is not installed, or failed: says how.

    Returns models, the largest first, empty where nothing fits together. A frame may be in several.
    """
    if find_spec("pycolmap") is None:
        what = "structure from motion needs pycolmap"
        raise SequenceError(what, where="--poses", cure="Install the extra 'train', or record /tf")
    problem = _write_problem(frames, cameras, first_from_camera, folder, masks or {}, width)
    problem |= {"threads": threads, "smallest_model": smallest_model, "features": FEATURES}
    (folder / "problem.json").write_text(json.dumps(problem), encoding="utf-8")
    log = folder / "log.txt"
    with log.open("wb") as output:
        command = [sys.executable, "-m", "scene_completion_training.extraction.mapper_process", str(folder)]
        root = Path(__file__).resolve().parents[2]  # where the package lies
        ended = subprocess.run(command, stdout=output, stderr=subprocess.STDOUT, cwd=root, check=False)
    if ended.returncode:
        last = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-1:]
        what = f"structure from motion ended with status {ended.returncode}: {' '.join(last)[:200]}"
        raise SequenceError(what, where="pycolmap", cure="Record /tf or odometry, or report this bag")
    with np.load(folder / "models.npz", allow_pickle=False) as data:
        count = len(data.files) // 4
        models = [_model({key: data[f"{number}_{key}"] for key in _KEYS}) for number in range(count)]
    return [model for model in models if model.world_from_first]


def _write_problem(
    frames: Mapping[str, Iterable[Bytes]], cameras: Cameras, poses: Poses, folder: Path, masks: Masks, width: int
) -> dict[str, object]:
    entries: list[dict[str, object]] = []
    names: list[list[str]] = []
    for number, (camera, images) in enumerate(frames.items()):
        shrink = min(1.0, width / cameras[camera].width)
        small = cameras[camera].resized(round(cameras[camera].width * shrink), round(cameras[camera].height * shrink))
        listed: list[str] = []
        for index, image in enumerate(images):
            listed.append(f"camera_{number}/{index:06d}.png")
            _write_small(folder / "images" / listed[-1], image, small)
            if camera in masks:
                _write_small(folder / "masks" / f"{listed[-1]}.png", masks[camera].astype(np.uint8) * 255, small)
        pose, lens = poses[camera].inverse().matrix.tolist(), [small.fx, small.fy, small.cx, small.cy]
        entry = {"folder": f"camera_{number}", "images": listed, "masked": camera in masks}
        entries.append({**entry, "intrinsics": lens, "camera_from_first": pose})
        names.append(listed)
    return {"cameras": entries, "pairs": _pairs(names)}


def _pairs(names: Sequence[Sequence[str]]) -> list[tuple[str, str]]:
    """Image pairs to match: each with the next keyframes of its camera, and with the other cameras now and next."""
    pairs = []
    for camera, images in enumerate(names):
        for index, image in enumerate(images):
            pairs += [(image, later) for later in images[index + 1 : index + 1 + OVERLAP]]
            for other in names[camera + 1 :]:
                pairs += [(image, at) for at in other[index : index + 2]]
    return pairs


def _write_small(path: Path, image: Bytes, small: Camera) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), cv2.resize(image, (small.width, small.height), interpolation=cv2.INTER_AREA))


_KEYS = ("names", "cam_from_world", "points", "observations")


def _model(arrays: Mapping[str, Doubles]) -> Model:
    """Keep the first camera of every frame, and place the world in the first of them."""
    observations = arrays["observations"].astype(np.int64)
    places = [_place(str(name)) for name in arrays["names"]]  # (camera, frame) of every image
    of_first = {frame: row for row, (camera, frame) in enumerate(places) if camera == 0}
    of_first = dict(sorted(of_first.items()))
    if not of_first:
        return Model({}, arrays["points"], {})
    points_of = [observations[observations[:, 0] == row, 1] for row in range(len(places))]
    placed = arrays["cam_from_world"]
    poses = {frame: RigidTransform.from_matrix(placed[row]).inverse() for frame, row in of_first.items()}
    start_from_world = next(iter(poses.values())).inverse()
    return Model(
        {frame: start_from_world @ pose for frame, pose in poses.items()},
        np.asarray(start_from_world.apply(arrays["points"]), dtype=np.float64),
        {frame: points_of[row] for frame, row in of_first.items()},
        {frame: _shared(frame, row, places, points_of) for frame, row in of_first.items()},
    )


def _place(name: str) -> tuple[int, int]:
    """Camera and frame of an image "camera_0/000012.png"."""
    camera, _, frame = name.removesuffix(".png").partition("/")
    return int(camera.removeprefix("camera_")), int(frame)


def _shared(frame: int, row: int, places: Sequence[tuple[int, int]], points_of: Sequence[Ints]) -> int:
    others = [points_of[other] for other, (camera, at) in enumerate(places) if at == frame and camera != 0]
    return sum(len(np.intersect1d(points_of[row], other)) for other in others)
