"""`PosedSequence`: time-stamped images of a rig of named cameras with known poses, lazily read.

As a folder it is images and assets as files, and everything else in `sequence.json` (schema 1): extracted drives, and
towns of the street world with their exact voxels.
"""

import json
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import chain, combinations, count, pairwise, permutations
from pathlib import Path
from typing import Any, Protocol, TypeAlias, TypeVar, runtime_checkable

import cv2
import numpy as np
from numpy.typing import NDArray

from scene_completion_ros.errors import ImageError, SceneCompletionError, SequenceError
from scene_completion_ros.evaluation.semantic_classes import ROOM_IDS, SEMANTIC_KITTI_TO_COMMON, ClassMap
from scene_completion_ros.evaluation.truth import VoxelTruth, exact_truth
from scene_completion_ros.geometry import plausible_motion as plausible
from scene_completion_ros.geometry import transforms
from scene_completion_ros.geometry.cameras import Camera, camera_of
from scene_completion_ros.geometry.grids import DEFAULT_GRID, DEFAULT_GRID_FROM_CAMERA, VoxelGrid, grid_of
from scene_completion_ros.geometry.plausible_cameras import SHORTEST_BASELINE_M, check_baseline, doubts_about
from scene_completion_ros.geometry.transforms import RigidTransform, TransformError, rotation_of_angles
from scene_completion_ros.picture_files import read_rgb
from scene_completion_ros.untrusted_files import JsonObject, read_arrays, read_json, read_text, shown
from scene_completion_ros.whole_files import write_whole

SCHEMA_VERSION = 1
INDEX_NAME = "sequence.json"
LARGEST_INDEX = 100 << 20  # bytes; about a hundred thousand frames
_AGAIN = "Extract the sequence again"
TOWNS = "street world"  # source of rendered towns
ROOMS = "room world"  # of rendered rooms
# Assets of towns and rooms: their exact voxels, and how high the ground lies.
EXACT_VOXELS = ("voxel_label", "voxel_flags")
GROUND_HEIGHT = "ground_height"

_Line = TypeVar("_Line")
ArrayLoader: TypeAlias = Callable[[], NDArray[Any]]
ImageSource: TypeAlias = Path | ArrayLoader  # an image file, or a function that returns uint8 RGB [H, W, 3]


@runtime_checkable
class EncodedImage(Protocol):
    """An image source that can hand out its bytes as recorded, so that saving does not compress them twice."""

    def encoded(self) -> tuple[bytes, str] | None:
        """Return (file content, suffix such as ".jpg"), or None where the recording holds raw pixels."""


@dataclass(frozen=True, eq=False)
class Frame:
    """One instant of a sequence."""

    stamp_ns: int  # time in nanoseconds
    images: Mapping[str, ImageSource]  # camera name -> image source. A camera may be missing in a frame
    world_from_rig: RigidTransform
    # Name -> loader of an array that belongs to the instant. "lidar" is float32 [N, 3] in the rig frame, and
    # "lidar_pose" float64 [4, 4] where the LiDAR was there, if not at `rig_from_sensor`. Other names (labels,
    # masks, depth, voxels) are documented by the source that makes them.
    assets: Mapping[str, ArrayLoader] = field(default_factory=dict)


def read_source(source: ImageSource) -> NDArray[np.uint8]:
    """Read an image from wherever it is: uint8 RGB [H, W, 3]."""
    return read_rgb(source) if isinstance(source, Path) else source()


