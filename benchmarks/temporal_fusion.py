"""What fusing successive frames changes: occupancy against exact voxels, flicker, calibration, and what it costs.

    python -m benchmarks.temporal_fusion TOWN... [--json FILE]          a table, and the speed
    python -m benchmarks.temporal_fusion TOWN... --settings             settings side by side, on validation towns

Towns are those of ``scene-completion street-world --seed N --frames 22 --size 928 280 --assets lidar voxels depth``.
Weights were chosen on 1101 and 1102 with ``--settings``, by the mean average precision of occluded and visible voxels
at the three ranges. No threshold touches that. Among those within 0.2 points of the largest, flicker chose.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.completion import hardware, table
from benchmarks.fused_answers import (
    Answers,
    DrivenFrame,
    Flicker,
    Fusion,
    LastFrame,
    Maximum,
    SingleFrame,
    Sum,
    common_voxels,
)
from scene_completion_ros.evaluation.calibration import CalibrationMetric
from scene_completion_ros.evaluation.occupancy import SSCBENCH_RANGES, OccupancyByRange
from scene_completion_ros.evaluation.truth import ALL, OCCLUDED, VISIBLE, VoxelTruth
from scene_completion_ros.inference.bundle import DEFAULT_BUNDLE, StudentBundle
from scene_completion_ros.inference.completer import Completer
from scene_completion_ros.inference.encoder import cpu_engine
from scene_completion_ros.inference.shipped import open_student
from scene_completion_ros.mapping.temporal_fusion import FusedFrame, FusionSettings, TemporalFusion
from scene_completion_ros.sequences.opening import open_recording, voxel_truth
from scene_completion_ros.sequences.rigs import reference_camera
from scene_completion_ros.voxels.semantic_voxels import SemanticVoxels, VoxelState

REGIONS = (OCCLUDED, VISIBLE, ALL)
ONE_FRAME_FROM, FUSED_FROM = 0.6, 0.5
"""Thresholds with the largest mean of the nine IoUs on the validation towns, among tenths, for the shipped student."""
FIRST = 4
"""Frames of a town that are driven before one is scored: memory needs some."""
WIDE = 30.0
"""Margin of the larger map, metres."""
WINDOW = 10
"""Frames that are fused anew where no map is kept."""


class Row:
    """All scores of one way to answer."""

    def __init__(self) -> None:
        self.occupancy: OccupancyByRange | None = None
        self.calibration = CalibrationMetric()
        self.flicker = Flicker()

    def score(self, probability: Any, occupied: Any, truth: VoxelTruth) -> None:
        """Count a frame against its ground truth."""
        if self.occupancy is None:
            self.occupancy = OccupancyByRange(truth.grid)
        regions = {region: truth.regions[region] for region in REGIONS}
        self.occupancy.update(probability, truth.occupied, truth.known, regions, occupied)
        counted = truth.counted
        self.calibration.update(probability[counted], truth.occupied[counted])

    def result(self) -> dict[str, Any]:
        """Everything as plain JSON values."""
        assert self.occupancy is not None
        changes, compared, occupied = (int(count) for count in self.flicker.counts)
        return {
            "voxels": {
                region: {f"{range_m:g}": asdict(scores) for (range_m, of), scores in found.items() if of == region}
                for found in (self.occupancy.compute(),)
                for region in REGIONS
            },
            "expected_calibration_error": self.calibration.compute().expected_calibration_error,
            "flicker": {"changes": changes, "compared": compared, "occupied_in_either": occupied},
        }


def main(argv: Sequence[str] | None = None) -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("towns", type=Path, nargs="+", help="folders of towns with exact voxels")
    parser.add_argument("--bundle", type=Path, default=DEFAULT_BUNDLE, help="student bundle")
    parser.add_argument("--every", type=int, default=3, help="frames between those that are scored")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--settings", action="store_true", help="compare settings instead of methods")
    parser.add_argument("--json", type=Path, help="file for all figures")
    arguments = parser.parse_args(argv)
    bundle = open_student(arguments.bundle)
    ways = settings_side_by_side(bundle) if arguments.settings else methods(bundle)
    rows: dict[str, Row] = {name: Row() for name in ways}
    for town in arguments.towns:
        measure_town(bundle, town, ways, rows, arguments.every, arguments.threads)
    results = {name: row.result() for name, row in rows.items()}
    print(quality_table(results))
    document: dict[str, Any] = {
        "towns": [town.name for town in arguments.towns],
        "bundle": bundle.name,
        "encoder_sha256": bundle_digest(arguments.bundle),
        "threshold": bundle.threshold,
        "every": arguments.every,
        "first": FIRST,
        "settings": asdict(FusionSettings()),
        "results": results,
    }
    if not arguments.settings:
        print("\n" + hardware(arguments.threads))
        frames = [frame for frame, _ in driven(bundle, arguments.towns[0], arguments.threads)]
        text, document["speed"] = speed_table(frames, bundle.threshold, arguments.threads)
        print("\n" + text)
    if arguments.json:
        arguments.json.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def methods(bundle: StudentBundle) -> dict[str, Callable[[], Answers]]:
    """The fused map, the frame alone, and controls."""
    threshold, settings = bundle.threshold, FusionSettings()
    return {
        "one frame": lambda: SingleFrame(threshold),
        "the frame before, moved": lambda: LastFrame(threshold, settings.prior),
        "largest probability so far": lambda: Maximum(threshold, settings.prior),
        "log odds added up": lambda: Sum(threshold, settings.prior),
        "**fused**": lambda: Fusion(threshold, settings),
        f"one frame, occupied from {ONE_FRAME_FROM:g}": lambda: SingleFrame(ONE_FRAME_FROM),
        f"fused, occupied from {FUSED_FROM:g}": lambda: Fusion(FUSED_FROM, settings),
        "fused, odometry 2 % too long": lambda: Fusion(threshold, settings, stretch=1.02),
        "fused, odometry turns 1°/s": lambda: Fusion(threshold, settings, turn=np.radians(1.0)),
    }


def settings_side_by_side(bundle: StudentBundle) -> dict[str, Callable[[], Answers]]:
    """The frame alone, the settings as they are, and others in which one or two are different."""
    changes: list[dict[str, float]] = [
        {},
        {"seen_frames": 3.0},
        {"seen_frames": 3.0, "inferred_weight": 0.1, "inferred_frames": 1.0},
        {"seen_frames": 10.0},
        {"inferred_weight": 1.0, "inferred_frames": 1.0},
        {"inferred_weight": 0.1, "inferred_frames": 1.0},
        {"inferred_frames": 1.0},
        {"reach": 10.0},
        {"reach": 30.0},
        {"largest_log_odds": 2.5},
        {"half_life": 0.5},
        {"half_life": 20.0},
    ]

    def way(change: dict[str, float]) -> Callable[[], Answers]:
        return lambda: Fusion(bundle.threshold, replace(FusionSettings(), **change))

    thresholds: dict[str, Callable[[], Answers]] = {
        "one frame": lambda: SingleFrame(bundle.threshold),
        **{f"one frame, from {value:g}": partial(SingleFrame, value) for value in (0.4, 0.5, 0.6, 0.7)},
        **{f"fused, from {value:g}": partial(Fusion, value, FusionSettings()) for value in (0.4, 0.5, 0.6)},
    }
    named = {", ".join(f"{name} {value:g}" for name, value in change.items()) or "as is": change for change in changes}
    return {**thresholds, **{name: way(change) for name, change in named.items()}}


def driven(bundle: StudentBundle, town: Path, threads: int) -> Iterator[tuple[DrivenFrame, VoxelTruth | None]]:
    """The frames of a town, completed, and their ground truth."""
    sequence = open_recording(town)
    camera = reference_camera(sequence)
    completer = Completer(bundle, sequence.cameras[camera], engine=cpu_engine(), threads=threads)
    for index, frame in enumerate(sequence.frames):
        completion = completer.complete(sequence.image(index, camera), frame.stamp_ns)
        pose = sequence.world_from_camera(index, camera) @ completer.grid_from_camera.inverse()
        yield DrivenFrame(completion, pose), voxel_truth(sequence, index)


def measure_town(
    bundle: StudentBundle,
    town: Path,
    ways: dict[str, Callable[[], Answers]],
    rows: dict[str, Row],
    every: int,
    threads: int,
) -> None:
    """Drive through a town once, and count what every way answers."""
    answers = {name: make() for name, make in ways.items()}
    before: DrivenFrame | None = None
    for index, (frame, truth) in enumerate(driven(bundle, town, threads)):
        pairs = None if before is None else common_voxels(before, frame)
        scored = truth if index >= FIRST and (index - FIRST) % every == 0 else None
        for name, answer in answers.items():
            probability, occupied = answer(frame)
            rows[name].flicker.update(occupied, pairs)
            if scored is not None:
                rows[name].score(probability, occupied, scored)
        before = frame


def quality_table(results: dict[str, dict[str, Any]]) -> str:
    """IoU and average precision by region and range, calibration error and flicker."""
    rows = []
    for name, found in results.items():
        ious = [[found["voxels"][region][f"{range_m:g}"]["iou"] for range_m in SSCBENCH_RANGES] for region in REGIONS]
        precision = [
            [found["voxels"][region][f"{range_m:g}"]["average_precision"] for range_m in SSCBENCH_RANGES]
            for region in (OCCLUDED, VISIBLE)
        ]
        flicker = found["flicker"]
        rows.append(
            (
                name,
                *(" / ".join(f"{100 * value:.1f}" for value in of_region) for of_region in (*ious, *precision)),
                f"{found['expected_calibration_error']:.3f}",
                f"{100 * flicker['changes'] / flicker['compared']:.2f}",
                f"{100 * flicker['changes'] / flicker['occupied_in_either']:.1f}",
            )
        )
    header = (
        "IoU, %, at 12.8 / 25.6 / 51.2 m",
        *REGIONS,
        *(f"AP, {region}" for region in (OCCLUDED, VISIBLE)),
        "ECE",
        "flicker, % of voxels",
        "% of the occupied",
    )
    return table(header, rows)


class WholeMap(TemporalFusion):
    """What a map would cost that is copied where it moves, and in which every voxel fades with every frame."""

    def fuse(self, *arguments: Any) -> FusedFrame:
        """Fuses, and besides copies all of the memory once and fades all weights; both are thrown away."""
        before = self.box.lower.copy()
        result = super().fuse(*arguments)
        step = tuple(int(move) for move in before - self.box.lower)
        copied = [np.roll(array, step, axis=(0, 1, 2)) for array in self.memory]
        copied[1] *= np.float32(0.97)
        return result


class Anew(TemporalFusion):
    """What is paid where nothing is kept but frames: the last ones are fused again with every new one."""

    def fuse(self, *arguments: Any) -> FusedFrame:
        """Fuses the last frames, this one included, into an empty map."""
        self._frames = [*getattr(self, "_frames", [])[1 - WINDOW :], arguments]
        self.reset()
        return [super(Anew, self).fuse(*frame) for frame in self._frames][-1]


def speed_table(frames: Sequence[DrivenFrame], threshold: float, threads: int) -> tuple[str, dict[str, Any]]:
    """Time of a frame, in turn for all maps, as a table and as plain values.

    Args:
        frames: A drive, of which the first frames, as many as are fused anew, do not count.
    """
    grid, pose = frames[0].completion.voxels.grid, frames[0].completion.voxels.grid_from_camera
    plain, wide = FusionSettings(), FusionSettings(margin=WIDE)
    maps: dict[str, tuple[TemporalFusion, Callable[[SemanticVoxels], SemanticVoxels]]] = {
        "fused": (TemporalFusion(grid, pose, threshold, plain, threads=threads), lambda voxels: voxels),
        f"a map {WIDE:g} m larger on all sides": (
            TemporalFusion(grid, pose, threshold, wide, threads=threads),
            lambda voxels: voxels,
        ),
        "a frame of the middle quarter": (TemporalFusion(grid, pose, threshold, plain, threads=threads), _middle),
        "all of the map copied and faded": (
            WholeMap(grid, pose, threshold, plain, threads=threads),
            lambda voxels: voxels,
        ),
        f"the last {WINDOW} frames anew": (Anew(grid, pose, threshold, plain, threads=threads), lambda voxels: voxels),
    }
    seconds: dict[str, list[float]] = {name: [] for name in maps}
    updated: dict[str, list[int]] = {name: [] for name in maps}
    entered: dict[str, list[int]] = {name: [] for name in maps}
    for frame in frames:
        for name, (fusion, view) in maps.items():
            voxels = view(frame.completion.voxels)
            start = time.perf_counter()
            result = fusion.fuse(voxels, frame.completion.probability, frame.odometry_from_grid)
            seconds[name].append(time.perf_counter() - start)
            updated[name].append(result.updated)
            entered[name].append(result.entered)
    rows, values = [], {}
    base = np.array(seconds["fused"][WINDOW:])
    for name, (fusion, _) in maps.items():
        found = np.array(seconds[name][WINDOW:])
        values[name] = {
            "box_voxels": int(np.prod(fusion.box.shape)),
            "updated": float(np.median(updated[name][WINDOW:])),
            "entered": float(np.median(entered[name][WINDOW:])),
            "p50_ms": 1e3 * float(np.median(found)),
            "ratio": float(np.median(found / base)),
            "memory_mb": sum(array.nbytes for array in fusion.memory) / 1e6,
        }
        rows.append(
            (
                name,
                *(f"{values[name][key]:.0f}" for key in ("box_voxels", "memory_mb", "updated", "entered", "p50_ms")),
                f"{values[name]['ratio']:.2f}",
            )
        )
    total = 1e3 * float(np.median([frame.completion.timings_ms["total"] / 1e3 for frame in frames]))
    values["completion"] = {"p50_ms": total}
    header = ("map", "voxels of the map", "MB", "voxels updated", "voxels entered", "p50 ms", "times fused")
    return table(header, rows) + f"\n\nCompletion of a frame: {total:.0f} ms.", values


def _middle(voxels: SemanticVoxels) -> SemanticVoxels:
    """Only what lies in the middle quarter of the grid's width."""
    width = voxels.grid.shape[1]
    state = voxels.state.copy()
    state[:, : 3 * width // 8] = state[:, 5 * width // 8 :] = VoxelState.UNOBSERVED
    kept = state[tuple(voxels.index.T)] >= VoxelState.SURFACE
    names = ("index", "probability", "label", "confidence")
    return replace(voxels, state=state, **{name: getattr(voxels, name)[kept] for name in names})


def bundle_digest(folder: Path) -> str:
    """Which weights were measured."""
    return str(json.loads((folder / "student.json").read_text(encoding="utf-8"))["sha256"]["encoder.onnx"])


if __name__ == "__main__":
    main()
