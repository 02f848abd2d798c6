"""Binary PLY files of points and meshes, and scenes of them, of any number of points.

No code is executed, and sizes are checked before memory is taken.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from scene_completion_ros.errors import SequenceError
from scene_completion_ros.untrusted_files import shown
from scene_completion_ros.whole_files import whole_file
from scene_completion_training.arrays import Floats, Ints
from scene_completion_training.points.scene import UNLABELLED, PointScene, looked_up
from scene_completion_training.points.voxels import MOST_POINTS, unit

_KINDS = {
    "char": "i1", "uchar": "u1", "short": "i2", "ushort": "u2", "int": "i4", "uint": "u4",
    "float": "f4", "double": "f8",
    "int8": "i1", "uint8": "u1", "int16": "i2", "uint16": "u2", "int32": "i4", "uint32": "u4",
    "float32": "f4", "float64": "f8",
}  # fmt: skip
_NAMES = {kind: name for name, kind in reversed(_KINDS.items())}
_ORDERS = {"binary_little_endian": "<", "binary_big_endian": ">"}
_LONGEST_HEADER = 1 << 16  # bytes
_LONGEST_LIST = 1 << 16  # numbers of a list property: corners of a face, features of a vertex
_CURE = "Restore the file, or export it again as binary little endian PLY"


@dataclass
class _Element:
    name: str
    rows: int
    properties: list[tuple[str, str, str]]  # name, kind, and kind of the length of a list ("" of a number)


def read_ply(path: Path, wanted: Sequence[str] = ("vertex",)) -> dict[str, NDArray[Any]]:
    """Read elements of a PLY file.

    Returns for each that is there a structured array of its rows, one field a property, in native or the file's byte
    order. A list is a field of shape [n]. They stay on the disk until they are used. Raises SequenceError where it is
    no binary PLY, promises more than it holds, or has lists of different lengths. `wanted`: their names; the others are
    passed over.
    """
    try:
        with path.open("rb") as file:
            order, elements = _header(file, path)
            found: dict[str, NDArray[Any]] = {}
            for element in elements:
                rows = _rows(order, path.stat().st_size, file, element, path)
                if element.name in wanted:
                    found[element.name] = rows
                if len(found) == len(wanted):
                    break
            return found
    except (OSError, ValueError, LookupError) as problem:
        what = getattr(problem, "strerror", None) or problem
        raise SequenceError(f"cannot be read as PLY: {what}", where=str(path), cure=_CURE) from problem


def write_ply(path: Path, elements: Mapping[str, NDArray[Any]]) -> None:
    """Write structured arrays as the elements of a binary PLY file.

    `elements`: rows by name, "vertex" first. Fields are of 8 to 32 bits, or floats of 32 or 64; one of shape [n], n
    below 256, becomes a list property.
    """
    lines, blocks = ["ply", "format binary_little_endian 1.0"], []
    for name, rows in elements.items():
        lines.append(f"element {name} {len(rows)}")
        fields: list[tuple[Any, ...]] = []
        for field in rows.dtype.names or ():
            kind = rows.dtype[field]
            if kind.shape:
                fields.append((f"{field} length", "u1"))
            fields.append((field, kind.base.newbyteorder("<"), kind.shape))
            lines.append(f"property {'list uchar ' if kind.shape else ''}{_NAMES[kind.base.str[1:]]} {field}")
        block = np.empty(len(rows), np.dtype(fields))
        for field in block.dtype.names or ():
            of = field.removesuffix(" length")
            block[field] = rows[of] if of == field else rows.dtype[of].shape[0]
        blocks.append(block)
    with whole_file(path) as part, part.open("wb") as file:
        file.write(("\n".join([*lines, "end_header"]) + "\n").encode("ascii"))
        for block in blocks:
            file.write(block.tobytes())


def columns(rows: NDArray[Any], names: Sequence[str]) -> Floats | None:
    """Fields of a structured array side by side, float32 [N, len(names)]; None where it lacks one."""
    if not set(names) <= set(rows.dtype.names or ()):
        return None
    return np.stack([np.asarray(rows[name], np.float32) for name in names], axis=-1)


def colours_of(rows: NDArray[Any]) -> Floats | None:
    """Colours [N, 3] in 0..1 of vertices, None where they have none; whole numbers are of 255, others as they are."""
    found = columns(rows, ("red", "green", "blue"))
    return found / np.float32(255.0) if found is not None and rows.dtype["red"].kind in "iu" else found


def vertex_normals(points: Floats, faces: NDArray[Any]) -> Floats:
    """Normals [N, 3] of the vertices of a mesh: means of those of their triangles by area, zero of a lonely vertex.

    Raises SequenceError: these are no triangles of the points. `points`: [N, 3]; `faces`: rows with "vertex_indices",
    counter-clockwise seen from outside.
    """
    corners = np.asarray(faces["vertex_indices"], np.int64)
    if corners.shape[1:] != (3,) or (corners.size and not 0 <= corners.min() <= corners.max() < len(points)):
        raise SequenceError(f"has faces that are no triangles of its {len(points)} vertices", where="mesh", cure=_CURE)
    first, second, third = np.moveaxis(points[corners].astype(np.float64), 1, 0)
    area = np.repeat(np.cross(second - first, third - first), 3, axis=0)
    sums = np.stack([np.bincount(corners.ravel(), column, len(points)) for column in area.T], axis=-1)
    return np.asarray(sums / np.maximum(np.linalg.norm(sums, axis=-1, keepdims=True), 1e-12), np.float32)


def _damaged(what: str, path: Path) -> SequenceError:
    return SequenceError(what, where=str(path), cure=_CURE)


def _header(file: BinaryIO, path: Path) -> tuple[str, list[_Element]]:
    """Byte order and elements; the file stands behind its header then."""
    text = file.read(_LONGEST_HEADER)
    end = text.find(b"\nend_header")
    behind = text.find(b"\n", end + 1)
    if not text.startswith(b"ply") or end < 0 or behind < 0:
        raise _damaged("has no header of a PLY file", path)
    file.seek(behind + 1)
    order, elements = "", list[_Element]()
    for line in text[:end].decode("ascii", "replace").splitlines()[1:]:
        match line.split():
            case ["format", kind, "1.0"] if kind in _ORDERS:
                order = _ORDERS[kind]
            case ["format", "ascii", _]:
                raise _damaged("is a PLY file of text", path)
            case ["element", name, rows] if rows.isdecimal() and len(rows) < 16:
                elements.append(_Element(name, int(rows), []))
            case ["property", "list", length, kind, name] if elements and _KINDS.get(length, "f")[0] in "iu":
                elements[-1].properties.append((name, _KINDS.get(kind, ""), _KINDS[length]))
            case ["property", kind, name] if elements:
                elements[-1].properties.append((name, _KINDS.get(kind, ""), ""))
            case [] | ["comment" | "obj_info", *_]:
                continue
            case _:
                raise _damaged(f"has the line {shown(line)} in its header", path)
        if elements and elements[-1].properties and not elements[-1].properties[-1][1]:
            raise _damaged(f"has the line {shown(line)} in its header", path)
    if not order:
        raise _damaged("has no header of a PLY file", path)
    return order, elements


def _rows(order: str, size: int, file: BinaryIO, element: _Element, path: Path) -> NDArray[Any]:
    """Rows of the next element, mapped from the file, which stands behind them then."""
    start = file.tell()
    if element.rows and not element.properties:
        raise _damaged(f"has {element.rows:,} rows of {element.name!r} without properties", path)
    fields: list[tuple[Any, ...]] = []
    for name, kind, length in element.properties:
        if length:
            file.seek(start + np.dtype(fields).itemsize)
            first = np.frombuffer(file.read(int(length[1])), order + length) if element.rows else np.zeros(1, np.int8)
            if len(first) != 1 or not 0 <= first[0] <= _LONGEST_LIST:
                raise _damaged(f"has a list {name!r} of impossible length", path)
            fields += [(f"{name} length", order + length), (name, order + kind, (int(first[0]),))]
        else:
            fields.append((name, order + kind))
    dtype = np.dtype(fields)
    if start + element.rows * dtype.itemsize > size:
        raise _damaged(f"ends within its {element.rows:,} rows of {element.name!r}", path)
    file.seek(start + element.rows * dtype.itemsize)
    if not element.rows:
        return np.empty(0, dtype)
    rows = np.memmap(path, dtype, "r", start, (element.rows,))
    for name, _, length in element.properties:
        if length and (rows[f"{name} length"] != dtype[name].shape[0]).any():
            cure = "Export the mesh as triangles alone"
            raise SequenceError(f"its lists {name!r} have different lengths", where=str(path), cure=cure)
    return rows


def read_cloud(file: Path, classes: tuple[str, ...] = ()) -> PointScene:
    """Read the vertices of a PLY file: x y z, and red green blue, nx ny nz, label and instance where it has them.

    `classes`: names of its labels, which count from 0; without any, labels are left unread. -1 and the largest value of
    unsigned numbers stand for unknown. Raises SequenceError where it is damaged, has no points or too many, or labels
    of another list. z has to point up.
    """
    where = str(file)
    rows = read_ply(file).get("vertex")
    points = None if rows is None else columns(rows, ("x", "y", "z"))
    if rows is None or points is None or not len(points):
        raise SequenceError("has no points", where=where, cure="Export its vertices with x, y and z")
    if len(rows) > MOST_POINTS:
        what = f"has {len(rows):,} points, more than {MOST_POINTS:,}"
        raise SequenceError(what, where=where, cure="Crop it, or keep one point of each voxel")
    if not np.isfinite(points).all():
        raise SequenceError("has points without a place", where=where, cure="Drop them")
    fields, label = rows.dtype.names or (), None
    if "label" in fields and classes:
        label = looked_up(np.arange(len(classes)), known_numbers(rows["label"]), where)
    normals = columns(rows, ("nx", "ny", "nz"))
    normals = None if normals is None else unit(normals)
    instance = known_numbers(rows["instance"]) if "instance" in fields else None
    names = classes if label is not None else ()
    return PointScene(file.stem, points, colours_of(rows), normals, names, label, instance)


def known_numbers(values: NDArray[Any]) -> Ints:
    """Whole numbers, `UNLABELLED` for the largest of an unsigned kind."""
    found = values.astype(np.int64)
    return np.where(found == np.iinfo(values.dtype).max, UNLABELLED, found) if values.dtype.kind == "u" else found
