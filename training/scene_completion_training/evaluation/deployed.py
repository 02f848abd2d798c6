"""A deployed student as a predictor: voxels by the node's own completer, densities where a protocol needs points.

`calibrate_on_truth` fits its probabilities and thresholds.
"""

import dataclasses
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from scene_completion_ros.errors import ConfigurationError, SequenceError
from scene_completion_ros.evaluation.metric import VoxelAnswer
from scene_completion_ros.evaluation.obstacles import FIXED, ObstacleTally
from scene_completion_ros.evaluation.occupancy import SCORE_BINS, best_iou, fit_calibration, score_histogram
from scene_completion_ros.evaluation.semantic_classes import COMMON_CLASSES, EMPTY, ROOM_CLASSES
from scene_completion_ros.evaluation.truth import FrameTruth, VoxelTruth
from scene_completion_ros.geometry import Resampler
from scene_completion_ros.geometry.road_plane import RoadPlane
from scene_completion_ros.inference.bundle import StudentBundle, open_student
from scene_completion_ros.inference.cell_query import CameraPlace, CellSampler, Pixels, PredictedCells
from scene_completion_ros.inference.cells import ground_surface
from scene_completion_ros.inference.completer import Completer, Completion
from scene_completion_ros.inference.encoder import CellGraphs, FieldEncoder, cpu_networks
from scene_completion_ros.inference.evidence import NO_EVIDENCE, Evidence, EvidenceEstimator, OwnView, Standing
from scene_completion_ros.inference.query_kernel import FieldKernel, hidden_reference
from scene_completion_ros.inference.scene_query import CellDecoder, predicted_depth
from scene_completion_ros.jit import kernel_threads
from scene_completion_ros.sequences.posed_sequence import PosedSequence, mounting, reference_camera
from scene_completion_ros.voxels.occupancy import Calibration, opacity
from scene_completion_ros.voxels.semantic_voxels import SemanticVoxels, VoxelState
from scene_completion_training.arrays import Bytes, Doubles, Floats, Ints, Mask
from scene_completion_training.evaluation import geometry, predictor
from scene_completion_training.evaluation.predictor import Prediction, Predictor

MOST_EARLIER = 30  # earlier frames that are looked at for one
_POINTS = 1 << 20  # points prepared at a time
_VOXELS_OF_FRAME = 1 << 24  # that each frame of a calibration counts
OBSTACLE_THRESHOLDS = tuple(round(0.1 + 0.05 * n, 2) for n in range(9))


