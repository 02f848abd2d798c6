"""The one door for files that others wrote: JSON, YAML and arrays, within limits, and a sentence for what is wrong.

A document of some kilobytes can nest thousands of lists, or name one list so often that it unfolds to gigabytes. What
comes out of here is neither: it can be walked, compared and printed, and its numbers fit into floats. YAML is read by
the safe loader, and arrays hold no pickles: nothing is executed.
"""

import errno
import json
import math
import os
import re
import stat
import sys
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import safetensors.numpy
import yaml
from numpy.typing import NDArray

from scene_completion_ros.errors import BundleError, SceneCompletionError

DEEPEST = 64  # lists and mappings within each other
MOST_BYTES = 4_000_000
MOST_YAML_BYTES = 1_000_000  # of YAML, which takes ten seconds to be read then
MOST_VALUES = 2_000_000  # values of a YAML document, those of an alias counted wherever it stands
MOST_ARRAY_BYTES = 4 << 30  # of all arrays of a file, unpacked
MOST_BITS = 1000  # of a whole number: as many as a float can take
SHOWN = 80  # characters of a value that messages show

_NO_UNICODE = re.compile("[\ud800-\udfff]")
# What NumPy raises where a file is damaged, or promises more than there is memory for.
_UNREADABLE = (
    OSError, LookupError, ValueError, TypeError, AttributeError, ArithmeticError, EOFError, MemoryError, RuntimeError,
    zipfile.BadZipFile, zlib.error,
)  # fmt: skip


def read_bytes(path: Path | str, error: type[SceneCompletionError], *, cure: str, most_bytes: int) -> bytes:
    """Reads a file. Raises error where it is missing, too large or cannot be read.

    `error`: what is raised where it cannot be used; `cure`: what the user can do then; `most_bytes`: a larger file is
    refused before it is read whole.
    """
    try:
        with opened(path) as file:
            size = os.fstat(file.fileno()).st_size  # 0 of those of /proc
            content = file.read(1 + (size or most_bytes)) if size <= most_bytes else b""
    except (OSError, ValueError) as problem:  # ValueError: a name with a zero byte
        what = getattr(problem, "strerror", None) or problem
        raise error(f"cannot be read: {what}", where=str(path), cure=cure) from problem
    if max(size, len(content)) > most_bytes:
        raise error(f"is larger than {most_bytes / 1e6:g} MB", where=str(path), cure=cure)
    return content


