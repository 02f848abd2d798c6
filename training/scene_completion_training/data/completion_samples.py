"""Samples of stage `completion`: maps of a frozen trunk for an image, and the true voxels before the camera."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias
from zlib import crc32

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader

from scene_completion_ros.errors import ConfigurationError, SequenceError
from scene_completion_ros.evaluation import semantic_classes
from scene_completion_ros.evaluation.semantic_classes import COMMON_CLASSES, EMPTY, INVALID, ClassMap
from scene_completion_ros.evaluation.truth import VoxelTruth
from scene_completion_ros.geometry import DEFAULT_GRID_FROM_CAMERA, Camera, RigidTransform, VoxelGrid
from scene_completion_ros.geometry.depth_images import sparse_depth
from scene_completion_ros.inference.bundle import MANIFEST, open_student, shipped_students, student_folder
from scene_completion_ros.inference.cells import stated_ground, volume_pose
from scene_completion_ros.inference.encoder import CellGraphs, cpu_engine, cpu_networks
from scene_completion_ros.jit import kernel
from scene_completion_ros.sequences import posed_sequence
from scene_completion_ros.sequences.opening import depth_truth, voxel_truth
from scene_completion_ros.sequences.posed_sequence import ROOMS, TOWNS, PosedSequence, reference_camera
from scene_completion_training.arrays import Bytes, Doubles, Floats, Reals
from scene_completion_training.data import module, voxel_evidence
from scene_completion_training.data.drawn_views import canonical_classes, canonical_depth, canonical_image, jittered
from scene_completion_training.data.module import DataSource, FileSamples, TrainingData, matching, refuse_overlap
from scene_completion_training.data.pack import Pack
from scene_completion_training.data.prepared import identity
from scene_completion_training.data.stereo import depth_meter, measured_depth
from scene_completion_training.data.store import Arrays, Entry, keyed, mapped_arrays
from scene_completion_training.data.taught_voxels import UNKNOWN, TaughtVoxels, cells_of
from scene_completion_training.viewpoint import Viewpoint

STRIDE = 2  # pixels of the canonical image to one of the maps
MAPS = ("states", "fused", "tokens")  # what a trunk sees, in half precision; rows and columns come last
UNPLACED = "first"  # what it knows of an image as a whole
SURE = 0.5  # probability from which what a student names in a pixel counts as its class
PARTS = (3, 8)  # rows and columns of the parts of an image whose depth errors differ
# Raw SemanticKITTI ids of the ground: road, parking, sidewalk, other ground, lane marking, terrain.
GROUND_IDS = (40, 44, 48, 49, 60, 72)
_VERSION = 11  # raise FORMAT of pack.py with it
_CITYSCAPES_TO_COMMON = ClassMap(
    "Cityscapes' train ids",
    (*semantic_classes.CITYSCAPES_CLASSES, "nothing"),
    (*COMMON_CLASSES, "sky"),
    {"wall": "building", "rider": None, "nothing": None}
    | dict.fromkeys(("traffic light", "traffic sign"), "traffic-sign")
    | dict.fromkeys(("bus", "train"), "other-vehicle"),
)


@dataclass
class CompletionSource(DataSource):
    """A recording with voxels that have classes, with LiDAR, with stereo pairs, or of a camera with poses."""

    every: int = 1  # each so many-th frame is used


@dataclass
class CompletionDataSettings:
    """Data of stage `completion`."""

    root: str = "."  # folder that the sources are relative to
    sources: list[CompletionSource] = field(default_factory=list)
    validation: list[CompletionSource] = field(default_factory=list)  # watched only
    cache: str = "completion_samples"  # folder for maps and voxels of the frames: about ten megabytes a sample
    pack: str = ""  # `train --pack` sets it: a pack, in place of recordings, teachers, `segmentation` and the trunk
    # Weights of ESPNetv2, or a student that completes cells (a bundle, or a name as of the package), for the classes of
    # pixels where there is no truth.
    segmentation: str = ""
    unknown_pose: float = 0.5  # share of the samples whose decoder does not get the pose of the camera
    stated_pitch: float = 0.5  # standard deviation of the stated pitch, degrees; that of roll is half as large again
    stated_height: float = 0.02  # standard deviation of the stated height, a share
    depth_scale: float = 0.1  # standard deviation of the scale of an image's depth, as in unknown surroundings
    depth_waves: float = 0.03  # that of the scale of its parts besides
    depth_far: float = 0.008  # the same for each metre of depth; between the middles of parts, both are half as large
    # Share of the samples of rendered images whose decoder gets true depth and classes, with errors as on real streets:
    # encoders of real streets misjudge towns.
    exact: float = 0.7
    # How often each frame of the training is prepared: the first time as it is, then with other colours, contrast and
    # sharpness. Rendered images are more alike than rooms are.
    augmentations: int = 1
    # Students from which another one learns what they know together: folders of bundles, or names as of the package.
    teachers: list[str] = field(default_factory=list)
    batch_size: int = 2  # samples a step
    workers: int = 1  # processes that load samples


@dataclass(frozen=True, eq=False)
class FrozenEncoder:
    """A trunk, or the part of it, that does not learn."""

    # What it sees [1, ...] in an image [1, 3, H, W] in 0..255: some of `MAPS`, or `UNPLACED`.
    see: Callable[[Tensor], dict[str, Tensor]]
    key: str  # names what that follows from

    def seen(
        self, images: Callable[[Sequence[int]], Iterator[tuple[int, Bytes]]], name: str, augmentation: int
    ) -> Callable[[Sequence[int]], Iterator[Arrays]]:
        """Gives what it sees in frames of a recording of this name, by the numbers of the frames."""

        def made(indices: Sequence[int]) -> Iterator[Arrays]:
            for index, image in images(indices):
                chance = np.random.default_rng((augmentation, index, crc32(name.encode())))
                shown = np.ascontiguousarray(jittered(image, chance) if augmentation else image)
                found = self.see(torch.from_numpy(shown).permute(2, 0, 1)[None].float())
                yield {part: values[0].to(torch.float16).numpy() for part, values in found.items()}

        return made


@dataclass(frozen=True, eq=False)
class PixelClasses:
    """A network for the pixels of recordings that do not have classes."""

    segment: Callable[[Bytes], Bytes]  # classes [H, W] of a canonical image [H, W, 3], that behind them for the sky
    key: str  # names what they follow from
    names: Sequence[str] = COMMON_CLASSES  # the classes

    def __call__(self, image: Bytes) -> Bytes:
        """Classes [H, W] of an image; 255 where they are unknown."""
        return self.segment(image)

    @staticmethod
    def of(named: str, viewpoint: Viewpoint) -> PixelClasses:
        """By weights of ESPNetv2, or by a student that completes cells, for the same viewpoint, where it is sure.

        Raises ConfigurationError where there is none, or the student is of another kind or viewpoint; BundleError where
        it cannot be read.
        """
        if not Path(named).exists() and not student_folder(named).exists():
            students = ", ".join(shipped_students())
            what = f"there is neither such a file or folder nor such a student of the package ({students})"
            cure = "Name weights of ESPNetv2, or a student that completes cells"
            raise ConfigurationError(what, where=f"data.segmentation: {named}", cure=cure)
        if (Path(named) / MANIFEST).is_file() or not Path(named).exists():
            return _classes_of_student(named, viewpoint)
        from scene_completion_training.foundation.class_probabilities import city_segmentation, load_espnetv2
        from scene_completion_training.foundation.model_files import sha256

        segment = city_segmentation(Path(named))

        return PixelClasses(lambda image: _CITYSCAPES_TO_COMMON.apply(segment(image)), sha256(load_espnetv2(named)[1]))


def _classes_of_student(named: str, viewpoint: Viewpoint) -> PixelClasses:
    bundle, where = open_student(named), f"data.segmentation: {named}"
    if bundle.volume is None:
        raise ConfigurationError("names no classes of pixels", where=where, cure="Name a student that completes cells")
    viewpoint.refuse_other(Viewpoint.of_bundle(bundle), where)
    networks = cpu_networks(bundle, cpu_engine())
    assert isinstance(networks, CellGraphs)
    ground = stated_ground(bundle.canonical, bundle.point_code, bundle.volume.level, None)

    def segment(image: Bytes) -> Bytes:
        found = networks.see(image, ground).classes
        classes = np.where(found.max(axis=2) >= SURE, 1 + found.argmax(axis=2), INVALID).astype(np.uint8)
        return classes.repeat(STRIDE, axis=0).repeat(STRIDE, axis=1)

    manifest = bundle.encoder_path.with_name(MANIFEST).read_bytes()  # it has the hash of each file
    return PixelClasses(segment, hashlib.sha256(manifest).hexdigest(), ("empty", *bundle.class_names))


Files: TypeAlias = tuple[Path, ...]  # of a sample: what a trunk sees, what is true, and what teachers know of it


def prepare_samples(
    sequence: PosedSequence,
    frames: Sequence[int],
    store: Path,
    frozen: FrozenEncoder | None,  # None: what is true and taught alone
    viewpoint: Viewpoint,
    *,
    classes_of: PixelClasses | None = None,  # for recordings that do not have classes of pixels
    augmentation: int = 0,  # number of the augmentation of the images; 0 for none
    taught: TaughtVoxels | None = None,  # for the same viewpoint; what it knows of images that are not rendered
) -> list[Files]:
    """Files of frames; those that the store lacks are made.

    Raises SequenceError: a frame has no true voxels with classes, nor classes of pixels and LiDAR, a pair or poses.
    """
    camera, names = reference_camera(sequence), {index: f"{index:06d}" for index in frames}
    views = [vars(viewpoint.camera), vars(viewpoint.volume), viewpoint.height_above_ground]
    recording = [_VERSION, identity(sequence), sequence.pose_source, views]
    if sequence.floor is not None:  # the mounting follows from it
        recording.append(sequence.floor)

    def images(indices: Sequence[int]) -> Iterator[tuple[int, Bytes]]:
        for index in indices:
            yield index, canonical_image(sequence.image(index, camera), sequence.cameras[camera], viewpoint.camera)

    def true(indices: Sequence[int]) -> Iterator[Arrays]:
        for index, image in images(indices):
            yield _truth(sequence, index, image, viewpoint, classes_of)

    def known(indices: Sequence[int]) -> Iterator[Arrays]:
        assert taught is not None
        for index, image in images(indices):
            place = mapped_arrays(truths[index])["volume_from_camera"]
            yield dict(
                zip(("taught", "doubt"), taught.of(image, RigidTransform.from_matrix(np.array(place))), strict=True)
            )

    def files(what: str, make: Callable[[Sequence[int]], Iterator[Arrays]], *made_of: Any) -> dict[int, Path]:
        entry = Entry(store / keyed(sequence.name, [what, *recording, *made_of]))
        return dict(zip(frames, entry.fill(names, make, what), strict=True))

    key = classes_of and classes_of.key
    truths = files("truth", true, key)
    parts = [truths]
    if frozen is not None:
        see = frozen.seen(images, sequence.name, augmentation)
        parts.insert(0, files("seen image", see, frozen.key, augmentation))
    if taught is not None and sequence.provenance.get("source") not in (TOWNS, ROOMS):
        parts.append(files("taught image", known, key, taught.key))
    return [tuple(part[index] for part in parts) for index in frames]


def _truth(
    sequence: PosedSequence, index: int, image: Bytes, viewpoint: Viewpoint, classes_of: PixelClasses | None
) -> Arrays:
    """What is true of the pixels and the voxels of a frame, and where the camera stands in the volume."""
    name = reference_camera(sequence)
    truth = truth_around(sequence, index, name)
    if truth is not None:
        arrays = {**_of_voxels(sequence, index, name, truth)}
        arrays |= _pixels(sequence, index, name, image, viewpoint.camera, classes_of)
    elif classes_of is not None and "lidar" in sequence.frames[index].assets:
        arrays = {**_of_scans(sequence, index, name, viewpoint, classes_of(image), classes_of.names)}
    elif classes_of is not None:
        arrays = {**_of_images(sequence, index, name, viewpoint, classes_of(image), classes_of.names)}
    else:
        raise SequenceError("has no voxels with classes", where=f"{sequence.name}, frame {index}")
    return {**arrays, "volume_from_camera": _stands(sequence, index, name, viewpoint, arrays).matrix}


def _stands(sequence: PosedSequence, index: int, camera: str, viewpoint: Viewpoint, arrays: Arrays) -> RigidTransform:
    """Pose of the camera in the volume: above the measured ground, where it is not known exactly."""
    if "ground" in arrays and sequence.provenance.get("source") not in (TOWNS, ROOMS):
        row, column = np.nonzero(np.isfinite(arrays["ground"]))
        places = (np.stack([row, column], axis=-1) + 0.5) * arrays["origin"][3] + arrays["origin"][:2]
        ground = np.column_stack([places, arrays["ground"][row, column].astype(np.float64)])
        truth_from_camera = RigidTransform.from_matrix(arrays["truth_from_camera"])
        found = voxel_evidence.mounting_above(truth_from_camera.inverse().apply(ground))
        if found is not None:
            return volume_pose(found, viewpoint.height_above_ground)
    return level_pose(sequence, camera, viewpoint, index)


def _of_voxels(sequence: PosedSequence, index: int, name: str, truth: VoxelTruth) -> Arrays:
    common = truth.class_map.apply(truth.labels)
    label = np.where(truth.occupied, np.where(common == INVALID, voxel_evidence.OF_NO_CLASS, common), EMPTY)
    unknown = ~truth.known if truth.interior is None else ~truth.known | truth.interior
    arrays: dict[str, NDArray[Any]] = {
        "label": np.where(unknown, INVALID, label).astype(np.uint8),
        "truth_from_camera": truth.grid_from_camera.matrix,
        "origin": np.array([*truth.grid.origin, truth.grid.voxel_size]),
    }
    ground = truth.ground
    if ground is None and "lidar_semantic" in sequence.frames[index].assets:
        ground = lidar_ground(sequence, index, name, truth)
    if ground is not None:
        arrays["ground"] = ground.astype(np.float16)
    return arrays


def _of_images(
    sequence: PosedSequence, index: int, name: str, viewpoint: Viewpoint, classes: Bytes, names: Sequence[str]
) -> Arrays:
    """Labels, ground and pixels of a frame that images alone show: its pair, or, with poses, those of the drive."""
    canonical, grid = viewpoint.camera, viewpoint.volume.grid
    posed = sequence.pose_source != posed_sequence.UNKNOWN_POSES
    if not posed:
        posed_sequence.stereo_pair(sequence)  # it refuses a single camera
    found = depth_meter(sequence, viewpoint.volume.ahead)(index)
    depth, deviation = (canonical_depth(part, found.camera, canonical) for part in (found.depth, found.deviation))
    pose = level_pose(sequence, name, viewpoint, index)
    label, ground = voxel_evidence.voxels_of_pixels(depth, deviation, classes, canonical, grid, pose, names)
    if posed:
        label = voxel_evidence.voxels_of_drive(
            sequence, index, label, depth, classes, canonical, viewpoint.volume, pose, names
        )
    depth = np.where(classes == len(names), np.float32(np.inf), depth)
    return _measured(viewpoint, pose, label, ground, _shrunk(depth, canonical), classes)


def _of_scans(
    sequence: PosedSequence, index: int, name: str, viewpoint: Viewpoint, classes: Bytes, names: Sequence[str]
) -> Arrays:
    """The same of a frame with LiDAR; its pair gives depth where neither the true one nor LiDAR is known."""
    camera, canonical, volume = sequence.cameras[name], viewpoint.camera, viewpoint.volume
    small = canonical.resized(canonical.width // STRIDE, canonical.height // STRIDE)
    truth = depth_truth(sequence, index, name)
    assert truth is not None
    depth, known = (_nearest(truth.depth, truth.camera, target) for target in (canonical, small))
    if len(posed_sequence.cameras_ahead(sequence)) > 1:
        stereo = _nearest(measured_depth(sequence, index), camera, canonical)
        depth = np.where(depth > 0.0, depth, stereo)
        known = np.where(known > 0.0, known, _shrunk(stereo, canonical))
    known = np.where((known == 0.0) & (_shrunk(classes, canonical) == len(names)), np.float32(np.inf), known)
    pose = level_pose(sequence, name, viewpoint, index)
    scans = voxel_evidence.scans_around(sequence, index, name, pose, volume)
    label, ground = voxel_evidence.voxels_of_scans(scans, depth, classes, canonical, volume.grid, pose, names)
    return {**_measured(viewpoint, pose, label, ground, known, classes), "scan": np.ones(1, np.uint8)}


def _shrunk(values: NDArray[Any], canonical: Camera) -> NDArray[Any]:
    size = (canonical.width // STRIDE, canonical.height // STRIDE)
    return np.asarray(cv2.resize(values, size, interpolation=cv2.INTER_NEAREST_EXACT))


def _measured(
    viewpoint: Viewpoint, pose: RigidTransform, label: Bytes, ground: Floats, depth: Reals, classes: Bytes
) -> Arrays:
    """What a sample stores of its volume, of the depth of the maps' pixels, and of the classes of all pixels."""
    grid = viewpoint.volume.grid
    return {
        "label": label,
        "ground": ground.astype(np.float16),
        "truth_from_camera": pose.matrix,
        "origin": np.array([*grid.origin, grid.voxel_size]),
        "depth": depth.astype(np.float16),
        "classes": np.ascontiguousarray(_shrunk(classes.astype(np.uint8), viewpoint.camera)),
    }


