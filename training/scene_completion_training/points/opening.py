"""The door for scenes of points, whatever they come from; and posed RGB-D that is made points.

The latter are rendered rooms, recordings, and bags with depth.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from scene_completion_ros.errors import SequenceError
from scene_completion_ros.geometry.depth_images import surface_normals
from scene_completion_ros.sequences.opening import SOURCES, open_recording
from scene_completion_ros.sequences.posed_sequence import ArrayLoader, PosedSequence, read_source, reference_camera
from scene_completion_ros.untrusted_files import read_text
from scene_completion_training.arrays import Floats, Ints
from scene_completion_training.points import datasets
from scene_completion_training.points.ply import known_numbers, read_cloud
from scene_completion_training.points.scene import (
    UNLABELLED,
    LabelSet,
    PointScene,
    RgbdView,
    check_views,
    label_set,
    looked_up,
    rays_of,
)
from scene_completion_training.points.voxels import VoxelMeans, unit

SPLITS = ("train", "val", "test")
_BESIDE = [
    f"{above}/{folder}"
    for above in (".", "..", "../..")
    for folder in ("", "scans", "metadata", "Tasks/Benchmark", "tasks/benchmark")
]  # where a data set's tables and lists may lie, from the folder that was named
_NO_LABELS = LabelSet("", ())
VOXEL = 0.02  # metres; one point is kept in each, as ScanNet's meshes have about them
FARTHEST = 10.0  # metres, up to which depth is taken: that of cameras is noise beyond
_IMAGES = ("label", "instance")


@dataclass(frozen=True, eq=False)
class Scenes(Mapping[str, PointScene]):
    """Scenes by name, in order; each is read on access."""

    source: str  # "ScanNet", "Matterport3D", "S3DIS", "PLY" or "recordings"
    classes: tuple[str, ...]  # of the requested labels; () where each scene brings its own
    readers: Mapping[str, Callable[[], PointScene]]

    def __getitem__(self, name: str) -> PointScene:
        return self.readers[name]()

    def __iter__(self) -> Iterator[str]:
        return iter(self.readers)

    def __len__(self) -> int:
        return len(self.readers)


def open_scenes(
    # A folder of scans of ScanNet, houses of Matterport3D or areas of S3DIS, or one of their scans, or a file or folder
    # of PLY, or a recording with depth (see `open_recording`), or a folder of these.
    path: Path | str,
    *,
    # A label set, see `label_set`. By default scannet20, matterport21 or s3dis; for others none, and a recording
    # brings its own.
    labels: str = "",
    # "train", "val" or "test", by the official lists in or next to the folder. S3DIS has none: "test" is
    # Area_5, "train" the others. All scenes where it is "".
    split: str = "",
    every: int = 1,  # take every n-th view. OpenScene takes every 20th of a scan of ScanNet
) -> Scenes:
    """Open scenes of points.

    Raises SequenceError where it is nothing of the kind, a list is missing or names what is not there, or no scene is
    left; VocabularyError where there are no such labels.
    """
    root = Path(path).expanduser()
    source, known, found = _found(root, labels, every)
    if split:
        wanted = _names(root, source, split)
        groups = {_group(source, name) for name in found}
        if missing := sorted(wanted - groups) if source != "S3DIS" else []:
            what = f"{len(missing)} of the {len(wanted)} listed scenes are not there, such as {missing[0]}"
            raise SequenceError(what, where=str(root), cure="Download them")
        found = {name: read for name, read in found.items() if _group(source, name) in wanted}
    if not found:
        what = "holds no scenes of points" if root.exists() else "no such file or folder"
        cure = "Name a folder of ScanNet v2, Matterport3D or S3DIS, PLY files, or a recording with depth"
        raise SequenceError(what, where=str(root), cure=cure)
    return Scenes(source, known.classes, found)


def _found(root: Path, labels: str, every: int) -> tuple[str, LabelSet, dict[str, Callable[[], PointScene]]]:
    """The kind of source, its labels, and how its scenes are read."""
    inside = sorted(root.iterdir()) if root.is_dir() else []
    folders = [root, *inside, *chain.from_iterable(sorted((root / name).glob("*")) for name in ("scans", "scans_test"))]
    if scans := [folder for folder in folders if datasets.is_scan(folder)]:
        known = label_set(labels or "scannet20", "scannet")
        table = _beside(root, datasets.SCANNET_TABLE)
        return "ScanNet", known, {one.name: partial(datasets.read_scan, one, known, table, every) for one in scans}
    if regions := [file for folder in folders for file in datasets.region_files(folder)]:
        known = label_set(labels or "matterport21", "matterport")
        table = _beside(root, datasets.MATTERPORT_TABLE)
        if table is None:
            cure = "Take it from github.com/niessner/Matterport, folder metadata"
            raise SequenceError(f"there is no {datasets.MATTERPORT_TABLE} in or next to it", where=str(root), cure=cure)
        return "Matterport3D", known, {
            f"{file.parent.parent.name}_{file.stem}": partial(datasets.read_region, file, known, table, every)
            for file in regions
        }  # fmt: skip
    if areas := datasets.rooms(root):
        known = label_set(labels or "s3dis", "s3dis")
        return "S3DIS", known, {
            f"{room.parent.name}/{room.name}": partial(datasets.read_room, room, known) for room in areas
        }  # fmt: skip
    known = label_set(labels) if labels else _NO_LABELS
    if files := [file for file in (root, *inside) if file.suffix == ".ply" and file.is_file()]:
        return "PLY", known, {file.stem: partial(read_cloud, file, known.classes) for file in files}
    recordings = [place for place in (root, *inside) if any(source.recognises(place) for source in SOURCES)]
    if recordings[:1] == [root]:
        recordings = [root]
    return "recordings", known, {
        place.stem: partial(_fused_recording, place, known.classes, every) for place in recordings
    }  # fmt: skip


def _fused_recording(place: Path, classes: tuple[str, ...], every: int) -> PointScene:
    return fused_scene(open_recording(place), classes=classes, every=every, name=place.stem)


def _beside(root: Path, name: str) -> Path | None:
    """A table or list of a data set, in or next to its folder of scenes."""
    return next((found for place in _BESIDE if (found := root / place / name).is_file()), None)


def _group(source: str, scene: str) -> str:
    """What lists name: a scan, the house of a region, the area of a room."""
    return scene.rpartition("_region")[0] if source == "Matterport3D" else scene.partition("/")[0]


def _names(root: Path, source: str, split: str) -> set[str]:
    """Names in the official list of a split."""
    if split not in SPLITS:
        raise SequenceError(f"no split {split!r}", where=str(root), cure=f"Name one of {', '.join(SPLITS)}")
    if source == "S3DIS" and split != "val":
        return {name for name in datasets.AREAS if (name == datasets.TEST_AREA) == (split == "test")}
    name = f"{'scannetv2' if source == 'ScanNet' else 'scenes'}_{split}.txt"
    listed = _beside(root, name)
    if listed is None:
        cure = "Take the official lists from the data set's repository on GitHub"
        raise SequenceError(f"there is no list {name} in or next to it", where=str(root), cure=cure)
    text = read_text(listed, SequenceError, cure="Name a list with one scene a line")
    return {line.strip() for line in text.splitlines() if line.strip()}


def fused_scene(
    sequence: PosedSequence,
    *,
    # Names of labels. Where the sequence's provenance lists "classes", its own are found among them by name; by default
    # they are all of its own.
    classes: Sequence[str] = (),
    every: int = 1,  # take every n-th view
    name: str = "",
) -> PointScene:
    """Fuse the depth of a sequence to points.

    Each voxel of `VOXEL` keeps the mean of the points of all pixels in it, of their colours and normals, and the most
    frequent label and instance. Assets of frames: "depth" [h, w] is z-depth of the reference camera in metres, 0 or
    infinite where unknown. "label" [h, w] are indices of classes, "instance" [h, w] numbers of things, 0 of none. In
    both, -1 and the largest value of unsigned numbers stand for unknown. Raises SequenceError where there is no depth,
    it does not fit images or poses, labels have no names, or z is not up.
    """
    where = name or sequence.name
    camera = reference_camera(sequence)
    frames = [frame for frame in sequence.frames if "depth" in frame.assets and camera in frame.images][::every]
    if not frames:
        cure = "Record depth that is registered to the image, or name a data set with points"
        raise SequenceError("no frame has depth", where=where, cure=cure)
    if not sequence.metric_scale:
        raise SequenceError("its poses are not in metres", where=where, cure="Scale them: depth is in metres")
    listed = sequence.provenance.get("classes")
    own = tuple(map(str, listed)) if isinstance(listed, list) else ()
    names = tuple(classes) or own
    place = {label: number for number, label in enumerate(names)}
    table = np.array([place.get(label, UNLABELLED) for label in own or names], np.int64)
    views = tuple(
        RgbdView(
            f"{frame.stamp_ns}",
            sequence.cameras[camera],
            frame.world_from_rig @ sequence.rig_from_camera[camera],
            partial(read_source, frame.images[camera]),
            partial(_depth, frame.assets["depth"]),
        )
        for frame in frames
    )
    check_views(views, where)
    points, means, votes = _fused(views, [frame.assets for frame in frames], table, VoxelMeans(VOXEL, where))
    known = names if "label" in votes else ()
    return PointScene(where, points, means[:, :3], unit(means[:, 3:]), known, views=views, **votes)


def _fused(
    views: Sequence[RgbdView], assets: Sequence[Mapping[str, ArrayLoader]], table: Ints, sums: VoxelMeans
) -> tuple[Floats, Floats, dict[str, Ints]]:
    """Points [N, 3], colours and normals [N, 6], and labels and instances [N] where any frame has them."""
    where, there = sums.where, [name for name in _IMAGES if any(name in of for of in assets)]
    if "label" in there and not len(table):
        cure = "Name the label set, or list them as classes in its provenance"
        raise SequenceError("its labels have no names", where=where, cure=cure)
    for view, of in zip(views, assets, strict=True):
        depth = view.depth()
        positions = rays_of(view, depth) * depth[..., None]
        chosen = (depth > 0.0) & (depth < FARTHEST) & np.isfinite(positions).all(axis=-1)
        pose = view.world_from_camera
        normals = surface_normals(np.where(chosen[..., None], positions, np.nan))[chosen] @ pose.rotation.T
        colours = cv2.resize(view.image(), depth.shape[::-1], interpolation=cv2.INTER_AREA)[chosen] / 255.0
        votes = {}
        for name in there:
            ids = _ids(of.get(name), depth, f"{where}, {name} of view {view.name}")[chosen]
            votes[name] = looked_up(table, ids, where) if name == "label" else np.where(ids > 0, ids, UNLABELLED)
        sums.add(np.asarray(pose.apply(positions[chosen])), np.hstack([colours, normals]), votes)
    return sums.result()


def _depth(load: Callable[[], NDArray[Any]]) -> Floats:
    stored = load()
    if stored.dtype.kind not in "fiu":
        raise SequenceError(f"depth is {stored.dtype}", cure="Give z-depth in metres, 0 where unknown")
    depth = np.asarray(stored, np.float32)
    return np.where(np.isfinite(depth), depth, np.float32(0.0))


def _ids(load: ArrayLoader | None, depth: Floats, where: str) -> Ints:
    """Whole numbers [h, w] of a frame, in the size of its depth."""
    if load is None:
        return np.full(depth.shape, UNLABELLED)
    ids = _whole_numbers(load, where)
    if ids.shape != depth.shape:
        rows = (np.arange(depth.shape[0]) * ids.shape[0]) // depth.shape[0]
        ids = ids[rows][:, (np.arange(depth.shape[1]) * ids.shape[1]) // depth.shape[1]]
    return ids


def _whole_numbers(load: ArrayLoader, where: str) -> Ints:
    """The numbers of an image; `UNLABELLED` for the largest of unsigned ones."""
    found = load()
    if found.ndim != 2 or found.dtype.kind not in "iu":
        cure = "Give whole numbers [h, w]"
        raise SequenceError(f"is {found.dtype} of shape {list(found.shape)}", where=where, cure=cure)
    return known_numbers(found)
