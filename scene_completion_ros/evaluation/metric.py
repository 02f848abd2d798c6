"""The description of a metric, and the scores, tables and files that are made from that.

A metric is one file: its functional form, what accumulates it, and at the end its registration, a `Metric`. What
scores something (`evaluate`, `replay`) gives answers to a `Scores` and asks that for tables or plain values.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from scene_completion_ros.arrays import Floats, Mask
from scene_completion_ros.errors import ConfigurationError
from scene_completion_ros.evaluation.truth import FrameTruth
from scene_completion_ros.geometry.cameras import Camera
from scene_completion_ros.plain_text import markdown

Row = dict[str, Any]  # keys that say what is scored, and figures


@dataclass(frozen=True, eq=False)
class VoxelAnswer:
    """The answer of a method for the voxels of a truth, arrays [X, Y, Z] of its grid."""

    score: Floats  # ranks the voxels, float32, at least 0
    occupied: Mapping[str, Mask]  # rule -> what the method calls occupied by it, bool
    # Name -> a stated probability, float32 in 0..1.
    stated: Mapping[str, Floats] = field(default_factory=dict)
    covered: Mask | None = None  # where it has an answer, bool; None for everywhere
    own: str | None = None  # the rule by which the method itself publishes voxels; None for the first of `occupied`


class Answer(Protocol):
    """The answer of a method for one frame, with the truth. Other metrics may need more of it."""

    @property
    def truth(self) -> FrameTruth:
        """What is known of the frame."""

    @property
    def camera(self) -> Camera:
        """What took the image, or an image that is resampled from it."""

    @property
    def voxels(self) -> VoxelAnswer | None:
        """At the voxels of the truth; None where it has no answer."""

    @property
    def depth(self) -> Floats | None:
        """z-depth float32 [H, W] at the pixels of the truth, metres, `+inf` too far, NaN unknown; or None."""


class Tally(ABC):
    """Accumulates one metric over the answers of one method."""

    frames: int = 0  # answers that were counted

    @abstractmethod
    def add(self, answer: Any) -> None:
        """Count an answer, unless it is none of the kind."""

    @abstractmethod
    def rows(self) -> Iterator[Row]:
        """Keys and figures of what was counted."""


@dataclass(frozen=True)
class Column:
    """One figure in tables; a share is shown in percent, other numbers with three decimals."""

    key: str
    title: str
    percent: bool = True


def columns(described: str, *, percent: bool = True) -> tuple[Column, ...]:
    """Columns of figures as "key: title, key: title"; a title that is the key with spaces is left out."""
    named = (entry.partition(": ") for entry in described.split(", "))
    return tuple(Column(key, title or key.replace("_", " "), percent) for key, _, title in named)


@dataclass(frozen=True)
class Metric:
    """The registration of a metric."""

    name: str  # in files and on the command line
    caption: str  # what its figures are, a few sentences
    columns: tuple[Column, ...]  # its figures in tables
    tally: Callable[[Any], Tally]  # makes what accumulates it for a method
    by: tuple[str, ...] = ()  # keys of its rows that lines of a table have next to the method
    across: str = ""  # a key whose values stand side by side in one cell
    classes: str = ""  # a figure with a value for each class, which gets a table of its own
    # Keys of the row that a page has room for; of several, the last.
    headline: Mapping[str, Any] = field(default_factory=dict)


class Scores:
    """Scores of methods on groups of recordings."""

    def __init__(self, metrics: Sequence[Metric]) -> None:
        self.metrics = tuple(metrics)
        self._tallies: dict[tuple[str, str, str], Tally] = {}

    def run(self, group: str, methods: Sequence[Any], frames: Iterable[Any]) -> int:
        """Ask methods (`name`, `answer(frame)`) for answers; how many frames there were.

        Raises ConfigurationError where two methods have one name.
        """
        names = [method.name for method in methods]
        if twice := {name for name in names if names.count(name) > 1}:
            what = f"two methods have the name {twice.pop()}"
            raise ConfigurationError(what, where="scores", cure="Score one of them at a time")
        count = 0
        for frame in frames:
            count += 1
            for method in methods:
                self.add(group, method, method.answer(frame))
        return count

    def add(self, group: str, method: Any, answer: Any, *, metrics: Sequence[Metric] | None = None) -> None:
        """Count the answer of a method to a frame of a group of recordings, by some of the metrics or by all."""
        for metric in self.metrics if metrics is None else metrics:
            key = (metric.name, group, method.name)
            if key not in self._tallies:
                self._tallies[key] = metric.tally(method)
            self._tallies[key].add(answer)

    def rows(self, metric: str) -> list[Row]:
        """All rows of a metric; figures that are not defined are None."""
        rows = []
        for (name, group, method), tally in self._tallies.items():
            if name == metric and tally.frames:
                named = {"recordings": group, "method": method, "frames": tally.frames}
                rows += [{**named, **plain(row)} for row in tally.rows()]
        return rows

    def to_json(self) -> dict[str, list[Row]]:
        """Metric -> rows, of those that counted anything."""
        found = {metric.name: self.rows(metric.name) for metric in self.metrics}
        return {name: rows for name, rows in found.items() if rows}

    def markdown(self) -> str:
        """The tables of all metrics that counted anything, with their captions."""
        return "\n\n".join(part for metric in self.metrics for part in tables(metric, self.rows(metric.name)))

    def headlines(self) -> dict[str, Row]:
        """The figures that a page has room for: of each metric and group the row of its headline."""
        found: dict[str, Row] = {}
        for metric in self.metrics:
            last = {row["recordings"]: row for row in self.rows(metric.name) if row.items() >= metric.headline.items()}
            for group, row in last.items():
                where = f", {_across(metric, row)}" if metric.across else ""
                found[f"{metric.name} against {group}{where}"] = {one.key: row[one.key] for one in metric.columns}
        return found


def tables(metric: Metric, rows: Sequence[Row]) -> Iterator[str]:
    """The tables of a metric: its columns, and its classes where it has some; one of each for a group of recordings."""
    for group in dict.fromkeys(row["recordings"] for row in rows):
        lines: dict[tuple[str, ...], dict[str, Row]] = {}
        for row in rows:
            if row["recordings"] == group:
                line = (row["method"], str(row["frames"]), *(shown(row.get(key)) for key in metric.by))
                lines.setdefault(line, {})[_across(metric, row)] = row
        places = list(dict.fromkeys(place for cells in lines.values() for place in cells))
        suffix = f", {' / '.join(places)}" if metric.across else ""
        body = [
            [*line, *(" / ".join(_cell(column, cells.get(place)) for place in places) for column in metric.columns)]
            for line, cells in lines.items()
        ]
        header = ["method", "frames", *metric.by, *(f"{column.title}{suffix}" for column in metric.columns)]
        yield f"{markdown(group)}. {metric.caption}\n\n{table(header, body)}"
        if metric.classes:
            named = [Column(name, name) for name in next(iter(rows))[metric.classes]]
            last = {line: list(cells.values())[-1] for line, cells in lines.items()}
            body = [[*line, *(_cell(column, row[metric.classes]) for column in named)] for line, row in last.items()]
            where = f" at {places[-1]}" if metric.across else ""
            header = ["method", "frames", *metric.by, *(one.title for one in named)]
            yield f"{markdown(group)}. Classes{where}.\n\n{table(header, body)}"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table of plain texts."""
    lines = [[*map(markdown, header)], ["---"] * len(header), *([*map(markdown, row)] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def shown(value: Any, *, share: bool = False) -> str:
    """A figure as tables show it, a share as percent with one decimal, a dash where it is not defined."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "–"
    if isinstance(value, float):
        return f"{100.0 * value:.1f}" if share else f"{value:.3f}"
    return "; ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def plain(value: Any) -> Any:
    """A value of scores as JSON has it: None for what is not defined, also below."""
    if isinstance(value, Mapping):
        return {key: plain(below) for key, below in value.items()}
    if isinstance(value, list | tuple):
        return [plain(below) for below in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _across(metric: Metric, row: Row) -> str:
    if not metric.across:
        return ""
    value = row[metric.across]
    return f"{value:g} m" if metric.across == "range_m" else str(value)


def _cell(column: Column, row: Row | None) -> str:
    return "" if row is None else shown(row.get(column.key), share=column.percent)