@dataclass(eq=False)
class PosedSequence:
    """Images of named cameras with poses, from any recording."""

    name: str  # short name for logs and tables
    cameras: dict[str, Camera]
    rig_from_camera: dict[str, RigidTransform]  # camera name -> pose of its optical frame in the rig frame
    frames: Sequence[Frame]  # instants, stamps strictly increasing
    pose_source: str  # where the poses come from, in words ("/tf map -> camera", "poses_gt.txt")
    metric_scale: bool = True  # whether the poses are in metres (False for monocular odometry)
    # What the sequence was made from: files, counts of what was dropped, licence. Plain JSON values.
    provenance: dict[str, Any] = field(default_factory=dict)
    # Further sensors: name ("velodyne") -> pose of its frame in the rig frame.
    rig_from_sensor: dict[str, RigidTransform] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.cameras:
            raise SequenceError("sequence has no camera", where=self.name, cure="Name at least one camera")
        if set(self.cameras) != set(self.rig_from_camera):
            what = f"cameras {sorted(self.cameras)} but poses in the rig for {sorted(self.rig_from_camera)}"
            cure = "Give rig_from_camera for exactly the cameras of the sequence"
            raise SequenceError(what, where=self.name, cure=cure)
        if not self.frames:
            raise SequenceError("sequence has no frame", where=self.name, cure="Check that its source holds images")
        previous: int | None = None
        for index, frame in enumerate(self.frames):
            where = f"{self.name}, frame {index}"
            if previous is not None and frame.stamp_ns <= previous:
                what = f"stamp {frame.stamp_ns} ns does not follow {previous} ns"
                raise SequenceError(what, where=where, cure="Sort the frames by time and drop repeated stamps")
            previous = frame.stamp_ns
            if unknown := set(frame.images) - set(self.cameras):
                what = f"images of unknown cameras {sorted(unknown)}"
                raise SequenceError(what, where=where, cure=f"Known: {sorted(self.cameras)}")

    def __len__(self) -> int:
        return len(self.frames)

    def image(self, index: int, camera: str) -> NDArray[np.uint8]:
        """Read uint8 RGB [H, W, 3]. Raises SequenceError: not in this frame; ImageError: unreadable, other size."""
        frame = self.frames[index]
        where = f"{self.name}, frame {index}, camera {camera!r}"
        if camera not in frame.images:
            raise SequenceError("frame holds no such image", where=where, cure=f"It has {sorted(frame.images)}")
        pixels = read_source(frame.images[camera])
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

    def save(self, folder: Path | str) -> Path:
        """Write the sequence as a folder of images plus `sequence.json` (schema 1).

        Image files and compressed messages are copied byte for byte, raw images become PNG. `sequence.json` is written
        last: a folder without it is an interrupted extraction. Raises SequenceError where the folder already holds
        something. `folder`: a new or empty folder.
        """
        folder = Path(folder)
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            cure = "Name a new folder: nothing already written is overwritten"
            raise SequenceError("folder is not empty", where=str(folder), cure=cure)
        folder.mkdir(parents=True, exist_ok=True)
        assets = dict.fromkeys(name for frame in self.frames for name in frame.assets)
        folder_of = _folder_names([*self.cameras, *assets])
        entries = []
        written: dict[int, str] = {}  # a mask of a whole drive is one loader in all its frames, and becomes one file
        for place, names in (("images", self.cameras), ("assets", assets)):
            for name in names:
                (folder / place / folder_of[name]).mkdir(parents=True)
        for number, frame in enumerate(self.frames):
            images = {}
            for camera, source in frame.images.items():
                content, suffix = image_file(source)
                images[camera] = f"images/{folder_of[camera]}/{number:06d}{suffix}"
                (folder / images[camera]).write_bytes(content)
            for name, loader in frame.assets.items():
                if id(loader) not in written:
                    written[id(loader)] = f"assets/{folder_of[name]}/{number:06d}.npz"
                    np.savez_compressed(folder / written[id(loader)], data=loader())
            arrays = {name: written[id(loader)] for name, loader in frame.assets.items()}
            pose = frame.world_from_rig.matrix.tolist()
            entries.append({"stamp_ns": frame.stamp_ns, "world_from_rig": pose, "images": images, "assets": arrays})
        document = {
            "schema_version": SCHEMA_VERSION,
            "name": self.name,
            "pose_source": self.pose_source,
            "metric_scale": self.metric_scale,
            "provenance": self.provenance,
            "cameras": {name: asdict(camera) for name, camera in self.cameras.items()},
            "rig_from_camera": {name: pose.matrix.tolist() for name, pose in self.rig_from_camera.items()},
            "rig_from_sensor": {name: pose.matrix.tolist() for name, pose in self.rig_from_sensor.items()},
            "frames": entries,
        }
        write_whole(folder / INDEX_NAME, json.dumps(document, indent=1).encode())
        return folder

    @property
    def floor(self) -> float | None:
        """Height of the floor in a world whose z axis points up, metres; None where the provenance has none."""
        floor = self.provenance.get("floor")
        return float(floor) if isinstance(floor, int | float) and math.isfinite(floor) else None

    def grid_from_camera(self, index: int = 0) -> RigidTransform:
        """Pose of the camera's optical frame in `stored_grid`; a grid without provenance turns with the camera.

        Where the provenance is "level", the grid of each frame stands upright on the floor below the camera. Raises
        SequenceError where its provenance names what is no pose.
        """
        described: Any = self.provenance.get("voxel_grid") or {}
        stored = described.get("grid_from_camera")
        if stored is None:
            return DEFAULT_GRID_FROM_CAMERA
        if stored == "level" and self.floor is not None:
            stands = self.world_from_camera(index, str(described["around"])).levelled()
            return RigidTransform(stands.rotation, stands.translation - (0.0, 0.0, self.floor))
        where = f"{self.name}, provenance.voxel_grid.grid_from_camera"
        return rigid_transform(stored, where, "Write the sequence again")

    @staticmethod
    def load(folder: Path | str) -> "PosedSequence":
        """Read what `save` wrote, files when asked for.

        Raises SequenceError: other schema, no such field or file; CameraError: no camera or stereo pair is like that.
        """
        folder = Path(folder)
        index = folder / INDEX_NAME
        if not index.is_file():
            what = f"no {INDEX_NAME}"
            raise SequenceError(what, where=str(folder), cure="Name a complete sequence folder, or extract it again")
        document = read_json(index, SequenceError, cure=_AGAIN, kind=dict, most_bytes=LARGEST_INDEX)
        fields = JsonObject(document, index, kind=SequenceError, cure=_AGAIN)
        if (version := fields.integer("schema_version")) != SCHEMA_VERSION:
            cure = "Update scene_completion_ros" if version > SCHEMA_VERSION else _AGAIN
            raise fields.error("schema_version", f"is {version}, this program reads {SCHEMA_VERSION}", cure)
        cameras, poses = fields.object("cameras"), [fields.object(f"rig_from_{kind}") for kind in ("camera", "sensor")]
        rig_from_camera, rig_from_sensor = ({name: _pose(of, name) for name in of.values} for of in poses)
        sequence = PosedSequence(
            name=fields.text("name"),
            cameras={name: camera_of(cameras.object(name)) for name in cameras.values},
            rig_from_camera=rig_from_camera,
            frames=[_frame(entry, folder) for entry in fields.objects("frames")],
            pose_source=fields.text("pose_source"),
            metric_scale=fields.flag("metric_scale"),
            provenance=dict(fields.object("provenance").values),
            rig_from_sensor=rig_from_sensor,
        )
        for name, camera in sequence.cameras.items():
            doubts_about(camera, cameras.where(name))  # raises
        _check_pairs(sequence, str(index))
        _check_motion(sequence, str(index))
        return sequence