def opened(path: Path | str) -> BinaryIO:
    """Opens a regular file to read it; raises OSError for anything else: opening a pipe would wait for its writer."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "Is a directory" if stat.S_ISDIR(mode) else "it is a pipe or a device, and no file")
    return os.fdopen(descriptor, "rb")


def read_text(path: Path | str, error: type[SceneCompletionError], *, cure: str, most_bytes: int = MOST_BYTES) -> str:
    """Reads a text in UTF-8; arguments and errors as of `read_bytes`."""
    try:
        return read_bytes(path, error, cure=cure, most_bytes=most_bytes).decode("utf-8")
    except UnicodeDecodeError as problem:
        raise error(f"is no text in UTF-8 ({problem})", where=str(path), cure=cure) from problem


def read_json(
    path: Path | str,
    error: type[SceneCompletionError],
    *,
    cure: str,
    kind: type | None = None,
    most_bytes: int = MOST_BYTES,
) -> Any:
    """Reads a JSON document; arguments and errors as of `read_text` and `parse_json`."""
    text = read_text(path, error, cure=cure, most_bytes=most_bytes)
    return parse_json(text, error, where=str(path), cure=cure, kind=kind)


def read_yaml(path: Path | str, error: type[SceneCompletionError], *, cure: str, kind: type | None = None) -> Any:
    """Reads a YAML document of at most `MOST_YAML_BYTES`; arguments and errors as of `read_text` and `parse_yaml`."""
    text = read_text(path, error, cure=cure, most_bytes=MOST_YAML_BYTES)
    return parse_yaml(text, error, where=str(path), cure=cure, kind=kind)


def parse_json(
    text: str | bytes, error: type[SceneCompletionError], *, where: str, cure: str, kind: type | None = None
) -> Any:
    """What a JSON document holds. `kind`: `dict` or `list`, where it must be one.

    Raises error where it is no JSON, a name stands twice in an object, it is nested deeper than `DEEPEST`, or holds a
    whole number beyond all floats or half a character.
    """
    try:
        document = json.loads(text, object_pairs_hook=_distinct)
    except RecursionError as problem:
        raise _too_deep(error, where, cure) from problem
    except ValueError as problem:
        raise error(f"is not valid JSON ({problem})", where=where, cure=cure) from problem
    _within_limits(document, math.inf, error, where, cure)
    if kind is not None and not isinstance(document, kind):
        raise error(f"is no JSON {'object' if kind is dict else 'list'}", where=where, cure=cure)
    return document


def parse_yaml(text: str, error: type[SceneCompletionError], *, where: str, cure: str, kind: type | None = None) -> Any:
    """What a YAML document holds; as `parse_json`. Raises error too where aliases unfold to more than `MOST_VALUES`."""
    try:
        # OpenCV's "%YAML:1.0" is no directive of YAML.
        document = yaml.load(text.removeprefix("%YAML:1.0"), _Loader)  # noqa: S506 # a safe loader
    except RecursionError as problem:
        raise _too_deep(error, where, cure) from problem
    except (ValueError, TypeError, LookupError, AttributeError, OverflowError, yaml.YAMLError) as problem:
        line = " ".join(str(problem).split())
        raise error(f"is not valid YAML ({line[:300]})", where=where, cure=cure) from problem
    _within_limits(document, MOST_VALUES, error, where, cure)
    if kind is not None and not isinstance(document, kind):
        raise error(f"is no YAML {'mapping' if kind is dict else 'list'}", where=where, cure=cure)
    return document


def read_arrays(
    path: Path | str, error: type[SceneCompletionError], *, cure: str, needed: Sequence[str] = ()
) -> dict[str, NDArray[Any]]:
    """Reads the arrays of a NumPy archive (.npz), none of which may hold Python objects.

    `path`, `error`, `cure`: as of `read_bytes`; `needed`: arrays that must be in it. Raises error where it cannot be
    read, is none, lacks an array, or promises more than it holds or than `MOST_ARRAY_BYTES`.
    """
    try:
        with opened(path) as file:
            if not zipfile.is_zipfile(file):
                raise ValueError("it is no archive")
            file.seek(0)
            with np.load(file, allow_pickle=False) as archive:
                if sum(member.file_size for member in archive.zip.infolist()) > MOST_ARRAY_BYTES:
                    raise ValueError(f"it unpacks to more than {MOST_ARRAY_BYTES >> 30} GiB")
                if missing := [name for name in needed if name not in archive.files]:
                    raise ValueError(f"it has no array {missing[0]}")
                return {name: archive[name] for name in archive.files}
    except _UNREADABLE as problem:
        raise _unreadable(problem, error, path, cure) from problem


def _unreadable(
    problem: BaseException, error: type[SceneCompletionError], path: Path | str, cure: str
) -> SceneCompletionError:
    what = getattr(problem, "strerror", None) or str(problem) or type(problem).__name__
    return error(f"cannot be read as arrays of NumPy ({what[:300]})", where=str(path), cure=cure)


def read_array(path: Path | str, error: type[SceneCompletionError], *, cure: str) -> NDArray[Any]:
    """Reads one array of NumPy's own format (.npy), without copying it to memory; arguments as of `read_bytes`.

    Raises error where it cannot be read, holds Python objects, is an archive, or is cut short.
    """
    try:
        opened(path).close()
        found = np.load(path, mmap_mode="r", allow_pickle=False)
        if not isinstance(found, np.ndarray):
            raise ValueError("it is an archive")
    except _UNREADABLE as problem:
        raise _unreadable(problem, error, path, cure) from problem
    return found


def read_tensors(path: Path | str, error: type[SceneCompletionError], *, cure: str) -> dict[str, NDArray[Any]]:
    """Reads the tensors of a safetensors file; arguments and errors as of `read_arrays`."""
    content = read_bytes(path, error, cure=cure, most_bytes=MOST_ARRAY_BYTES)
    return parse_tensors(content, error, where=str(path), cure=cure)


def parse_tensors(
    content: bytes, error: type[SceneCompletionError], *, where: str, cure: str
) -> dict[str, NDArray[Any]]:
    """What a safetensors file of this content holds; the library compares its header with its length."""
    try:
        return safetensors.numpy.load(content)
    except (safetensors.SafetensorError, ValueError, LookupError, TypeError) as problem:
        raise error(f"is not a valid safetensors file ({problem})", where=where, cure=cure) from problem


def tensor_header(
    content: memoryview, error: type[SceneCompletionError], *, where: str, cure: str, most_bytes: int = MOST_BYTES
) -> tuple[dict[str, Any], int]:
    """The header of a safetensors file, and where its tensors begin.

    `content`: all bytes of the file; `most_bytes`: a longer header is refused. Raises error where the header is longer
    than that or than the file, or no JSON object.
    """
    length = int.from_bytes(content[:8], "little")
    if not 0 < length <= min(len(content) - 8, most_bytes):
        raise error(f"is damaged: it cannot have a header of {length} bytes", where=where, cure=cure)
    return parse_json(bytes(content[8 : 8 + length]), error, where=where, cure=cure, kind=dict), 8 + length


def shown(value: object) -> str:
    """A value as messages show it: no longer than `SHOWN`."""
    text = repr(value[: SHOWN + 1] if isinstance(value, str) else value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}…"


class _Loader(yaml.SafeLoader):
    """The safe loader, without two of its ways to work for hours on a small file, or to lose what stands twice."""

    merged = 0

    def compose_mapping_node(self, anchor: Any) -> Any:
        """Composes a mapping as it is written, before others are merged into it."""
        node = super().compose_mapping_node(anchor)
        keys = (key for key, _ in node.value if isinstance(key, yaml.ScalarNode) and key.value != "<<")
        _distinct([(key.value, None) for key in keys])
        return node

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Merges mappings named by `<<`, as long as they do not double again and again."""
        super().flatten_mapping(node)
        self.merged += len(node.value)
        if self.merged > MOST_VALUES:
            raise ValueError(f"what it merges is more than {MOST_VALUES:,} values")


