"""Scans of ScanNet v2: the mesh's vertices, labels of ScanNet-20 or ScanNet200, instances, segments and views.

    scans/sceneXXXX_YY/sceneXXXX_YY_vh_clean_2.ply                     the mesh
    .../..._vh_clean_2.labels.ply                                      its NYU40 ids
    .../..._vh_clean_2.0.010000.segs.json, ....aggregation.json        its segments, and the things they make
    .../sceneXXXX_YY.sens, or color/ depth/ pose/ intrinsic/           views, see `sens.py`
    scannetv2-labels.combined.tsv                                      what the names of things are
    scannetv2_train.txt, _val.txt, _test.txt                           the official splits, from ScanNet's repository

Scans of the test split have neither labels nor segments.
"""

import csv
import re
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from scene_completion_ros.errors import SequenceError
from scene_completion_ros.untrusted_files import read_json, read_text
from scene_completion_training.points.label_sets import LabelSet
from scene_completion_training.points.ply import colours_of, columns, read_ply, vertex_normals
from scene_completion_training.points.scene import UNLABELLED, PointScene
from scene_completion_training.points.sens import exported_views, sens_views

SCAN = re.compile(r"scene\d{4}_\d{2}")
TABLE = "scannetv2-labels.combined.tsv"
_MESH = "_vh_clean_2"
_NYU40 = 40
_MOST_BYTES = 1 << 28
_Thing: TypeAlias = tuple[str, NDArray[np.int64]]  # its name and segments
_CURE = "Download the scan again"


def is_scan(folder: Path) -> bool:
    """Whether a folder is a scan of ScanNet."""
    return SCAN.fullmatch(folder.name) is not None and (folder / f"{folder.name}{_MESH}.ply").is_file()


def read_table(path: Path, *needed: str) -> list[dict[str, str]]:
    """Rows of a table of columns that tabs separate, as ScanNet and Matterport3D ship.

    Raises SequenceError where it lacks a column.
    """
    text = read_text(path, SequenceError, cure="Download the table again")
    rows = list(csv.DictReader(text.splitlines(), delimiter="\t", quoting=csv.QUOTE_NONE))
    if not rows or not set(needed) <= rows[0].keys():
        raise SequenceError(f"has no columns {', '.join(needed)}", where=str(path), cure="Download the table again")
    return rows


def number(word: str | None) -> int:
    """A whole number of a table, 0 where there is none."""
    return int(word) if word and word.isdecimal() and len(word) < 7 else 0


def read_scan(folder: Path, labels: LabelSet, table: Path | None, every: int = 1) -> PointScene:
    """Read a scan. Raises SequenceError where a file is missing or damaged, or files contradict each other.

    Args:
        labels: ScanNet-20 or ScanNet200.
        table: `scannetv2-labels.combined.tsv`. ScanNet-20 needs none where there is a mesh of labels.
        every: Take every n-th view (20 in OpenScene).
    """
    stem = folder / folder.name
    mesh = read_ply(Path(f"{stem}{_MESH}.ply"), ("vertex", "face"))
    points = columns(mesh["vertex"], ("x", "y", "z")) if "vertex" in mesh else None
    if points is None:
        raise SequenceError("has no points", where=f"{stem}{_MESH}.ply", cure=_CURE)
    label, segment = None, None
    segments, things = Path(f"{stem}{_MESH}.0.010000.segs.json"), Path(f"{stem}.aggregation.json")
    if segments.is_file():
        segment = _segments(segments, len(points))
    groups = _groups(things) if segment is not None and things.is_file() else []
    labelled = Path(f"{stem}{_MESH}.labels.ply")
    if labels.name == "scannet20" and labelled.is_file():
        rows = read_ply(labelled)["vertex"]
        if len(rows) != len(points) or "label" not in (rows.dtype.names or ()):
            raise SequenceError(f"does not label {len(points)} vertices", where=str(labelled), cure=_CURE)
        label = labels.labels(np.asarray(rows["label"], np.int64), _NYU40, str(labelled))
    elif segment is not None and groups:
        if table is None:
            cure = "Download it: download-scannet.py -o DATA --label_map"
            raise SequenceError(f"labels need {TABLE}", where=str(folder.parent), cure=cure)
        ids = _ids(groups, table, "nyu40id" if labels.name == "scannet20" else "id", things)
        label = labels.labels(np.maximum(_of_groups(segment, groups, ids), 0), max(*labels.ids, *ids), str(things))
    instance = None if segment is None or not groups else _of_groups(segment, groups, range(len(groups)))
    views = sens_views(Path(f"{stem}.sens"), every) if Path(f"{stem}.sens").is_file() else exported_views(folder, every)
    return PointScene(
        folder.name,
        points,
        colours_of(mesh["vertex"]),
        vertex_normals(points, mesh["face"]) if "face" in mesh else None,
        labels.classes if label is not None else (),
        label,
        instance,
        segment,
        views,
    )


def _segments(path: Path, count: int) -> NDArray[np.int64]:
    stored = read_json(path, SequenceError, cure=_CURE, kind=dict, most_bytes=_MOST_BYTES).get("segIndices")
    return whole_numbers(stored, count, f"{path}, segIndices")


def whole_numbers(stored: Any, count: int, where: str) -> NDArray[np.int64]:
    """A list of a JSON document as an array of so many whole numbers; a `SequenceError` if it is none."""
    fits = isinstance(stored, list) and len(stored) == count and all(type(value) is int for value in stored)
    if not fits or not all(0 <= value < 1 << 62 for value in stored):
        raise SequenceError(f"is no list of {count} numbers", where=where, cure=_CURE)
    return np.array(stored, np.int64)


def _groups(path: Path) -> list[_Thing]:
    """Name and segments of each thing."""
    stored = read_json(path, SequenceError, cure=_CURE, kind=dict, most_bytes=_MOST_BYTES).get("segGroups")
    groups = []
    for place, group in enumerate(stored if isinstance(stored, list) else [None]):
        match group:
            case {"segments": list(segments), "label": str(label)}:
                where = f"{path}, segGroups[{place}]"
                groups.append((label, whole_numbers(segments, len(segments), where)))
            case _:
                raise SequenceError(f"segGroups[{place}] has no segments and label", where=str(path), cure=_CURE)
    return groups


def _of_groups(segment: NDArray[np.int64], groups: list[_Thing], values: Sequence[int]) -> NDArray[np.int64]:
    """The value of each point's thing; `UNLABELLED` where it is of none."""
    known, inverse = np.unique(segment, return_inverse=True)
    of_segment = np.full(len(known), UNLABELLED, np.int64)
    for (_, segments), value in zip(groups, values, strict=True):
        of_segment[np.isin(known, segments)] = value
    return of_segment[inverse]


@lru_cache(maxsize=4)
def _ids_by_name(table: Path, column: str) -> dict[str, int]:
    return {row["raw_category"]: number(row[column]) for row in reversed(read_table(table, "raw_category", column))}


def _ids(groups: list[_Thing], table: Path, column: str, where: Path) -> list[int]:
    """The id of each thing, 0 where the table does not know its name."""
    ids = _ids_by_name(table, column)
    found = [ids.get(label, 0) for label, _ in groups]
    if groups and not any(label in ids for label, _ in groups):
        cure = "Name the table of ScanNet v2: download-scannet.py -o DATA --label_map"
        raise SequenceError(f"{table.name} knows none of its {len(groups)} things", where=str(where), cure=cure)
    return found
