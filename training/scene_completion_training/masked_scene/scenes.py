"""Scenes of occupied voxels with their colours, from predictions, rendered towns, stereo depth or LiDAR.

A scene holds the voxels of one frame that lie in the image of the reference camera. Places are never features: the
network sees them as neighbourhoods alone.
"""

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import safetensors
from numpy.typing import NDArray

from scene_completion_ros.errors import ConfigurationError, GridError, SequenceError
from scene_completion_ros.evaluation.semantic_classes import INVALID
from scene_completion_ros.evaluation.truth import VoxelTruth
from scene_completion_ros.evaluation.visibility import visible_voxels
from scene_completion_ros.geometry import DEFAULT_GRID, DEFAULT_GRID_FROM_CAMERA, RigidTransform, VoxelGrid
from scene_completion_ros.inference.bundle import StudentBundle
from scene_completion_ros.inference.completer import Completer
from scene_completion_ros.sequences.opening import voxel_truth
from scene_completion_ros.sequences.posed_sequence import PosedSequence
from scene_completion_ros.sequences.rigs import cameras_ahead, reference_camera
from scene_completion_ros.sequences.sequence_folder import holds_exact_voxels
from scene_completion_ros.untrusted_files import parse_json
from scene_completion_ros.whole_files import tensor_bytes, write_whole
from scene_completion_training.arrays import Bytes, Floats, Mask
from scene_completion_training.data.prepared import Depths, fingerprint
from scene_completion_training.data.stereo import rectified_sequence
from scene_completion_training.data.stereo_voxels import OCCUPIED, stereo_evidence
from scene_completion_training.data.student_units import DeployedUnits
from scene_completion_training.data.voxel_evidence import FusionSettings
from scene_completion_training.viewpoint import Viewpoint, Volume

Kind = Literal["predicted", "exact", "stereo", "lidar", "points"]
KINDS: tuple[Kind, ...] = get_args(Kind)[:-1]  # those of recordings; a folder of scenes of points has no frames
# Columns of features: occupancy probability; colour of the image, 0..1, and 1, where the camera sees the voxel.
FEATURES = ("probability", "red", "green", "blue", "seen")
LEAST_POINTS = 2  # points of scans in a voxel that is occupied: one alone may be an error of the pose
_VERSION = 1


def feature_names(units: int = 0) -> tuple[str, ...]:
    """Names of the columns of scenes, with so many label units of a student behind `FEATURES`."""
    return FEATURES + tuple(f"unit_{number:03d}" for number in range(units))