def truth_around(sequence: PosedSequence, index: int, camera: str) -> VoxelTruth | None:
    """True voxels with classes of a frame, of a labelled window those of its first frame; None where there are none."""
    truth = voxel_truth(sequence, index, camera)
    if truth is not None and truth.label is not None:
        return truth
    first = voxel_truth(sequence, 0, camera)
    if first is None or first.label is None:
        return None
    moved = sequence.world_from_camera(0, camera).inverse() @ sequence.world_from_camera(index, camera)
    return replace(first, grid_from_camera=first.grid_from_camera @ moved, sight=None, interior=None)


def lidar_ground(sequence: PosedSequence, index: int, camera: str, truth: VoxelTruth) -> Floats:
    """Mean height [X, Y] of the labelled LiDAR's points on the ground, of all scans, in the true grid; NaN where none.

    `camera`: reference camera of the truth.
    """
    grid = truth.grid
    total, count = np.zeros((2, grid.shape[0] * grid.shape[1]))
    for other in range(len(sequence)):
        points, ids = sequence.lidar(other), sequence.asset(other, "lidar_semantic")
        if points is None or ids is None:
            continue
        rig_from_rig = sequence.frames[index].world_from_rig.inverse() @ sequence.frames[other].world_from_rig
        truth_from_rig = truth.grid_from_camera @ sequence.rig_from_camera[camera].inverse()
        places = (truth_from_rig @ rig_from_rig).apply(points[np.isin(ids, GROUND_IDS)])
        cells, inside = grid.index_of(places)
        flat = cells[inside, 0] * grid.shape[1] + cells[inside, 1]
        total += np.bincount(flat, places[inside, 2], len(total))
        count += np.bincount(flat, minlength=len(count))
    with np.errstate(invalid="ignore"):
        return np.asarray((total / np.where(count > 0, count, np.nan)).reshape(grid.shape[:2]), np.float32)