class DeployedStudent(Predictor):
    """A student bundle, in tables by its own name unless another is given.

    Voxels come from the completer that the node and replays use, on the grid of the truth. Densities at points are
    those of the same field: for slabs, rays, features, and voxels that the student does not see, since all predictors
    are scored on the same ones.

    A class counts under its name among the common ones, or those of rooms, whichever hold more of its names; what is
    named something else is never right. `scale_from`: as of `SequentialCompleter`; raises ConfigurationError where a
    student takes no evidence.
    """

    def __init__(
        self,
        bundle: StudentBundle,
        name: str | None = None,
        *,
        engine: str = "auto",
        threads: int | None = None,
        scale_from: str = "off",
    ) -> None:
        self.name, self.bundle, self.thresholds = name or bundle.name, bundle, bundle.thresholds
        if scale_from != "off" and not bundle.takes_evidence:
            what, where = "takes no evidence besides its image", f"bundle {self.name}"
            raise ConfigurationError(what, where=where, cure="Leave out --scale-from")
        self.calibration = over_voxel_edge(bundle.calibration, bundle.grid.voxel_size)
        self.cutoffs = predictor.calibrated_cutoffs(self.calibration, bundle.threshold)
        self._engine, self._threads, self._scale_from = engine, threads, scale_from
        self._resampler = lru_cache(maxsize=4)(lambda camera: Resampler(camera, bundle.canonical))
        # Several methods may share the student: all complete a frame before any of them completes the next one.
        self.complete = lru_cache(maxsize=1)(self.complete)  # type: ignore[method-assign]
        self._earlier: tuple[PosedSequence, str, int, EvidenceEstimator] | None = None
        self._completer: Completer | None = None

    @property
    def cutoff(self) -> float:
        """The density per metre that what it calls occupied exceeds."""
        return self.cutoffs.get(predictor.CALIBRATED_RULE, predictor.PUBLISHED_CUTOFF)

    def names(self) -> Ints:
        """The class of "empty" and of each of its classes; a `ConfigurationError` where none is a common one."""
        own = self.bundle.class_names
        known = max((COMMON_CLASSES, ROOM_CLASSES), key=lambda classes: len(set(classes) & set(own)))
        common = {name: number for number, name in enumerate(known)}
        names = np.array([EMPTY, *(common.get(name, -1) for name in own)], dtype=np.int64)
        if not (names > EMPTY).any():
            what = f"none of its classes ({', '.join(own)}) is one of {', '.join(known[1:])}"
            cure = "Name its clusters with scene-completion features classes, or score the checkpoint with --checkpoint"
            raise ConfigurationError(what, where=f"bundle {self.name}", cure=cure)
        return names

    def complete(self, sequence: PosedSequence, index: int) -> Prediction:
        """Encode the reference camera's image of a frame, once something of it is needed."""
        name = reference_camera(sequence)
        camera = sequence.cameras[name]

        @lru_cache(maxsize=1)
        def field() -> _FieldFrame | _CellFrame:
            return self._frame(sequence, index, name)

        def depth_at(pixels: Doubles) -> Floats:
            frame = field()
            assert isinstance(frame, _CellFrame)
            return predicted_depth(np.exp(frame.surfaces[..., 0]), self.bundle.canonical, camera, pixels)

        def ground() -> Floats:
            frame = field()
            assert isinstance(frame, _CellFrame)
            given = frame.sampler.volume, self.bundle.canonical, frame.place.volume_from_camera
            surface = ground_surface(frame.predicted.ground, *given)
            return surface.points.reshape(-1, 3)

        def plane() -> RoadPlane:
            frame = field()
            assert isinstance(frame, _CellFrame)
            return frame.standing.plane

        @lru_cache(maxsize=1)
        def completion(truth: VoxelTruth) -> Completion:
            completer = self._completer_of(sequence, index, name, truth)
            self._follow(sequence, index, name)
            seen = completer.see(sequence.image(index, name))
            evidence = self._evidence(sequence, index, name, seen.image, seen.own)
            return completer.complete(seen, sequence.frames[index].stamp_ns, evidence=evidence)

        def completed(truth: VoxelTruth) -> tuple[SemanticVoxels, Floats, Floats]:
            found = completion(truth)
            return found.voxels, found.probability, found.alpha

        def labels(truth: VoxelTruth) -> Bytes:
            voxels, volume = completion(truth).voxels, np.zeros(truth.grid.shape, dtype=np.uint8)
            volume[tuple(voxels.index.T)] = 1 + voxels.label
            return volume

        return Prediction(
            camera,
            lambda points: _in_parts(field().density, points),
            self.bundle.depth_range,
            depth_at if self.bundle.takes_evidence else None,
            units=lambda points: field().units(points),
            labels=labels,
            completed=completed,
            ground=ground if self.bundle.takes_evidence else None,
            plane=plane if self.bundle.takes_evidence else None,
        )

    @cached_property
    def _networks(self) -> FieldEncoder | CellGraphs:
        """What gives features and pixels, which a GPU keeps for itself; voxels come from the engine asked for."""
        engine = "auto" if self._engine == "tensorrt" else self._engine
        return cpu_networks(self.bundle, engine, threads=self._threads)

    @cached_property
    def _field(self) -> FieldKernel:
        bundle = self.bundle
        limit, (low, high) = bundle.point_code.xy_limit, bundle.point_code.depth_code_range
        ends = np.array([-limit, -limit, low]), np.array([limit, limit, high])
        return FieldKernel(bundle.field_head, bundle.point_code, bundle.canonical, bundle.feature_size, *ends)

    def _completer_of(self, sequence: PosedSequence, index: int, camera: str, truth: VoxelTruth) -> Completer:
        """The completer of a camera on the grid of a truth; one at a time, each holds samples of its whole grid."""
        wanted = sequence.cameras[camera], truth.grid, truth.grid_from_camera.matrix.tobytes()
        last = self._completer
        if last is None or (last.camera, last.grid, last.grid_from_camera.matrix.tobytes()) != wanted:
            options: dict[str, Any] = {"engine": self._engine, "threads": self._threads}
            options |= {"grid": truth.grid, "grid_from_camera": truth.grid_from_camera}
            last = Completer(self.bundle, wanted[0], **options)
        self._completer = last.mounted(mounting(sequence, camera, index))
        return self._completer

    def _frame(self, sequence: PosedSequence, index: int, camera: str) -> "_FieldFrame | _CellFrame":
        if not self.bundle.takes_evidence:
            networks = self._networks
            assert isinstance(networks, FieldEncoder)
            return _FieldFrame(self._field, networks(self._image(sequence, index, camera)), self._threads)
        self._follow(sequence, index, camera)
        image, pixels, own = self._see(sequence, index, camera)
        evidence = self._evidence(sequence, index, camera, image, own)
        standing = Standing.of(self.bundle, own, evidence, mounting(sequence, camera, index))
        decoded = self._decoder.decode(pixels, standing)
        return _CellFrame(self._decoder.sampler, *decoded, pixels, standing, self._threads)

    def _image(self, sequence: PosedSequence, index: int, camera: str) -> Bytes:
        return self._resampler(sequence.cameras[camera])(sequence.image(index, camera))

    def _see(self, sequence: PosedSequence, index: int, camera: str) -> tuple[Bytes, Pixels, OwnView]:
        """The canonical image of a frame, and what its pixels show before any evidence."""
        image = self._image(sequence, index, camera)
        pixels = self._decoder.see(image)
        return image, pixels, OwnView.of(self.bundle, pixels)

    @cached_property
    def _decoder(self) -> CellDecoder:
        networks, bundle = self._networks, self.bundle
        assert isinstance(networks, CellGraphs) and bundle.volume is not None
        sampler = CellSampler(bundle.volume, bundle.canonical, bundle.point_code, bundle.height_above_ground)
        return CellDecoder(networks, sampler, self._threads)

    def _follow(self, sequence: PosedSequence, index: int, camera: str) -> None:
        """Remember the frames before, as a robot that drives through the recording would know them.

        Frames may come in any order; in that of the recording, each is seen once.
        """
        if self._scale_from == "off":
            return
        last = self._earlier
        if last is None or last[:2] != (sequence, camera) or not 0 <= index - last[2] <= MOST_EARLIER:
            covered = self._resampler(sequence.cameras[camera]).validity
            corners = self._scale_from == "corners"
            estimator = EvidenceEstimator(self.bundle, covered, corners=corners)
            last = sequence, camera, max(0, index - MOST_EARLIER), estimator
        _, _, start, estimator = last
        for one in range(start, index):
            (image, _, own), pose = self._see(sequence, one, camera), sequence.world_from_camera(one, camera)
            estimator.follow(image, own, pose, sequence.frames[one].stamp_ns, mounting(sequence, camera, one))
        self._earlier = sequence, camera, index, estimator

    def _evidence(
        self, sequence: PosedSequence, index: int, camera: str, image: Bytes, own: OwnView | None
    ) -> Evidence:
        """Evidence of the frames before, which were followed."""
        if self._earlier is None or own is None:
            return NO_EVIDENCE
        pose = sequence.world_from_camera(index, camera)
        given = image, own, pose, sequence.frames[index].stamp_ns, mounting(sequence, camera, index)
        return self._earlier[3].evidence(*given)


