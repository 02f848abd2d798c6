"""How well the motion of one camera replaces a stereo pair: as depth against LiDAR, and as the judge of students.

    python -m benchmarks.motion_stereo depth --data DIR [--windows 04]
    python -m benchmarks.motion_stereo judge --data DIR [--drives kitti_raw/2011_09_26_0013] [--metres 9]

`depth` takes the frames of KITTI windows whose neighbours are there on both sides. `judge` lets both say what lies in
the voxels of frames of a drive. They compare `kitti_student` with worse versions of itself, and with `street_large`.
"""

from __future__ import annotations

import argparse
import dataclasses
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from scene_completion_ros.evaluation.label_free import LabelFreeScores, Verdict, compare, places_along
from scene_completion_ros.evaluation.student_comparison import DECIDING, PLACE, score_frame
from scene_completion_ros.geometry import Camera
from scene_completion_ros.geometry.depth_images import depth_at_rays
from scene_completion_ros.inference.bundle import StudentBundle
from scene_completion_ros.inference.completer import Completer
from scene_completion_ros.inference.shipped import open_student
from scene_completion_ros.sequences.kitti import kitti_odometry
from scene_completion_ros.sequences.opening import open_recording
from scene_completion_ros.sequences.posed_sequence import PosedSequence
from scene_completion_ros.sequences.rigs import cameras_ahead
from scene_completion_ros.voxels.occupancy import log_odds_of_probability, probability_of_log_odds
from scene_completion_training.data.motion_stereo import DepthMeter, depth_meter
from scene_completion_training.data.stereo import MeasuredDepth
from scene_completion_training.evaluation.kitti import open_window
from scene_completion_training.improvement.judging import observations
from scene_completion_training.improvement.split import places_of, way
from scene_completion_training.viewpoint import STREET_AHEAD_M

FARTHEST_M = 80.0
WRONG = 0.2
"""Error of a depth, as a part of it, from which it is a mistake."""
FRAMES = range(2, 8)
"""Of a window's ten."""


class DepthErrors(NamedTuple):
    """Sums over pixels with LiDAR.

    Attributes:
        pixels: How many there are.
        measured: How many have a measured depth.
        relative: Sum of |z - z*| / z*.
        within: How many lie within two stated deviations.
        wrong: How many are off by `WRONG`.
    """

    pixels: float = 0.0
    measured: float = 0.0
    relative: float = 0.0
    within: float = 0.0
    wrong: float = 0.0

    def plus(self, found: MeasuredDepth, truth: NDArray[np.float32], camera: Camera) -> DepthErrors:
        """With another frame, whose true depth [H, W] has a camera of its own."""
        depth, deviation = (depth_at_rays(part, found.camera, camera) for part in (found.depth, found.deviation))
        there = (truth > 0.0) & (truth < FARTHEST_M)
        known = there & (depth > 0.0)
        error = np.abs(depth[known] - truth[known])
        added = (
            there.sum(),
            known.sum(),
            (error / truth[known]).sum(),
            (error <= 2.0 * deviation[known]).sum(),
            (error > WRONG * truth[known]).sum(),
        )
        return DepthErrors(*(float(one + other) for one, other in zip(self, added, strict=True)))

    def row(self) -> str:
        """Cells of a table."""
        of_measured = (self.relative, self.within, self.wrong)
        cells = [self.measured / self.pixels, *(value / max(self.measured, 1.0) for value in of_measured)]
        return " | ".join(f"{cell:.3f}" for cell in cells)


def one_camera(sequence: PosedSequence) -> PosedSequence:
    """The drive as its left camera alone has recorded it."""
    name = cameras_ahead(sequence)[0]
    frames = [dataclasses.replace(frame, images={name: frame.images[name]}) for frame in sequence.frames]
    return dataclasses.replace(
        sequence,
        cameras={name: sequence.cameras[name]},
        rig_from_camera={name: sequence.rig_from_camera[name]},
        frames=frames,
    )


def depth_table(data: Path, windows: Sequence[str]) -> None:
    """Prints how well both measure what LiDAR measured."""
    print("| window | depth | measured | abs_rel | within 2 deviations | off by 20 % | CPU s a frame |")
    print("|---|---|---|---|---|---|---|")
    for name in windows:
        window = open_window(data, name)
        pair = kitti_odometry(data / "kitti_windows" / "sequences" / name)
        truths = {index: window.depth_truth(index) for index in FRAMES}
        for drive in (pair, one_camera(pair)):
            meter: DepthMeter = depth_meter(drive, STREET_AHEAD_M)
            errors, begin = DepthErrors(), time.process_time()
            for index in range(len(drive)):
                found = meter(index)
                if index in truths:
                    errors = errors.plus(found, truths[index], window.camera)
            seconds = (time.process_time() - begin) / len(drive)
            print(f"| {name} | {meter.told} | {errors.row()} | {seconds:.2f} |", flush=True)