def _check_motion(sequence: PosedSequence, where: str) -> None:
    """Refuse poses in metres that no vehicle can have; what is far away for a moment is named with its frame."""
    if not sequence.metric_scale:
        return
    sensors = (sequence.rig_from_camera | sequence.rig_from_sensor).items()
    found = [f"{name} {problem}" for name, pose in sensors if (problem := plausible.arm_problem(pose, "its rig"))]
    stamps = np.array([frame.stamp_ns for frame in sequence.frames], np.int64)
    positions = np.array([frame.world_from_rig.translation for frame in sequence.frames])
    stray, away = plausible.strays(stamps, positions)
    if problem := plausible.speed_problem(stamps[~stray], positions[~stray]):
        found.append(f"the rig {problem}")
    elif away:
        found.append(f"wrong, from frame {np.argmax(stray)} on, are {away}")
    if found:
        cure = "Poses are metres, stamp_ns nanoseconds: correct or leave out what is wrong, or state metric_scale false"
        raise SequenceError("; ".join(found), where=where, cure=cure)


def load_array(path: Path) -> NDArray[Any]:
    """Load an asset written by `PosedSequence.save`."""
    return read_arrays(path, SequenceError, cure=_AGAIN, needed=("data",))["data"]


def _frame(entry: JsonObject, folder: Path) -> Frame:
    images, assets = entry.object("images"), entry.object("assets")
    stamp = entry.integer("stamp_ns")
    if stamp.bit_length() > 63:
        raise entry.error("stamp_ns", f"{shown(stamp)} is no time in nanoseconds")
    return Frame(
        stamp,
        {camera: inside(folder, images.text(camera), images.where(camera)) for camera in images.values},
        _pose(entry, "world_from_rig"),
        {name: partial(load_array, inside(folder, assets.text(name), assets.where(name))) for name in assets.values},
    )


