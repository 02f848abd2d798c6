"""Scans of ScanNet v2, regions of Matterport3D and rooms of S3DIS as scenes of points.

Scans of ScanNet v2: the mesh's vertices, labels of ScanNet-20 or ScanNet200, instances, segments and views.

    scans/sceneXXXX_YY/sceneXXXX_YY_vh_clean_2.ply                     the mesh; scans_test/... those of the test split
    .../..._vh_clean_2.labels.ply                                      its NYU40 ids
    .../..._vh_clean_2.0.010000.segs.json, ....aggregation.json        its segments, and the things they make
    .../sceneXXXX_YY.sens                                              views, see below
    scannetv2-labels.combined.tsv                                      what the names of things are
    scannetv2_train.txt, _val.txt, _test.txt                           the official splits, from ScanNet's repository

Scans of the test split have neither labels nor segments.

Regions of houses of Matterport3D: vertices of a region's mesh, their labels as OpenScene makes them, and views.

    v1/scans/HOUSE/HOUSE/region_segmentations/regionN.ply      the mesh; faces have segment_id, category_id
    .../undistorted_camera_parameters/HOUSE.conf               intrinsics and poses
    .../undistorted_color_images, undistorted_depth_images     views, 4000 values of depth to a metre
    category_mapping.tsv                                       what category ids are
    scenes_train.txt, _val.txt, _test.txt                      the official splits of houses

A vertex has the most frequent class of the faces around it. Cameras look along -z with y up. The principal point counts
from the lower edge, so that it is at `height - 1 - cy` here; OpenScene takes it from the upper edge.

Rooms of S3DIS: `Stanford3dDataset_v1.2_Aligned_Version/Area_N/ROOM/Annotations/CLASS_K.txt`, a thing a file, a point
(x y z red green blue) a line. As downloaded, `Area_5/office_36` has a wall twice, as `wall_3.txt` and `wall_3 (1).txt`,
and bytes have lost their bit 0x20: in line 180389 of `Area_5/hallway_6/Annotations/ceiling_1.txt` a zero byte stands
for the space of "185 187", and without alignment 0x10 stands for a 0 of "103.000000" in `Area_5/office_19`.

The header of a `.sens` file (version 4) has a name, matrices of colour and depth camera, compressions, sizes, the
number of depth values to a metre, and the number of frames. A frame is a row-major world_from_camera (of -inf where
tracking was lost), two times, two sizes, and so many bytes of JPEG and of zlib. Numbers are little endian.
"""

import csv
import io
import re
import struct
import zlib
from collections.abc import Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

import numpy as np

from scene_completion_ros.errors import ImageError, SceneCompletionError, SequenceError
from scene_completion_ros.geometry import Camera, RigidTransform
from scene_completion_ros.picture_files import LARGEST_IMAGE, decode_picture, png_depth, read_rgb, read_size, to_rgb
from scene_completion_ros.sequences.posed_sequence import pinhole_camera, rigid_transform
from scene_completion_ros.untrusted_files import read_json, read_text, shown
from scene_completion_training.arrays import Bytes, Floats, Ints
from scene_completion_training.points.ply import colours_of, columns, read_ply, vertex_normals
from scene_completion_training.points.scene import UNLABELLED, LabelSet, PointScene, RgbdView, looked_up, say_once
from scene_completion_training.points.voxels import MOST_POINTS, majority

SCAN = re.compile(r"scene\d{4}_\d{2}")
SCANNET_TABLE = "scannetv2-labels.combined.tsv"
_MESH = "_vh_clean_2"
_NYU40 = 40
_MOST_BYTES = 1 << 28
_Thing: TypeAlias = tuple[str, Ints]  # its name and segments
_SCAN_CURE = "Download the scan again"
MATTERPORT_TABLE = "category_mapping.tsv"
REGIONS = "region_segmentations"
_PER_METRE = 4000.0
_HOUSE_CURE = "Download the house again"
AREAS = tuple(f"Area_{number}" for number in range(1, 7))
TEST_AREA = "Area_5"  # of the usual split; the other areas are for training
_RENAMED = {"stairs": "clutter"}  # a class of some rooms that the 13 lack
_SHORTEST_LINE = 12  # bytes
_COPY = re.compile(r"(.+) \(\d+\)\.txt")  # as file managers call the copy of a file
# A space, point or digit without its bit 0x20, alone between those of numbers: the zeros of a lost block are not meant.
_LOST_BIT = re.compile(r"[\0\x0e\x10-\x19](?<=[\d.].)(?=[\d.])", re.ASCII | re.DOTALL)
_NUMBER, _COLOUR = r"\s*[-+]?\d+(?:\.\d*)?(?:e-\d+)?(?=\s)", r"\s+(?:25[0-5]|2[0-4]\d|1?\d?\d)(?:\.\d*)?"
_POINT = re.compile(3 * _NUMBER + 3 * _COLOUR + r"\s*", re.ASCII)
_SENS_CURE = "Download the file again"
_JPEG_PNG, _RAW, _ZLIB = (1, 2), 0, 1
_MATRICES, _SIZES, _FRAME = struct.Struct("<64f"), struct.Struct("<2i4IfQ"), struct.Struct("<16f4Q")
_LONGEST_NAME = 1 << 12


