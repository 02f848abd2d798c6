"""Scores of open-vocabulary models as tables and as plain values: means over seeds, and how far the seeds are apart."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, TypeAlias

import numpy as np

from scene_completion_ros.evaluation.occupancy import SSCBENCH_RANGES
from scene_completion_ros.evaluation.semantic_classes import SEMANTIC_KITTI_CLASSES
from scene_completion_ros.evaluation.truth import ALL, OCCLUDED, VISIBLE
from scene_completion_ros.evaluation.zero_shot import Part
from scene_completion_training.evaluation.open_vocabulary import ModelScores
from scene_completion_training.evaluation.tables import percent, table

GIVEN, COMPLETION, WORD = "given geometry", "completion", "word"
PARTS: tuple[Part, ...] = (*((range_m, ALL) for range_m in SSCBENCH_RANGES), (51.2, VISIBLE), (51.2, OCCLUDED))
"""Columns of the tables."""
LARGEST: Part = (51.2, ALL)
_TITLE = " / ".join(f"{range_m:g}" if region == ALL else region for range_m, region in PARTS)


@dataclass(frozen=True, eq=False)
class MethodScores:
    """What a method scores on the recordings of a group.

    Attributes:
        group: What they are, for tables.
        classes: The label set's name.
        seeds: One result for each seed.
        meanings: Word -> SemanticKITTI's ids of what it means.
    """

    group: str
    classes: str
    method: str
    seeds: Sequence[ModelScores]
    meanings: Mapping[str, Sequence[int]]


Values: TypeAlias = Mapping[str, Any]


def over_seeds(values: Sequence[float]) -> dict[str, Any]:
    """Mean and sample standard deviation of what is defined, and all values; None for what is not defined."""
    defined = [value for value in values if not math.isnan(value)]
    return {
        "mean": float(np.mean(defined)) if defined else None,
        "deviation": float(np.std(defined, ddof=1)) if len(defined) > 1 else None,
        "values": [None if math.isnan(value) else value for value in values],
    }


def merged(seeds: Sequence[Values]) -> dict[str, Any]:
    """Scores of several seeds, nested alike, as `over_seeds` of each figure."""
    return {
        name: merged([seed[name] for seed in seeds])
        if isinstance(value, dict)
        else over_seeds([float(seed[name]) for seed in seeds])
        for name, value in seeds[0].items()
    }


def as_json(results: Sequence[MethodScores], arguments: Mapping[str, Any]) -> dict[str, Any]:
    """All scores as plain values."""
    return {"arguments": dict(arguments), "scores": [entry for result in results for entry in _entries(result)]}


def _entries(result: MethodScores) -> Iterator[dict[str, Any]]:
    first = result.seeds[0]
    of = {"recordings": result.group, "classes": result.classes, "method": result.method, "seeds": len(result.seeds)}
    for part in first.given:
        yield {**of, **_entry(GIVEN, part, [asdict(seed.given[part]) for seed in result.seeds])}
    for part in first.completion:
        yield {**of, **_entry(COMPLETION, part, [asdict(seed.completion[part]) for seed in result.seeds])}
    for word, parts in first.words.items():
        means = [SEMANTIC_KITTI_CLASSES[number] for number in result.meanings[word]]
        for part in parts:
            entry = _entry(WORD, part, [asdict(seed.words[word][part]) for seed in result.seeds])
            yield {**of, "word": word, "means": means, **entry}


def _entry(setting: str, part: Part, seeds: Sequence[Values]) -> dict[str, Any]:
    range_m, region = part
    return {"setting": setting, "range_m": range_m, "region": region, "scores": merged(seeds)}


def markdown(results: Sequence[MethodScores]) -> str:
    """Tables of each group: labels given the geometry, of completions, of classes, and words beside their prior."""
    parts = []
    for group in dict.fromkeys(result.group for result in results):
        own = [result for result in results if result.group == group]
        caption = f"{group}, {own[0].classes}, in percent"
        parts += [f"{caption}: {title}.\n\n{text}" for title, text in _tables(own) if text]
    return "\n\n".join(parts) + "\n"


def _tables(results: Sequence[MethodScores]) -> Iterator[tuple[str, str]]:
    seeds = max(len(result.seeds) for result in results)
    spread = ", mean ± sample standard deviation over seeds" if seeds > 1 else ""
    yield (
        "labels of the voxels that the truth calls occupied" + spread,
        _scores(
            results,
            {
                f"mIoU, {_TITLE}": lambda seed: [seed.given[part].mean_iou for part in PARTS],
                "mIoU of all classes": lambda seed: [seed.given[LARGEST].mean_iou_of_all],
                "as released": lambda seed: [seed.given[LARGEST].released_mean_iou],
                "mAcc": lambda seed: [seed.given[LARGEST].mean_accuracy],
                "mAcc of all classes": lambda seed: [seed.given[LARGEST].mean_accuracy_of_all],
                "without a feature": lambda seed: [
                    seed.given[LARGEST].without_feature / max(seed.given[LARGEST].voxels, 1)
                ],
            },
        ),
    )
    yield (
        "semantic scene completion at the student's own threshold" + spread,
        _scores(
            results,
            {
                f"mIoU of present, {_TITLE}": lambda seed: [seed.completion[p].mean_iou_of_present for p in PARTS],
                "mIoU of all classes": lambda seed: [seed.completion[LARGEST].mean_iou],
                "mIoU where found": lambda seed: [seed.completion[LARGEST].mean_iou_of_found],
                "IoU": lambda seed: [seed.completion[LARGEST].iou],
            },
        ),
    )
    names = list(results[0].seeds[0].given[LARGEST].class_iou)
    columns = {name: partial(_class_iou, name) for name in names}
    yield "IoU of classes, given the geometry, at 51.2 m" + spread, _scores(results, columns)
    yield "average precision of voxels by contrast with a word, given the geometry, at 51.2 m" + spread, _words(results)


def _scores(results: Sequence[MethodScores], columns: Mapping[str, Callable[[ModelScores], list[float]]]) -> str:
    rows = [
        [result.method, *(seeds_cell([figures(seed) for seed in result.seeds]) for figures in columns.values())]
        for result in results
    ]
    return table(["method", *columns], rows)


def _class_iou(name: str, seed: ModelScores) -> list[float]:
    return [seed.given[LARGEST].class_iou[name]]


def _words(results: Sequence[MethodScores]) -> str:
    """Words that some voxel is meant by, in rows, methods in columns; nothing where no method was asked for words."""
    asked = [result for result in results if result.seeds[0].words]
    if not asked:
        return ""
    first = {word: parts[LARGEST] for word, parts in asked[0].seeds[0].words.items() if parts[LARGEST].positives}
    rows = []
    for word, scores in first.items():
        meant = ", ".join(SEMANTIC_KITTI_CLASSES[number] for number in asked[0].meanings[word])
        found = [
            seeds_cell([[seed.words[word][LARGEST].average_precision] for seed in result.seeds]) for result in asked
        ]
        rows.append([word, meant, percent(scores.prior), *found])
    prior = percent(float(np.mean([scores.prior for scores in first.values()])) if first else math.nan)
    for title, figure in (("mean", "average_precision"), ("mean, by cosine", "average_precision_of_cosine")):
        means = [seeds_cell([[_mean(seed, list(first), figure)] for seed in result.seeds]) for result in asked]
        rows.append([f"**{title}**", "", prior, *means])
    return table(["word", "means", "prior", *(result.method for result in asked)], rows)


def _mean(seed: ModelScores, words: Sequence[str], figure: str) -> float:
    return float(np.mean([getattr(seed.words[word][LARGEST], figure) for word in words])) if words else math.nan


def seeds_cell(seeds: Sequence[Sequence[Any]]) -> str:
    """Figures [S, F], a row a seed, as "a / b", or as "a ± s / b ± t"."""
    cells = []
    for values in zip(*seeds, strict=True):
        figure = over_seeds(values)
        text = percent(math.nan if figure["mean"] is None else figure["mean"])
        cells.append(text if figure["deviation"] is None else f"{text} ± {percent(figure['deviation'])}")
    return " / ".join(cells)
