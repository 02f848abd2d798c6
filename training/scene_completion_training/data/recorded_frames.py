"""Frames of which images alone matter: nothing is measured or fused, and an image is read when a sample asks for it.

The published trainings are of this kind: their losses compare images. Images are read as they lie, or were once made as
small as the canonical camera sees them (`cache`). Then a frame with four cameras takes about 0.7 MB.
"""

import hashlib
import json
import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from scene_completion_ros.errors import ImageError, SequenceError
from scene_completion_ros.evaluation.semantic_classes import TRAIN_IDS
from scene_completion_ros.geometry import Camera, RigidTransform, virtual_pinhole
from scene_completion_ros.picture_files import read_rgb
from scene_completion_ros.sequences.posed_sequence import PosedSequence
from scene_completion_ros.sequences.rigs import cameras_ahead
from scene_completion_training.arrays import Bytes, Mask
from scene_completion_training.data import prepared
from scene_completion_training.data.label_images import read_classes
from scene_completion_training.data.stereo import rectified_sequence
from scene_completion_training.viewpoint import Viewpoint

# Folder of a camera's classes, of one ahead and of one that looks aside (S4C).
_CLASS_FOLDERS = ("data_192x640", "data_192x640_0x-15")
# Voxel centres, their occupancy and its evidence, where nobody measures them.
_NOTHING = np.zeros((0, 3), np.int16), np.zeros(0, np.uint8), np.zeros(0, np.float16)