def _whole_number(loader: _Loader, node: yaml.ScalarNode) -> int:
    if len(node.value) > MOST_BITS:  # to the base 60, a million digits take minutes
        raise ValueError(f"a whole number of {len(node.value)} characters")
    return int(loader.construct_yaml_int(node))


_Loader.add_constructor("tag:yaml.org,2002:int", _whole_number)
_Loader.yaml_implicit_resolvers = {  # dates stay text, as in JSON
    first: [one for one in known if one[0] != "tag:yaml.org,2002:timestamp"]
    for first, known in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
# Numbers such as 1e-4 and 2.5e3, which YAML 1.1 takes for text.
_EXPONENT = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+")
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(f"^{_EXPONENT.pattern}$"), list("-+.0123456789"))
for _tag in ("opencv-matrix", "opencv-nd-matrix"):
    _Loader.add_constructor(f"tag:yaml.org,2002:{_tag}", _Loader.construct_yaml_map)  # type: ignore[type-var]


def _distinct(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        ((twice, _),) = Counter(name for name, _ in pairs).most_common(1)
        raise ValueError(f"the name {shown(twice)} stands twice in an object")
    return values


def _within_limits(document: Any, most: float, error: type[SceneCompletionError], where: str, cure: str) -> None:
    level: list[Iterable[Any]] = [[document]]
    count = 0
    for _ in range(DEEPEST + 1):
        deeper: list[Iterable[Any]] = []
        for values in level:
            for value in values:
                count += 1
                if isinstance(value, dict):
                    deeper += [value.keys(), value.values()]
                elif isinstance(value, (list, tuple, set)):
                    deeper.append(value)
                elif isinstance(value, int) and value.bit_length() > MOST_BITS:
                    raise error(f"holds a whole number of {value.bit_length()} bits", where=where, cure=cure)
                elif isinstance(value, str) and _NO_UNICODE.search(value):
                    raise error(f"holds {shown(value)}, which is half a character", where=where, cure=cure)
            if count + len(deeper) > most:
                raise error(f"holds more than {most:,} values", where=where, cure=cure)
        if not deeper:
            return
        level = deeper
    raise _too_deep(error, where, cure)


def _too_deep(error: type[SceneCompletionError], where: str, cure: str) -> SceneCompletionError:
    return error(f"is nested deeper than {DEEPEST} levels", where=where, cure=cure)


CURE = "The bundle is damaged or was written by another program: export it again or fetch it again."


class JsonObject:
    """One object of a JSON or YAML file; every access is checked, with an error that names file, field and cure."""

    def __init__(
        self,
        values: Mapping[str, Any],
        file: Path | str,
        prefix: str = "",  # of the names of its fields, for messages
        *,
        kind: type[SceneCompletionError] = BundleError,  # what is raised
        cure: str = CURE,
    ) -> None:
        self.values, self.file, self.prefix = values, Path(file), prefix
        self.kind, self.cure = kind, cure

    @classmethod
    def read(cls, file: Path) -> "JsonObject":
        """Reads a file of one JSON object. Raises BundleError where it cannot be read or is no object."""
        return cls(read_json(file, BundleError, cure=CURE, kind=dict), file)

    def where(self, name: str = "") -> str:
        """File and full name of a field, or of the object itself, for messages."""
        full = f"{self.prefix}{name[:SHOWN]}".rstrip(".")
        return f"{self.file}: field {full}" if full else str(self.file)

    def error(self, name: str, what: str, cure: str = "") -> SceneCompletionError:
        """The error for a field, or for the object itself."""
        return self.kind(what, where=self.where(name), cure=cure or self.cure)

    def only(self, names: Sequence[str]) -> None:
        """Refuse fields of other names."""
        if unknown := sorted(set(map(str, self.values)) - set(names)):
            raise self.error("", f"unknown key {', '.join(map(shown, unknown[:3]))}", f"Use {', '.join(names)}")

    def _of(self, kind: type | tuple[type, ...], name: str, words: str) -> Any:
        if name not in self.values:
            raise self.error(name, "is missing")
        value = self.values[name]
        if isinstance(value, bool) or not isinstance(value, kind):
            raise self.error(name, f"{shown(value)} is not {words}")
        return value

    def number(self, name: str) -> float:
        """A finite number."""
        value = self._of((int, float), name, "a finite number")
        if not abs(value) <= sys.float_info.max:
            raise self.error(name, f"{shown(value)} is not a finite number")
        return float(value)

    def number_in(self, name: str, limits: tuple[float, float]) -> float:
        """A number within limits."""
        value, (low, high) = self.number(name), limits
        if not low <= value <= high:
            raise self.error(name, f"{value} is not within {low:g} to {high:g}")
        return value

    def range_in(self, name: str, limits: tuple[float, float]) -> tuple[float, float]:
        """The lower and the upper number of a range within limits."""
        (low, high), (lowest, highest) = self.numbers(name, 2), limits
        if not lowest <= low <= high <= highest:
            raise self.error(name, f"[{low}, {high}] is no range within {lowest:g} to {highest:g}")
        return low, high

    def integer(self, name: str) -> int:
        """A whole number."""
        return int(self._of(int, name, "a whole number"))

    def text(self, name: str) -> str:
        """A string."""
        return str(self._of(str, name, "a string"))

    def numbers(self, name: str, count: int | None = None) -> tuple[float, ...]:
        """A list of finite numbers, of ``count`` where given."""
        values = self._of(list, name, "a list of numbers")
        if count is not None and len(values) != count:
            raise self.error(name, f"has {len(values)} numbers where {count} are needed")
        items = self.items(name, values)
        return tuple(map(items.number, items.values))

    def integers(self, name: str, count: int | None = None) -> tuple[int, ...]:
        """A list of whole numbers, of ``count`` where given."""
        self.numbers(name, count)
        items = self.items(name, self.values[name])
        return tuple(map(items.integer, items.values))

    def items(self, name: str, values: Sequence[Any]) -> "JsonObject":
        """The values of a list as an object, by their places."""
        return self._below({str(i): value for i, value in enumerate(values)}, name)

    def flag(self, name: str) -> bool:
        """True or false."""
        if not isinstance(self.values.get(name), bool):
            raise self.error(name, f"must be true or false, not {shown(self.values.get(name))}")
        return bool(self.values[name])

    def texts(self, name: str) -> tuple[str, ...]:
        """A list of strings."""
        values = self._of(list, name, "a list of strings")
        if not all(isinstance(value, str) for value in values):
            raise self.error(name, f"{shown(values)} is not a list of strings")
        return tuple(values)

    def colours(self, name: str, classes: int) -> tuple[tuple[int, ...], ...]:
        """A list of three whole numbers, a colour, for each of so many classes; at least one."""
        values = self.values.get(name)
        if not isinstance(values, list) or len(values) != classes or not values:
            raise self.error(name, f"one RGB colour for each of the {classes} classes is needed")
        colours = self.items(name, values)
        return tuple(colours.integers(place, 3) for place in colours.values)

    def object(self, name: str) -> "JsonObject":
        """A nested object."""
        return self._below(self._of(dict, name, "an object"), name)

    def objects(self, name: str) -> "list[JsonObject]":
        """The objects of a list."""
        entries = self.items(name, self._of(list, name, "a list"))
        return [entries.object(place) for place in entries.values]

    def _below(self, values: Mapping[str, Any], name: str) -> "JsonObject":
        return JsonObject(values, self.file, f"{self.prefix}{name[:SHOWN]}.", kind=self.kind, cure=self.cure)
