"""Clouds and meshes of PLY files as scenes, of any number of points."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scene_completion_ros.errors import SequenceError
from scene_completion_training.points.checks import check_upright, rotation_to_z
from scene_completion_training.points.label_sets import looked_up
from scene_completion_training.points.ply import colours_of, columns, read_ply
from scene_completion_training.points.scene import UNLABELLED, PointScene
from scene_completion_training.points.voxel_means import MOST_POINTS, VoxelMeans, unit

_BLOCK = 1_000_000  # vertices that are read at once


def read_cloud(file: Path, classes: tuple[str, ...] = (), voxel: float | None = None, up: str = "") -> PointScene:
    """Read the vertices of a PLY file: x y z, and red green blue, nx ny nz, label and instance where it has them.

    Args:
        classes: Names of its labels, which count from 0; without any, labels are left unread. -1 and the largest value
            of unsigned numbers stand for unknown.
        voxel: Side of voxels, metres: one point is kept in each, and the file may be of any length.
        up: Direction that points up, see `rotation_to_z`; z where it is "", which is checked.

    Raises:
        SequenceError: It is damaged, has no points or more than `MOST_POINTS`, labels of another list, or z is not up.
    """
    where = str(file)
    rows = read_ply(file).get("vertex")
    fields = set() if rows is None else set(rows.dtype.names or ())
    if rows is None or not len(rows) or not {"x", "y", "z"} <= fields:
        raise SequenceError("has no points", where=where, cure="Export its vertices with x, y and z")
    if voxel is None:
        if len(rows) > MOST_POINTS:
            cure = "Crop it, or name a voxel (such as 0.02), which downsamples while it is read"
            raise SequenceError(f"has {len(rows):,} points, more than {MOST_POINTS:,}", where=where, cure=cure)
        points, means, votes = _read(rows, classes, where)
        if not np.isfinite(points).all():
            raise SequenceError("has points without a place", where=where, cure="Drop them")
    else:
        sums = VoxelMeans(voxel, where)
        for start in range(0, len(rows), _BLOCK):
            sums.add(*_read(rows[start : start + _BLOCK], classes, where))
        points, means, votes = sums.result()
    if up:
        points = np.asarray(points @ rotation_to_z(up, (), where).T, np.float32)
        means[:, -3:] = means[:, -3:] @ rotation_to_z(up, (), where).T if "nx" in fields else means[:, -3:]
    else:
        check_upright(points, (), where)
    return PointScene(
        file.stem,
        points,
        means[:, :3] if "red" in fields else None,
        unit(means[:, -3:]) if "nx" in fields else None,
        classes if "label" in votes else (),
        votes.get("label"),
        votes.get("instance"),
    )


def _read(
    rows: NDArray[Any], classes: tuple[str, ...], where: str
) -> tuple[NDArray[np.float32], NDArray[np.float32], dict[str, NDArray[np.int64]]]:
    """Points [M, 3], colours and normals that are there side by side, labels and instances [M]."""
    fields = rows.dtype.names or ()
    beside = [one for one in (colours_of(rows), columns(rows, ("nx", "ny", "nz"))) if one is not None]
    votes = {}
    if "label" in fields and classes:
        votes["label"] = looked_up(np.arange(len(classes)), _known(rows["label"]), where)
    if "instance" in fields:
        votes["instance"] = _known(rows["instance"])
    points = np.stack([np.asarray(rows[axis], np.float32) for axis in "xyz"], axis=-1)
    return points, np.hstack([np.empty((len(rows), 0), np.float32), *beside]), votes


def _known(values: NDArray[Any]) -> NDArray[np.int64]:
    """Whole numbers, `UNLABELLED` for the largest of an unsigned kind."""
    found = values.astype(np.int64)
    return np.where(found == np.iinfo(values.dtype).max, UNLABELLED, found) if values.dtype.kind == "u" else found
