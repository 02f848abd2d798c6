"""Reading a JSON object field by field, with errors that name the file, the field and the cure."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from scene_completion_ros.errors import BundleError
from scene_completion_ros.untrusted_files import SHOWN, read_json, shown

CURE = "The bundle is damaged or was written by another program: export it again or fetch it again."


class JsonObject:
    """One JSON object of a file; every access is checked."""

    def __init__(self, values: Mapping[str, Any], file: Path, prefix: str = "") -> None:
        self.values, self.file, self.prefix = values, file, prefix

    @classmethod
    def read(cls, file: Path) -> "JsonObject":
        """Reads a file of one JSON object. Raises BundleError where it cannot be read or is no object."""
        return cls(read_json(file, BundleError, cure=CURE, kind=dict), file)

    def where(self, name: str) -> str:
        """File and full name of a field, for messages."""
        return f"{self.file}: field {self.prefix}{name[:SHOWN]}"

    def error(self, name: str, what: str, cure: str = CURE) -> BundleError:
        """The error for a field."""
        return BundleError(what, where=self.where(name), cure=cure)

    def _get(self, name: str) -> Any:
        if name not in self.values:
            raise self.error(name, "is missing")
        return self.values[name]

    def number(self, name: str) -> float:
        """A finite number."""
        value = self._get(name)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) <= sys.float_info.max:
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
        value = self._get(name)
        if isinstance(value, bool) or not isinstance(value, int):
            raise self.error(name, f"{shown(value)} is not a whole number")
        return value

    def text(self, name: str) -> str:
        """A string."""
        value = self._get(name)
        if not isinstance(value, str):
            raise self.error(name, f"{shown(value)} is not a string")
        return value

    def numbers(self, name: str, count: int | None = None) -> tuple[float, ...]:
        """A list of finite numbers, of ``count`` where given."""
        values = self._get(name)
        if not isinstance(values, list):
            raise self.error(name, f"{shown(values)} is not a list of numbers")
        if count is not None and len(values) != count:
            raise self.error(name, f"has {len(values)} numbers where {count} are needed")
        items = self.items(name, values)
        return tuple(map(items.number, items.values))

    def integers(self, name: str, count: int | None = None) -> tuple[int, ...]:
        """A list of whole numbers, of ``count`` where given."""
        self.numbers(name, count)
        items = self.items(name, self._get(name))
        return tuple(map(items.integer, items.values))

    def items(self, name: str, values: Sequence[Any]) -> "JsonObject":
        """The values of a list as an object, by their places."""
        return JsonObject({str(i): value for i, value in enumerate(values)}, self.file, f"{self.prefix}{name}.")

    def texts(self, name: str) -> tuple[str, ...]:
        """A list of strings."""
        values = self._get(name)
        if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
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
        value = self._get(name)
        if not isinstance(value, dict):
            raise self.error(name, f"{shown(value)} is not an object")
        return JsonObject(value, self.file, f"{self.prefix}{name}.")