@dataclass(frozen=True, eq=False)
class VoxelScene:
    """The occupied voxels of a frame; a GridError if there are none, one is outside or twice, or arrays do not fit."""

    index: NDArray[np.int16]  # int16 [N, 3], voxels x, y, z of the grid; each once
    features: Floats  # float32 [N, F], columns as `columns` names them
    grid: VoxelGrid  # the grid, x forward, y left, z up
    grid_from_camera: RigidTransform  # pose of the reference camera's optical frame in it
    name: str = ""
    columns: tuple[str, ...] = FEATURES
    # uint8 [N], `COMMON_CLASSES`; 0 where the truth says free, 255 unknown. None without truth.
    label: Bytes | None = None

    def __post_init__(self) -> None:
        where, count = f"scene {self.name}", len(self.index)
        if not count:
            raise GridError("holds no occupied voxel", where=where, cure="Leave the frame out")
        labels = (count,) if self.label is None else self.label.shape
        if self.index.shape != (count, 3) or self.features.shape != (count, len(self.columns)) or labels != (count,):
            what = f"index {self.index.shape}, features {self.features.shape}, labels {labels}"
            cure = f"Give index [N, 3], features [N, {len(self.columns)}] and labels [N]"
            raise GridError(what, where=where, cure=cure)
        if (self.index < 0).any() or (self.index >= self.grid.shape).any():
            low, high = self.index.min(axis=0).tolist(), self.index.max(axis=0).tolist()
            what = f"voxels {low} to {high} are more than a grid of {self.grid.shape} holds"
            raise GridError(what, where=where, cure="Crop the scene, or name the grid that it was made on")
        once = np.zeros(self.grid.shape, np.bool_)
        once[tuple(self.index.T)] = True
        if np.count_nonzero(once) != count:
            raise GridError("a voxel occurs twice", where=where, cure="Give each voxel once")

    def __len__(self) -> int:
        """Number of voxels N."""
        return len(self.index)

    @property
    def range_m(self) -> Floats:
        """Distance of the voxels from the camera over the ground, float32 [N], metres."""
        centres = np.asarray(self.grid.origin) + (self.index + 0.5) * self.grid.voxel_size
        return np.asarray(np.linalg.norm((centres - self.grid_from_camera.translation)[:, :2], axis=1), np.float32)

    def save(self, file: Path) -> None:
        """Writes it as safetensors: features in half precision, the rest as it is."""
        arrays: dict[str, NDArray[Any]] = {"index": self.index, "features": self.features.astype(np.float16)}
        if self.label is not None:
            arrays["label"] = self.label
        grid, pose = dataclasses.asdict(self.grid), self.grid_from_camera.matrix.tolist()
        about = {"name": self.name, "columns": self.columns, "grid": grid, "grid_from_camera": pose}
        write_whole(file, tensor_bytes(arrays, {"scene": json.dumps(about)}))

    @staticmethod
    def load(file: Path) -> "VoxelScene":
        """Reads a file of `save`. Raises SequenceError where it is damaged, or none."""
        cure = "Delete it: it is made again at the next start"
        try:
            with safetensors.safe_open(file, framework="np") as stored:
                arrays = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
                about = parse_json(stored.metadata()["scene"], SequenceError, where=str(file), cure=cure)
            grid = about["grid"]
            whole = VoxelGrid(tuple(grid["origin"]), grid["voxel_size"], tuple(grid["shape"]), grid["frame"])
            pose, features = RigidTransform.from_matrix(about["grid_from_camera"]), arrays["features"]
            content = arrays["index"], features.astype(np.float32), whole, pose
            return VoxelScene(*content, about["name"], tuple(about["columns"]), arrays.get("label"))
        except (OSError, LookupError, TypeError, ValueError, safetensors.SafetensorError) as error:
            raise SequenceError(f"no scene ({error})", where=str(file), cure=cure) from error


