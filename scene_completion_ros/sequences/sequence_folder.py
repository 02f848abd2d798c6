"""The folder format of `PosedSequence`: images and assets as files, everything else in `sequence.json` (schema 1)."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from functools import partial
from itertools import chain, count
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import cv2
import numpy as np
from numpy.typing import NDArray

from scene_completion_ros.errors import SceneCompletionError, SequenceError
from scene_completion_ros.geometry.cameras import Camera
from scene_completion_ros.geometry.transforms import RigidTransform
from scene_completion_ros.sequences.posed_sequence import (
    ArrayLoader,
    EncodedImage,
    Frame,
    ImageSource,
    PosedSequence,
)

SCHEMA_VERSION = 1
INDEX_NAME = "sequence.json"


def save_sequence(sequence: PosedSequence, folder: Path, *, assets: Sequence[str] | None = None) -> Path:
    """Write a sequence into a new or empty folder; see `PosedSequence.save`."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise SequenceError(
            "folder is not empty", where=str(folder), cure="Name a new folder: nothing already written is overwritten"
        )
    folder.mkdir(parents=True, exist_ok=True)
    folder_of = _folder_names([*sequence.cameras, *(name for frame in sequence.frames for name in frame.assets)])
    entries = []
    written: dict[int, str] = {}  # a mask of a whole drive is one loader in all its frames, and becomes one file
    for number, frame in enumerate(sequence.frames):
        images = {}
        for camera, source in frame.images.items():
            content, suffix = _image_file(source)
            images[camera] = f"images/{folder_of[camera]}/{number:06d}{suffix}"
            _write(folder / images[camera], content)
        arrays = {}
        for name, loader in frame.assets.items():
            if assets is not None and name not in assets:
                continue
            if id(loader) not in written:
                written[id(loader)] = f"assets/{folder_of[name]}/{number:06d}.npz"
                (folder / written[id(loader)]).parent.mkdir(parents=True, exist_ok=True)
                np.savez_compressed(folder / written[id(loader)], data=loader())
            arrays[name] = written[id(loader)]
        entries.append(
            {
                "stamp_ns": frame.stamp_ns,
                "world_from_rig": frame.world_from_rig.matrix.tolist(),
                "images": images,
                "assets": arrays,
            }
        )
    document = {
        "schema_version": SCHEMA_VERSION,
        "name": sequence.name,
        "pose_source": sequence.pose_source,
        "metric_scale": sequence.metric_scale,
        "provenance": sequence.provenance,
        "cameras": {name: _camera_to_json(camera) for name, camera in sequence.cameras.items()},
        "rig_from_camera": {name: pose.matrix.tolist() for name, pose in sequence.rig_from_camera.items()},
        "rig_from_sensor": {name: pose.matrix.tolist() for name, pose in sequence.rig_from_sensor.items()},
        "frames": entries,
    }
    _write(folder / INDEX_NAME, json.dumps(document, indent=1).encode())
    return folder


def load_sequence(folder: Path) -> PosedSequence:
    """Read the folder of a saved sequence; see `PosedSequence.load`."""
    index = folder / INDEX_NAME
    if not index.is_file():
        raise SequenceError(
            f"no {INDEX_NAME}", where=str(folder), cure="Name a complete sequence folder, or extract it again"
        )
    try:
        document = json.loads(index.read_text(encoding="utf-8"))
    except ValueError as error:
        raise SequenceError(f"not JSON: {error}", where=str(index), cure="Extract the sequence again") from None
    if not isinstance(document, dict):
        raise SequenceError("not a JSON object", where=str(index), cure="Extract the sequence again")
    _check_version(document.get("schema_version"), index)
    frames = [
        _frame_from_json(entry, folder, f"{index}, frames[{i}]") for i, entry in enumerate(_list(document, index))
    ]
    return PosedSequence(
        name=str(_get(document, "name", str(index))),
        cameras={
            name: _camera_from_json(entry, f"{index}, cameras[{name!r}]")
            for name, entry in dict(_get(document, "cameras", str(index))).items()
        },
        rig_from_camera=_transforms(document, "rig_from_camera", index),
        frames=frames,
        pose_source=str(_get(document, "pose_source", str(index))),
        metric_scale=bool(_get(document, "metric_scale", str(index))),
        provenance=dict(document.get("provenance", {})),
        rig_from_sensor=_transforms(document, "rig_from_sensor", index),
    )


def load_array(path: Path) -> NDArray[Any]:
    """Load an asset written by `save_sequence`."""
    try:
        with np.load(path, allow_pickle=False) as data:
            return np.asarray(data["data"])
    except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
        raise SequenceError(f"asset cannot be read: {error}", where=str(path), cure="Extract it again") from error


