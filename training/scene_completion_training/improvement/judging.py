"""Old and new student on the same frames, judged by what later frames saw; whether the new one is accepted."""

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from scene_completion_ros.evaluation import label_free
from scene_completion_ros.evaluation.student_comparison import MARGIN, OBSERVERS, PLACE, SPACING, score_frame
from scene_completion_ros.geometry import Camera, RigidTransform, VoxelGrid
from scene_completion_ros.geometry.depth_images import depth_at_rays
from scene_completion_ros.inference.bundle import StudentBundle
from scene_completion_ros.inference.completer import Completer, Completion
from scene_completion_ros.inference.evidence import NETWORK_ALONE, NO_EVIDENCE, Sources
from scene_completion_ros.inference.volume_pose import volume_pose
from scene_completion_ros.sequences.opening import open_recording
from scene_completion_ros.sequences.posed_sequence import PosedSequence
from scene_completion_ros.sequences.rigs import cameras_ahead, mounting
from scene_completion_training.arrays import Bytes, Doubles, Floats
from scene_completion_training.data.drawn_views import metres_travelled
from scene_completion_training.data.motion_stereo import depth_meter
from scene_completion_training.evaluation.earlier_frames import EarlierFramesCompleted
from scene_completion_training.improvement.split import metres_of_a_turn, places_of, reach_of
from scene_completion_training.workers import Progress, Workers

TOLERANCE = 0.01  # what it may lose elsewhere, of average precision or IoU: as much as chance alone does
DECIDING: label_free.Measure = "average_precision"
GUARDED: tuple[label_free.Measure, ...] = ("average_precision", "iou")  # what must not become worse
# Share of the fine-tuned weights in the old student, and those that are tried: closer where forgetting begins.
OLD, SHARES = 0.0, (0.125, 0.25, 0.375, 0.5, 0.75, 1.0)


@dataclass(frozen=True, eq=False)
class Judgement:
    """Scores of both students on the same frames."""

    old: label_free.LabelFreeScores
    new: label_free.LabelFreeScores
    drives: dict[str, int]  # name -> number of scored frames
    seen: Sequence[Any] = ()  # what was said of each frame by whom it was shown to, in order

    @classmethod
    def of(cls, scored: "Scored") -> "Judgement":
        """That of an old and a new student, in this order."""
        old, new = scored.scores
        return cls(old, new, scored.drives, scored.seen)

    def comparison(self, measure: label_free.Measure, region: str = "all") -> label_free.Comparison:
        """The two by one measure, over the whole reach of the grid."""
        return label_free.compare(self.old, self.new, measure, region=region)

    def content(self) -> dict[str, Any]:
        """Plain values: all scores, and all comparisons."""
        both = {"old": self.old, "new": self.new}
        scores = {
            name: {f"{region}, {reach:g} m": asdict(score) for (region, reach), score in one.compute().items()}
            for name, one in both.items()
        }
        compared = [
            asdict(self.comparison(measure, region))
            for measure in label_free.MEASURES
            for region in (("all",) if measure == "depth_abs_rel" else label_free.REGIONS)
        ]
        return {"drives": self.drives, "scores": scores, "comparisons": compared}


class ScoredFrame(NamedTuple):
    """A frame that several students completed."""

    drive: str
    number: int  # of the frame in its drive
    image: Bytes  # what the camera saw, uint8 [H, W, 3]
    camera: Camera
    completions: list[Completion]
    verdict: label_free.Verdict
    log_loss: list[float]  # mean of each student there, nats
    key: str  # names it among all frames that are scored, in their order


class Scored(NamedTuple):
    """Scores of each student, how many frames each drive gave, and what was said of each frame."""

    scores: list[label_free.LabelFreeScores]
    drives: dict[str, int]
    seen: list[Any]


def score_students(
    students: Sequence[StudentBundle],
    drives: Sequence[Path],  # recordings that no student was trained on
    *,
    threads: int | None = None,
    # Is shown every frame, by the worker that scores it; what it says travels back.
    seen: Callable[[ScoredFrame], Any] = lambda _: None,
    workers: Workers | None = None,  # where drives are scored, one a task; in this process if left out
    sources: Sources = NETWORK_ALONE,  # what students are told of an image that take evidence
) -> Scored:
    """Completes frames of drives with students of one grid, and scores them by the depth that was measured.

    The scores are the same wherever a drive is scored.
    """
    scorer = _DriveScorer(tuple(students), threads, seen, sources)
    tasks = [_Drive(number, folder, scorer.frames(folder)) for number, folder in enumerate(drives)]
    found = (workers or Workers()).in_order(
        scorer.score,
        tasks,
        unit="frame",
        name=lambda drive: drive.folder.name,
        sizes=[len(drive.frames) for drive in tasks],
        needs=lambda drive: [drive.folder, *(one.folder for one in students if one.folder)],
    )
    all_scores, counts = scorer.no_scores(), Counter[str]()
    for drive in found:
        counts.update(drive.drives)
        for all_of_one, of_drive in zip(all_scores, drive.scores, strict=True):
            all_of_one.extend(of_drive)
    return Scored(all_scores, dict(counts), [shown for drive in found for shown in drive.seen])