class OnDemand(Mapping[str, Any]):
    """Values by name that are made when they are asked for."""

    def __init__(self, names: Collection[str], make: Callable[[str], Any]) -> None:
        self._names, self._make = names, make

    def __getitem__(self, name: str) -> Any:
        if name not in self._names:
            raise KeyError(name)
        return self._make(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


class RecordedFrames(Sequence[prepared.PreparedFrame]):
    """All frames of a sequence, with the cameras ahead as "left" and "right", and those that look aside turned down.

    Frames have images of all cameras; lenses ahead are looked through by pinholes. `cache`: folder for images that are
    made small; None reads them as they lie; `class_images`: see `DataSettings.class_images`.
    """

    def __init__(
        self, sequence: PosedSequence, viewpoint: Viewpoint, cache: Path | None = None, class_images: Path | None = None
    ) -> None:
        self.canonical = viewpoint.camera
        # What the small images follow from, but for the pixels and their frames.
        cameras = {name: vars(camera) for name, camera in sequence.cameras.items()}
        rig = {name: np.round(pose.matrix, 9).tolist() for name, pose in sequence.rig_from_camera.items()}
        content = json.dumps([cameras, rig, vars(self.canonical)], sort_keys=True)
        key = hashlib.sha256(content.encode()).hexdigest()[:12]
        self.name = f"{sequence.name.replace('/', '_')}-{key}"
        self.folder = None if cache is None else cache.absolute() / f"{self.name}-resized"
        ahead = cameras_ahead(sequence)
        self.sequence = rectified_sequence(sequence, ahead, self.canonical)
        self._class_images = class_images
        self._stems: list[str] = []
        if class_images:
            images = (frame.images[ahead[0]] for frame in sequence.frames)
            self._stems = [image.stem if isinstance(image, Path) else "" for image in images]
        self._recorded = dict(zip(("left", "right"), ahead, strict=False))
        self._recorded |= {f"aside_{name}": name for name in prepared.looking_aside(sequence, ahead[0])}
        self.cameras = {
            name: self.canonical if self._is_aside(name) else prepared.shrunk_camera(self._camera(name), self.canonical)
            for name in self._recorded
        }
        self._image = lru_cache(maxsize=32)(self._read)
        self._covered = lru_cache(maxsize=8)(self._cover)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name not in ("_image", "_covered")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._image = lru_cache(maxsize=32)(self._read)
        self._covered = lru_cache(maxsize=8)(self._cover)

    def __len__(self) -> int:
        return len(self.sequence)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        index %= len(self)
        images = OnDemand(self.cameras, partial(self._image, index))
        poses = OnDemand(self.cameras, partial(self._pose, index))
        masks = OnDemand(self._masked(index), partial(self._mask, index))
        classes = OnDemand(self.cameras if self._class_images else (), partial(self._classes, index))
        name = f"{self.name}/{index:06d}"
        return prepared.PreparedFrame(images, {}, self.cameras, poses, masks, *_NOTHING, name, classes)

    def resize(self, wanted: Mask, workers: int = 2) -> int:
        """Makes the images of wanted frames [N] small, in so many processes; how many were missing.

        Raises SequenceError where an image is damaged, or cannot be written: nothing half-written has its name.
        """
        if self.folder is None:
            return 0
        there = {path.name for path in self.folder.glob("*.png")}
        files = [{self._file(index, name).name for name in self.cameras} for index in range(len(self))]
        missing = [index for index in np.flatnonzero(wanted).tolist() if not files[index] <= there]
        if missing:
            self.folder.mkdir(parents=True, exist_ok=True)
            prepared.work_on_frames(self.write, missing, workers)
        return len(missing)

    def write(self, indices: Sequence[int]) -> Iterator[None]:
        """Writes the small images of frames, one a step."""
        for index in indices:
            for name in self.cameras:
                file = self._file(index, name)
                if not file.exists():
                    _write_png(file, self._make(index, name))
            yield

    def _is_aside(self, name: str) -> bool:
        return name.startswith("aside_")

    def _camera(self, name: str) -> Camera:
        return self.sequence.cameras[self._recorded[name]]

    def _file(self, index: int, name: str) -> Path:
        assert self.folder is not None
        return self.folder / f"{self.sequence.frames[index].stamp_ns}-{name}.png"

    def _read(self, index: int, name: str) -> Bytes:
        if self.folder is None or not (file := self._file(index, name)).exists():
            return self._make(index, name)
        try:
            return read_rgb(file)
        except ImageError as error:
            cure = "Delete it: it is made again at the next start"
            raise SequenceError(f"damaged ({error.what})", where=str(file), cure=cure) from error

    def _make(self, index: int, name: str) -> Bytes:
        image = self.sequence.image(index, self._recorded[name])
        if self._is_aside(name):
            return virtual_pinhole(image, self._camera(name), self.canonical, prepared.DOWNWARD)[0]
        size = (self.cameras[name].width, self.cameras[name].height)
        return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)

    def check_classes(self, wanted: Mask) -> None:
        """Raises a `SequenceError` where wanted frames [N] lack pictures of classes, if there are to be any."""
        if self._class_images is None:
            return
        files = [self._class_file(k, name) for k in np.flatnonzero(wanted).tolist() for name in self.cameras]
        if missing := [file for file in files if not file.is_file()]:
            what = f"{len(missing)} of {len(files)} pictures of classes are missing, such as {missing[0]}"
            cure = "Download and unpack the rest, or name their folder with data.class_images"
            raise SequenceError(what, where=str(self._class_images), cure=cure)

    def _classes(self, index: int, name: str) -> Bytes:
        return read_classes(self._class_file(index, name), TRAIN_IDS)

    def _class_file(self, index: int, name: str) -> Path:
        assert self._class_images is not None
        folder = self._class_images / self.sequence.name.rpartition("/")[2] / self._recorded[name]
        return folder / _CLASS_FOLDERS[self._is_aside(name)] / f"{self._stems[index]}.png"

    def _pose(self, index: int, name: str) -> RigidTransform:
        pose = self.sequence.world_from_camera(index, self._recorded[name])
        return pose @ RigidTransform(prepared.DOWNWARD, np.zeros(3)) if self._is_aside(name) else pose

    def _masked(self, index: int) -> list[str]:
        """Cameras that do not show the world everywhere."""
        assets = self.sequence.frames[index].assets
        masked = [
            recorded for recorded in self._recorded.values() if {f"validity_{recorded}", f"ego_{recorded}"} & {*assets}
        ]
        return [name for name, recorded in self._recorded.items() if self._is_aside(name) or recorded in masked]

    def _mask(self, index: int, name: str) -> Mask:
        mask = prepared.world_mask(self.sequence, index, self._recorded[name])
        if not self._is_aside(name):
            assert mask is not None
            size = (self.cameras[name].width, self.cameras[name].height)
            return np.asarray(cv2.resize(mask, size, interpolation=cv2.INTER_NEAREST_EXACT), np.bool_)
        covered = self._covered(name)
        if mask is None:
            return covered
        shown = virtual_pinhole(mask * np.uint8(255), self._camera(name), self.canonical, prepared.DOWNWARD)[0]
        return np.asarray(covered & (shown > 250))

    def _cover(self, name: str) -> Mask:
        """Where a camera that looks aside covers the canonical one."""
        camera = self._camera(name)
        nothing = np.zeros((camera.height, camera.width), np.uint8)
        return virtual_pinhole(nothing, camera, self.canonical, prepared.DOWNWARD)[1]


def _write_png(file: Path, image: Bytes) -> None:
    """Writes a picture, whole or not at all. They are many, and can be made again: nobody waits for the disk."""
    content = cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))[1].tobytes()
    part = file.with_suffix(f".{os.getpid()}.part")
    try:
        part.write_bytes(content)
        part.replace(file)
    except OSError as error:
        part.unlink(missing_ok=True)
        cure = "Make room, or name another disk with data.cache, and start again: what is there is not made twice"
        raise SequenceError(f"a resized image cannot be written ({error})", where=str(file), cure=cure) from error