def is_scan(folder: Path) -> bool:
    """Whether a folder is a scan of ScanNet."""
    return SCAN.fullmatch(folder.name) is not None and (folder / f"{folder.name}{_MESH}.ply").is_file()


def read_table(path: Path, *needed: str) -> list[dict[str, str]]:
    """Rows of a table of ScanNet or Matterport3D, whose columns tabs separate; a SequenceError if it lacks one."""
    text = read_text(path, SequenceError, cure="Download the table again")
    rows = list(csv.DictReader(text.splitlines(), delimiter="\t", quoting=csv.QUOTE_NONE))
    if not rows or not set(needed) <= rows[0].keys():
        raise SequenceError(f"has no columns {', '.join(needed)}", where=str(path), cure="Download the table again")
    return rows


def number(word: str | None) -> int:
    """A whole number of a table, 0 where there is none."""
    return int(word) if word and word.isdecimal() and len(word) < 7 else 0


def read_scan(folder: Path, labels: LabelSet, table: Path | None, every: int = 1) -> PointScene:
    """Read a scan, and every n-th of its views (20 in OpenScene), with labels of ScanNet-20 or ScanNet200.

    `table`: `scannetv2-labels.combined.tsv`. ScanNet-20 needs none where there is a mesh of labels. Raises
    SequenceError where a file is missing or damaged, or files contradict each other.
    """
    stem = folder / folder.name
    mesh = read_ply(Path(f"{stem}{_MESH}.ply"), ("vertex", "face"))
    points = columns(mesh["vertex"], ("x", "y", "z")) if "vertex" in mesh else None
    if points is None:
        raise SequenceError("has no points", where=f"{stem}{_MESH}.ply", cure=_SCAN_CURE)
    label, segment = None, None
    segments, things = Path(f"{stem}{_MESH}.0.010000.segs.json"), Path(f"{stem}.aggregation.json")
    if segments.is_file():
        segment = _segments(segments, len(points))
    groups = _groups(things) if segment is not None and things.is_file() else []
    labelled = Path(f"{stem}{_MESH}.labels.ply")
    if labels.name == "scannet20" and labelled.is_file():
        rows = read_ply(labelled)["vertex"]
        if len(rows) != len(points) or "label" not in (rows.dtype.names or ()):
            raise SequenceError(f"does not label {len(points)} vertices", where=str(labelled), cure=_SCAN_CURE)
        label = labels.labels(np.asarray(rows["label"], np.int64), _NYU40, str(labelled))
    elif segment is not None and groups:
        if table is None:
            cure = "Download it: download-scannet.py -o DATA --label_map"
            raise SequenceError(f"labels need {SCANNET_TABLE}", where=str(folder.parent), cure=cure)
        ids = _ids(groups, table, "nyu40id" if labels.name == "scannet20" else "id", things)
        label = labels.labels(np.maximum(_of_groups(segment, groups, ids), 0), max(*labels.ids, *ids), str(things))
    instance = None if segment is None or not groups else _of_groups(segment, groups, range(len(groups)))
    stream = Path(f"{stem}.sens")
    views = sens_views(stream, every) if stream.is_file() else ()
    normals = vertex_normals(points, mesh["face"]) if "face" in mesh else None
    classes = labels.classes if label is not None else ()
    return PointScene(folder.name, points, colours_of(mesh["vertex"]), normals, classes, label, instance, views)


