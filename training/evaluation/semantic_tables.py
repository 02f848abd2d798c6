"""Semantic scores as Markdown tables and as plain JSON values."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, TypeAlias, get_args

from scene_completion_ros.evaluation.semantic_completion import CompletionScores, SemanticCompletionMetric
from scene_completion_training.evaluation.semantic_evaluation import Naming, ScoredModel
from scene_completion_training.evaluation.tables import table

Results: TypeAlias = Mapping[tuple[str, str], tuple[ScoredModel, SemanticCompletionMetric]]
"""(recordings, model) -> the model and its counts."""


def markdown(results: Results) -> str:
    """A table for each set of recordings and each way of naming clusters, and one of the classes."""
    parts = []
    for group in dict.fromkeys(group for group, _ in results):
        for naming in get_args(Naming):
            rows, classes = [], []
            named = [found for (of, _), found in results.items() if of == group and naming in found[0].namings]
            if not named:
                continue
            for model, metric in named:
                scores = metric.compute(model.names(naming))
                rows.append([model.name, *_columns(scores)])
                largest = scores[max(scores)]
                classes.append([model.name, *map(_percent, largest.class_iou.values())])
            ranges = sorted(scores)
            header = " / ".join(f"{range_m:g}" for range_m in ranges)
            columns = [
                "method",
                *(f"{name}, {header} m" for name in ("mIoU", "mIoU of present", "mIoU where found", "IoU")),
            ]
            parts.append(f"{group}, clusters named by {naming}, in percent\n\n{table(columns, rows)}")
            names = list(largest.class_iou)
            caption = f"{group}, clusters named by {naming}, IoU of classes at {max(ranges):g} m, in percent"
            parts.append(f"{caption}\n\n{table(['method', *names], classes)}")
    return "\n\n".join(parts) + "\n"


def as_json(results: Results, arguments: dict[str, Any]) -> dict[str, Any]:
    """All scores, and the counts that they follow from."""
    entries = []
    for (group, name), (model, metric) in results.items():
        for naming in model.namings:
            names = model.names(naming)
            for range_m, scores in metric.compute(names).items():
                entries.append(
                    {
                        "recordings": group,
                        "method": name,
                        "naming": naming,
                        "range_m": range_m,
                        "class_of_label": names.tolist(),
                        **_plain(asdict(scores)),
                    }
                )
    return {"arguments": arguments, "scores": entries}


def _columns(scores: Mapping[float, CompletionScores]) -> list[str]:
    ordered = [scores[range_m] for range_m in sorted(scores)]
    return [
        " / ".join(_percent(getattr(entry, name)) for entry in ordered)
        for name in ("mean_iou", "mean_iou_of_present", "mean_iou_of_found", "iou")
    ]


def _percent(value: float) -> str:
    return "–" if math.isnan(value) else f"{100.0 * value:.1f}"


def _plain(value: Any) -> Any:
    """Values as JSON has them: no NaN."""
    if isinstance(value, dict):
        return {name: _plain(entry) for name, entry in value.items()}
    return None if isinstance(value, float) and math.isnan(value) else value