def level_pose(sequence: PosedSequence, camera: str, viewpoint: Viewpoint, index: int = 0) -> RigidTransform:
    """Pose of a camera in a volume that stands upright on the ground; the usual one if it is unknown."""
    stated = posed_sequence.mounting(sequence, camera, index)
    return DEFAULT_GRID_FROM_CAMERA if stated is None else volume_pose(stated, viewpoint.height_above_ground)


def _pixels(
    sequence: PosedSequence, index: int, name: str, image: Bytes, canonical: Camera, classes_of: PixelClasses | None
) -> Arrays:
    """z-depth [h, w] of the maps' pixels, 0 where unknown, infinite in the sky, and their classes."""
    small = canonical.resized(canonical.width // STRIDE, canonical.height // STRIDE)
    size = (small.width, small.height)
    depth = np.zeros(size[::-1], np.float32)
    known = depth_truth(sequence, index, name)
    if known is not None:
        depth = _nearest(known.depth.astype(np.float32), known.camera, small)
    label = sequence.asset(index, "label")
    if label is not None:
        known_classes = posed_sequence.stored_classes(sequence)
        common = np.where(label == 0, len(known_classes.target), known_classes.apply(label)).astype(np.uint8)
        classes = canonical_classes(common, sequence.cameras[name], small)
    elif classes_of is not None:
        classes = np.asarray(cv2.resize(classes_of(image), size, interpolation=cv2.INTER_NEAREST_EXACT), np.uint8)
    else:
        classes = np.full(size[::-1], INVALID, np.uint8)
    return {"depth": depth.astype(np.float16), "classes": np.ascontiguousarray(classes)}


def _nearest(values: Floats, camera: Camera, target: Camera) -> Floats:
    """Values of the pixels nearest to those of another pinhole at the same place; sparse ones are carried there."""
    if (values > 0).mean() > 0.5:
        return canonical_depth(values, camera, target)
    v, u = np.nonzero(values)
    rays = np.stack([u, v, np.ones_like(u)], axis=-1) @ np.linalg.inv(camera.matrix).T
    return sparse_depth(rays * values[v, u, None], target)


@kernel(parallel=False)
def _resampled(  # type: ignore[no-untyped-def]
    label, origin, edge, truth_from_volume, start, size, shape, ends, pixel_from_volume, image, out
):
    """Labels of the voxels nearest to those of another grid; 255 beyond it and beyond the image."""
    m, p = truth_from_volume, pixel_from_volume
    for i in range(shape[0]):
        x = start[0] + (i + 0.5) * size
        for j in range(shape[1]):
            y = start[1] + (j + 0.5) * size
            for k in range(shape[2]):
                z = start[2] + (k + 0.5) * size
                depth = p[2, 0] * x + p[2, 1] * y + p[2, 2] * z + p[2, 3]
                u = (p[0, 0] * x + p[0, 1] * y + p[0, 2] * z + p[0, 3]) / max(depth, 1e-3)
                v = (p[1, 0] * x + p[1, 1] * y + p[1, 2] * z + p[1, 3]) / max(depth, 1e-3)
                if depth <= 0.0 or not (-0.5 <= u <= image[0] - 0.5 and -0.5 <= v <= image[1] - 0.5):
                    out[i, j, k] = 255
                    continue
                a = (m[0, 0] * x + m[0, 1] * y + m[0, 2] * z + m[0, 3] - origin[0]) / edge
                b = (m[1, 0] * x + m[1, 1] * y + m[1, 2] * z + m[1, 3] - origin[1]) / edge
                c = (m[2, 0] * x + m[2, 1] * y + m[2, 2] * z + m[2, 3] - origin[2]) / edge
                inside = 0 <= a < ends[0] and 0 <= b < ends[1] and 0 <= c < ends[2]
                out[i, j, k] = label[int(a), int(b), int(c)] if inside else 255


def resampled_labels(
    label: Bytes,
    truth: VoxelGrid,
    truth_from_volume: Doubles,
    volume: VoxelGrid,
    camera: Camera,
    volume_from_camera: Doubles,
) -> Bytes:
    """Labels [X, Y, Z] of the true voxels nearest to those of a volume; 255 beyond them, and beyond the image."""
    out = np.empty(volume.shape, np.uint8)
    of_truth = np.asarray(truth.origin), truth.voxel_size, truth_from_volume
    grids = *of_truth, np.asarray(volume.origin), volume.voxel_size, np.asarray(volume.shape), np.asarray(truth.shape)
    pixel_from_volume = camera.matrix @ np.linalg.inv(volume_from_camera)[:3]
    _resampled(label, *grids, pixel_from_volume, np.array([camera.width, camera.height]), out)
    return out


def resampled_ground(
    ground: Reals, truth: VoxelGrid, truth_from_volume: Doubles, volume: VoxelGrid, level: float
) -> Floats:
    """Heights [X, Y] of the ground in a volume that is tilted a little against the true one; NaN where unknown."""
    x, y, _ = volume.axis_centres()
    centres = np.stack(np.broadcast_arrays(x[:, None], y[None], level), axis=-1)
    for _ in range(2):
        places = centres @ truth_from_volume[:3, :3].T + truth_from_volume[:3, 3]
        row, column = (
            np.floor((places[..., axis] - truth.origin[axis]) / truth.voxel_size).astype(int) for axis in (0, 1)
        )
        inside = (row >= 0) & (row < truth.shape[0]) & (column >= 0) & (column < truth.shape[1])
        found = ground[np.where(inside, row, 0), np.where(inside, column, 0)].astype(np.float64)
        centres[..., 2] += np.where(inside & np.isfinite(found), found - places[..., 2], 0.0)
    return np.where(inside & np.isfinite(found), centres[..., 2], np.nan).astype(np.float32)


class CompletionSamples(FileSamples[Files]):
    """The samples of prepared frames."""

    def __init__(
        self,
        groups: Sequence[Sequence[Files]],  # of the frames of each recording
        shares: Sequence[float],
        settings: CompletionDataSettings,
        viewpoint: Viewpoint,
        *,
        seed: int,
        length: int,
        plain: bool = False,  # nothing is drawn at random: each frame as it is, in order, for a validation
        voxels: bool = True,  # serve what lies in space, too; a head for pixels does not need it
    ) -> None:
        super().__init__(groups, shares, seed=seed, length=length)
        self.settings, self.viewpoint, self.plain, self.voxels = settings, viewpoint, plain, voxels

    def __getitem__(self, number: int) -> dict[str, Tensor]:
        """Maps, stated pose, and the truth of pixels, and of voxels in the volume of that pose."""
        files, generator = self.drawn(number)
        if self.plain:
            files = [files for group in self.groups for files in group][number]
        data = {name: values for file in files for name, values in mapped_arrays(file).items()}
        known = self.plain or generator.random() >= self.settings.unknown_pose
        exact = np.array(data["volume_from_camera"])
        stated = self._stated(exact, generator) if known else DEFAULT_GRID_FROM_CAMERA.matrix
        off = self._misjudged(generator)
        sample = {
            **{name: torch.from_numpy(np.array(data[name])) for name in (*MAPS, UNPLACED, "classes") if name in data},
            "depth": torch.from_numpy(np.array(data["depth"], np.float32)),
            **(self._in_space(data, stated) if self.voxels else {}),
            "volume_from_camera": torch.from_numpy(np.array(stated)).float(),
            "known": torch.tensor(known),
            "off": torch.from_numpy(off),
            "exact": torch.tensor(not self.plain and generator.random() < self.settings.exact and "scan" not in data),
            "mirrored": torch.tensor(False),
        }
        return self._mirrored(sample) if not self.plain and generator.random() < 0.5 else sample

    def _in_space(self, data: Arrays, stated: Doubles) -> dict[str, Tensor]:
        """Labels of voxels, heights of the ground, and what teachers know of cells, in the volume of a stated pose."""
        grid, camera = self.viewpoint.volume.grid, self.viewpoint.camera
        *origin, voxel = data["origin"].tolist()
        truth = VoxelGrid((origin[0], origin[1], origin[2]), voxel, data["label"].shape)
        truth_from_volume = np.array(data["truth_from_camera"]) @ np.linalg.inv(stated)
        label = np.ascontiguousarray(data["label"])
        label = resampled_labels(label, truth, truth_from_volume, grid, camera, stated)
        height = np.full(grid.shape[:2], np.nan, np.float32)
        if "ground" in data:
            level = -self.viewpoint.height_above_ground
            height = resampled_ground(data["ground"], truth, truth_from_volume, grid, level)
        cells = cells_of(grid)
        turned = np.array(data["volume_from_camera"]) @ np.linalg.inv(stated)
        served = {"label": label, "height": height}
        for name in ("taught", "doubt"):
            served[name] = np.full(cells.shape, UNKNOWN, np.uint8)
            if name in data:
                served[name] = resampled_labels(np.array(data[name]), cells, turned, cells, camera, stated)
        return {name: torch.from_numpy(values) for name, values in served.items()}

    def _misjudged(self, generator: np.random.Generator) -> Floats:
        """Errors of the logarithm of depth in coarse parts of an image, and for each metre of depth."""
        if self.plain:
            return np.zeros((2, *PARTS), np.float32)
        settings = self.settings
        whole, parts = generator.normal(0.0, settings.depth_scale), generator.normal(size=(2, *PARTS))
        return np.stack([whole + settings.depth_waves * parts[0], settings.depth_far * parts[1]]).astype(np.float32)

    def _stated(self, exact: Doubles, generator: np.random.Generator) -> Doubles:
        """The pose of a camera as a rig states it, a little off."""
        if self.plain:
            return exact
        settings = self.settings
        angles = np.radians(settings.stated_pitch) * generator.normal(size=3) * (1.5, 1.0, 0.0)  # roll, pitch
        turn = np.asarray(cv2.Rodrigues(angles)[0])
        out = exact.copy()
        out[:3, :3] = turn @ exact[:3, :3]
        above = exact[2, 3] + self.viewpoint.height_above_ground
        out[2, 3] += above * settings.stated_height * generator.normal()
        return out

    @staticmethod
    def _mirrored(sample: dict[str, Tensor]) -> dict[str, Tensor]:
        """The scene mirrored from left to right; the network mirrors the places of cells, see `look_up`."""
        for name in {*MAPS, "depth", "classes"} & sample.keys():
            sample[name] = sample[name].flip(-1)
        for name in {"label", "height", "taught", "doubt"} & sample.keys():
            sample[name] = sample[name].flip(1)
        return sample | {"mirrored": torch.tensor(True)}


_Recording: TypeAlias = tuple[CompletionSource, PosedSequence]


def _images(recordings: list[_Recording]) -> Iterator[Path]:
    """The image files of the frames that are used."""
    for source, sequence in recordings:
        name = reference_camera(sequence)
        yield from (
            image for frame in sequence.frames[:: source.every] if isinstance(image := frame.images[name], Path)
        )


class CompletionData(TrainingData):
    """Serves `CompletionSamples` of the recordings of a configuration."""

    def __init__(
        self,
        settings: CompletionDataSettings,
        viewpoint: Viewpoint,
        frozen: FrozenEncoder | None,  # as of `prepare_samples`, for samples that are not prepared yet
        *,
        steps: int,
        seed: int,
        voxels: bool = True,  # as `CompletionSamples`
    ) -> None:
        super().__init__(settings, steps=steps, seed=seed)
        self.viewpoint, self.frozen, self.voxels = viewpoint, frozen, voxels
        self.groups: dict[str, list[list[Files]]] = {}
        self.recordings: dict[str, list[_Recording]] = {}
        self.images = ""  # hash of the content of the image files that are trained on
        self.focal_ratios: list[float] = []
        self.heights: list[float] = []
        self.pitches: list[float] = []

    def record(self) -> dict[str, Any]:
        """Ranges of focal lengths per image width, of heights and pitches; how many frames there were, and which."""
        counts = {role: sum(map(len, groups)) for role, groups in self.groups.items()}
        ranges = {"focal_range": self.focal_ratios, "height_range": self.heights, "pitch_range": self.pitches}
        known = {name: [min(seen), max(seen)] for name, seen in ranges.items() if seen}
        return {"frames": counts, "images_sha256": self.images, **known}

    def setup(self, stage: str) -> None:
        """Prepares what is missing in the cache; a `ConfigurationError` where there is no source.

        `stage`: as Lightning has it; of anything but "fit" the validation alone.
        """
        if self.groups:
            return
        if self.settings.pack:
            for role in ("training", "validation")[stage != "fit" :]:
                self.groups[role] = list(self._unpacked(role, Pack(Path(self.settings.pack))))
            return
        self.require_sources("recordings")
        named = self.settings.segmentation
        classes_of = PixelClasses.of(named, self.viewpoint) if named else None
        root = Path(self.settings.root)
        sources = {"training": self.settings.sources, "validation": self.settings.validation}
        self.recordings = opened = {
            role: [(source, module.load_sequence(root, source, role)) for source in matching(root, named)]
            for role, named in sources.items()
            if role == "validation" or stage == "fit"
        }
        if stage == "fit":
            refuse_overlap(*map(_images, opened.values()))
            self.images = module.digest_of(_images(opened["training"]))
        members = self.settings.teachers if self.voxels else []
        taught = TaughtVoxels(members, self.viewpoint) if members else None
        for role, recordings in opened.items():
            self.groups[role] = list(
                self._prepared(role, recordings, classes_of, taught if role == "training" else None)
            )

    def _unpacked(self, role: str, pack: Pack) -> Iterator[list[Files]]:
        manifest = pack.manifest
        assert self.frozen is not None
        if role == "training":
            self.images = manifest.text("images_sha256")
            ranges = "focal_ratios", "heights", "pitches"
            self.focal_ratios, self.heights, self.pitches = (list(manifest.numbers(name)) for name in ranges)
        for number, one in enumerate(manifest.object("recordings").objects(role)):
            place, names = f"{role}/{number:04d}", {index: f"{index:06d}" for index in one.integers("frames")}
            images = partial(pack.images, place, self.viewpoint.camera)
            made: list[tuple[str, Any, Any]] = [("truth", partial(pack.samples, place), None)]
            for augmentation in range(self.settings.augmentations if role == "training" else 1):
                see = self.frozen.seen(images, one.text("name"), augmentation)
                made.append(("seen image", see, [self.frozen.key, augmentation]))
            truths, *seen = [
                Entry(self.store / keyed(place, [what, pack.key, of])).fill(names, make, what)
                for what, make, of in made
            ]
            if role == "training":
                self.shares.append(one.number("share"))
            yield [files for each in seen for files in zip(each, truths, strict=True)]

    def _prepared(
        self, role: str, recordings: list[_Recording], classes_of: PixelClasses | None, taught: TaughtVoxels | None
    ) -> Iterator[list[Files]]:
        for source, sequence in recordings:
            camera, used = sequence.cameras[reference_camera(sequence)], range(0, len(sequence), source.every)
            if role == "training":
                self.shares.append(source.share)
                self.focal_ratios.append(camera.fx / camera.width)
                for index in used:
                    stated = posed_sequence.mounting(sequence, reference_camera(sequence), index)
                    if stated is not None:
                        self.heights.append(float(stated.translation[2]))
                        self.pitches.append(-float(np.arcsin(np.clip(stated.rotation[2, 2], -1.0, 1.0))))
            prepared: list[Files] = []
            for number in range(self.settings.augmentations if role == "training" else 1):
                options: dict[str, Any] = {"classes_of": classes_of, "augmentation": number, "taught": taught}
                prepared += prepare_samples(sequence, used, self.store, self.frozen, self.viewpoint, **options)
            yield prepared

    def train_dataloader(self) -> DataLoader[dict[str, Tensor]]:
        """Serves the samples from the trainer's current step on."""
        return self.served(self._samples(self.groups["training"], self.shares, seed=self.seed, length=self.length))

    def val_dataloader(self) -> DataLoader[dict[str, Tensor]]:
        """Each frame of the validation, as it is."""
        groups = self.groups["validation"]
        count = sum(map(len, groups))
        return DataLoader(self._samples(groups, [1.0] * len(groups), seed=0, length=count, plain=True))

    def _samples(self, groups: list[list[Files]], shares: list[float], **options: Any) -> CompletionSamples:
        return CompletionSamples(groups, shares, self.settings, self.viewpoint, voxels=self.voxels, **options)
