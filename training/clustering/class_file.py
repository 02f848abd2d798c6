"""The class file: which clusters are which class, in JSON, for people to edit."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scene_completion_ros.errors import ConfigurationError

CLASS_FILE = "classes.json"
SCHEMA = 1
UNNAMED = "cluster_{:02d}"
CLASS_COLOURS: dict[str, tuple[int, int, int]] = {
    "car": (70, 110, 230),
    "bicycle": (90, 210, 230),
    "motorcycle": (40, 60, 150),
    "truck": (90, 40, 170),
    "other-vehicle": (60, 90, 200),
    "person": (235, 50, 50),
    "road": (160, 90, 160),
    "sidewalk": (235, 120, 230),
    "building": (235, 190, 60),
    "fence": (230, 120, 70),
    "vegetation": (40, 150, 50),
    "terrain": (150, 215, 90),
    "pole": (200, 200, 140),
    "traffic-sign": (235, 60, 40),
    "other-object": (120, 120, 120),
}
"""Colours of the classes that clusters are usually named after; those of others follow from their number."""


@dataclass(frozen=True)
class NamedClusters:
    """Clusters with their classes.

    Attributes:
        class_names: Names of the classes, in the order of their first cluster; each once.
        class_colours: RGB of each class, 0..255.
        class_of_cluster: The class of each cluster.
    """

    class_names: tuple[str, ...]
    class_colours: tuple[tuple[int, int, int], ...]
    class_of_cluster: tuple[int, ...]

    def classes(self, clusters: NDArray[np.int64]) -> NDArray[np.int64]:
        """Classes [...] of clusters [...]."""
        return np.asarray(self.class_of_cluster, np.int64)[clusters]


def colour_of(name: str, number: int) -> tuple[int, int, int]:
    """Colour of a class: its usual one, or one that stays apart from those of the numbers before."""
    if name in CLASS_COLOURS:
        return CLASS_COLOURS[name]
    hue = (number * 0.61803398875) % 1.0  # the golden ratio spreads any count evenly over the circle
    red, green, blue = (np.clip(np.abs((hue * 6.0 + shift) % 6.0 - 3.0) - 1.0, 0.0, 1.0) for shift in (0.0, 4.0, 2.0))
    return int(60 + 180 * red), int(60 + 180 * green), int(60 + 180 * blue)


def write_class_file(file: Path, names: Sequence[str | None], shares: Sequence[float]) -> None:
    """Writes a class file.

    Args:
        names: Class of each cluster; None for those without a name.
        shares: Share of the voxels of each cluster, for the reader.
    """
    clusters = []
    for number, (name, share) in enumerate(zip(names, shares, strict=True)):
        called = name or UNNAMED.format(number)
        clusters.append(
            {"cluster": number, "name": called, "colour": colour_of(called, number), "share": round(share, 4)}
        )
    content = {"schema": SCHEMA, "clusters": clusters}
    file.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def read_class_file(file: Path, count: int) -> NamedClusters:
    """Reads a class file. Clusters of one name become one class, whose colour is that of the first of them.

    Args:
        count: Number of clusters there are.

    Raises:
        ConfigurationError: The file is damaged, leaves out a cluster or has one twice or one there is not, a name is
            empty, or two of one name have different colours.
    """
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        if content["schema"] != SCHEMA:
            raise _error(file, "schema", f"is {content['schema']!r}, this version reads {SCHEMA}")
        entries = [_entry(file, number, entry) for number, entry in enumerate(content["clusters"])]
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise _error(file, "", f"cannot be read ({type(error).__name__}: {error})") from error
    numbers = sorted(number for number, _, _ in entries)
    if numbers != list(range(count)):
        missing = sorted(set(range(count)) - set(numbers))
        wrong = sorted({number for number in numbers if numbers.count(number) > 1 or not 0 <= number < count})
        raise _error(file, "clusters", f"leaves out {missing}, has twice or unknown {wrong}")
    names: list[str] = []
    colours: list[tuple[int, int, int]] = []
    classes = []
    for number, name, colour in sorted(entries):
        if name not in names:
            names.append(name)
            colours.append(colour)
        elif colours[names.index(name)] != colour:
            raise _error(
                file,
                f"clusters[{number}].colour",
                f"is {list(colour)}, another {name} has {colours[names.index(name)]}",
            )
        classes.append(names.index(name))
    return NamedClusters(tuple(names), tuple(colours), tuple(classes))


def _entry(file: Path, position: int, entry: Any) -> tuple[int, str, tuple[int, int, int]]:
    number, name, colour = entry["cluster"], entry["name"], entry["colour"]
    if not isinstance(number, int) or isinstance(number, bool):
        raise _error(file, f"clusters[{position}].cluster", f"{number!r} is no number")
    if not isinstance(name, str) or not name.strip():
        raise _error(file, f"clusters[{position}].name", f"{name!r} is no name")
    whole = isinstance(colour, list) and len(colour) == 3 and all(type(c) is int and 0 <= c <= 255 for c in colour)
    if not whole:
        raise _error(file, f"clusters[{position}].colour", f"{colour!r} is no RGB colour of three values in 0..255")
    return number, name.strip(), (colour[0], colour[1], colour[2])


def _error(file: Path, field: str, what: str) -> ConfigurationError:
    return ConfigurationError(
        what, where=f"{file}{': ' + field if field else ''}", cure="Correct it, or make it anew with `classes`"
    )