def _check_pairs(sequence: PosedSequence, where: str) -> None:
    """Refuse rectified pairs with a baseline that no stereo rig has."""
    for one, other in combinations(sorted(sequence.cameras), 2):
        offset = sequence.rig_from_camera[one].inverse() @ sequence.rig_from_camera[other]
        metres = float(np.linalg.norm(offset.translation))
        alike = sequence.cameras[one] == sequence.cameras[other] and np.trace(offset.rotation) > 3.0 - 1e-6
        if sequence.metric_scale and alike and metres > 1e-6:
            check_baseline(metres, f"{where}, {one} and {other}")


def _pose(fields: JsonObject, name: str) -> RigidTransform:
    return rigid_transform(fields.values.get(name), fields.where(name))


def image_file(source: ImageSource) -> tuple[bytes, str]:
    """Content and suffix of the file that keeps an image without loss."""
    if isinstance(source, Path):
        return source.read_bytes(), source.suffix.lower()
    if isinstance(source, EncodedImage) and (encoded := source.encoded()) is not None:
        return encoded
    _, content = cv2.imencode(".png", cv2.cvtColor(source(), cv2.COLOR_RGB2BGR))
    return content.tobytes(), ".png"


def _folder_names(names: Iterable[str]) -> dict[str, str]:
    """Distinct folder names for camera and asset names ("/camera/left" -> "camera_left")."""
    folder_of: dict[str, str] = {}
    for name in dict.fromkeys(names):
        base = re.sub(r"[^A-Za-z0-9_.-]+", "_", name).strip("_.") or "unnamed"
        candidates = chain([base], (f"{base}_{i}" for i in count(2)))
        folder_of[name] = next(candidate for candidate in candidates if candidate not in folder_of.values())
    return folder_of


def inside(folder: Path, relative: Any, where: str) -> Path:
    """A path below a folder, as an index names it; a `SequenceError` if it leaves the folder."""
    path = Path(str(relative))
    longest = max(map(len, path.parts), default=0)
    if path.is_absolute() or ".." in path.parts or "\0" in str(path) or not 0 < longest < 256:
        what = f"path {shown(str(relative))} leaves the folder, or is none"
        raise SequenceError(what, where=where, cure="Use relative paths")
    return folder / path


def rigid_transform(matrix: Any, where: str, cure: str = _AGAIN) -> RigidTransform:
    """A matrix [4, 4] or [3, 4] that a file holds as a transform. Raises SequenceError where it is none."""
    try:
        return RigidTransform.from_matrix(np.asarray(matrix, dtype=np.float64))
    except (SceneCompletionError, ValueError, TypeError) as error:
        raise SequenceError(f"not a rigid transform: {error}", where=where, cure=cure) from error


def read_lines(
    path: Path,
    kind: str,  # what a line is, for messages
    read: Callable[[str], _Line],  # reads one; raises ValueError or TransformError where it is none
    cure: str = "Restore the file",
    *,
    header: int = 0,  # lines before the first
) -> list[_Line]:
    """What the lines of a text file hold, without blank ones. Raises SequenceError: missing, no such line, or none."""
    text = read_text(path, SequenceError, cure=cure, most_bytes=LARGEST_INDEX)
    found = []
    for number, line in enumerate(text.splitlines()[header:], start=header + 1):
        try:
            found += [read(line)] if line.strip() else []
        except (ValueError, OverflowError, TransformError) as error:
            what = f"no {kind}: {line[:60]!r} ({getattr(error, 'what', error)})"
            raise SequenceError(what, where=f"{path}, line {number}", cure=cure) from error
    if not found:
        raise SequenceError(f"holds no {kind}", where=str(path), cure=cure)
    return found


def pose_of(line: str) -> RigidTransform:
    """The pose that a line of 12 or 16 numbers is, row by row; ValueError or TransformError where it is none."""
    return RigidTransform.from_matrix(np.reshape([float(word) for word in line.split()], (-1, 4)))


def numbers_of(text: str, shape: tuple[int, ...], where: str, cure: str, *, finite: bool = True) -> NDArray[np.float64]:
    """The numbers of a text as an array of a shape. Raises SequenceError for others, or where some are not finite."""
    try:
        values = np.array([float(word) for word in text.split()]).reshape(shape)
        if np.isfinite(values).all() or not finite:
            return values
    except ValueError:
        pass
    raise SequenceError(f"not numbers, or not finite: {text[:60]!r}", where=where, cure=cure)


