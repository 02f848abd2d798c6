"""Scores as Markdown tables and as plain JSON values."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, fields
from typing import Any

from scene_completion_ros.evaluation.calibration import CalibrationErrors
from scene_completion_ros.evaluation.depth import DepthErrors
from scene_completion_ros.evaluation.occupancy import OccupancyScores
from scene_completion_training.evaluation.kitti import WindowScores

CAPTION_DEPTH = (
    "Depth of 10 frames each against the LiDAR of the frame (Garg crop, 80 m, mean over frames). Only the last "
    "column scales each frame by its median. The mean depth is that of each pixel over the LiDAR of the training "
    "windows."
)
CAPTION_VOXELS = (
    "Voxels of frame 0 against the semantic voxels on their own grid, in percent. Each cell has IoU at the calibrated "
    "threshold / best IoU over all thresholds / average precision. Unknown and officially invalid voxels do not count. "
    "The prior grid is the smoothed mean of the training windows. The average precision of the empty field is the "
    "share of occupied voxels, its best IoU that of calling everything occupied."
)
CAPTION_CUTOFFS = (
    "The student at the density cut-offs (per metre) of the literature, in view, in percent: IoU / precision / recall."
)
CAPTION_CALIBRATION = "How far the stated probabilities are from the observed frequencies, in view."


def depth_table(scores: Sequence[WindowScores]) -> str:
    """Depth errors of all windows and methods."""
    rows = [
        [window.window, method, *(f"{value:.3f}" for value in asdict(errors).values())]
        for window in scores
        for method, errors in window.depth.items()
    ]
    return table(["window", "method", *(field.name for field in fields(DepthErrors))], rows)


def voxel_table(scores: Sequence[WindowScores]) -> str:
    """Occupancy scores of all windows, regions and methods, one column a range."""
    ranges = sorted({range_m for window in scores for cells in window.voxels.values() for range_m, _ in cells})
    rows = []
    for window in scores:
        regions = list(dict.fromkeys(region for cells in window.voxels.values() for _, region in cells))
        for region in regions:
            for method, cells in window.voxels.items():
                rows.append([window.window, region, method, *(_cell(cells[range_m, region]) for range_m in ranges)])
    return table(["window", "region", "method", *(f"{range_m} m" for range_m in ranges)], rows)


def cutoff_table(scores: Sequence[WindowScores]) -> str:
    """IoU, precision and recall at the density cut-offs of the literature."""
    rows, ranges = [], []
    for window in scores:
        for name, cells in window.cutoffs.items():
            ranges = [range_m for range_m, *_ in cells]
            rows.append([window.window, name, *(" / ".join(map(percent, values)) for _, *values in cells)])
    return table(["window", "cut-off", *(f"{range_m} m" for range_m in ranges)], rows)


def calibration_table(scores: Sequence[WindowScores]) -> str:
    """Expected calibration error and Brier score."""
    rows = [
        [window.window, method, f"{errors.expected_calibration_error:.4f}", f"{errors.brier:.4f}"]
        for window in scores
        for method, errors in window.calibration.items()
    ]
    return table(["window", "method", "expected calibration error", "Brier score"], rows)


def markdown(scores: Sequence[WindowScores]) -> str:
    """All tables with their captions."""
    parts = [CAPTION_DEPTH, depth_table(scores), CAPTION_VOXELS, voxel_table(scores)]
    if any(window.cutoffs for window in scores):
        parts += [CAPTION_CUTOFFS, cutoff_table(scores)]
    if any(window.calibration for window in scores):
        parts += [CAPTION_CALIBRATION, calibration_table(scores)]
    return "\n\n".join(parts) + "\n"


def as_json(scores: Sequence[WindowScores]) -> list[dict[str, Any]]:
    """All scores as plain values; undefined figures become None."""
    return [
        {
            "window": window.window,
            "depth": {method: asdict(errors) for method, errors in window.depth.items()},
            "voxels": [
                {"method": method, "range_m": range_m, "region": region, **defined_values(asdict(cell))}
                for method, cells in window.voxels.items()
                for (range_m, region), cell in cells.items()
            ],
            "cutoffs": [
                {
                    "cutoff": name,
                    "range_m": range_m,
                    **defined_values({"iou": iou, "precision": precision, "recall": recall}),
                }
                for name, cells in window.cutoffs.items()
                for range_m, iou, precision, recall in cells
            ],
            "calibration": {method: reliability_as_json(errors) for method, errors in window.calibration.items()},
        }
        for window in scores
    ]


def reliability_as_json(errors: CalibrationErrors) -> dict[str, Any]:
    """Calibration errors and their bins as plain values."""
    return {
        "expected_calibration_error": errors.expected_calibration_error,
        "brier": errors.brier,
        "reliability": [
            defined_values({"voxels": int(voxels), "stated": float(stated), "observed": float(observed)})
            for voxels, stated, observed in zip(*errors.reliability, strict=True)
        ],
    }


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(scores: OccupancyScores) -> str:
    return " / ".join(map(percent, (scores.iou, scores.best_iou, scores.average_precision)))


def percent(value: float) -> str:
    """A share as percent with one decimal, a dash where it is not defined."""
    return "–" if math.isnan(value) else f"{100.0 * value:.1f}"


def defined_values(values: dict[str, Any]) -> dict[str, Any]:
    """The values, also those of values, with None for those that are not defined."""
    nested = {key: defined_values(value) if isinstance(value, dict) else value for key, value in values.items()}
    return {key: None if isinstance(value, float) and math.isnan(value) else value for key, value in nested.items()}
