"""The door for scenes of points, whatever they come from; and posed RGB-D that is made points.

The latter are rendered rooms, recordings, and bags with depth.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
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
from scene_completion_training.points import datasets, scene
from scene_completion_training.points.ply import known_numbers, read_cloud
from scene_completion_training.points.scene import UNLABELLED, LabelSet, PointScene, RgbdView, label_set, rays_of
from scene_completion_training.points.voxels import VoxelMeans, unit

SPLITS = ("train", "val", "test")
_BESIDE = [
    f"{above}/{folder}"
    for above in (".", "..", "../..", "../../..", "../../../..")
    for folder in ("", "scans", "metadata", "Tasks/Benchmark", "tasks/benchmark")
]  # where a data set's tables and lists may lie, from the folder that was named
_NO_LABELS = LabelSet("", ())
VOXEL = 0.02  # metres; one point is kept in each, as ScanNet's meshes have about them
_DEEPEST = 5  # folders from the one that is named down to a scene: data/Matterport3D/v1/scans/HOUSE/HOUSE
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


def open_scenes(path: Path | str, *, labels: str = "", split: str = "", every: int = 1) -> Scenes:
    """Open scenes of points.

    `path`: a folder in which ScanNet, Matterport3D or S3DIS lies as it was unpacked, or a part of it, or a file or
    folder of PLY, or a recording with depth (see `open_recording`), or a folder of these. `labels`: a label set, see
    `label_set`; by default scannet20, matterport21 or s3dis; for others none, and a recording brings its own. `split`:
    "train", "val" or "test", by the official lists in or next to the folder; S3DIS has none: "test" is Area_5, "train"
    the others; all scenes where it is "". `every`: take every n-th view; OpenScene takes every 20th of ScanNet.
    Raises SequenceError where it is nothing of the kind, there are two data sets or two scenes of one name, a list is
    missing or names what is not there, or no scene is left; VocabularyError where there are no such labels.
    """
    root = Path(path).expanduser()
    source, known, found = _found(root, labels, every)
    if split:
        wanted = _names(root, source, split)
        groups = {_group(source, name) for name in found}
        missing = sorted(wanted - groups)
        if missing and (source != "S3DIS" or not wanted & groups):  # whose areas some leave out
            what = f"{len(missing)} of the {len(wanted)} listed scenes are not there, such as {missing[0]}"
            raise SequenceError(what, where=str(root), cure="Download them")
        found = {name: read for name, read in found.items() if _group(source, name) in wanted}
    if not found:
        what = "holds no scenes of points" if root.exists() else "no such file or folder"
        cure = "Name a folder of ScanNet v2, Matterport3D or S3DIS, PLY files, or a recording with depth"
        if packed := next(root.rglob("*.zip"), None):
            what, cure = f"holds no scenes, but archives such as {packed}", "Unpack each archive where it lies"
        raise SequenceError(what, where=str(root), cure=cure)
    return Scenes(source, known.classes, found)


def _found(root: Path, labels: str, every: int) -> tuple[str, LabelSet, dict[str, Callable[[], PointScene]]]:
    """The kind of source, its labels, and how its scenes are read."""
    places = list(_places(root))
    kinds, folders = {kind for kind, _ in places}, [folder for _, folder in places]
    if len(kinds) > 1:
        raise SequenceError(f"holds {' and '.join(sorted(kinds))}", where=str(root), cure="Name the folder of one")
    if kinds == {"ScanNet"}:
        known = label_set(labels or "scannet20", "scannet")
        read = partial(datasets.read_scan, labels=known, table=_beside(root, datasets.SCANNET_TABLE), every=every)
        return "ScanNet", known, _by_name(folders, lambda scan: scan.name, read)
    if kinds == {"Matterport3D"}:
        known = label_set(labels or "matterport21", "matterport")
        table = _beside(root, datasets.MATTERPORT_TABLE)
        if table is None:
            cure = "Take it from github.com/niessner/Matterport, folder metadata"
            raise SequenceError(f"there is no {datasets.MATTERPORT_TABLE} in or next to it", where=str(root), cure=cure)
        read = partial(datasets.read_region, labels=known, table=table, every=every)
        regions = chain.from_iterable(map(datasets.region_files, folders))
        return "Matterport3D", known, _by_name(regions, lambda mesh: f"{mesh.parent.parent.name}_{mesh.stem}", read)
    if kinds == {"S3DIS"}:
        known = label_set(labels or "s3dis", "s3dis")
        read = partial(datasets.read_room, labels=known)
        return "S3DIS", known, _by_name(folders, lambda room: f"{room.parent.name}/{room.name}", read)
    inside = sorted(root.iterdir()) if root.is_dir() else []
    known = label_set(labels) if labels else _NO_LABELS
    if files := [file for file in (root, *inside) if file.suffix == ".ply" and file.is_file()]:
        return "PLY", known, _by_name(files, lambda file: file.stem, partial(read_cloud, classes=known.classes))
    recordings = [place for place in (root, *inside) if any(source.recognises(place) for source in SOURCES)]
    if recordings[:1] == [root]:
        recordings = [root]
    return (
        "recordings",
        known,
        _by_name(
            recordings,
            lambda place: place.stem,
            lambda place: fused_scene(open_recording(place), classes=known.classes, every=every, name=place.stem),
        ),
    )


def _places(root: Path, deeper: int = _DEEPEST) -> Iterator[tuple[str, Path]]:
    """Data set and folder of the scenes in a folder, in order, as deep as downloads nest them."""
    if kind := next((kind for kind, is_one in datasets.KINDS.items() if is_one(root)), ""):
        yield kind, root
    elif deeper and root.is_dir():
        for inside in sorted(entry.path for entry in os.scandir(root) if entry.is_dir()):
            if not Path(inside).name.startswith((".", "__MACOSX")):  # there, archives of macOS have all names again
                yield from _places(Path(inside), deeper - 1)


def _by_name(
    places: Iterable[Path], name: Callable[[Path], str], read: Callable[[Path], PointScene]
) -> dict[str, Callable[[], PointScene]]:
    """Lists how scenes are read, by name; a SequenceError where two have the same."""
    found: dict[str, Path] = {}
    for place in places:
        if (first := found.setdefault(name(place), place)) is not place:
            what, cure = f"is there twice, as {first} and {place}", "Name one of them, or move the other away"
            raise SequenceError(what, where=name(place), cure=cure)
    return {key: partial(read, place) for key, place in found.items()}


def _beside(root: Path, name: str) -> Path | None:
    """A table or list of a data set, in or next to its folder of scenes."""
    return next((found for place in _BESIDE if (found := root / place / name).is_file()), None)


def _group(source: str, name: str) -> str:
    """What lists name: a scan, the house of a region, the area of a room."""
    return name.rpartition("_region")[0] if source == "Matterport3D" else name.partition("/")[0]


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


def fused_scene(sequence: PosedSequence, *, classes: Sequence[str] = (), every: int = 1, name: str = "") -> PointScene:
    """Fuse the depth of a sequence to points.

    Each voxel of `VOXEL` keeps the mean of the points of all pixels in it, of their colours and normals, and the most
    frequent label and instance. Assets of frames: "depth" [h, w] is z-depth of the reference camera in metres, 0 or
    infinite where unknown. "label" [h, w] are indices of classes, "instance" [h, w] numbers of things, 0 of none. In
    both, -1 and the largest value of unsigned numbers stand for unknown. Raises SequenceError where there is no depth,
    it does not fit images or poses, labels have no names, or z is not up. `classes`: names of labels; where the
    sequence's provenance lists "classes", its own are found among them by name; by default they are all of its own.
    `every`: take every n-th view.
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
    scene.check_views(views, where)
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
            votes[name] = scene.looked_up(table, ids, where) if name == "label" else np.where(ids > 0, ids, UNLABELLED)
        sums.add(np.asarray(pose.apply(positions[chosen])), np.hstack([colours, normals]), votes)
    return sums.result()


def _depth(load: Callable[[], NDArray[Any]]) -> Floats:
    stored = load()
    if stored.dtype.kind not in "fiu":
        raise SequenceError(f"depth is {stored.dtype}", cure="Give z-depth in metres, 0 where unknown")
    depth = np.asarray(stored, np.float32)
    return np.where(np.isfinite(depth), depth, np.float32(0.0))


def _ids(load: ArrayLoader | None, depth: Floats, where: str) -> Ints:
    """Whole numbers [h, w] of a frame, in the size of its depth; `UNLABELLED` for the largest of unsigned ones."""
    if load is None:
        return np.full(depth.shape, UNLABELLED)
    found = load()
    if found.ndim != 2 or found.dtype.kind not in "iu":
        cure = "Give whole numbers [h, w]"
        raise SequenceError(f"is {found.dtype} of shape {list(found.shape)}", where=where, cure=cure)
    rows, columns = (np.arange(here) * own // here for here, own in zip(depth.shape, found.shape, strict=True))
    return known_numbers(found[np.ix_(rows, columns)])