def pinhole_camera(matrix: NDArray[np.float64], size: tuple[int, int], where: str, cure: str) -> Camera:
    """A camera by its intrinsic matrix [3, 3] or [4, 4], and width and height; a SequenceError where it is none."""
    try:
        fx, fy, cx, cy = matrix[[0, 1, 0, 1], [0, 1, 2, 2]].tolist()
        return Camera(fx, fy, cx, cy, *size)
    except SceneCompletionError as error:
        raise SequenceError(f"has no intrinsics: {error}", where=where, cure=cure) from error


UNKNOWN_POSES = "none"  # as name of the poses: the frames are unrelated, each of them taken somewhere else

# Reads the assets of a frame; None where they are not around the camera that is named.
VoxelReader: TypeAlias = Callable[[PosedSequence, int, str], VoxelTruth | None]


@dataclass(frozen=True)
class Source:
    """One kind of recording, in a file of its own; `SOURCES` in `opening.py` lists them."""

    looks_like: str  # what it consists of, for users whose folder is not recognised
    recognises: Callable[[Path], bool]  # whether a path is such a recording
    # Opens it. The second argument names its poses, where there are several, or is `UNKNOWN_POSES`.
    open: Callable[[Path, str | None], PosedSequence]
    # Assets that hold the true voxels of its frames; none where it has no such truth.
    voxel_assets: tuple[str, ...] = ()
    voxels: VoxelReader | None = None  # reads them, where a frame has them all


def grid_entry(grid: VoxelGrid, around: str) -> dict[str, Any]:
    """What the provenance has as "voxel_grid" of stored voxels around a camera."""
    return {"origin": list(grid.origin), "voxel_size": grid.voxel_size, "shape": list(grid.shape), "around": around}


def stored_around(sequence: PosedSequence) -> str | None:
    """The camera that stored depth and voxels of a sequence belong to, where its provenance names it."""
    stored = sequence.provenance.get("voxel_grid")
    return str(stored["around"]) if isinstance(stored, dict) and "around" in stored else None


def _folder(path: Path) -> Path | None:
    """Where its index lies: in the folder itself, or in `sequence/` of a town."""
    return next((folder for folder in (path, path / "sequence") if (folder / INDEX_NAME).is_file()), None)


def _open(path: Path, _: str | None) -> PosedSequence:
    return PosedSequence.load(_folder(path) or path)


def exact_voxels(sequence: PosedSequence, index: int, camera: str) -> VoxelTruth | None:
    """Voxels "voxel_label", "voxel_flags" around a camera. Raises SequenceError where their grid is unknown."""
    if (stored_around(sequence) or camera) != camera:
        return None
    label, flags = (sequence.frames[index].assets[name]() for name in EXACT_VOXELS)
    ground = sequence.asset(index, GROUND_HEIGHT)
    grid, pose = stored_grid(sequence), sequence.grid_from_camera(index)
    return exact_truth(label, flags, grid, pose, ground, stored_classes(sequence))


def stored_classes(sequence: PosedSequence) -> ClassMap:
    """From the ids of stored labels to the classes that are scored: those of rooms, or of streets."""
    return ROOM_IDS if sequence.provenance.get("source") == ROOMS else SEMANTIC_KITTI_TO_COMMON


def holds_exact_voxels(sequence: PosedSequence) -> bool:
    """Whether its first frame has the exact voxels of a rendered town."""
    return sequence.frames[0].assets.keys() >= set(EXACT_VOXELS)


def stored_grid(sequence: PosedSequence) -> VoxelGrid:
    """The grid of stored voxels; that of streets where the provenance names none. SequenceError for a bad one."""
    if sequence.provenance.get("voxel_grid") is None:
        return DEFAULT_GRID
    cure = "Voxels need origin, voxel_size and shape there: write the sequence again"
    provenance = JsonObject(sequence.provenance, sequence.name, "provenance.", kind=SequenceError, cure=cure)
    return grid_of(provenance.object("voxel_grid"))


SOURCE = Source(
    f"a folder with {INDEX_NAME}, such as a town of scene-completion world street",
    lambda path: _folder(path) is not None,
    _open,
    EXACT_VOXELS,
    exact_voxels,
)


