"""Rooms of S3DIS: `Area_N/ROOM/Annotations/CLASS_K.txt`, a thing a file, a point (x y z red green blue) a line."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from scene_completion_ros.errors import SequenceError
from scene_completion_training.points.label_sets import LabelSet
from scene_completion_training.points.scene import PointScene
from scene_completion_training.points.voxel_means import MOST_POINTS

AREAS = tuple(f"Area_{number}" for number in range(1, 7))
TEST_AREA = "Area_5"  # of the usual split; the other areas are for training
_RENAMED = {"stairs": "clutter"}  # a class of some rooms that the 13 lack
_SHORTEST_LINE = 12  # bytes


def rooms(root: Path) -> list[Path]:
    """Folders of the rooms."""
    return sorted(folder.parent for folder in root.glob("Area_*/*/Annotations") if folder.is_dir())


def read_room(folder: Path, labels: LabelSet) -> PointScene:
    """Read a room.

    Raises SequenceError where there is no thing, a file has another name than a class, or a line is damaged.
    """
    files = sorted(file for file in (folder / "Annotations").glob("*.txt") if not file.name.startswith("."))
    if not files or sum(file.stat().st_size for file in files) > _SHORTEST_LINE * 5 * MOST_POINTS:
        raise SequenceError("has no things, or too many points", where=str(folder), cure="Unpack the data set again")
    rows, label, instance = [], [], []
    for place, file in enumerate(files):
        name = file.stem.rpartition("_")[0]
        name = _RENAMED.get(name, name)
        if name not in labels.classes:
            raise SequenceError(f"is a {name!r}", where=str(file), cure=f"Things are {', '.join(labels.classes)}")
        rows.append(_lines(file))
        label += [np.full(len(rows[-1]), labels.classes.index(name))]
        instance += [np.full(len(rows[-1]), place)]
    values = np.concatenate(rows)
    return PointScene(
        f"{folder.parent.name}/{folder.name}",
        values[:, :3],
        values[:, 3:] / np.float32(255.0),
        classes=labels.classes,
        label=np.concatenate(label),
        instance=np.concatenate(instance),
    )


def _lines(file: Path) -> NDArray[np.float32]:
    """Points and colours [M, 6]."""
    try:
        values = np.loadtxt(file, np.float32, comments=None, ndmin=2, encoding="latin-1")
        if values.shape[1:] != (6,) or not np.isfinite(values).all():
            raise ValueError(f"rows of {values.shape[1]} numbers, or no numbers")
    except (OSError, ValueError) as problem:
        cure = "Correct the line: older archives have stray characters in Area_5/hallway_6 and Area_5/office_19"
        raise SequenceError(f"cannot be read: {problem}", where=str(file), cure=cure) from problem
    return values
