"""Voxels that a person has named: a JSON file, and what it says of the voxels of a frame.

    {"schema": 1,
     "classes": {"kerb": {"colour": [200, 60, 60]}, "road": {}},
     "voxels": [{"recording": "drive", "frame": 12, "index": [40, 120, 9], "class": "kerb"}, ...]}

The page of `scene-completion classes` writes it; a few lines by hand are as good. The index is that of a voxel in
the grid of the student whose voxels were looked at. A class without a colour gets one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scene_completion_ros.errors import ConfigurationError
from scene_completion_ros.untrusted_files import read_json, shown
from scene_completion_training.clustering.clusters import colour_of

SCHEMA = 1
_MOST_SAID = 5  # wrong voxels that an error lists

Voxel = tuple[int, int, int]


@dataclass(frozen=True)
class NamedVoxels:
    """Names of voxels.

    Attributes:
        class_names: Each another.
        class_colours: RGB of each, 0..255.
        voxels: (recording, frame) -> voxel of the grid -> number of its class.
        where: The file, for errors.
    """

    class_names: tuple[str, ...]
    class_colours: tuple[tuple[int, int, int], ...]
    voxels: Mapping[tuple[str, int], Mapping[Voxel, int]]
    where: str = "named voxels"

    def __len__(self) -> int:
        """Number of named voxels."""
        return sum(map(len, self.voxels.values()))

    @staticmethod
    def read(file: Path) -> NamedVoxels:
        """Reads a file, and believes nothing of it.

        Raises:
            ConfigurationError: It is damaged, a voxel is named twice or of an unknown class, a class has no voxel, or
                there are fewer than two classes.
        """
        content = read_json(file, ConfigurationError, cure="Save it from the page of classes")
        fields = _object(file, "", content, ("schema", "classes", "voxels"))
        if fields["schema"] != SCHEMA:
            raise _error(file, "schema", f"is {fields['schema']!r}, this version reads {SCHEMA}")
        names, colours = _classes(file, fields["classes"])
        found: dict[tuple[str, int], dict[Voxel, int]] = {}
        for position, entry in enumerate(_list(file, "voxels", fields["voxels"])):
            frame, voxel, number = _voxel(file, position, entry, names)
            of_frame = found.setdefault(frame, {})
            if voxel in of_frame:
                raise _error(file, f"voxels[{position}]", f"voxel {list(voxel)} of {_said(frame)} is named twice")
            of_frame[voxel] = number
        used = {number for of_frame in found.values() for number in of_frame.values()}
        if unused := [name for number, name in enumerate(names) if number not in used]:
            raise _error(file, "classes", f"no voxel is called {', '.join(unused)}", "Name one, or leave the class out")
        if len(names) < 2:
            raise _error(file, "classes", f"{len(names)} of them", "Name voxels of at least two classes")
        return NamedVoxels(names, colours, found, str(file))

    def frames(self, recording: str) -> set[int]:
        """Frames of a recording in which voxels are named."""
        return {frame for name, frame in self.voxels if name == recording}

    def content(self) -> dict[str, Any]:
        """The content of its file, as plain values."""
        named = zip(self.class_names, self.class_colours, strict=True)
        return {
            "schema": SCHEMA,
            "classes": {name: {"colour": list(colour)} for name, colour in named},
            "voxels": [
                {"recording": recording, "frame": frame, "index": list(voxel), "class": self.class_names[number]}
                for (recording, frame), of_frame in self.voxels.items()
                for voxel, number in of_frame.items()
            ],
        }

    def check_recordings(self, frames: Mapping[str, int]) -> None:
        """Refuses names of what is not there.

        Args:
            frames: Recording -> its number of frames.

        Raises:
            ConfigurationError: A recording is not among them, or has no such frame.
        """
        for recording, frame in self.voxels:
            if recording not in frames:
                raise ConfigurationError(
                    f"names voxels of {recording}, which is none of {', '.join(frames)}",
                    where=self.where,
                    cure="Name the recording with --data, or take its voxels out",
                )
            if frame >= frames[recording]:
                raise ConfigurationError(
                    f"names voxels of frame {frame}, and {recording} has frames 0 to {frames[recording] - 1}",
                    where=self.where,
                    cure="Correct the frame",
                )

    def rows(
        self, frame: tuple[str, int], index: NDArray[np.integer[Any]], shape: Sequence[int]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Where the named voxels of a frame are among its occupied ones.

        Args:
            frame: Recording and frame.
            index: Occupied voxels [N, 3] of the grid.
            shape: Number of voxels of the grid along x, y, z.

        Returns:
            Rows of `index` [n], and the class of each [n].

        Raises:
            ConfigurationError: A named voxel is not occupied, or outside of the grid.
        """
        of_frame = self.voxels.get(frame, {})
        named = np.array(list(of_frame), np.int64).reshape(-1, 3)
        if (outside := (named >= np.asarray(shape)).any(axis=1)).any():
            raise self._wrong(frame, named[outside], f"not in the grid of {tuple(shape)}", "the student's grid")
        occupied = np.asarray(np.ravel_multi_index(tuple(np.asarray(index, np.int64).T), tuple(shape)))
        requested = np.asarray(np.ravel_multi_index(tuple(named.T), tuple(shape)))
        order = np.argsort(occupied)
        place = np.searchsorted(occupied[order], requested).clip(0, max(len(occupied) - 1, 0))
        rows = order[place] if len(occupied) else np.zeros(0, np.int64)
        free = occupied[rows] != requested if len(occupied) else np.ones(len(requested), np.bool_)
        if free.any():
            raise self._wrong(frame, named[free], "not occupied", "a page of the same student")
        return rows, np.array(list(of_frame.values()), np.int64)

    def _wrong(self, frame: tuple[str, int], voxels: NDArray[np.int64], what: str, of: str) -> ConfigurationError:
        more = f" and {len(voxels) - _MOST_SAID} more" if len(voxels) > _MOST_SAID else ""
        listed = ", ".join(str(voxel.tolist()) for voxel in voxels[:_MOST_SAID])
        return ConfigurationError(
            f"voxels {listed}{more} of {_said(frame)} are {what}", where=self.where, cure=f"Name voxels of {of}"
        )