def _listed(path: Path, key: str) -> Any:
    return read_json(path, SequenceError, cure=_SCAN_CURE, kind=dict, most_bytes=_MOST_BYTES).get(key)


def whole_numbers(stored: Any, count: int, where: str) -> Ints:
    """A list of a JSON document as an array of so many whole numbers; a `SequenceError` if it is none."""
    fits = isinstance(stored, list) and len(stored) == count and all(type(value) is int for value in stored)
    if not fits or not all(0 <= value < 1 << 62 for value in stored):
        raise SequenceError(f"is no list of {count} numbers", where=where, cure=_SCAN_CURE)
    return np.array(stored, np.int64)


def _segments(file: Path, points: int) -> Ints:
    """Read which segment each of so many points of a scan belongs to."""
    return whole_numbers(_listed(file, "segIndices"), points, f"{file}, segIndices")


def _groups(path: Path) -> list[_Thing]:
    """Name and segments of each thing."""
    stored, groups = _listed(path, "segGroups"), []
    for place, group in enumerate(stored if isinstance(stored, list) else [None]):
        match group:
            case {"segments": list(segments), "label": str(label)}:
                groups.append((label, whole_numbers(segments, len(segments), f"{path}, segGroups[{place}]")))
            case _:
                raise SequenceError(f"segGroups[{place}] has no segments and label", where=str(path), cure=_SCAN_CURE)
    return groups


def _of_groups(segment: Ints, groups: list[_Thing], values: Sequence[int]) -> Ints:
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
    """The id of each thing, 0 where its name is not in the table."""
    ids = _ids_by_name(table, column)
    found = [ids.get(label, 0) for label, _ in groups]
    if groups and not any(label in ids for label, _ in groups):
        cure = "Name the table of ScanNet v2: download-scannet.py -o DATA --label_map"
        raise SequenceError(f"{table.name} has none of its {len(groups)} things", where=str(where), cure=cure)
    return found


def region_files(house: Path) -> list[Path]:
    """Meshes of the regions of a house."""
    found = [file for file in (house / REGIONS).glob("region*.ply") if file.stem[6:].isdecimal()]
    return sorted(found, key=lambda file: int(file.stem[6:]))


@lru_cache(maxsize=4)
def _classes_of_categories(table: Path, labels: LabelSet) -> Ints:
    """The class of each category id."""
    rows = read_table(table, "index", "nyu40id", "nyuClass")
    found = np.full(1 + max(number(row["index"]) for row in rows), UNLABELLED, np.int64)
    places: dict[object, int] = {key: place for place, key in enumerate(labels.ids or labels.classes)}
    for row in rows:
        key = number(row["nyu40id"]) if labels.ids else row["nyuClass"]
        found[number(row["index"])] = places.get(key, UNLABELLED)
    found[0] = UNLABELLED
    return found


def read_region(mesh: Path, labels: LabelSet, table: Path, every: int = 1) -> PointScene:
    """Reads a region's mesh, and every n-th view of its house; a SequenceError where files are damaged."""
    elements = read_ply(mesh, ("vertex", "face"))
    vertices, faces = elements.get("vertex"), elements.get("face")
    points = None if vertices is None else columns(vertices, ("x", "y", "z"))
    fields = ("vertex_indices", "segment_id", "category_id")
    if vertices is None or points is None or faces is None or not set(fields) <= set(faces.dtype.names or ()):
        raise SequenceError(f"has no points, or faces without {', '.join(fields)}", where=str(mesh), cure=_HOUSE_CURE)
    corners = np.asarray(faces["vertex_indices"], np.int64).reshape(len(faces), -1)
    if corners.size and not 0 <= corners.min() <= corners.max() < len(points):
        raise SequenceError(f"has faces of other than its {len(points)} vertices", where=str(mesh), cure=_HOUSE_CURE)

    def at_vertices(of_faces: Ints) -> Ints:
        found = np.full(len(points), UNLABELLED, np.int64)
        keys, values = majority(corners.reshape(-1), np.repeat(of_faces, corners.shape[1]))
        found[keys] = values
        return found

    category = np.asarray(faces["category_id"], np.int64)
    house = mesh.parent.parent
    classes = looked_up(_classes_of_categories(table, labels), category, str(mesh))
    label, instance = at_vertices(classes), at_vertices(np.asarray(faces["segment_id"], np.int64))
    colours, normals, views = colours_of(vertices), columns(vertices, ("nx", "ny", "nz")), house_views(house)[::every]
    return PointScene(f"{house.name}_{mesh.stem}", points, colours, normals, labels.classes, label, instance, views)