class _Drive(NamedTuple):
    """A drive to be scored: its number among all, and the frames that count."""

    number: int
    folder: Path
    frames: list[int]


@dataclass(eq=False)
class _DriveScorer:
    """Scores students on drives. Whoever does it makes their completers, which do not travel."""

    students: tuple[StudentBundle, ...]
    threads: int | None
    seen: Callable[[ScoredFrame], Any]
    sources: Sources
    completers: dict[Camera, list[Completer]] = field(default_factory=dict)

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "completers": {}}

    @property
    def reach(self) -> float:
        return reach_of(self.students[0])

    def no_scores(self) -> list[label_free.LabelFreeScores]:
        ranges = (self.reach / 4.0, self.reach / 2.0, self.reach)
        return [label_free.LabelFreeScores(one.grid, one.threshold, ranges) for one in self.students]

    def frames(self, folder: Path) -> list[int]:
        return _spaced(self.travelled(open_recording(folder)), SPACING * self.reach)

    def travelled(self, sequence: PosedSequence) -> Doubles:
        """The way up to each frame [N], metres; of cameras in a hand with what their turns count as."""
        return metres_travelled(places_of(sequence, metres_of_a_turn(self.students[0])))

    def score(self, drive: _Drive, progress: Progress) -> Scored:
        sequence, first, reach = open_recording(drive.folder), self.students[0], self.reach
        travelled = self.travelled(sequence)
        places = label_free.places_along(travelled.tolist(), PLACE * reach)
        scores, shown = self.no_scores(), []
        told = self.sources != NETWORK_ALONE
        earlier = [
            EarlierFramesCompleted(self.sources) if told and one.takes_evidence else None for one in self.students
        ]
        for index in drive.frames:
            left = cameras_ahead(sequence)[0]
            camera = sequence.cameras[left]
            stated = mounting(sequence, left, index) if first.takes_pose else None
            pose = volume_pose(stated, first.height_above_ground) if stated else first.grid_from_camera
            completers = self._completers(camera)
            if stated:  # the grid stands upright below the camera
                completers = [completer.mounted(stated, pose) for completer in completers]
            image = sequence.image(index, left)
            completions = [
                completer.complete(
                    image, evidence=before.evidence(completer, sequence, index, left) if before else NO_EVIDENCE
                )
                for completer, before in zip(completers, earlier, strict=True)
            ]
            own, later = observations(sequence, index, travelled, reach, pose)
            depth = _depth_of_rays(own, completions[0].depth_camera, first.grid)
            said, seen = [np.asarray(one.probability) for one in completions], completers[0].in_view
            depths, place = [(one.depth, depth) for one in completions], (drive.number, places[index])
            verdict = score_frame(scores, said, own, later, seen, depths=depths, place=place)
            losses = [one.last_log_loss for one in scores]
            key = f"{drive.number:04d}{index:06d}"
            shown.append(self.seen(ScoredFrame(sequence.name, index, image, camera, completions, verdict, losses, key)))
            progress.step()
        return Scored(scores, {sequence.name: len(drive.frames)}, shown)

    def _completers(self, camera: Camera) -> list[Completer]:
        if camera not in self.completers:
            self.completers[camera] = [
                Completer(one, camera, threads=self.threads, views=self.sources.views) for one in self.students
            ]
        return self.completers[camera]


def best_threshold(groups: Sequence[label_free.LabelFreeScores]) -> float:
    """Probability from which a student's voxels are best called occupied, by the mean IoU over groups of drives."""
    (thresholds, *_), found = zip(*(group.iou_by_threshold() for group in groups), strict=True)
    return float(thresholds[int(np.mean(found, axis=0).argmax())])


@dataclass(frozen=True)
class Mixture:
    """What calibrating drives say of weights in between."""

    share: float  # of the fine-tuned weights
    new: float  # average precision on the new drives
    replayed: float | None  # the same on the replayed ones; None where there are none