# fx / width of the calibrations of three days (odometry 04 to 10, odometry 00 to 02, most of raw) -> how the left
# colour camera stood above the road: metres, degrees down and rolled to the right. Rounded from the ground that stereo
# and LiDAR measured on drives 00, 02, 05, 07, raw 0013 and 0056, and the pairs of KITTI 2015; frames scatter by 0.04 m,
# 0.4° and 1°.
_KITTI_MOUNTINGS = {0.5768: (1.62, 0.7, 1.2), 0.5792: (1.65, 0.8, 1.4), 0.5809: (1.61, -0.3, 0.8)}


def stereo_pair(sequence: PosedSequence) -> tuple[str, str, float]:
    """Left, right camera, baseline (m) of a sequence's rectified pair. Raises SequenceError where there is none."""
    names = sorted(sequence.cameras)
    for left, right in permutations(names, 2):
        offset = sequence.rig_from_camera[left].inverse() @ sequence.rig_from_camera[right]
        x, y, z = offset.translation
        ahead = x > 0.05 and abs(y) < 0.05 * x and abs(z) < 0.05 * x and np.trace(offset.rotation) > 3.0 - 1e-6
        if ahead and sequence.cameras[left].matrix.tolist() == sequence.cameras[right].matrix.tolist():
            return left, right, float(x)
    cure = "Training needs two rectified cameras of equal intrinsics, side by side"
    raise SequenceError("no rectified stereo pair", where=f"sequence {sequence.name}, cameras {names}", cure=cure)


def cameras_ahead(sequence: PosedSequence) -> tuple[str, ...]:
    """Left and right camera of the stereo pair; of a rig without one, the camera that looks where it goes."""
    try:
        return stereo_pair(sequence)[:2]
    except SequenceError:
        names = sorted(sequence.cameras)
    places = [(frame.world_from_rig.translation, frame.world_from_rig.rotation) for frame in sequence.frames]
    steps = [turn.T @ (later - here) for (here, turn), (later, _) in pairwise(places)]
    ahead = np.sum(steps, axis=0) if steps else np.zeros(3)  # in the rig's frame
    return (max(names, key=lambda name: float(sequence.rig_from_camera[name].rotation[:, 2] @ ahead)),)


def reference_camera(sequence: PosedSequence) -> str:
    """Camera whose frame points are given in: the one that voxels are stored around, KITTI's left colour one, or left.

    "Left" is the first of `cameras_ahead`.
    """
    for name in (stored_around(sequence), "image_2"):
        if name in sequence.cameras:
            return str(name)
    return cameras_ahead(sequence)[0]


def mounting(sequence: PosedSequence, camera: str, index: int = 0) -> RigidTransform | None:
    """Pose of a camera's optical frame in a frame whose z axis points up and begins on the ground; None if unknown.

    The rig frame of rendered towns is one. Of KITTI's cars it is what was measured, see `_KITTI_MOUNTINGS`. Where the
    world stands upright and its floor is known, it is that of this frame: a camera in a hand has no mounting.
    """
    floor = sequence.floor
    if floor is not None:
        stands = sequence.world_from_camera(index, camera).levelled()
        return RigidTransform(stands.rotation, stands.translation - (0.0, 0.0, floor))
    if sequence.provenance.get("source") == TOWNS:
        return sequence.rig_from_camera[camera]
    if sequence.provenance.get("dataset") == "KITTI":
        seen = sequence.cameras[camera]
        day = min(_KITTI_MOUNTINGS, key=lambda ratio: abs(ratio - seen.fx / seen.width))
        height, pitch, roll = _KITTI_MOUNTINGS[day]
        turn = rotation_of_angles(np.radians(roll), np.radians(pitch), 0.0)
        return RigidTransform(turn, np.array([0.0, 0.0, height])) @ transforms.OPTICAL_FROM_FORWARD.inverse()
    return None


SMALLEST_PATH_M = 0.5
STEP_M = 0.2  # shorter steps of a car say nothing about where its cameras look
# Points that a pair has to share before their order counts, and how far apart their rows may be.
MATCHES, SAME_ROW_PX = 40, 2.0