@dataclass(frozen=True, eq=False)
class _FieldFrame:
    """A frame of a field student at points [N, 3] in the optical frame, metres."""

    field: FieldKernel
    features: Floats
    threads: int | None

    def density(self, points: Doubles) -> Floats:
        density = np.empty(len(points), dtype=np.float32)
        samples = self.field.prepare(points, np.arange(len(points), dtype=np.int32))
        with kernel_threads(self.threads):
            self.field(self.features, samples, density)
        return density

    def units(self, points: Floats) -> Floats:
        head, code = self.field.head, self.field.code
        weight, bias, _, _ = head.label_layers()
        hidden = hidden_reference(self.features[..., head.hidden :], points, weight, bias, code, self.field.canonical)
        return hidden.astype(np.float32)


@dataclass(frozen=True, eq=False)
class _CellFrame:
    """A frame of a student that completes cells at points [N, 3] in the optical frame, metres."""

    sampler: CellSampler
    surfaces: Floats
    predicted: PredictedCells
    place: CameraPlace
    pixels: Pixels
    standing: Standing
    threads: int | None

    def density(self, points: Doubles) -> Floats:
        density = np.empty(len(points), dtype=np.float32)
        samples = np.ascontiguousarray(points.T, np.float32), np.arange(len(points), dtype=np.int32)
        with kernel_threads(self.threads):
            self.sampler.query(self.surfaces, self.predicted, self.place, *samples, density)
        return density

    def units(self, points: Floats) -> Floats:
        with kernel_threads(self.threads):
            chosen = self.sampler.cells_of(points, self.place.pose)
            return self.sampler.classes(self.predicted.others, self.pixels.classes, self.place, chosen)[0]


