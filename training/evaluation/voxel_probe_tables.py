"""Scores of probes of voxel features as Markdown tables, as plain values and as plots."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from scene_completion_ros.evaluation.zero_shot import ZeroShotScores
from scene_completion_ros.report.map_axes import Picture
from scene_completion_ros.report.pictures import write_picture
from scene_completion_training.evaluation.occupancy_plots import COLOURS, Axes, blank, legend, text
from scene_completion_training.evaluation.open_vocabulary_tables import merged, seeds_cell
from scene_completion_training.evaluation.tables import table
from scene_completion_training.evaluation.voxel_probe import READINGS, Reading, Variant
from scene_completion_training.evaluation.voxel_probe_run import MethodScores

TITLES: dict[Reading, str] = {
    "linear": "linear probe",
    "nearest": "nearest neighbour, k = 1",
    "neighbours": "weighted neighbours, k = 20",
}
_PANEL, _HEIGHT = 460, 240  # pixels
_Cell = tuple[str, str]  # kind and value of a variant


def as_json(results: Sequence[MethodScores], arguments: Mapping[str, Any]) -> dict[str, Any]:
    """All scores as plain values."""
    return {"arguments": dict(arguments), "scores": [entry for result in results for entry in _entries(result)]}


def _entries(result: MethodScores) -> Iterator[dict[str, Any]]:
    for number, first in enumerate(result.runs[0]):
        for reading in READINGS:
            yield {
                "recordings": result.group,
                "method": result.method,
                "runs": len(result.runs),
                "variant": asdict(first.variant),
                "train_scenes": first.scenes,
                "train_voxels": [run[number].voxels for run in result.runs],
                "reading": reading,
                "scores": merged([asdict(run[number].readings[reading]) for run in result.runs]),
            }


def markdown(results: Sequence[MethodScores]) -> str:
    """Tables of each group: all levels, each level alone and removed, few scenes, few voxels, classes."""
    parts = []
    for group in dict.fromkeys(result.group for result in results):
        own = [result for result in results if result.group == group]
        spread = ", mean ± sample standard deviation of the runs" if max(len(one.runs) for one in own) > 1 else ""
        for title, content in _tables(own):
            parts.append(f"{group}: {title}, in percent{spread}.\n\n{content}")
    return "\n\n".join(parts) + "\n"


def _tables(results: Sequence[MethodScores]) -> Iterator[tuple[str, str]]:
    columns: dict[str, tuple[Reading, Callable[[ZeroShotScores], float]]] = {}
    for reading in READINGS:
        columns[f"{TITLES[reading]}: mIoU"] = reading, lambda scores: scores.mean_iou
        columns[f"{reading}: mIoU of all classes"] = reading, lambda scores: scores.mean_iou_of_all
        columns[f"{reading}: accuracy"] = reading, lambda scores: scores.accuracy
    columns["linear: mAcc"] = "linear", lambda scores: scores.mean_accuracy
    rows = [
        [result.method, str(len(result.runs)), *(_cell(result, ("all", "all"), *column) for column in columns.values())]
        for result in results
    ]
    yield "labels of occupied voxels by probes of all levels", table(["method", "runs", *columns], rows)
    for kinds, title in (
        (("alone", "without"), "mIoU of each level alone, and of all levels but one"),
        (("scenes",), "mIoU by share of the labelled scenes"),
        (("voxels",), "mIoU by labelled voxels of a scene"),
    ):
        asked = [result for result in results if _cells(result, kinds)]
        if not asked:
            continue
        cells = list(dict.fromkeys(cell for result in asked for cell in _cells(result, kinds)))
        for reading in READINGS:
            rows = [
                [result.method, *(_cell(result, cell, reading, _mean_iou) for cell in [*cells, ("all", "all")])]
                for result in asked
            ]
            yield f"{title}, {TITLES[reading]}", table(["method", *(_title(*cell) for cell in cells), "all"], rows)
    names = list(results[0].runs[0][0].readings["linear"].class_iou)
    rows = [
        [result.method, *(_cell(result, ("all", "all"), "linear", _of_class(name)) for name in names)]
        for result in results
    ]
    yield f"IoU of classes, {TITLES['linear']} of all levels", table(["method", *names], rows)


def plots(results: Sequence[MethodScores]) -> dict[str, Picture]:
    """A picture of each group: a row for each reading; levels, shares of scenes and voxels of a scene side by side.

    A group of which nothing was varied has none.
    """
    pictures = {}
    for group in dict.fromkeys(result.group for result in results):
        own = [result for result in results if result.group == group]
        panels = [kinds for kinds in (("alone", "without"), ("scenes",), ("voxels",)) if _all_cells(own, kinds)]
        if not panels:
            continue
        top = 60 + 18 * len(own)
        picture = blank(top + len(READINGS) * (_HEIGHT + 70), 40 + len(panels) * (_PANEL + 70))
        text(picture, f"{group}: mean IoU over the classes in the truth, percent", (20, 24), scale=0.5)
        entries = [(result.method, COLOURS[number % len(COLOURS)]) for number, result in enumerate(own)]
        legend(picture, entries, (24, 50))
        for row, reading in enumerate(READINGS):
            for column, kinds in enumerate(panels):
                frame = (60 + column * (_PANEL + 70), top + row * (_HEIGHT + 70), _PANEL, _HEIGHT)
                _panel(picture, frame, own, [*_all_cells(own, kinds), ("all", "all")], reading)
        pictures[group] = picture
    return pictures


def write_plots(folder: Path, results: Sequence[MethodScores]) -> None:
    """Writes probe_GROUP.png of each group."""
    for group, picture in plots(results).items():
        write_picture(folder / f"probe_{group}.png", picture)


def _panel(
    picture: Picture,
    frame: tuple[int, int, int, int],
    results: Sequence[MethodScores],
    cells: Sequence[_Cell],
    reading: Reading,
) -> None:
    """Mean IoU of methods over variants: bars where these are levels, otherwise lines."""
    means = [_mean_iou(scores) for result in results for cell in cells for scores in _scores(result, cell, reading)]
    top = 20.0 * np.ceil(5.0 * max(0.01, float(np.nanmax(means))))
    axes = Axes(picture, *frame, (0.0, float(len(cells))), (0.0, top))
    bars = cells[0][0] in ("alone", "without")
    for number, result in enumerate(results):
        colour = COLOURS[number % len(COLOURS)]
        points = []
        for place, cell in enumerate(cells):
            values = [100.0 * _mean_iou(scores) for scores in _scores(result, cell, reading)]
            left = place + 0.08 + 0.84 * number / len(results)
            if values and bars:
                axes.bar((left, left + 0.7 / len(results)), float(np.mean(values)), colour)
            if values:
                points.append((place + 0.5, float(np.mean(values))))
        if not bars and len(points) > 1:
            axes.line(points, colour, marked=True)
    for place, cell in enumerate(cells):
        at = (axes.pixel(place + 0.5, 0.0)[0], axes.top + axes.height + 18)
        short = _title(*cell).replace("level ", "").replace("alone", "only").replace("without", "not")
        text(picture, short, at, align=0.5, scale=0.34)
    axes.draw(TITLES[reading], "", "", x_step=None, y_step=20.0)


def _title(kind: str, value: str) -> str:
    if kind == "scenes":
        return f"{100.0 * float(value):g} % of scenes"
    return {"all": "all", "voxels": f"{value} voxels"}.get(kind, f"{kind} {value}")


def _cells(result: MethodScores, kinds: Sequence[str]) -> list[_Cell]:
    return [(one.variant.kind, one.variant.value) for one in result.runs[0] if one.variant.kind in kinds]


def _all_cells(results: Sequence[MethodScores], kinds: Sequence[str]) -> list[_Cell]:
    return list(dict.fromkeys(cell for result in results for cell in _cells(result, kinds)))


def _scores(result: MethodScores, cell: _Cell, reading: Reading) -> list[ZeroShotScores]:
    """Scores of a variant in each run; nothing where the method has no such variant."""
    return [one.readings[reading] for run in result.runs for one in run if _of(one.variant) == cell]


def _of(variant: Variant) -> _Cell:
    return variant.kind, variant.value


def _cell(result: MethodScores, cell: _Cell, reading: Reading, figure: Callable[[ZeroShotScores], float]) -> str:
    scores = _scores(result, cell, reading)
    return seeds_cell([[figure(one)] for one in scores]) if scores else ""


def _mean_iou(scores: ZeroShotScores) -> float:
    return scores.mean_iou


def _of_class(name: str) -> Callable[[ZeroShotScores], float]:
    return lambda scores: scores.class_iou[name]