def check_for_training(sequence: PosedSequence, where: str, *, metric: bool = True) -> None:
    """Refuse a sequence from which a network would learn something wrong, or break on the way.

    Poses with NaN never get this far: a transform cannot hold them, and opening the sequence names the frame. Raises
    SequenceError: unknown scale where it is to be `metric`, a missing image file, a frame without one of the cameras,
    two cameras at one place, a rig that does not move, a car that drives to where its cameras do not look, or a pair
    whose left and right are swapped.
    """
    if metric and not sequence.metric_scale:
        cure = "Training needs poses in metres, as of odometry"
        raise SequenceError("scale: unknown", where=where, cure=cure)
    for index, frame in enumerate(sequence.frames):
        if absent := sorted(set(sequence.cameras) - set(frame.images)):
            cure = "Leave out frames that not all cameras have, or extract the sequence again"
            raise SequenceError(f"no image of {', '.join(absent)}", where=f"{where}, frame {index}", cure=cure)
        for camera, source in frame.images.items():
            if isinstance(source, Path) and not source.is_file():
                what = f"image file {source} is missing"
                cure = "Restore the file or extract the sequence again"
                raise SequenceError(what, where=f"{where}, frame {index}, camera {camera!r}", cure=cure)
    _check_baselines(sequence, where)
    check_rig(sequence, where)


def check_rig(sequence: PosedSequence, where: str) -> None:
    """Refuse a rig by which trainings and scores come out wrong unnoticed.

    Raises SequenceError for a car that drives to where its cameras do not look, or a pair that is swapped.
    """
    if str(sequence.provenance.get("dataset", "")).startswith("KITTI"):
        _check_direction(sequence, where)
    _check_sides(sequence, where)


def _check_baselines(sequence: PosedSequence, where: str) -> None:
    for one, other in combinations(sorted(sequence.cameras), 2):
        offset = sequence.rig_from_camera[one].inverse() @ sequence.rig_from_camera[other]
        same_view = np.trace(offset.rotation) > 2.9  # cameras that look elsewhere may well share a centre
        if same_view and np.linalg.norm(offset.translation) < SHORTEST_BASELINE_M:
            cure = "Correct the static transforms or P of the stereo calibration, then extract it again"
            raise SequenceError(f"zero baseline: {one} and {other} stand at one place", where=where, cure=cure)
    if len(sequence) > 1 and sequence.travelled_distance() < SMALLEST_PATH_M and len(sequence.cameras) == 1:
        what = f"zero baseline: one camera that moves {sequence.travelled_distance():.2f} m in {len(sequence)} frames"
        cure = "Check the poses: other views of the same place are what training learns from"
        raise SequenceError(what, where=where, cure=cure)


def _check_direction(sequence: PosedSequence, where: str) -> None:
    """Refuse poses of another convention: in their own frame, cars with cameras ahead drive along z."""
    camera = reference_camera(sequence)
    poses = [sequence.world_from_camera(index, camera) for index in range(len(sequence))]
    steps = np.array([(here.inverse() @ there).translation for here, there in pairwise(poses)]).reshape(-1, 3)
    lengths = np.linalg.norm(steps, axis=1)
    along = steps[lengths > STEP_M, 2] / lengths[lengths > STEP_M]
    if along.size and np.median(along) < 0.5:
        raise SequenceError(
            f"the car drives at {np.degrees(np.arccos(np.median(along))):.0f} degrees to where {camera} looks",
            where=where,
            cure="The poses have another convention: give camera_to_world (x right, y down, z forward), or those of "
            "the IMU as KITTI-360 has them",
        )


def _check_sides(sequence: PosedSequence, where: str) -> None:
    """Refuse a pair whose folders are swapped: what both cameras see lies further to the right in the left image."""
    try:
        pair = stereo_pair(sequence)[:2]
    except SequenceError:
        return
    images = [cv2.cvtColor(sequence.image(len(sequence) // 2, name), cv2.COLOR_RGB2GRAY) for name in pair]
    finder = cv2.ORB_create(1000)  # type: ignore[attr-defined]
    (left, of_left), (right, of_right) = (finder.detectAndCompute(image, None) for image in images)
    if of_left is None or of_right is None:
        return
    matches = cv2.BFMatcher(cv2.NORM_HAMMING, crossCheck=True).match(of_left, of_right)
    shifts = np.array([np.subtract(left[m.queryIdx].pt, right[m.trainIdx].pt) for m in matches]).reshape(-1, 2)
    disparity = shifts[np.abs(shifts[:, 1]) < SAME_ROW_PX, 0]
    if len(disparity) >= MATCHES and np.mean(disparity < -1.0) > 0.8:
        what = f"left and right are swapped: {pair[0]} shows what {pair[1]} should"
        cure = "Exchange the folders of their images, or the static transforms of the cameras"
        raise SequenceError(what, where=where, cure=cure)