def _in_parts(density: Callable[[Doubles], Floats], points: Floats) -> Floats:
    """Densities of points, some of them at a time, to keep memory small."""
    parts = [points[start : start + _POINTS].astype(np.float64) for start in range(0, len(points), _POINTS)]
    return np.concatenate([np.zeros(0, np.float32), *map(density, parts)])


def open_deployed(folder: Path, *, engine: str = "auto", scale_from: str = "off") -> DeployedStudent:
    """Open a bundle, with the name of its folder; a `BundleError` for a damaged one, other errors as of the student."""
    return DeployedStudent(open_student(folder), folder.resolve().name, engine=engine, scale_from=scale_from)


def over_voxel_edge(calibration: Calibration, edge: float) -> Calibration:
    """A calibration of opacities over some edge, metres, as one of opacities over `VOXEL_EDGE`."""
    if calibration.kind == "identity" or edge == predictor.VOXEL_EDGE:
        return calibration
    alpha, probability = calibration.knots()
    over = -np.expm1(predictor.VOXEL_EDGE / edge * np.log1p(-np.minimum(alpha, 1.0 - 1e-15)))
    kept = np.flatnonzero(np.diff(over, prepend=-1.0) > 0.0)  # nearly certain ones may fall together
    return Calibration("piecewise_linear", tuple(over[kept].tolist()), tuple(probability[kept].tolist()))


@dataclass(frozen=True, eq=False)
class _Scored:
    """A frame, the opacities of its voxels, and which of them stand on the predicted ground, all [X, Y, Z]."""

    truth: FrameTruth
    alpha: Floats
    stands: Mask
    whole: bool  # all voxels in view are known, not only those that one scan met or passed

    def called(self, probability: Floats, of_ground: float) -> "_Called":
        """What is occupied by a threshold of the ground, and by that or lower `OBSTACLE_THRESHOLDS` of obstacles."""
        from_ground = (probability >= of_ground) & ~self.stands
        each = [*(t for t in OBSTACLE_THRESHOLDS if t < of_ground), of_ground]
        occupied = {repr(t): from_ground | ((probability >= t) & self.stands) for t in each}
        return _Called(self.truth, VoxelAnswer(self.alpha, occupied))


@dataclass(frozen=True, eq=False)
class _Called:
    truth: FrameTruth
    voxels: VoxelAnswer


def _scored(bundle: StudentBundle, recordings: Sequence[PosedSequence], every: int) -> Iterator[_Scored]:
    """Frames with voxels; of recordings without any, those with a scan, and what that knows."""
    # Of these thresholds, what stands on the ground is occupied, and nothing else.
    raw = dataclasses.replace(bundle, calibration=Calibration(), threshold=1.0, obstacle_threshold=0.0)
    model = DeployedStudent(raw)
    for sequence in recordings:
        some = next(iter(geometry.voxel_places([sequence])), None) is not None
        for frame in geometry.voxel_frames([sequence], every) if some else geometry.scan_frames(sequence, every):
            prediction, stands = model.complete(sequence, frame.index), np.zeros(frame.voxels.grid.shape, np.bool_)
            if bundle.takes_evidence and prediction.completed is not None:
                stands = prediction.completed(frame.voxels)[0].state >= VoxelState.SURFACE
            density = prediction.voxel_density(frame.voxels)
            yield _Scored(frame.truth, opacity(density, bundle.grid.voxel_size), stands, some)


