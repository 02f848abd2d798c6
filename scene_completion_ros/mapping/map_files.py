"""A fused map as a safetensors file: what `~/save_map` writes, and `~/load_map` reads.

The tensors are the fields of `RememberedVoxels`. The centre of voxel ``i`` lies at ``(lower + place[i] + 0.5) *
grid.voxel_size`` metres in ``frame``. The JSON under ``map`` in the metadata has the other fields of `SavedMap`, and
the ``version`` of the package that wrote it.
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

import scene_completion_ros
from scene_completion_ros.errors import BundleError, GridError, SceneCompletionError
from scene_completion_ros.geometry.grids import VoxelGrid
from scene_completion_ros.inference.json_object import JsonObject
from scene_completion_ros.mapping.evidence import NEVER
from scene_completion_ros.mapping.temporal_fusion import RememberedVoxels
from scene_completion_ros.untrusted_files import MOST_BYTES, parse_json, parse_tensors, read_bytes, shown, tensor_header
from scene_completion_ros.whole_files import tensor_bytes

FORMAT, SCHEMA = "scene_completion_ros map", 1
LARGEST_FILE = 1 << 30  # bytes: 37 million known voxels
_METADATA = "map"
_CURE = "Name a file that ~/save_map wrote, or save the map again"
_FARTHEST = 1 << 40  # voxels from the origin of a frame
# Type, and smallest and largest value; largest is a label by the classes.
_TENSORS = {
    "weight": ("float32", (0, 1_000_000)),
    "lower": ("int64", (-_FARTHEST, _FARTHEST)),
    "place": ("int32", (0, -NEVER)),
    "log_odds": ("float32", (-100, 100)),
    "age_ms": ("int32", (0, -NEVER)),
    "label": ("uint8", (0, 255)),
    "agreement": ("float32", (0, 1)),
}


@dataclass(frozen=True, eq=False)
class SavedMap:
    """What a file holds."""

    voxels: RememberedVoxels
    frame: str  # the frame in which the voxels stand still
    grid: VoxelGrid  # that of the images; the map has its voxel size
    class_names: tuple[str, ...]  # by label
    class_colours: tuple[tuple[int, int, int], ...]  # RGB (0..255) by label
    student: str  # name of the bundle that completed the last image
    sha256: Mapping[str, str]  # hashes of that bundle's encoder and head
    stamp_ns: int  # stamp of the last image, nanoseconds

    def check_fits(self, frame: str, voxel_size: float, class_names: Sequence[str], *, where: str) -> None:
        """Raise SceneCompletionError, which names `where`, unless it has this frame, voxel size (metres), classes."""
        pairs = [("frame", self.frame, frame), ("voxel size", self.grid.voxel_size, voxel_size)]
        classes = enumerate(zip_longest(self.class_names, class_names))
        for name, found, needed in (*pairs, *((f"class {number}", *pair) for number, pair in classes)):
            if found != needed:
                what = f"has as {name} {shown(found)}, this node {shown(needed)}; student: {shown(self.student)}"
                cure = "Start the node with odometry.frame, bundle, grid.file and words of then, or save another map"
                raise SceneCompletionError(what, where=where, cure=cure)


def map_bytes(saved: SavedMap) -> bytes:
    """The file of a map. Raises SceneCompletionError where it would be larger than `LARGEST_FILE`."""
    about = {field.name: getattr(saved, field.name) for field in dataclasses.fields(saved) if field.name != "voxels"}
    about |= {"grid": dataclasses.asdict(saved.grid), "sha256": dict(saved.sha256)}
    about |= {"format": FORMAT, "schema": SCHEMA, "version": scene_completion_ros.__version__}
    if sum(array.nbytes for array in saved.voxels) > LARGEST_FILE - MOST_BYTES:
        what = f"{len(saved.voxels.place):,} known voxels are more than a file may hold"
        raise SceneCompletionError(what, where="map", cure="Take a smaller grid.file")
    return tensor_bytes(saved.voxels._asdict(), {_METADATA: json.dumps(about)})


def read_map(path: str | Path) -> SavedMap:
    """Read a file that `map_bytes` made; it may come from anywhere, as nothing in it is executed.

    Raises SceneCompletionError: it cannot be read, is too large, of another version, none, or holds what cannot be.
    """
    where, content = str(path), read_bytes(path, SceneCompletionError, cure=_CURE, most_bytes=LARGEST_FILE)
    header, _ = tensor_header(memoryview(content), SceneCompletionError, where=where, cure=_CURE)
    metadata = header.get("__metadata__")
    text = metadata.get(_METADATA) if isinstance(metadata, dict) else None
    if not isinstance(text, str):
        raise SceneCompletionError("is no saved map", where=where, cure=_CURE)
    about = parse_json(text, SceneCompletionError, where=f"{where}: {_METADATA}", cure=_CURE, kind=dict)
    try:
        fields = JsonObject(about, Path(where), f"{_METADATA}.")
        if fields.text("format") != FORMAT or fields.integer("schema") != SCHEMA:
            what = f"is schema {fields.integer('schema')} of {shown(fields.text('format'))}"
            cure = f"This program reads schema {SCHEMA} of {FORMAT!r}: update it, or save the map again"
            raise SceneCompletionError(what, where=where, cure=cure)
        grid, names, hashes = fields.object("grid"), fields.texts("class_names"), fields.object("sha256")
        return SavedMap(
            frame=fields.text("frame"),
            grid=VoxelGrid(
                grid.numbers("origin", 3),  # type: ignore[arg-type]  # three of them
                grid.number("voxel_size"),
                grid.integers("shape", 3),  # type: ignore[arg-type]
                grid.text("frame"),
            ),
            class_names=names,
            class_colours=fields.colours("class_colours", len(names)),  # type: ignore[arg-type]
            student=fields.text("student"),
            sha256={name: hashes.text(name) for name in hashes.values},
            stamp_ns=fields.integer("stamp_ns"),
            voxels=_voxels(parse_tensors(content, SceneCompletionError, where=where, cure=_CURE), len(names), where),
        )
    except (BundleError, GridError) as error:
        at = error.where if isinstance(error, BundleError) else f"{where}: field {_METADATA}.grid.{error.where}"
        raise SceneCompletionError(error.what, where=at, cure=_CURE) from error


def _voxels(tensors: Mapping[str, NDArray[Any]], classes: int, where: str) -> RememberedVoxels:
    count = tensors["weight"].size if "weight" in tensors else 0
    for name, (kind, (low, high)) in _TENSORS.items():
        shape, array = {"place": (count, 3), "lower": (3,)}.get(name, (count,)), tensors.get(name)
        if array is None or array.dtype != kind or array.shape != shape:
            found = "is missing" if array is None else f"is {array.dtype} {array.shape}"
            raise SceneCompletionError(f"{found} where {kind} {shape} is needed", where=f"{where}: {name}", cure=_CURE)
        high = min(high, classes - 1) if name == "label" else high
        smallest, largest = array.min(initial=high), array.max(initial=low)  # NaN where one value is
        if not (smallest >= low and largest <= high):
            what = f"holds {smallest} to {largest}, which is not within {low:g} to {high:g}"
            raise SceneCompletionError(what, where=f"{where}: {name}", cure=_CURE)
    return RememberedVoxels(**{name: tensors[name] for name in _TENSORS})