class SceneMaker:
    """Makes the scenes of a recording, of one kind.

    "predicted" voxels are what a student says is occupied. "exact" ones stand in a rendered town, without insides and
    what lies below the ground. "stereo" ones are fused of the depth of the frames around. "lidar" ones are the labelled
    voxels of a KITTI window's first frame, and of its other frames those that its scans hit. The grid is that of the
    frame's ground truth, and without any that of the student or the street. Raises ConfigurationError where the student
    is missing, or has no label units. `student`: needed for "predicted" and for units; `units`: add the student's label
    units of each voxel as features.
    """

    def __init__(
        self, sequence: PosedSequence, kind: Kind, *, student: StudentBundle | None = None, units: bool = False
    ) -> None:
        if kind not in KINDS:
            raise ConfigurationError(f"kind {kind!r} does not exist", where="scenes", cure=f"Take one of {KINDS}")
        if student is None and (units or kind == "predicted"):
            what = "no student is named, and these features or voxels are a student's"
            raise ConfigurationError(what, where="student", cure="Name one")
        if units and student is not None and not student.head.label_hidden:
            what = "has no label units"
            raise ConfigurationError(what, where=f"student {student.name}", cure="Name a student with classes")
        self.sequence, self.kind, self.student = sequence, kind, student
        self.camera = reference_camera(sequence)
        self.units = student.head.label_hidden if units and student is not None else 0
        self._completer: Completer | None = None

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the features."""
        return feature_names(self.units)

    @property
    def key(self) -> str:
        """What the scenes follow from, but for the pixels."""
        student = [] if self.student is None else [self.student.name, sorted(self.student.sha256.items())]
        frames = fingerprint(self.sequence, FusionSettings(), Viewpoint())
        content = json.dumps([_VERSION, frames, self.kind, self.units, student])
        return f"{self.sequence.name.replace('/', '_')}-{self.kind}-{hashlib.sha256(content.encode()).hexdigest()[:12]}"

    def scene(self, index: int) -> VoxelScene:
        """The scene of a frame.

        Raises SequenceError where the frame has no truth, no LiDAR or no stereo pair that the kind asks for; GridError
        where nothing in view is occupied.
        """
        truth = voxel_truth(self.sequence, index)
        occupied, probability, grid, pose = self._occupied(index, truth)
        camera = self.sequence.cameras[self.camera]
        voxels = np.argwhere(occupied).astype(np.int16)
        points = points_camera(voxels, grid, pose)
        shown = camera.project(points)[1]
        voxels, points = voxels[shown], points[shown]
        place = tuple(voxels.T)
        seen = visible_voxels(occupied, pose.translation, grid, occupied)[place]
        image = self.sequence.image(index, self.camera)
        colours = np.where(seen[:, None], _colours(image, self.sequence, self.camera, points, grid.voxel_size), 0.0)
        columns = [probability[place][:, None], colours, seen[:, None]]
        if self.units:
            columns.append(self._label_units.observe(image, camera)(points))
        label = None
        if truth is not None:
            label = np.where(truth.counted, truth.class_map.apply(truth.labels), np.uint8(INVALID))[place]
        features, name = np.concatenate(columns, axis=1), f"{self.sequence.name}/{index:06d}/{self.kind}"
        return VoxelScene(voxels, features.astype(np.float32), grid, pose, name, self.columns, label)

    def _occupied(self, index: int, truth: VoxelTruth | None) -> tuple[Mask, Floats, VoxelGrid, RigidTransform]:
        """Occupied voxels and their probability [X, Y, Z], the grid, and the camera's pose in it."""
        grid, pose = DEFAULT_GRID, DEFAULT_GRID_FROM_CAMERA
        if truth is not None:
            grid, pose = truth.grid, truth.grid_from_camera
        elif self.student is not None:
            grid, pose = self.student.grid, self.student.grid_from_camera
        if self.kind == "predicted":
            occupied, probability = self._completed(index, grid, pose)
        elif self.kind == "stereo":
            occupied, probability = self._fused(index, grid, pose)
        else:
            occupied = self._true(index, truth) if truth is not None else self._scanned(index, grid, pose)
            probability = occupied.astype(np.float32)
        return occupied, probability, grid, pose

    def _true(self, index: int, truth: VoxelTruth) -> Mask:
        if holds_exact_voxels(self.sequence, index) != (self.kind == "exact"):
            raise self._lacking(index, "rendered voxels" if self.kind == "exact" else "LiDAR")
        return truth.occupied & truth.counted

    def _scanned(self, index: int, grid: VoxelGrid, pose: RigidTransform) -> Mask:
        if self.kind == "exact":
            raise self._lacking(index, "rendered voxels")
        grid_from_world = pose @ self.sequence.world_from_camera(index, self.camera).inverse()
        hits = np.zeros(grid.shape, np.int32)
        for number, frame in enumerate(self.sequence.frames):
            points = self.sequence.lidar(number)
            if points is None:
                raise self._lacking(number, "LiDAR")
            voxels, inside = grid.index_of((grid_from_world @ frame.world_from_rig).apply(points.astype(np.float64)))
            np.add.at(hits, tuple(np.asarray(voxels)[inside].T), 1)
        return hits >= LEAST_POINTS

    def _lacking(self, index: int, what: str) -> SequenceError:
        cure = f"Take scenes of another kind than {self.kind!r} of this recording"
        return SequenceError(f"has no {what}", where=f"{self.sequence.name}, frame {index}", cure=cure)

    def _completed(self, index: int, grid: VoxelGrid, pose: RigidTransform) -> tuple[Mask, Floats]:
        assert self.student is not None
        made = self._completer
        if made is None or made.grid != grid or not np.array_equal(made.grid_from_camera.matrix, pose.matrix):
            made = Completer(self.student, self.sequence.cameras[self.camera], grid=grid, grid_from_camera=pose)
            self._completer = made
        completion = made.complete(self.sequence.image(index, self.camera))
        occupied = np.zeros(grid.shape, np.bool_)
        occupied[tuple(completion.voxels.index.T)] = True
        return occupied, completion.probability

    @cached_property
    def _stereo(self) -> Depths:
        ahead = cameras_ahead(self.sequence)
        if len(ahead) < 2:
            raise self._lacking(0, "stereo pair")
        return Depths(rectified_sequence(self.sequence, ahead, Viewpoint().camera), Volume().ahead)

    def _fused(self, index: int, grid: VoxelGrid, pose: RigidTransform) -> tuple[Mask, Floats]:
        """What the stereo depth of the frames around says is rather occupied than free."""
        depths = self._stereo
        world_from_left = depths.sequence.world_from_camera(index, depths.camera)
        camera_from_left = self.sequence.world_from_camera(index, self.camera).inverse() @ world_from_left
        probability, _ = stereo_evidence(depths.sequence, index, grid, pose @ camera_from_left, depths)
        return probability > OCCUPIED, probability

    @cached_property
    def _label_units(self) -> DeployedUnits:
        assert self.student is not None
        return DeployedUnits(self.student)


