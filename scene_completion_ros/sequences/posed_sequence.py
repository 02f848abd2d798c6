"""`PosedSequence`: time-stamped images of a rig of named cameras with known poses, lazily read."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeAlias, runtime_checkable

import cv2
import numpy as np
from numpy.typing import NDArray

from scene_completion_ros.errors import ImageError, SequenceError
from scene_completion_ros.geometry.cameras import Camera
from scene_completion_ros.geometry.transforms import RigidTransform

ArrayLoader: TypeAlias = Callable[[], NDArray[Any]]
ImageSource: TypeAlias = Path | ArrayLoader  # an image file, or a function that returns uint8 RGB [H, W, 3]


@runtime_checkable
class EncodedImage(Protocol):
    """An image source that can hand out its bytes as recorded, so that saving does not compress them twice."""

    def encoded(self) -> tuple[bytes, str] | None:
        """Return (file content, suffix such as ".jpg"), or None where the recording holds raw pixels."""


@dataclass(frozen=True, eq=False)
class Frame:
    """One instant of a sequence.

    Attributes:
        stamp_ns: Time in nanoseconds.
        images: Camera name -> image source. A camera may be missing in a frame.
        world_from_rig: Pose of the rig.
        assets: Name -> loader of an array that belongs to the instant. "lidar" is float32 [N, 3] in the rig frame;
            other names (labels, masks, depth, voxels) are documented by the source that makes them.
    """

    stamp_ns: int
    images: Mapping[str, ImageSource]
    world_from_rig: RigidTransform
    assets: Mapping[str, ArrayLoader] = field(default_factory=dict)


def read_image_file(path: Path) -> NDArray[np.uint8]:
    """Read an image file as uint8 RGB [H, W, 3]; grey images are replicated.

    Raises:
        ImageError: The file is missing or is no image.
    """
    if not path.is_file():
        raise ImageError(
            "image file is missing", where=str(path), cure="Restore the file or extract the sequence again"
        )
    # IGNORE_ORIENTATION: calibration is for the pixels as recorded, whatever an EXIF tag says.
    pixels = cv2.imread(str(path), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    if pixels is None:
        raise ImageError("file is not an image or is cut short", where=str(path), cure="Extract the sequence again")
    return np.asarray(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB), dtype=np.uint8)


def read_source(source: ImageSource) -> NDArray[np.uint8]:
    """Read an image from wherever it is: uint8 RGB [H, W, 3]."""
    return read_image_file(source) if isinstance(source, Path) else source()


@dataclass(eq=False)
class PosedSequence:
    """Images of named cameras with poses, from any recording.

    Attributes:
        name: Short name for logs and tables.
        cameras: Camera name -> intrinsics.
        rig_from_camera: Camera name -> pose of its optical frame in the rig frame.
        frames: Instants, stamps strictly increasing.
        pose_source: Where the poses come from, in words ("/tf map -> camera", "poses_gt.txt").
        metric_scale: Whether the poses are in metres (False for monocular odometry).
        provenance: What the sequence was made from: files, counts of what was dropped, licence. Plain JSON values.
        rig_from_sensor: Further sensors: name ("velodyne") -> pose of its frame in the rig frame.
    """

    name: str
    cameras: dict[str, Camera]
    rig_from_camera: dict[str, RigidTransform]
    frames: Sequence[Frame]
    pose_source: str
    metric_scale: bool = True
    provenance: dict[str, Any] = field(default_factory=dict)
    rig_from_sensor: dict[str, RigidTransform] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.cameras:
            raise SequenceError("sequence has no camera", where=self.name, cure="Name at least one camera")
        if set(self.cameras) != set(self.rig_from_camera):
            raise SequenceError(
                f"cameras {sorted(self.cameras)} but poses in the rig for {sorted(self.rig_from_camera)}",
                where=self.name,
                cure="Give rig_from_camera for exactly the cameras of the sequence",
            )
        if not self.frames:
            raise SequenceError("sequence has no frame", where=self.name, cure="Check that its source holds images")
        previous: int | None = None
        for index, frame in enumerate(self.frames):
            where = f"{self.name}, frame {index}"
            if previous is not None and frame.stamp_ns <= previous:
                raise SequenceError(
                    f"stamp {frame.stamp_ns} ns does not follow {previous} ns",
                    where=where,
                    cure="Sort the frames by time and drop repeated stamps",
                )
            previous = frame.stamp_ns
            if unknown := set(frame.images) - set(self.cameras):
                raise SequenceError(
                    f"images of unknown cameras {sorted(unknown)}", where=where, cure=f"Known: {sorted(self.cameras)}"
                )

    def __len__(self) -> int:
        return len(self.frames)

    def image(self, index: int, camera: str) -> NDArray[np.uint8]:
        """Read one image.

        Returns:
            uint8 RGB [H, W, 3].

        Raises:
            SequenceError: No such camera or no image of it in this frame.
            ImageError: The image cannot be read or has another size than its camera.
        """
        frame = self.frames[index]
        where = f"{self.name}, frame {index}, camera {camera!r}"
        if camera not in frame.images:
            raise SequenceError("frame holds no such image", where=where, cure=f"It has {sorted(frame.images)}")
        source = frame.images[camera]
        pixels = read_source(source)
        expected = self.cameras[camera]
        if pixels.shape != (expected.height, expected.width, 3):
            raise ImageError(
                f"image is {pixels.shape[1]}x{pixels.shape[0]}, calibration is for {expected.width}x{expected.height}",
                where=where,
                cure="Use the calibration of this image size",
            )
        return np.asarray(pixels, dtype=np.uint8)

    def world_from_camera(self, index: int, camera: str) -> RigidTransform:
        """Pose of a camera's optical frame in the world at a frame."""
        return self.frames[index].world_from_rig @ self.rig_from_camera[camera]

    def asset(self, index: int, name: str) -> NDArray[Any] | None:
        """Load a named asset of a frame, None where the frame has none."""
        loader = self.frames[index].assets.get(name)
        return None if loader is None else loader()

    def lidar(self, index: int) -> NDArray[np.float32] | None:
        """LiDAR points of a frame: float32 [N, 3] in the rig frame, or None."""
        points = self.asset(index, "lidar")
        return None if points is None else np.asarray(points, dtype=np.float32)

    def travelled_distance(self) -> float:
        """Length of the path of the rig's origin, in the units of the poses (metres where metric)."""
        positions = np.stack([frame.world_from_rig.translation for frame in self.frames])
        return float(np.linalg.norm(np.diff(positions, axis=0), axis=1).sum())

    def save(self, folder: Path | str, *, assets: Sequence[str] | None = None) -> Path:
        """Write the sequence as a folder of images plus `sequence.json` (schema 1).

        Image files and compressed messages are copied byte for byte, raw images become PNG. `sequence.json` is written
        last: a folder without it is an interrupted extraction.

        Args:
            folder: A new or empty folder.
            assets: Names of the assets to keep, all by default.

        Raises:
            SequenceError: The folder already holds something.
        """
        from scene_completion_ros.sequences.sequence_folder import save_sequence  # it needs this class: no cycle

        return save_sequence(self, Path(folder), assets=assets)

    @staticmethod
    def load(folder: Path | str) -> PosedSequence:
        """Read a folder written by `save`; images and assets are read when asked for.

        Raises:
            SequenceError: No `sequence.json`, another schema, a missing field or file: names it.
        """
        from scene_completion_ros.sequences.sequence_folder import load_sequence

        return load_sequence(Path(folder))
