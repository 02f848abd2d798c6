"""Old and new student on the same frames, judged by what later frames saw; whether the new one is accepted."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scene_completion_ros.evaluation.label_free import (
    MEASURES,
    REGIONS,
    Comparison,
    DepthObservation,
    LabelFreeScores,
    Measure,
    Verdict,
    compare,
    in_sight,
    judge,
    places_along,
)
from scene_completion_ros.geometry import Camera, RigidTransform, VoxelGrid
from scene_completion_ros.inference.bundle import StudentBundle
from scene_completion_ros.inference.completer import Completer, Completion
from scene_completion_ros.sequences.posed_sequence import PosedSequence
from scene_completion_training.data.stereo import depth_deviation, stereo_pair
from scene_completion_training.evaluation.controls import measured_depth
from scene_completion_training.evaluation.occupancy_run import open_recording
from scene_completion_training.viewpoint import STREET_AHEAD_M

MARGIN = 0.01
"""Average precision that a new student has to gain. Seeds of one training differ by 0.001 to 0.012, see results.md."""
TOLERANCE = 0.01
"""What it may lose elsewhere, of average precision or IoU: as much as chance alone does."""
SPACING_M = 3.0
"""Metres between frames that are scored, where the volume reaches as far as a street's, and in proportion elsewhere."""
OBSERVERS = 8
"""Later frames that judge one, spread evenly over the way ahead of it."""
DECIDING: Measure = "average_precision"
GUARDED: tuple[Measure, ...] = ("average_precision", "iou")
"""What must not become worse."""


@dataclass(frozen=True, eq=False)
class JudgedFrame:
    """A frame that both students completed.

    Attributes:
        number: Of the frame in its drive.
        image: What the camera saw, uint8 [H, W, 3].
        old: What the old student made of it.
        new: What the new one did.
        verdict: What this frame and later ones saw.
        gain: Of the new student's mean log loss there, nats.
    """

    drive: str
    number: int
    image: NDArray[np.uint8]
    camera: Camera
    old: Completion
    new: Completion
    verdict: Verdict
    gain: float


@dataclass(frozen=True, eq=False)
class Judgement:
    """Scores of both students on the same frames.

    Attributes:
        drives: Name -> number of scored frames.
    """

    old: LabelFreeScores
    new: LabelFreeScores
    drives: dict[str, int]

    def comparison(self, measure: Measure, region: str = "all") -> Comparison:
        """The two by one measure, over the whole reach of the grid."""
        return compare(self.old, self.new, measure, region=region)

    def content(self) -> dict[str, Any]:
        """Plain values: all scores, and all comparisons."""
        both = {"old": self.old, "new": self.new}
        scores = {
            name: {f"{region}, {reach:g} m": asdict(score) for (region, reach), score in one.compute().items()}
            for name, one in both.items()
        }
        compared = [
            asdict(self.comparison(measure, region))
            for measure in MEASURES
            for region in (("all",) if measure == "depth_abs_rel" else REGIONS)
        ]
        return {"drives": self.drives, "scores": scores, "comparisons": compared}


def judge_students(
    old: StudentBundle,
    new: StudentBundle,
    drives: Sequence[Path],
    *,
    engine: str = "auto",
    threads: int | None = None,
    seen: Callable[[JudgedFrame], None] = lambda _: None,
    progress: Callable[[list[Any]], Iterator[Any]] = iter,
) -> Judgement:
    """Completes frames of drives with both students, and scores them by what stereo saw of the space.

    Args:
        drives: Recordings with a rectified stereo pair that neither student was trained on.
        seen: Is shown every frame.
        progress: Goes through a list and shows how far it is.
    """
    reach = old.grid.shape[0] * old.grid.voxel_size
    scale = reach / STREET_AHEAD_M
    ranges = (reach / 4.0, reach / 2.0, reach)
    scores = [LabelFreeScores(one.grid, one.threshold, ranges) for one in (old, new)]
    tasks = []
    for number, folder in enumerate(drives):
        sequence = open_recording(folder)
        travelled = _travelled(sequence)
        places = places_along(travelled.tolist(), reach / 2.0)
        tasks += [(sequence, index, travelled, (number, places[index])) for index in _spaced(travelled, scale)]
    completers: dict[tuple[Camera, str], Completer] = {}
    counts: dict[str, int] = {}
    for sequence, index, travelled, place in progress(tasks):
        left = stereo_pair(sequence)[0]
        camera = sequence.cameras[left]
        for name, bundle in (("old", old), ("new", new)):
            if (camera, name) not in completers:
                completers[camera, name] = Completer(bundle, camera, engine=engine, threads=threads)
        image = sequence.image(index, left)
        said = [completers[camera, name].complete(image) for name in ("old", "new")]
        own, later = _observations(sequence, index, travelled, reach, old.grid_from_camera)
        visible, hidden = in_sight(own, old.grid)
        verdict = judge([own, *later], old.grid, (visible | hidden) & completers[camera, "old"].in_view)
        depth = _depth_of_rays(own, said[0].depth_camera, old.grid)
        for one, completion in zip(scores, said, strict=True):
            one.add(np.asarray(completion.probability), visible, verdict, depth=(completion.depth, depth), place=place)
        counts[sequence.name] = counts.get(sequence.name, 0) + 1
        gain = scores[0].last_log_loss - scores[1].last_log_loss
        seen(JudgedFrame(sequence.name, index, image, camera, said[0], said[1], verdict, gain))
    return Judgement(scores[0], scores[1], counts)