def _classes(file: Path, content: Any) -> tuple[tuple[str, ...], tuple[tuple[int, int, int], ...]]:
    if not isinstance(content, dict):
        raise _error(file, "classes", f"{shown(content)} is no object")
    colours = []
    for number, (name, entry) in enumerate(content.items()):
        if not name.strip() or name != name.strip():
            raise _error(file, "classes", f"{shown(name)} is no name")
        colour = _object(file, f"classes.{name}", entry, (), ("colour",)).get("colour", list(colour_of(name, number)))
        if not _integers(colour) or len(colour) != 3 or max(colour) > 255:
            raise _error(file, f"classes.{name}.colour", f"{shown(colour)} is no RGB colour of three values in 0..255")
        colours.append((colour[0], colour[1], colour[2]))
    return tuple(content), tuple(colours)


def _voxel(file: Path, position: int, entry: Any, names: Sequence[str]) -> tuple[tuple[str, int], Voxel, int]:
    where = f"voxels[{position}]"
    fields = _object(file, where, entry, ("recording", "frame", "index", "class"))
    recording, frame, index, name = (fields[field] for field in ("recording", "frame", "index", "class"))
    if not isinstance(recording, str):
        raise _error(file, f"{where}.recording", f"{shown(recording)} is no name of a recording")
    if not _integers([frame]):
        raise _error(file, f"{where}.frame", f"{shown(frame)} is no number of a frame")
    if not _integers(index) or len(index) != 3:
        raise _error(file, f"{where}.index", f"{shown(index)} is no voxel: three whole numbers from 0 on")
    if name not in names:
        raise _error(file, f"{where}.class", f"{shown(name)} is none of {', '.join(names) or 'no classes'}")
    return (recording, frame), (index[0], index[1], index[2]), names.index(name)


def _integers(values: Any) -> bool:
    return isinstance(values, list) and all(type(value) is int and value >= 0 for value in values)


def _list(file: Path, field: str, content: Any) -> list[Any]:
    if not isinstance(content, list):
        raise _error(file, field, f"{shown(content)} is no list")
    return content


def _object(
    file: Path, field: str, content: Any, needed: Sequence[str], optional: Sequence[str] = ()
) -> dict[str, Any]:
    if not isinstance(content, dict):
        raise _error(file, field, f"{shown(content)} is no object")
    if missing := [name for name in needed if name not in content]:
        raise _error(file, field, f"has no {', '.join(missing)}")
    if unknown := sorted(content.keys() - {*needed, *optional}):
        raise _error(file, field, f"has {', '.join(unknown)}, which mean nothing here")
    return content


def _said(frame: tuple[str, int]) -> str:
    return f"{frame[0]}, frame {frame[1]}"


def _error(file: Path, field: str, what: str, cure: str = "Correct it, or save it anew") -> ConfigurationError:
    return ConfigurationError(what, where=f"{file}{': ' + field if field else ''}", cure=cure)