@lru_cache(maxsize=2)
def house_views(house: Path) -> tuple[RgbdView, ...]:
    """Views of a house, () where their folders are not there; a SequenceError where the file of cameras is damaged."""
    conf = house / "undistorted_camera_parameters" / f"{house.name}.conf"
    if not conf.is_file():
        return ()
    images, depths = house / "undistorted_color_images", house / "undistorted_depth_images"
    size: tuple[int, int] | None = None
    camera: Camera | None = None
    views = []
    text = read_text(conf, SequenceError, cure=_HOUSE_CURE, most_bytes=1 << 26)
    for place, line in enumerate(text.splitlines(), start=1):
        try:
            match line.split():
                case ["intrinsics_matrix", *words]:
                    fx, _, cx, _, fy, cy, *_ = (float(word) for word in words)
                    size, camera = None, Camera(fx, fy, cx, cy, 1, 1)
                case ["scan", depth, image, *words]:
                    matrix = np.array([float(word) for word in words]).reshape(4, 4) * [1.0, -1.0, -1.0, 1.0]
                    pose = RigidTransform.from_matrix(matrix)
                    if not (images / image).is_file() or Path(image).name != image or Path(depth).name != depth:
                        raise ValueError(f"there is no image {shown(image)}")
                    if camera is None:
                        raise ValueError("it comes before all intrinsics")
                    if size is None:
                        size = read_size(images / image)
                        camera = Camera(camera.fx, camera.fy, camera.cx, size[1] - 1 - camera.cy, *size)
                    loaders = partial(read_rgb, images / image), partial(png_depth, depths / depth, _PER_METRE)
                    views.append(RgbdView(Path(image).stem, camera, pose, *loaders))
        except (ValueError, SceneCompletionError) as problem:
            raise SequenceError(
                f"cannot be used: {problem}", where=f"{conf}, line {place}", cure=_HOUSE_CURE
            ) from problem
    return tuple(views)


def is_room(folder: Path) -> bool:
    """Tells if a folder is a room of S3DIS."""
    return folder.parent.name in AREAS and (folder / "Annotations").is_dir()


KINDS = {"ScanNet": is_scan, "Matterport3D": region_files, "S3DIS": is_room}  # what tells the folder of a scene


def read_room(folder: Path, labels: LabelSet) -> PointScene:
    """Reads a room; a SequenceError where it has no thing, a file is named after no class, or a line is damaged."""
    files = sorted(file for file in (folder / "Annotations").glob("*.txt") if not file.name.startswith("."))
    for file in files.copy():
        if (copied := _COPY.fullmatch(file.name)) and file.with_name(f"{copied[1]}.txt") in files:
            say_once(f"{file}: left out, it is a copy of {copied[1]}.txt")
            files.remove(file)
    if not files or sum(file.stat().st_size for file in files) > _SHORTEST_LINE * 5 * MOST_POINTS:
        raise SequenceError("has no things, or too many points", where=str(folder), cure="Unpack the data set again")
    rows, label = [], []
    for file in files:
        name = file.stem.rpartition("_")[0]
        name = _RENAMED.get(name, name)
        if name not in labels.classes:
            raise SequenceError(f"is a {name!r}", where=str(file), cure=f"Things are {', '.join(labels.classes)}")
        rows.append(_lines(file))
        label.append(labels.classes.index(name))
    values, counts = np.concatenate(rows), [len(of_thing) for of_thing in rows]
    name, colours = f"{folder.parent.name}/{folder.name}", values[:, 3:] / np.float32(255.0)
    of_points = np.repeat(label, counts), np.repeat(np.arange(len(rows)), counts)
    return PointScene(name, values[:, :3], colours, None, labels.classes, *of_points)