def _obstacle_threshold(frames: Iterable[_Called]) -> tuple[float | None, float]:
    """The threshold of obstacles with the largest F, mean over ranges, and that F; None where there are none."""
    tally, scores = ObstacleTally(None), defaultdict[str, list[float]](list)
    for frame in frames:
        tally.add(frame)  # type: ignore[arg-type] # it has no depth
    for row in tally.rows():
        if row["tolerance"] == FIXED and row["obstacles"]:
            scores[row["rule"]].append(np.nan_to_num(row["f_score"]))
    means = {rule: float(np.mean(found)) for rule, found in scores.items()}
    best = max(means, key=means.__getitem__, default=None)
    return (None, 0.0) if best is None else (float(best), means[best])


def calibrate_on_truth(bundle: StudentBundle, recordings: Sequence[PosedSequence], *, every: int = 1) -> StudentBundle:
    """Fit a student's probabilities and thresholds; the bundle with them, which is not written.

    α → probability, and the threshold with the largest IoU, are fitted on the voxels that count of frames with voxels,
    or of scans where there are none; each frame counts as much as any other. Where the student predicts the ground,
    that threshold is of ground alone, and what stands on it has the one with the largest F of obstacles. Raises
    SequenceError where no frame has voxels or a scan, or one is a window of KITTI that the shipped students are trained
    or tested on.
    """
    names_of_windows = {f"sequences/{window}" for window in (*geometry.TRAINING_WINDOWS, *geometry.TEST_WINDOWS)}
    if used := {sequence.name for sequence in recordings} & names_of_windows:
        cure = f"Fit to a recording that is used for nothing else, such as sequences/{geometry.CALIBRATION_WINDOW}"
        raise SequenceError(f"{', '.join(sorted(used))} is used for training or testing", where="--labelled", cure=cure)
    names = ", ".join(sequence.name for sequence in recordings)
    frames = list(_scored(bundle, recordings, every))
    if not frames:
        raise SequenceError("no frame has ground truth voxels", where=names, cure="Name recordings that have")
    # Scans meet less of what is occupied than they pass of what is free.
    whole = [frame for frame in frames if frame.whole] or frames
    calibration = fit_calibration(_histogram(whole, Calibration()))
    ground = _histogram(whole, calibration, ground_alone=bundle.takes_evidence)
    iou, threshold = best_iou(ground if ground[1].any() else _histogram(whole, calibration))
    record: dict[str, object] = {"fitted_on": f"{names}: probabilities on its voxels in view", "frames": len(frames)}
    record["iou_there"] = round(iou, 4)
    obstacle = None
    if bundle.takes_evidence:
        called = (frame.called(calibration.apply(frame.alpha), threshold) for frame in frames)
        obstacle, f_score = _obstacle_threshold(called)
        record["obstacle_f_there"] = round(f_score, 4)
    fitted: dict[str, Any] = {"calibration": calibration, "threshold": threshold, "obstacle_threshold": obstacle}
    return dataclasses.replace(bundle, **fitted, provenance={**bundle.provenance, "calibration": record})


def _histogram(frames: Iterable[_Scored], calibration: Calibration, *, ground_alone: bool = False) -> Ints:
    """`score_histogram` of the voxels that count, of each frame in equal number."""
    found = np.zeros((2, SCORE_BINS), np.int64)
    for frame in frames:
        assert frame.truth.voxels is not None
        of = frame.truth.voxels.counted & ~(frame.stands & ground_alone)
        one = score_histogram(calibration.apply(frame.alpha[of]), frame.truth.voxels.occupied[of])
        found += np.rint(one * (_VOXELS_OF_FRAME / max(int(one.sum()), 1))).astype(np.int64)
    return found