def worse_versions() -> dict[str, Callable[[NDArray[np.float32], int], NDArray[np.float32]]]:
    """What may be wrong with a student: name -> its probabilities [X, Y, Z] at a frame -> worse ones."""

    def noisy(probability: NDArray[np.float32], frame: int) -> NDArray[np.float32]:
        noise = np.random.default_rng(frame).normal(size=probability.shape)
        certain = np.clip(probability.astype(np.float64), 1e-6, 1.0 - 1e-6)
        return np.asarray(probability_of_log_odds(log_odds_of_probability(certain) + noise), np.float32)

    def shifted(probability: NDArray[np.float32], _: int) -> NDArray[np.float32]:
        return np.roll(probability, 2, axis=0)

    def blurred(probability: NDArray[np.float32], _: int) -> NDArray[np.float32]:
        blocks = probability.reshape(*(part for size in probability.shape for part in (size // 2, 2)))
        return np.kron(blocks.mean(axis=(1, 3, 5)), np.ones((2, 2, 2))).astype(np.float32)

    return {"noise of 1 nat": noisy, "two voxels farther": shifted, "voxels twice as large": blurred}


def judge_table(data: Path, drives: Sequence[str], metres: float, threads: int) -> None:
    """Prints how both judge voxels, and students."""
    students = {name: open_student(name) for name in ("kitti_student", "street_large")}
    worse = worse_versions()
    names = [*students, *worse]
    grid, reach = students["kitti_student"].grid, STREET_AHEAD_M
    scores: dict[str, list[LabelFreeScores]] = {}
    agreement = np.zeros((3, 3), np.int64)  # free, occupied, nothing: of the pair, of the motion
    for number, folder in enumerate(drives):
        pair = open_recording(data / folder)
        alone, travelled = one_camera(pair), way(places_of(pair))
        places, wanted = places_along(travelled.tolist(), PLACE * reach), np.arange(0.0, travelled[-1] - reach, metres)
        camera = pair.cameras[cameras_ahead(pair)[0]]
        completers = {name: Completer(one, camera, threads=threads) for name, one in students.items()}
        for index in np.searchsorted(travelled, wanted).tolist():
            image = pair.image(index, cameras_ahead(pair)[0])
            said = {name: np.asarray(one.complete(image).probability) for name, one in completers.items()}
            said |= {name: change(said["kitti_student"], index) for name, change in worse.items()}
            verdicts = []
            for drive in (pair, alone):
                own, later = observations(drive, index, travelled, reach, students["kitti_student"].grid_from_camera)
                added = scores.setdefault(depth_meter(drive, reach).told, [])
                if not added:
                    added += [LabelFreeScores(grid, _threshold(students, name), (reach,)) for name in names]
                shown = completers["kitti_student"].in_view
                place = (number, places[index])
                verdicts.append(score_frame(added, [said[name] for name in names], own, later, shown, place=place))
            agreement += _agreement(*verdicts)
            print(f"{folder}, frame {index}", flush=True)
    print("\n| | free by motion | occupied | nothing |\n|---|---|---|---|")
    for name, row in zip(("free by the pair", "occupied", "nothing"), agreement, strict=True):
        print(f"| {name} | {' | '.join(str(value) for value in row)} |")
    both = agreement[:2, :2]
    print(f"\nagree where both have a verdict: {np.trace(both) / both.sum():.4f}")
    print(f"of the pair's verdicts, motion has one too: {both.sum() / agreement[:2].sum():.4f}\n")
    print("| compared with kitti_student | measure | by | kitti_student | the other | gain | 90 % interval |")
    print("|---|---|---|---|---|---|---|")
    for number, name in enumerate(names[1:], 1):
        for measure in DECIDING:
            for told, found in scores.items():
                one = compare(found[0], found[number], measure)
                print(
                    f"| {name} | {measure.replace('_', ' ')} | {told} | {one.old:.4f} | {one.new:.4f} "
                    f"| {one.gain:+.4f} | {one.low:+.4f} to {one.high:+.4f} |"
                )


def _threshold(students: dict[str, StudentBundle], name: str) -> float:
    return students.get(name, students["kitti_student"]).threshold


def _agreement(pair: Verdict, motion: Verdict) -> NDArray[np.int64]:
    """Voxels [3, 3] that both call free, occupied and nothing; the pair along rows."""
    one, other = (np.where(found.free, 0, np.where(found.occupied, 1, 2)) for found in (pair, motion))
    return np.bincount((3 * one + other).reshape(-1), minlength=9).reshape(3, 3)


def main(argv: Sequence[str] | None = None) -> None:
    """Prints one of the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", choices=("depth", "judge"))
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--windows", nargs="+", default=["04"])
    parser.add_argument("--drives", nargs="+", default=["kitti_raw/2011_09_26_0013"])
    parser.add_argument("--metres", type=float, default=9.0, help="way between judged frames")
    parser.add_argument("--threads", type=int, default=1, help="of the encoder")
    arguments = parser.parse_args(argv)
    if arguments.table == "depth":
        depth_table(arguments.data, arguments.windows)
    else:
        judge_table(arguments.data, arguments.drives, arguments.metres, arguments.threads)


if __name__ == "__main__":
    main()