def _lines(file: Path) -> Floats:
    """Points and colours [M, 6]."""
    stored = file.read_bytes().decode("latin-1")
    text = _LOST_BIT.sub(lambda found: chr(ord(found[0]) | 0x20), stored)
    try:
        values = np.loadtxt(io.StringIO(text), np.float32, comments=None, ndmin=2)
    except ValueError:
        values = np.zeros((0, 0), np.float32)
    fits = values.shape[1:] == (6,) and bool(np.isfinite(values).all() and (abs(values[:, 3:] - 127.5) <= 127.5).all())
    lines = zip(stored.split("\n"), text.split("\n"), strict=True) if text != stored or not fits else ()
    for number, (line, now) in enumerate(lines, start=1):
        if not fits and now.strip() and not _POINT.fullmatch(now):
            what = f"is {shown(line)}, not x y z red green blue with colours up to 255"
            raise SequenceError(what, where=f"{file}, line {number}", cure="Unpack the file again, or correct the line")
        if line != now:
            say_once(f"{file}, line {number}: {shown(line)} is read as {shown(now)}, since a byte lost a bit")
    if not fits:
        raise SequenceError("has no lines x y z red green blue", where=str(file), cure="Unpack the file again")
    return values


def sens_views(path: Path, every: int = 1) -> tuple[RgbdView, ...]:
    """Every n-th posed frame of a `.sens` file; a SequenceError where it is damaged or of another version."""
    size = path.stat().st_size
    with path.open("rb") as file:
        version, letters = struct.unpack("<IQ", _read(file, 12, path))
        if version != 4 or letters > _LONGEST_NAME:
            raise SequenceError(f"is version {version} of .sens, not 4", where=str(path), cure=_SENS_CURE)
        file.seek(letters, 1)
        intrinsics = np.array(_MATRICES.unpack(_read(file, _MATRICES.size, path))[:16], np.float64).reshape(4, 4)
        colour, depth, width, height, columns, rows, scale, count = _SIZES.unpack(_read(file, _SIZES.size, path))
        if colour not in _JPEG_PNG or depth not in (_RAW, _ZLIB):
            what = f"has compressions {colour} of colour and {depth} of depth"
            raise SequenceError(what, where=str(path), cure=_SENS_CURE)
        fits = 0 < rows * columns <= LARGEST_IMAGE and 0.0 < scale < np.inf
        if not fits or count > (size - file.tell()) // _FRAME.size:
            what = f"promises {count} frames of {columns}x{rows}, {scale:g} to a metre, in {size:,} bytes"
            raise SequenceError(what, where=str(path), cure=_SENS_CURE)
        camera = pinhole_camera(intrinsics, (width, height), str(path), _SENS_CURE)
        views = []
        for number in range(count):
            *pose, _, _, picture, measured = _FRAME.unpack(_read(file, _FRAME.size, path))
            start = file.tell()
            if start + picture + measured > size:
                raise SequenceError(f"ends within frame {number} of {count}", where=str(path), cure=_SENS_CURE)
            file.seek(start + picture + measured)
            if number % every == 0 and np.isfinite(pose).all():
                at = rigid_transform(np.array(pose).reshape(4, 4), f"{path}, frame {number}", _SENS_CURE)
                image = partial(_sens_image, path, start, picture)
                there = partial(_sens_depth, path, start + picture, measured, (rows, columns), scale, depth == _ZLIB)
                views.append(RgbdView(f"{number:06d}", camera, at, image, there))
    return tuple(views)


def _read(file: BinaryIO, size: int, path: Path) -> bytes:
    content = file.read(size)
    if len(content) < size:
        raise SequenceError("ends early", where=str(path), cure=_SENS_CURE)
    return content


def _part(path: Path, start: int, size: int) -> bytes:
    with path.open("rb") as file:
        file.seek(start)
        return _read(file, size, path)


def _sens_image(path: Path, start: int, size: int) -> Bytes:
    content = np.frombuffer(_part(path, start, size), np.uint8)
    return to_rgb(decode_picture(content, "colour", where=f"{path}, byte {start}"))


def _sens_depth(path: Path, start: int, size: int, shape: tuple[int, int], per_metre: float, packed: bool) -> Floats:
    content, expected = _part(path, start, size), 2 * shape[0] * shape[1]
    try:
        values = zlib.decompressobj().decompress(content, expected + 1) if packed else content
    except zlib.error:
        values = b""
    if len(values) != expected:
        raise ImageError(f"is no depth of {shape[1]}x{shape[0]}", where=f"{path}, byte {start}", cure=_SENS_CURE)
    return np.asarray(np.frombuffer(values, "<u2").reshape(shape) / np.float32(per_metre), np.float32)
