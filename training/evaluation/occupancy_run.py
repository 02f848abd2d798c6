"""One evaluation of occupancy: models and controls over the frames of recordings, under every protocol they allow.

The result is written as Markdown and as plain JSON values.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from scene_completion_ros.errors import SequenceError
from scene_completion_ros.evaluation.invisible_empty import SCORE_NAMES, InvisibleEmptyResult
from scene_completion_ros.evaluation.occupancy import OccupancyScores
from scene_completion_ros.evaluation.truth import OCCLUDED, VoxelTruth
from scene_completion_ros.sequences.opening import voxel_truth
from scene_completion_ros.sequences.posed_sequence import PosedSequence
from scene_completion_training.evaluation.density_model import DensityModel, Observation
from scene_completion_training.evaluation.exact_evaluation import CalibrationFit, ExactEvaluation, ExactResult
from scene_completion_training.evaluation.lidar_evaluation import (
    LIDAR,
    PROTOCOLS,
    LidarEvaluation,
    Setting,
    camera_pitch,
    level_scans,
)
from scene_completion_training.evaluation.tables import defined_values, percent, reliability_as_json, table

Observed = list[tuple[DensityModel, Observation]]

FrameHook = Callable[[PosedSequence, int, VoxelTruth | None, Observed], None]

CAPTION_VOXELS = (
    "Ground truth voxels in view, in percent: IoU / precision / recall by the rule, then best IoU over all thresholds "
    "/ average precision. The last two do not depend on the rule. `occluded` is hidden from the camera and not inside "
    "of a house, car or crown. `all` is visible or occluded. `interiors` are those insides, which no sensor sees. What "
    "is below the ground or unknown does not count. The best IoU of a method without any score is that of calling "
    "everything occupied."
)
CAPTION_CALIBRATION = (
    "How far stated probabilities are from observed frequencies, region `all`: before calibration the opacity of "
    "a 0.2 m voxel is taken for the probability."
)
CAPTION_LIDAR = (
    "LiDAR protocol {setting}: N = {scans} scans. A point is occupied if at most two of them saw it free (c >= N - 2). "
    "The camera is taken to look {pitch:g}° down. Scores in percent, means over frames in which they are defined; "
    "counts are sums over frames. t_ie are the occluded free points.{warning}"
)
WARNING_ORIGINAL = (
    " Points in front of the model's own depth count as visible here. So each row is scored on other points, and a "
    "field that sees through everything has no occluded ones. Never compare O_acc alone."
)


@dataclass(frozen=True)
class RunSettings:
    """What is evaluated of a recording.

    Attributes:
        scans: Scans N that the LiDAR protocols accumulate.
        every: Frames between evaluated ones.
        pitch: How far the reference camera looks down, radians; None for what is known of the data set.
    """

    scans: int = 20
    every: int = 5
    pitch: float | None = None


@dataclass(frozen=True, eq=False)
class OccupancyResult:
    """All scores of a run.

    Attributes:
        exact: Against ground truth voxels; None where no frame has any.
        lidar: Under the LiDAR protocols: (setting, model, rule) -> scores; empty without LiDAR.
    """

    recordings: tuple[str, ...]
    exact: ExactResult | None
    lidar: dict[tuple[Setting, str, str], InvisibleEmptyResult]


def lidar_frames(sequence: PosedSequence, settings: RunSettings) -> range:
    """Frames that the LiDAR protocols score: those with all N scans ahead, or frame 0 of a shorter recording."""
    if LIDAR not in sequence.rig_from_sensor or "lidar" not in sequence.frames[0].assets:
        return range(0)
    return range(0, max(1, len(sequence) - settings.scans + 1), settings.every)


def exact_frames(sequence: PosedSequence, every: int) -> Iterator[tuple[int, VoxelTruth]]:
    """Frames that have ground truth voxels, with these."""
    for index in range(0, len(sequence), every):
        truth = voxel_truth(sequence, index)
        if truth is not None:
            yield index, truth


def evaluate(
    recordings: Sequence[PosedSequence],
    models_of: Callable[[PosedSequence], list[DensityModel]],
    settings: RunSettings,
    on_frame: FrameHook | None = None,
) -> OccupancyResult:
    """Score models on recordings.

    Args:
        models_of: Models and controls for one of them; equal names are the same model.
        on_frame: Told of every evaluated frame.

    Raises:
        SequenceError: No frame has ground truth of any kind.
    """
    lidar, exact = LidarEvaluation(), ExactEvaluation()
    for sequence in recordings:
        models = models_of(sequence)
        pitch = camera_pitch(sequence) if settings.pitch is None else settings.pitch
        for index in range(0, len(sequence), settings.every):
            truth, scanned = voxel_truth(sequence, index), index in lidar_frames(sequence, settings)
            if truth is None and not scanned:
                continue
            observed = [(model, model.observe(sequence, index)) for model in models]
            if truth is not None:
                exact.update(truth, observed)
            if scanned:
                lidar.update(level_scans(sequence, index, settings.scans, pitch), pitch, observed)
            if on_frame is not None:
                on_frame(sequence, index, truth, observed)
    if not exact.frames and not lidar.metrics:
        raise SequenceError(
            "no frame has ground truth voxels or LiDAR",
            where=", ".join(sequence.name for sequence in recordings),
            cure="Render the town with its assets, or name recordings with LiDAR",
        )
    names = tuple(sequence.name for sequence in recordings)
    return OccupancyResult(names, exact.compute() if exact.frames else None, lidar.compute())


def calibrate_model(model: DensityModel, recordings: Sequence[PosedSequence], every: int) -> DensityModel:
    """Fit a model's calibration and threshold on recordings that it is neither trained nor scored on.

    Raises:
        GridError: There is no ground truth, or the model does not tell occupied from free voxels.
    """
    fit = CalibrationFit()
    for sequence in recordings:
        for index, truth in exact_frames(sequence, every):
            fit.update(truth, model.observe(sequence, index))
    return fit.fitted(model)


def markdown(result: OccupancyResult, evaluated: Sequence[str]) -> str:
    """All tables with their captions; `evaluated` names the models that are no controls."""
    parts = [f"Recordings: {', '.join(result.recordings)}."]
    if result.exact is not None:
        parts += [f"{CAPTION_VOXELS} {result.exact.frames} frames.", voxel_table(result.exact)]
        if evaluated:
            controls = {model for model, _ in result.exact.voxels} - set(evaluated)
            parts += [comparison(result.exact, evaluated)] if controls else []
            parts += [CAPTION_CALIBRATION, calibration_table(result.exact, evaluated)]
    for setting in sorted({setting for setting, _, _ in result.lidar}):
        warning = WARNING_ORIGINAL if PROTOCOLS[setting.protocol].model_depth_shows else ""
        about = {"setting": setting, "scans": setting.scans, "pitch": setting.pitch_degrees, "warning": warning}
        parts.append(CAPTION_LIDAR.format(**about))
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
    """All scores as plain values; undefined figures become None."""
    lidar = [
        {
            "protocol": setting.protocol,
            "scans": setting.scans,
            "camera_pitch_degrees": setting.pitch_degrees,
            "method": model,
            "rule": rule,
            **defined_values({f"{_title(key)}@{setting.scans}": value for key, value in asdict(found.scores).items()}),
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
                {"method": model, "rule": rule, "range_m": range_m, "region": region, **defined_values(asdict(cell))}
                for (model, rule), cells in result.exact.voxels.items()
                for (range_m, region), cell in cells.items()
            ],
            "calibration": {
                model: {name: reliability_as_json(errors) for name, errors in found.items()}
                for model, found in result.exact.calibration.items()
            },
        }
    return content


def _cell(scores: OccupancyScores) -> str:
    chosen = " / ".join(map(percent, (scores.iou, scores.precision, scores.recall)))
    return f"{chosen}, {percent(scores.best_iou)} / {percent(scores.average_precision)}"


def _title(name: str) -> str:
    """`o_acc` -> `O_acc`, `ie_acc` -> `IE_acc`, as the literature writes them."""
    kind, _, rest = name.partition("_")
    return f"{kind.upper()}_{rest}"