def reasons_against(
    new_drives: Judgement, old_drives: Judgement | None, *, margin: float = MARGIN, tolerance: float = TOLERANCE
) -> list[str]:
    """Why a new student is not accepted, in words with numbers; empty where it is.

    It has to be better on the new drives by more than a margin, and nowhere worse by more than a tolerance; each with a
    probability of 95 %.
    """
    found = []
    gained = new_drives.comparison(DECIDING)
    if not gained.better_by(margin):
        found.append(f"no gain on the held-out drive: {told(gained)}, wanted is more than {margin:g}")
    for where, judged in (("the held-out drive", new_drives), ("the old drives", old_drives)):
        for measure in GUARDED if judged is not None else ():
            assert judged is not None
            compared = judged.comparison(measure)
            if not compared.not_worse_by(tolerance):
                found.append(f"worse on {where}: {told(compared)}, allowed is a loss of {tolerance:g}")
    return found


def told(compared: Comparison) -> str:
    """A comparison in words."""
    name = compared.measure.replace("_", " ")
    text = f"{name} {compared.old:.4f} -> {compared.new:.4f}"
    if not math.isfinite(compared.low):
        return f"{text}, and too few places ({compared.places}) say how certain that is"
    return f"{text}, a gain between {compared.low:+.4f} and {compared.high:+.4f} over {compared.places} places"


def _travelled(sequence: PosedSequence) -> NDArray[np.float64]:
    places = np.stack([frame.world_from_rig.translation for frame in sequence.frames])
    return np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(places, axis=0), axis=1))])


def _spaced(travelled: NDArray[np.float64], scale: float) -> list[int]:
    """Frames some metres apart; not the last one, which nothing follows."""
    chosen = [0]
    for index in range(1, len(travelled) - 1):
        if travelled[index] - travelled[chosen[-1]] >= SPACING_M * scale:
            chosen.append(index)
    return chosen


def _observations(
    sequence: PosedSequence,
    index: int,
    travelled: NDArray[np.float64],
    reach: float,
    grid_from_camera: RigidTransform,
) -> tuple[DepthObservation, list[DepthObservation]]:
    """What a frame's stereo pair measured, and that of later frames within reach."""
    left, _, baseline = stereo_pair(sequence)
    camera = sequence.cameras[left]
    ahead = np.flatnonzero((travelled > travelled[index]) & (travelled <= travelled[index] + reach))
    wanted = ahead[np.unique(np.linspace(0, len(ahead) - 1, min(OBSERVERS, len(ahead))).round().astype(int))]
    here = grid_from_camera @ sequence.world_from_camera(index, left).inverse()

    def seen(other: int) -> DepthObservation:
        depth = measured_depth(sequence, other)
        deviation = depth_deviation(depth, camera.fx * baseline)
        return DepthObservation(depth, deviation, camera, here @ sequence.world_from_camera(other, left))

    return seen(index), [seen(int(other)) for other in wanted]


def _depth_of_rays(view: DepthObservation, rays: Camera, grid: VoxelGrid) -> NDArray[np.float32]:
    """Measured depth [h, w] at the rays of another camera at the same place, metres; 0 where it ends in no voxel."""
    through = np.asarray(rays.unproject(rays.pixel_centres()))
    pixels, inside = (np.asarray(part) for part in view.camera.project(through))
    nearest = np.floor(np.where(inside[..., None], pixels, 0.0) + 0.5).astype(np.int64)
    row, column = nearest[..., 1], nearest[..., 0]
    depth = np.where(inside & view.measured[row, column], view.depth[row, column], np.float32(0.0))
    ends = np.asarray(grid.index_of(view.grid_from_camera.apply(through * depth[..., None].astype(np.float64)))[1])
    return np.where(ends, depth, np.float32(0.0)).astype(np.float32)
