"""The door for scenes of points, whatever they come from."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path

from scene_completion_ros.errors import SequenceError
from scene_completion_ros.sequences.opening import known_sources, open_recording
from scene_completion_ros.untrusted_files import read_text
from scene_completion_training.points.datasets import (
    AREAS,
    MATTERPORT_TABLE,
    SCANNET_TABLE,
    TEST_AREA,
    is_scan,
    read_region,
    read_room,
    read_scan,
    region_files,
    rooms,
)
from scene_completion_training.points.fusion import VOXEL, fused_scene
from scene_completion_training.points.ply import read_cloud
from scene_completion_training.points.scene import LabelSet, PointScene, label_set

SPLITS = ("train", "val", "test")
_BESIDE = [
    f"{above}/{folder}"
    for above in (".", "..", "../..")
    for folder in ("", "scans", "metadata", "Tasks/Benchmark", "tasks/benchmark")
]  # where a data set's tables and lists may lie, from the folder that was named
_NO_LABELS = LabelSet("", ())


@dataclass(frozen=True, eq=False)
class Scenes(Mapping[str, PointScene]):
    """Scenes by name, in order; each is read when it is asked for."""

    source: str  # "ScanNet", "Matterport3D", "S3DIS", "PLY" or "recordings"
    classes: tuple[str, ...]  # of the labels that were asked for; () where each scene brings its own
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
    # "train", "val" or "test", by the official lists, which must lie in or beside the folder. S3DIS has none: "test" is
    # Area_5, "train" the others. All scenes where it is "".
    split: str = "",
    listed: Path | str | None = None,  # a file with a name of a scan, a house, an area or a scene a line: these alone
    every: int = 1,  # take every n-th view. OpenScene takes every 20th of a scan of ScanNet
    # Side of the voxels of which each gives one point, metres. Of PLY files None keeps all points, of recordings it is
    # `VOXEL`; the others keep their points as they are.
    voxel: float | None = None,
    up: str = "",  # direction that points up in PLY files and recordings, see `rotation_to_z`
) -> Scenes:
    """Open scenes of points.

    Raises SequenceError where it is nothing of the kind, a list is missing or names what is not there, or no scene is
    left; VocabularyError where there are no such labels.
    """
    root = Path(path).expanduser()
    source, known, found = _found(root, labels, every, voxel, up)
    if split or listed is not None:
        wanted = _names(root, source, split, listed)
        groups = {_group(source, name) for name in found} | found.keys()
        if missing := sorted(wanted - groups) if source != "S3DIS" or listed else []:
            what = f"{len(missing)} of the {len(wanted)} listed scenes are not there, such as {missing[0]}"
            raise SequenceError(what, where=str(root), cure="Download them, or name a list of those that are there")
        found = {name: read for name, read in found.items() if {name, _group(source, name)} & wanted}
    if not found:
        what = "holds no scenes of points" if root.exists() else "no such file or folder"
        cure = "Name a folder of ScanNet v2, Matterport3D or S3DIS, PLY files, or a recording with depth"
        raise SequenceError(what, where=str(root), cure=cure)
    return Scenes(source, known.classes, found)


def _found(
    root: Path, labels: str, every: int, voxel: float | None, up: str
) -> tuple[str, LabelSet, dict[str, Callable[[], PointScene]]]:
    """The kind of source, its labels, and how its scenes are read."""
    inside = sorted(root.iterdir()) if root.is_dir() else []
    folders = [root, *inside, *chain.from_iterable(sorted((root / name).glob("*")) for name in ("scans", "scans_test"))]
    if scans := [folder for folder in folders if is_scan(folder)]:
        known = label_set(labels or "scannet20", "scannet")
        table = _beside(root, SCANNET_TABLE)
        return "ScanNet", known, {one.name: partial(read_scan, one, known, table, every) for one in scans}
    if regions := [file for folder in folders for file in region_files(folder)]:
        known = label_set(labels or "matterport21", "matterport")
        table = _beside(root, MATTERPORT_TABLE)
        if table is None:
            cure = "Take it from github.com/niessner/Matterport, folder metadata"
            raise SequenceError(f"there is no {MATTERPORT_TABLE} in or beside it", where=str(root), cure=cure)
        return "Matterport3D", known, {
            f"{file.parent.parent.name}_{file.stem}": partial(read_region, file, known, table, every)
            for file in regions
        }  # fmt: skip
    if areas := rooms(root):
        known = label_set(labels or "s3dis", "s3dis")
        return "S3DIS", known, {
            f"{room.parent.name}/{room.name}": partial(read_room, room, known) for room in areas
        }  # fmt: skip
    known = label_set(labels) if labels else _NO_LABELS
    if files := [file for file in (root, *inside) if file.suffix == ".ply" and file.is_file()]:
        return "PLY", known, {file.stem: partial(read_cloud, file, known.classes, voxel, up) for file in files}
    sources = known_sources()
    recordings = [place for place in (root, *inside) if any(source.recognises(place) for source in sources)]
    if recordings[:1] == [root]:
        recordings = [root]
    return "recordings", known, {
        place.stem: partial(_fused, place, known.classes, voxel or VOXEL, up, every) for place in recordings
    }  # fmt: skip


def _fused(place: Path, classes: tuple[str, ...], voxel: float, up: str, every: int) -> PointScene:
    sequence = open_recording(place)
    return fused_scene(sequence, classes=classes, voxel=voxel, up=up, every=every, name=place.stem)


def _beside(root: Path, name: str) -> Path | None:
    """A table or list of a data set, in or beside its folder of scenes."""
    return next((found for place in _BESIDE if (found := root / place / name).is_file()), None)


def _group(source: str, scene: str) -> str:
    """What lists may name in place of a scene: the house of a region, the area of a room."""
    return scene.rpartition("_region")[0] if source == "Matterport3D" else scene.partition("/")[0]


def _names(root: Path, source: str, split: str, listed: Path | str | None) -> set[str]:
    """Names of a list."""
    if listed is None:
        if split not in SPLITS:
            raise SequenceError(f"no split {split!r}", where=str(root), cure=f"Name one of {', '.join(SPLITS)}")
        if source == "S3DIS" and split != "val":
            return {name for name in AREAS if (name == TEST_AREA) == (split == "test")}
        name = f"{'scannetv2' if source == 'ScanNet' else 'scenes'}_{split}.txt"
        listed = _beside(root, name)
        if listed is None:
            cure = "Take the official lists from the data set's repository on GitHub, or name a list of your own"
            raise SequenceError(f"there is no list {name} in or beside it", where=str(root), cure=cure)
    text = read_text(listed, SequenceError, cure="Name a list with one scene a line")
    return {line.strip() for line in text.splitlines() if line.strip()}
