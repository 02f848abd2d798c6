"""The result of an occupancy evaluation as Markdown and as plain JSON values."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from scene_completion_ros.evaluation.invisible_empty import SCORE_NAMES
from scene_completion_ros.evaluation.occupancy import OccupancyScores
from scene_completion_training.evaluation.exact_evaluation import ExactResult
from scene_completion_training.evaluation.lidar_evaluation import PROTOCOLS
from scene_completion_training.evaluation.occupancy_run import OccupancyResult
from scene_completion_training.evaluation.tables import defined_values, percent, reliability_as_json, table
from scene_completion_training.evaluation.voxel_truth import OCCLUDED

CAPTION_VOXELS = (
    "Ground truth voxels in view, in percent: IoU / precision / recall by the rule, then best IoU over all thresholds "
    "/ average precision, which do not depend on it. `occluded` is hidden from the camera and not inside of a house, "
    "car or crown; `all` is visible or occluded; `interiors` are those insides, which no sensor sees. What is below "
    "the ground or unknown does not count. The best IoU of a method without any score is that of calling everything "
    "occupied."
)
CAPTION_CALIBRATION = (
    "How far stated probabilities are from observed frequencies, region `all`: before calibration the opacity of "
    "a 0.2 m voxel is taken for the probability."
)
CAPTION_LIDAR = (
    "LiDAR protocol {setting}: N = {scans} scans, occupied if at most two of them saw the point free (c >= N - 2), "
    "camera taken to look {pitch:g}° down. Scores in percent, means over frames in which they are defined; counts are "
    "sums over frames. t_ie are the occluded free points.{warning}"
)
WARNING_ORIGINAL = (
    " Points in front of the model's own depth count as visible here: each row is scored on other points, and a field "
    "that sees through everything has no occluded ones. Never compare O_acc alone."
)


def markdown(result: OccupancyResult, evaluated: Sequence[str]) -> str:
    """All tables with their captions.

    Args:
        result: The scores.
        evaluated: Names of the models that are no controls.
    """
    parts = [f"Recordings: {', '.join(result.recordings)}."]
    if result.exact is not None:
        parts += [f"{CAPTION_VOXELS} {result.exact.frames} frames.", voxel_table(result.exact)]
        if evaluated:
            parts += [comparison(result.exact, evaluated)] if len(evaluated) < len(_models(result.exact)) else []
            parts += [CAPTION_CALIBRATION, calibration_table(result.exact, evaluated)]
    for setting in sorted({setting for setting, _, _ in result.lidar}):
        warning = WARNING_ORIGINAL if PROTOCOLS[setting.protocol].model_depth_shows else ""
        parts.append(
            CAPTION_LIDAR.format(setting=setting, scans=setting.scans, pitch=setting.pitch_degrees, warning=warning)
        )
        rows = [
            [model, rule, *(percent(value) for value in asdict(found.scores).values()), str(found.frames)]
            + [*(str(count) for count in asdict(found.counts).values()), "; ".join(found.warnings)]
            for (other, model, rule), found in result.lidar.items()
            if other == setting
        ]
        header = [f"{_title(name)}@{setting.scans}" for name in SCORE_NAMES]
        counts = ["frames", "points", "predicted", "occupied", "occluded", "t_ie", "remarks"]
        parts.append(table(["method", "rule", *header, *counts], rows))
    return "\n\n".join(part for part in parts if part) + "\n"


def voxel_table(result: ExactResult) -> str:
    """Scores by region and method, one column a range."""
    regions = list(dict.fromkeys(region for cells in result.voxels.values() for _, region in cells))
    ranges = sorted({range_m for cells in result.voxels.values() for range_m, _ in cells})
    rows = [
        [region, model, rule, *(_cell(cells[range_m, region]) for range_m in ranges)]
        for region in regions
        for (model, rule), cells in result.voxels.items()
        if (ranges[0], region) in cells
    ]
    return table(["region", "method", "rule", *(f"{range_m:g} m" for range_m in ranges)], rows)


def comparison(result: ExactResult, evaluated: Sequence[str]) -> str:
    """Whether each model beats every control in the IoU of occluded voxels, by range."""
    ranges = sorted({range_m for cells in result.voxels.values() for range_m, _ in cells})
    rows = []
    for (model, rule), cells in result.voxels.items():
        if model not in evaluated:
            continue
        verdicts = []
        for range_m in ranges:
            controls = {
                name: other[range_m, OCCLUDED].iou
                for (name, _), other in result.voxels.items()
                if name not in evaluated and not math.isnan(other[range_m, OCCLUDED].iou)
            }
            best = max(controls, key=lambda name: controls[name])
            won = "ahead of" if cells[range_m, OCCLUDED].iou > controls[best] else "**behind**"
            verdicts.append(f"{percent(cells[range_m, OCCLUDED].iou)} {won} {percent(controls[best])} ({best})")
        rows.append([model, rule, *verdicts])
    caption = "IoU of occluded voxels beside the best control:"
    return f"{caption}\n\n{table(['method', 'rule', *(f'{range_m:g} m' for range_m in ranges)], rows)}"


def calibration_table(result: ExactResult, evaluated: Sequence[str]) -> str:
    """Expected calibration error and Brier score before and after calibration."""
    rows = []
    for model in evaluated:
        row = [model]
        for name in ("before", "after"):
            errors = result.calibration[model].get(name)
            row += ["–", "–"] if errors is None else [f"{errors.expected_calibration_error:.4f}", f"{errors.brier:.4f}"]
        rows.append(row)
    return table(["method", "ECE before", "Brier before", "ECE after", "Brier after"], rows)


def as_json(result: OccupancyResult, settings: dict[str, Any]) -> dict[str, Any]:
    """All scores as plain values; undefined figures become None.

    Args:
        result: The scores.
        settings: What the run was asked for, plain values.
    """
    lidar = [
        {
            "protocol": setting.protocol,
            "scans": setting.scans,
            "camera_pitch_degrees": setting.pitch_degrees,
            "method": model,
            "rule": rule,
            **defined_values(
                {f"{_title(name)}@{setting.scans}": value for name, value in asdict(found.scores).items()}
            ),
            "frames": found.frames,
            "frames_defined": {_title(name): count for name, count in found.defined.items()},
            **asdict(found.counts),
            "remarks": list(found.warnings),
        }
        for (setting, model, rule), found in result.lidar.items()
    ]
    content: dict[str, Any] = {"settings": settings, "recordings": list(result.recordings), "lidar": lidar}
    if result.exact is not None:
        content["exact"] = {
            "frames": result.exact.frames,
            "voxels": [
                {
                    "method": model,
                    "rule": rule,
                    "range_m": range_m,
                    "region": region,
                    **defined_values(asdict(cell)),
                }
                for (model, rule), cells in result.exact.voxels.items()
                for (range_m, region), cell in cells.items()
            ],
            "calibration": {
                model: {name: reliability_as_json(errors) for name, errors in found.items()}
                for model, found in result.exact.calibration.items()
            },
        }
    return content


def _models(result: ExactResult) -> set[str]:
    return {model for model, _ in result.voxels}


def _cell(scores: OccupancyScores) -> str:
    chosen = " / ".join(map(percent, (scores.iou, scores.precision, scores.recall)))
    return f"{chosen}, {percent(scores.best_iou)} / {percent(scores.average_precision)}"


def _title(name: str) -> str:
    """`o_acc` -> `O_acc`, `ie_acc` -> `IE_acc`, as the literature writes them."""
    kind, _, rest = name.partition("_")
    return f"{kind.upper()}_{rest}"