def keep_scenes(maker: SceneMaker, cache: Path, frames: Sequence[int] | None = None) -> list[Path]:
    """Makes scenes that the cache lacks, and returns the files of all, in order; empty frames are said and left out.

    Raises SequenceError where no frame has an occupied voxel, or see `SceneMaker.scene`. `cache`: folder; each
    recording and kind gets one in it; `frames`: frames wanted, by default all.
    """
    folder = cache / maker.key
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for index in range(len(maker.sequence)) if frames is None else frames:
        file = folder / f"{index:06d}.safetensors"
        if not file.exists():
            try:
                maker.scene(index).save(file)
            except GridError as error:
                print(f"left out: {error}")
                continue
        files.append(file)
    if not files:
        what = f"no frame has {maker.kind} voxels"
        raise SequenceError(what, where=maker.sequence.name, cure="Leave the recording out")
    return files


def points_camera(index: NDArray[np.integer], grid: VoxelGrid, grid_from_camera: RigidTransform) -> Floats:
    """Centres of voxels [N, 3], float32 [N, 3], metres, optical frame of the camera."""
    centres = np.asarray(grid.origin) + (index + 0.5) * grid.voxel_size
    return np.asarray(grid_from_camera.inverse().apply(centres), np.float32)


def _colours(image: Bytes, sequence: PosedSequence, camera: str, points: Floats, edge: float) -> Floats:
    """Colours [N, 3] in 0..1: mean of the image at the centres of the eighths of each voxel that lie in it."""
    offsets = edge / 4.0 * np.stack(np.meshgrid(*[(-1.0, 1.0)] * 3), axis=-1).reshape(8, 3)
    total, count = np.zeros((len(points), 3), np.float32), np.zeros((len(points), 1), np.float32)
    for offset in offsets:
        pixels, valid = sequence.cameras[camera].project(points + offset)
        column, row = np.rint(np.asarray(pixels)[valid]).astype(np.int64).T
        total[valid] += image[row.clip(0, image.shape[0] - 1), column.clip(0, image.shape[1] - 1)]
        count[valid] += 1.0
    return np.asarray(total / np.maximum(count, 1.0) / 255.0, np.float32)
