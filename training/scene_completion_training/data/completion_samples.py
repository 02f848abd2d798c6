"""Samples of stage `completion`: maps of a frozen trunk for an image, and the true voxels before the camera."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias
from zlib import crc32

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
from scene_completion_ros.geometry.cameras import camera_of
from scene_completion_ros.geometry.road_plane import RoadPlane
from scene_completion_ros.geometry.transforms import rotation_of_angles
from scene_completion_ros.inference.bundle import MANIFEST, open_student, shipped_students, student_folder
from scene_completion_ros.inference.cells import volume_pose
from scene_completion_ros.inference.encoder import CellGraphs, cpu_engine, cpu_networks
from scene_completion_ros.jit import kernel
from scene_completion_ros.sequences import posed_sequence
from scene_completion_ros.sequences.opening import depth_truth, voxel_truth
from scene_completion_ros.sequences.posed_sequence import ROOMS, TOWNS, PosedSequence, reference_camera
from scene_completion_training.arrays import Bytes, Doubles, Floats, Mask, Reals
from scene_completion_training.data import module, turned_views, voxel_evidence
from scene_completion_training.data.drawn_views import canonical_classes, canonical_depth, canonical_image, jittered
from scene_completion_training.data.module import DataSource, FileSamples, TrainingData, matching, refuse_overlap
from scene_completion_training.data.pack import Pack
from scene_completion_training.data.prepared import identity
from scene_completion_training.data.stereo import depth_meter, measured_depth
from scene_completion_training.data.store import Arrays, Entry, keyed, mapped_arrays
from scene_completion_training.data.taught_voxels import UNKNOWN, TaughtVoxels, cells_of
from scene_completion_training.data.turned_views import TurnedView, Turns, carried_depth, margined
from scene_completion_training.viewpoint import Viewpoint

STRIDE = 2  # pixels of the canonical image to one of the maps
MAPS = ("states", "fused", "tokens")  # what a trunk sees, in half precision; rows and columns come last
UNPLACED = "first"  # what it knows of an image as a whole
SURE = 0.5  # probability from which what a student names in a pixel counts as its class
PARTS = (3, 8)  # rows and columns of the parts of an image whose depth errors differ
# Raw SemanticKITTI ids of the ground: road, parking, sidewalk, other ground, lane marking, terrain.
GROUND_IDS = (40, 44, 48, 49, 60, 72)
_MOST_TILT = 10.0  # degrees; the ground would soon leave the volume
_VERSION = 13  # raise FORMAT of pack.py with it
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
    cache: str = "completion_samples"  # folder for what is prepared: 2.4 MB a frame, and up to 2 MB a look
    pack: str = ""  # `train --pack` sets it: a pack, in place of recordings, teachers, `segmentation` and the trunk
    # Weights of ESPNetv2, or a student that completes cells (a bundle, or a name as of the package), for the classes of
    # pixels where there is no truth.
    segmentation: str = ""
    unknown_pose: float = 0.5  # share of the samples whose decoder does not get the pose of the camera
    # Largest roll and pitch of the volume against the camera's true pose, degrees, evenly from one side to the other,
    # whether the pose is known or not: the ground is where pixels show it, and not where the volume would have it.
    volume_roll: float = 3.0
    volume_pitch: float = 1.5
    stated_height: float = 0.02  # standard deviation of the height of a known pose, a share
    depth_scale: float = 0.1  # standard deviation of the scale of an image's depth, as in unknown surroundings
    depth_waves: float = 0.03  # that of the scale of its parts besides
    depth_far: float = 0.008  # the same for each metre of depth; between the middles of parts, both are half as large
    # Share of the samples of rendered images whose decoder gets true depth and classes, with errors as on real streets:
    # encoders of real streets misjudge towns.
    exact: float = 0.7
    # How often each frame of the training is prepared: the first time as it is, then turned, zoomed, and with other
    # colours, contrast and sharpness. Rendered images are more alike than rooms are.
    augmentations: int = 1
    turned: Turns = field(default_factory=Turns)
    # Students from which another one learns what they know together: folders of bundles, or names as of the package.
    teachers: list[str] = field(default_factory=list)
    batch_size: int = 2  # samples a step
    workers: int = 1  # processes that load samples

    def check(self) -> None:
        """Raises a `ConfigurationError` for angles and zooms that no volume or picture takes."""
        tilts = {f"data.{name}": getattr(self, name) for name in ("volume_roll", "volume_pitch")}
        turned_views.refuse_angles(tilts, _MOST_TILT)
        self.turned.check("data.turned")


@dataclass(frozen=True, eq=False)
class FrozenEncoder:
    """A trunk, or the part of it, that does not learn."""

    # What it sees [1, ...] in an image [1, 3, H, W] in 0..255: some of `MAPS`, or `UNPLACED`.
    see: Callable[[Tensor], dict[str, Tensor]]
    key: str  # names what that follows from

    def seen(
        self,
        images: Callable[[Sequence[int]], Iterator[tuple[int, Bytes]]],  # as recorded
        camera: Camera,  # of them
        viewpoint: Viewpoint,
        truths: Mapping[int, Path],  # files of what is true of the frames
        name: str,  # of the recording
        augmentation: int,
        turns: Turns,
    ) -> Callable[[Sequence[int]], Iterator[Arrays]]:
        """Gives what it sees in frames, by their numbers, and what is true of the pixels that it sees."""
        canonical = viewpoint.camera
        small, wide = map_camera(canonical), margined(map_camera(canonical))

        def made(indices: Sequence[int]) -> Iterator[Arrays]:
            for index, image in images(indices):
                chance = np.random.default_rng((augmentation, index, crc32(name.encode())))
                known, shown = mapped_arrays(truths[index]), np.ones((small.height, small.width), np.bool_)
                view = turns.drawn(chance, camera, canonical) if augmentation else TurnedView()
                picture = view.picture(image, camera, canonical)
                if augmentation:
                    whole = view.shown(camera, canonical)
                    picture = jittered(picture, chance) * whole[..., None]
                    blocks = whole.reshape(small.height, STRIDE, small.width, STRIDE)
                    shown = np.asarray(blocks.all(axis=(1, 3)))
                seen = self.see(torch.from_numpy(np.ascontiguousarray(picture)).permute(2, 0, 1)[None].float())
                depth = view.depth(known["wide_depth"].astype(np.float32), wide, small)
                classes = view.classes(np.array(known["wide_classes"]), wide, small, INVALID)
                yield {
                    **{part: values[0].to(torch.float16).numpy() for part, values in seen.items()},
                    "depth": np.where(shown, depth, 0.0).astype(np.float16),
                    "classes": np.where(shown, classes, INVALID).astype(np.uint8),
                    "shown": shown,
                    "camera_from_seen": view.camera_from_seen,
                }

        return made


def map_camera(canonical: Camera) -> Camera:
    """The camera of the maps."""
    return canonical.resized(canonical.width // STRIDE, canonical.height // STRIDE)


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

    def segment(image: Bytes) -> Bytes:
        found = networks.see(image).classes
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
    turns: Turns | None = None,  # how far others than that are turned, as usual by default
    taught: TaughtVoxels | None = None,  # for the same viewpoint; what it knows of images that are not rendered
) -> list[Files]:
    """Files of frames; those that the store lacks are made.

    Raises SequenceError: a frame has no true voxels with classes, nor classes of pixels and LiDAR, a pair or poses.
    """
    name, names = reference_camera(sequence), {index: f"{index:06d}" for index in frames}
    camera, turns = sequence.cameras[name], turns or Turns()
    views = [vars(viewpoint.camera), vars(viewpoint.volume), viewpoint.height_above_ground]
    recording = [_VERSION, identity(sequence), sequence.pose_source, views]
    if sequence.floor is not None:  # the mounting follows from it
        recording.append(sequence.floor)

    def images(indices: Sequence[int]) -> Iterator[tuple[int, Bytes]]:
        for index in indices:
            yield index, sequence.image(index, name)

    def canonical(indices: Sequence[int]) -> Iterator[tuple[int, Bytes]]:
        for index, image in images(indices):
            yield index, canonical_image(image, camera, viewpoint.camera)

    def true(indices: Sequence[int]) -> Iterator[Arrays]:
        for index, image in canonical(indices):
            yield _truth(sequence, index, image, viewpoint, classes_of)

    def known(indices: Sequence[int]) -> Iterator[Arrays]:
        assert taught is not None
        for index, image in canonical(indices):
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
        see = frozen.seen(images, camera, viewpoint, truths, sequence.name, augmentation, turns)
        parts.insert(0, files("seen image", see, key, frozen.key, augmentation, augmentation and vars(turns)))
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
    pose, measured = _stands(sequence, index, name, viewpoint, arrays)
    return {**arrays, "volume_from_camera": pose.matrix, "measured": np.array([measured])}


def _stands(
    sequence: PosedSequence, index: int, camera: str, viewpoint: Viewpoint, arrays: Arrays
) -> tuple[RigidTransform, bool]:
    """Pose of the camera in the volume: above the measured ground, where it is not known exactly; and if it is true."""
    if sequence.provenance.get("source") in (TOWNS, ROOMS):
        return level_pose(sequence, camera, viewpoint, index), True
    if "ground" in arrays:
        row, column = np.nonzero(np.isfinite(arrays["ground"]))
        places = (np.stack([row, column], axis=-1) + 0.5) * arrays["origin"][3] + arrays["origin"][:2]
        ground = np.column_stack([places, arrays["ground"][row, column].astype(np.float64)])
        truth_from_camera = RigidTransform.from_matrix(arrays["truth_from_camera"])
        found = voxel_evidence.mounting_above(truth_from_camera.inverse().apply(ground))
        if found is not None:
            return volume_pose(found, viewpoint.height_above_ground), True
    return level_pose(sequence, camera, viewpoint, index), False


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
    wide = margined(map_camera(canonical))
    above = canonical_classes(classes.astype(np.uint8), canonical, wide) == len(names)
    known = np.where(above, np.float32(0.0), carried_depth(found.depth, found.camera, wide))
    return _measured(viewpoint, pose, label, ground, known, classes, len(names))


def _of_scans(
    sequence: PosedSequence, index: int, name: str, viewpoint: Viewpoint, classes: Bytes, names: Sequence[str]
) -> Arrays:
    """The same of a frame with LiDAR; its pair gives depth where neither the true one nor LiDAR is known."""
    camera, canonical, volume = sequence.cameras[name], viewpoint.camera, viewpoint.volume
    truth, targets = depth_truth(sequence, index, name), (canonical, margined(map_camera(canonical)))
    assert truth is not None
    depth, known = (carried_depth(truth.depth, truth.camera, target) for target in targets)
    if len(posed_sequence.cameras_ahead(sequence)) > 1:
        measured = measured_depth(sequence, index)
        stereo = (carried_depth(measured, camera, target) for target in targets)
        depth, known = (np.where(own > 0.0, own, other) for own, other in zip((depth, known), stereo, strict=True))
    pose = level_pose(sequence, name, viewpoint, index)
    scans = voxel_evidence.scans_around(sequence, index, name, pose, volume)
    label, ground = voxel_evidence.voxels_of_scans(scans, depth, classes, canonical, volume.grid, pose, names)
    return {**_measured(viewpoint, pose, label, ground, known, classes, len(names)), "scan": np.ones(1, np.uint8)}


def _measured(
    viewpoint: Viewpoint, pose: RigidTransform, label: Bytes, ground: Floats, depth: Reals, classes: Bytes, sky: int
) -> Arrays:
    """What is stored of the volume, and of the pixels that turned views show, where the sky is infinitely deep.

    `depth`: in the maps' camera with its margins; `classes`: in the canonical camera, of which `sky` is the sky's.
    """
    grid, canonical = viewpoint.volume.grid, viewpoint.camera
    shown = canonical_classes(classes.astype(np.uint8), canonical, margined(map_camera(canonical)))
    return {
        "label": label,
        "ground": ground.astype(np.float16),
        "truth_from_camera": pose.matrix,
        "origin": np.array([*grid.origin, grid.voxel_size]),
        "wide_depth": np.where((depth == 0.0) & (shown == sky), np.inf, depth).astype(np.float16),
        "wide_classes": shown,
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
    """z-depth [h, w] of pixels, 0 where unknown, infinite in the sky, and their classes, as turned views need them."""
    wide = margined(map_camera(canonical))
    size = wide.height, wide.width
    depth, classes = np.zeros(size, np.float32), np.full(size, INVALID, np.uint8)
    known = depth_truth(sequence, index, name)
    if known is not None:
        depth = carried_depth(known.depth, known.camera, wide)
    label = sequence.asset(index, "label")
    if label is not None:
        known_classes = posed_sequence.stored_classes(sequence)
        common = np.where(label == 0, len(known_classes.target), known_classes.apply(label)).astype(np.uint8)
        classes = canonical_classes(common, sequence.cameras[name], wide)
    elif classes_of is not None:
        classes = canonical_classes(classes_of(image).astype(np.uint8), canonical, wide)
    return {"wide_depth": depth.astype(np.float16), "wide_classes": classes}


@kernel(parallel=False)
def _resampled(  # type: ignore[no-untyped-def]
    label, origin, edge, truth_from_volume, start, size, shape, ends, pixel_from_volume, shown, out
):
    """Labels of the voxels nearest to those of another grid; 255 beyond it, and where its pixel shows nothing."""
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
                column, row = np.floor((u + 0.5) / STRIDE), np.floor((v + 0.5) / STRIDE)
                inside = 0 <= column < shown.shape[1] and 0 <= row < shown.shape[0]
                if depth <= 0.0 or not inside or not shown[int(row), int(column)]:
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
    shown: Mask | None = None,
) -> Bytes:
    """Labels [X, Y, Z] of the true voxels nearest to those of a volume; 255 beyond them, and where the image ends.

    `truth_from_volume`: matrix [4, 4], rigid or affine; `shown`: which pixels [h, w] of the maps show something.
    """
    out = np.empty(volume.shape, np.uint8)
    of_truth = np.asarray(truth.origin), truth.voxel_size, truth_from_volume
    grids = *of_truth, np.asarray(volume.origin), volume.voxel_size, np.asarray(volume.shape), np.asarray(truth.shape)
    pixel_from_volume = camera.matrix @ np.linalg.inv(volume_from_camera)[:3]
    if shown is None:
        shown = np.ones((camera.height // STRIDE, camera.width // STRIDE), np.bool_)
    _resampled(label, *grids, pixel_from_volume, np.ascontiguousarray(shown), out)
    return out


def resampled_ground(
    ground: Reals, truth: VoxelGrid, truth_from_volume: Doubles, volume: VoxelGrid, level: float
) -> Floats:
    """Heights [X, Y] of the ground in a volume that is tilted against the true one; NaN where unknown, and beyond it.

    `truth_from_volume`: matrix [4, 4], rigid or affine, tilted by 20° at most; `level`: where the search begins.
    """
    x, y, _ = volume.axis_centres()
    centres = np.stack(np.broadcast_arrays(x[:, None], y[None], level), axis=-1)
    for _ in range(4):  # each leaves less than a sixth of what the height was off
        places = centres @ truth_from_volume[:3, :3].T + truth_from_volume[:3, 3]
        row, column = (
            np.floor((places[..., axis] - truth.origin[axis]) / truth.voxel_size).astype(int) for axis in (0, 1)
        )
        inside = (row >= 0) & (row < truth.shape[0]) & (column >= 0) & (column < truth.shape[1])
        found = ground[np.where(inside, row, 0), np.where(inside, column, 0)].astype(np.float64)
        centres[..., 2] += np.where(inside & np.isfinite(found), found - places[..., 2], 0.0)
    heights = (centres[..., 2] - volume.origin[2]) / volume.voxel_size
    within = inside & np.isfinite(found) & (heights >= 0.0) & (heights < volume.shape[2])
    return np.where(within, centres[..., 2], np.nan).astype(np.float32)


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
        exact, off = self._pose(data), self._misjudged(generator)
        stated, doubt = self._stated(exact, known, generator), generator.normal(size=3) * (known and not self.plain)
        maps = (*MAPS, UNPLACED, "classes", "shown")
        sample = {
            **{name: torch.from_numpy(np.array(data[name])) for name in maps if name in data},
            "depth": torch.from_numpy(np.array(data["depth"], np.float32)),
            **(self._in_space(data, stated) if self.voxels else {}),
            "volume_from_camera": torch.from_numpy(stated).float(),
            "plane": torch.from_numpy(self._above(exact if known else DEFAULT_GRID_FROM_CAMERA)).float(),
            "plane_off": torch.from_numpy(doubt).float(),  # what is stated of it, in standard deviations
            "road": torch.from_numpy(self._above(exact) if data["measured"].all() else np.full(3, np.nan)).float(),
            "known": torch.tensor(known),
            "off": torch.from_numpy(off),
            "exact": torch.tensor(not self.plain and generator.random() < self.settings.exact and "scan" not in data),
            "mirrored": torch.tensor(False),
        }
        return self._mirrored(sample) if not self.plain and generator.random() < 0.5 else sample

    def _pose(self, data: Arrays) -> RigidTransform:
        """The true pose of the camera in the volume, as a sample shows it."""
        camera, level = RigidTransform.from_matrix(data["volume_from_camera"]), -self.viewpoint.height_above_ground
        return turned_views.turned_pose(camera, data["camera_from_seen"], level)

    def _in_space(self, data: Arrays, stated: Doubles) -> dict[str, Tensor]:
        """Labels of voxels, heights of the ground, and what teachers know of cells, in the volume of a stated pose."""
        grid, camera = self.viewpoint.volume.grid, self.viewpoint.camera
        *origin, voxel = data["origin"].tolist()
        truth = VoxelGrid((origin[0], origin[1], origin[2]), voxel, data["label"].shape)
        camera_from_volume = data["camera_from_seen"] @ np.linalg.inv(stated)
        truth_from_volume, taught_from_volume = (
            data[name] @ camera_from_volume for name in ("truth_from_camera", "volume_from_camera")
        )
        view = camera, stated, data["shown"]
        label = resampled_labels(np.array(data["label"]), truth, truth_from_volume, grid, *view)
        served: dict[str, NDArray[Any]] = {"label": label, "height": np.full(grid.shape[:2], np.nan, np.float32)}
        if "ground" in data:
            level = -self.viewpoint.height_above_ground
            served["height"] = resampled_ground(data["ground"], truth, truth_from_volume, grid, level)
        cells = cells_of(grid)
        for name in ("taught", "doubt"):
            served[name] = np.full(cells.shape, UNKNOWN, np.uint8)
            if name in data:
                served[name] = resampled_labels(np.array(data[name]), cells, taught_from_volume, cells, *view)
        return {name: torch.from_numpy(values) for name, values in served.items()}

    def _misjudged(self, generator: np.random.Generator) -> Floats:
        """Errors of the logarithm of depth in coarse parts of an image, and for each metre of depth."""
        if self.plain:
            return np.zeros((2, *PARTS), np.float32)
        settings = self.settings
        whole, parts = generator.normal(0.0, settings.depth_scale), generator.normal(size=(2, *PARTS))
        return np.stack([whole + settings.depth_waves * parts[0], settings.depth_far * parts[1]]).astype(np.float32)

    def _stated(self, exact: RigidTransform, known: bool, generator: np.random.Generator) -> Doubles:
        """The pose of the camera in the volume [4, 4]: as a rig states it, or the usual one, and then tilted."""
        if self.plain:
            return exact.matrix
        settings, pose = self.settings, exact if known else DEFAULT_GRID_FROM_CAMERA
        roll, pitch = np.radians((settings.volume_roll, settings.volume_pitch)) * generator.uniform(-1.0, 1.0, 2)
        out, above = pose.matrix, pose.translation[2] + self.viewpoint.height_above_ground
        out[:3, :3] = rotation_of_angles(roll, pitch, 0.0) @ pose.rotation
        out[2, 3] += above * settings.stated_height * generator.normal() * known
        return out

    def _above(self, volume_from_camera: RigidTransform) -> Doubles:
        """The `RoadPlane.state` [3] of a camera in the volume."""
        above = RigidTransform(np.eye(3), np.array([0.0, 0.0, self.viewpoint.height_above_ground]))
        return RoadPlane.of_mounting(above @ volume_from_camera).state

    @staticmethod
    def _mirrored(sample: dict[str, Tensor]) -> dict[str, Tensor]:
        """The scene mirrored from left to right; the network mirrors the places of cells, see `look_up`."""
        for name in {*MAPS, "depth", "classes", "shown"} & sample.keys():
            sample[name] = sample[name].flip(-1)
        for name in {"label", "height", "taught", "doubt"} & sample.keys():
            sample[name] = sample[name].flip(1)
        sample["road"] = sample["road"] * torch.tensor([-1.0, 1.0, 1.0])
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
            camera, turns = camera_of(one.object("camera")), self.settings.turned
            images = partial(pack.images, place, camera)

            def filled(what: str, make: Any, of: Any, place: str = place, names: Any = names) -> list[Path]:
                return Entry(self.store / keyed(place, [what, pack.key, of])).fill(names, make, what)

            truths = filled("truth", partial(pack.samples, place), None)
            of_frames = dict(zip(names, truths, strict=True))
            seen: list[Files] = []
            for augmentation in range(self.settings.augmentations if role == "training" else 1):
                of = [self.frozen.key, augmentation, augmentation and vars(turns)]
                see = self.frozen.seen(images, camera, self.viewpoint, of_frames, one.text("name"), augmentation, turns)
                seen += zip(filled("seen image", see, of), truths, strict=True)
            if role == "training":
                self.shares.append(one.number("share"))
            yield seen

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
                options["turns"] = self.settings.turned
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