def judge_mixtures(
    students: Mapping[float, StudentBundle], new: Sequence[Path], replayed: Sequence[Path], **options: Any
) -> list[Mixture]:
    """Average precision of students on drives that none was trained on, as later frames judge them.

    Args:
        students: Share of the fine-tuned weights -> student. All have one grid and one camera.
        new: Calibrating drives among the new recordings, at least one; `replayed` are those among the others.
        options: See `score_students`.
    """

    def precision(drives: Sequence[Path]) -> list[float | None]:
        if not drives:
            return [None] * len(students)
        scores = score_students(list(students.values()), drives, **options).scores
        return [one.compute()["all", max(one.ranges)].average_precision for one in scores]

    found = zip(students, precision(new), precision(replayed), strict=True)
    return [Mixture(share, math.nan if one is None else one, other) for share, one, other in found]


def best_share(mixtures: Sequence[Mixture], tolerance: float) -> float:
    """The share with the largest gain on the new drives among those that lose no more on the replayed ones.

    Where all lose more, the one that loses least.

    `mixtures`: one of them the old student; `tolerance`: loss in average precision that is allowed.
    """
    (old,) = (mixture for mixture in mixtures if mixture.share == OLD)
    tried = [mixture for mixture in mixtures if mixture.share != OLD]
    losses = {mixture.share: (old.replayed or 0.0) - (mixture.replayed or 0.0) for mixture in tried}
    allowed = [mixture for mixture in tried if losses[mixture.share] <= tolerance]
    if not allowed:
        return min(losses, key=losses.__getitem__)
    return max(allowed, key=lambda mixture: mixture.new).share


def reasons_against(
    new_drives: Judgement, old_drives: Judgement | None, *, margin: float = MARGIN, tolerance: float = TOLERANCE
) -> list[str]:
    """Why a new student is not accepted, in words with numbers; empty where it is.

    It has to be better on the new drives by more than a margin, and nowhere worse by more than a tolerance. Each has to
    hold with a probability of 95 %.
    """
    found = []
    gained = new_drives.comparison(DECIDING)
    if not gained.better_by(margin):
        found.append(f"no gain on the held-out drive: {in_words(gained)}, wanted is more than {margin:g}")
    for where, judged in (("the held-out drive", new_drives), ("the old drives", old_drives)):
        for measure in GUARDED if judged is not None else ():
            assert judged is not None
            compared = judged.comparison(measure)
            if not compared.not_worse_by(tolerance):
                found.append(
                    f"a loss on {where} is not ruled out: {in_words(compared)}, allowed is a loss of {tolerance:g}"
                )
    return found


def in_words(compared: label_free.Comparison) -> str:
    """A comparison in words."""
    name = compared.measure.replace("_", " ")
    text = f"{name} {compared.old:.4f} -> {compared.new:.4f}"
    if not math.isfinite(compared.low):
        return f"{text}, and too few places ({compared.places}) say how certain that is"
    return f"{text}, a gain between {compared.low:+.4f} and {compared.high:+.4f} over {compared.places} places"


def _spaced(travelled: Doubles, spacing_m: float) -> list[int]:
    """Frames some metres apart; not the last one, which nothing follows."""
    chosen = [0]
    for index in range(1, len(travelled) - 1):
        if travelled[index] - travelled[chosen[-1]] >= spacing_m:
            chosen.append(index)
    return chosen


def observations(
    sequence: PosedSequence, index: int, travelled: Doubles, reach: float, grid_from_camera: RigidTransform
) -> tuple[label_free.DepthObservation, list[label_free.DepthObservation]]:
    """What was measured at a frame, and at later frames within reach, posed in the grid of the frame.

    `reach`: metres ahead that the grid reaches.
    """
    meter = depth_meter(sequence, reach)
    ahead = np.flatnonzero((travelled > travelled[index]) & (travelled <= travelled[index] + reach))
    wanted = ahead[np.unique(np.linspace(0, len(ahead) - 1, min(OBSERVERS, len(ahead))).round().astype(int))]
    here = grid_from_camera @ sequence.world_from_camera(index, meter.camera).inverse()

    def seen(other: int) -> label_free.DepthObservation:
        found = meter(other)
        pose = here @ sequence.world_from_camera(other, meter.camera)
        return label_free.DepthObservation(found.depth, found.deviation, found.camera, pose)

    return seen(index), [seen(int(other)) for other in wanted]


def _depth_of_rays(view: label_free.DepthObservation, rays: Camera, grid: VoxelGrid) -> Floats:
    """Measured depth [h, w] at the rays of another camera at the same place, metres; 0 where it ends in no voxel."""
    through = np.asarray(rays.unproject(rays.pixel_centres()))
    depth = depth_at_rays(np.where(view.measured, view.depth, np.float32(0.0)), view.camera, rays)
    ends = np.asarray(grid.index_of(view.grid_from_camera.apply(through * depth[..., None].astype(np.float64)))[1])
    return np.where(ends, depth, np.float32(0.0))