def _check_version(version: object, index: Path) -> None:
    if version == SCHEMA_VERSION:
        return
    newer = isinstance(version, int) and version > SCHEMA_VERSION
    raise SequenceError(
        f"schema_version is {version!r}, this program reads {SCHEMA_VERSION}",
        where=str(index),
        cure="Update scene_completion_ros" if newer else "Extract the sequence again",
    )


def _frame_from_json(entry: Any, folder: Path, where: str) -> Frame:
    images: dict[str, ImageSource] = {
        camera: _inside(folder, path, where) for camera, path in dict(_get(entry, "images", where)).items()
    }
    assets: dict[str, ArrayLoader] = {
        name: partial(load_array, _inside(folder, path, where)) for name, path in dict(entry.get("assets", {})).items()
    }
    stamp = _get(entry, "stamp_ns", where)
    if not isinstance(stamp, int):
        raise SequenceError(f"stamp_ns is {stamp!r}, no integer", where=where, cure="Extract the sequence again")
    return Frame(stamp, images, _transform(_get(entry, "world_from_rig", where), f"{where}.world_from_rig"), assets)


def _image_file(source: ImageSource) -> tuple[bytes, str]:
    """Content and suffix of the file that keeps an image without loss."""
    if isinstance(source, Path):
        return source.read_bytes(), source.suffix.lower()
    if isinstance(source, EncodedImage) and (encoded := source.encoded()) is not None:
        return encoded
    done, content = cv2.imencode(".png", cv2.cvtColor(source(), cv2.COLOR_RGB2BGR))
    if not done:
        raise SequenceError("image cannot be written as PNG", where=repr(source), cure="Report this image")
    return content.tobytes(), ".png"


def _write(path: Path, content: bytes) -> None:
    """Write a file so that it is complete or absent, also after a crash."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".part")
    temporary.write_bytes(content)
    temporary.replace(path)


def _folder_names(names: Sequence[str]) -> dict[str, str]:
    """Distinct folder names for camera and asset names ("/camera/left" -> "camera_left")."""
    folder_of: dict[str, str] = {}
    for name in names:
        if name in folder_of:
            continue
        base = re.sub(r"[^A-Za-z0-9_.-]+", "_", name).strip("_.") or "unnamed"
        taken = set(folder_of.values())
        candidates = chain([base], (f"{base}_{i}" for i in count(2)))
        folder_of[name] = next(candidate for candidate in candidates if candidate not in taken)
    return folder_of


def _inside(folder: Path, relative: Any, where: str) -> Path:
    path = Path(str(relative))
    if path.is_absolute() or ".." in path.parts:
        raise SequenceError(f"path {str(relative)!r} leaves the folder", where=where, cure="Use relative paths")
    return folder / path


def _get(entry: Any, key: str, where: str) -> Any:
    if not isinstance(entry, dict) or key not in entry:
        raise SequenceError(f"field {key!r} is missing", where=where, cure="Extract the sequence again")
    return entry[key]


def _list(document: dict[str, Any], index: Path) -> list[Any]:
    frames = _get(document, "frames", str(index))
    if not isinstance(frames, list):
        raise SequenceError("field 'frames' is no list", where=str(index), cure="Extract the sequence again")
    return frames


def _transforms(document: dict[str, Any], key: str, index: Path) -> dict[str, RigidTransform]:
    return {
        name: _transform(matrix, f"{index}, {key}[{name!r}]")
        for name, matrix in dict(_get(document, key, str(index))).items()
    }


def _transform(matrix: Any, where: str) -> RigidTransform:
    try:
        return RigidTransform.from_matrix(np.asarray(matrix, dtype=np.float64))
    except (SceneCompletionError, ValueError, TypeError) as error:
        raise SequenceError(f"not a rigid transform: {error}", where=where, cure="Extract it again") from error


def _camera_to_json(camera: Camera) -> dict[str, Any]:
    return {
        "fx": camera.fx,
        "fy": camera.fy,
        "cx": camera.cx,
        "cy": camera.cy,
        "width": camera.width,
        "height": camera.height,
        "distortion_model": camera.distortion_model,
        "distortion": list(camera.distortion),
    }


def _camera_from_json(entry: Any, where: str) -> Camera:
    numbers = {key: _get(entry, key, where) for key in ("fx", "fy", "cx", "cy", "width", "height")}
    for key, value in numbers.items():
        if not isinstance(value, (int, float)) or not math.isfinite(value):
            raise SequenceError(f"{key} is {value!r}", where=where, cure="Expected a number")
    try:
        return Camera(
            fx=float(numbers["fx"]),
            fy=float(numbers["fy"]),
            cx=float(numbers["cx"]),
            cy=float(numbers["cy"]),
            width=int(numbers["width"]),
            height=int(numbers["height"]),
            distortion_model=_get(entry, "distortion_model", where),
            distortion=tuple(float(value) for value in _get(entry, "distortion", where)),
        )
    except (SceneCompletionError, TypeError, ValueError) as error:
        raise SequenceError(f"not a camera: {error}", where=where, cure="Extract the sequence again") from error
