"""From one camera image to completed voxels: resample, encode, query, march, assemble, label."""

import copy
import logging
import math
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scene_completion_ros.errors import BundleError, CameraError, GpuError, GridError, ImageError, VocabularyError
from scene_completion_ros.geometry.cameras import Camera
from scene_completion_ros.geometry.grids import VoxelGrid, ray_camera
from scene_completion_ros.geometry.plausible_motion import LOOKS_UP, body_axes
from scene_completion_ros.geometry.resampling import Resampler
from scene_completion_ros.geometry.road_plane import MOST_ROLL_DEG, RoadPlane
from scene_completion_ros.geometry.transforms import RigidTransform
from scene_completion_ros.inference import scene_query
from scene_completion_ros.inference.bundle import StudentBundle
from scene_completion_ros.inference.cell_query import Pixels
from scene_completion_ros.inference.cells import GroundSurface, ground_surface, volume_pose
from scene_completion_ros.inference.encoder import cpu_networks, make_networks
from scene_completion_ros.inference.evidence import (
    NO_EVIDENCE,
    WARNING,
    Evidence,
    EvidenceEstimator,
    OwnView,
    Standing,
)
from scene_completion_ros.inference.label_query import FoldedVocabulary, Words
from scene_completion_ros.inference.text_bank import BACKGROUND, MOST_QUERIED, Contrast, Vocabulary
from scene_completion_ros.voxels.occupancy_kernel import axis_indices
from scene_completion_ros.voxels.semantic_voxels import PhraseMatches, SemanticVoxels, VoxelState

# Rays of which at least this part leaves the grid met nothing in it.
LARGEST_TRANSMITTANCE = 0.5
# Less of the canonical image than this makes the network guess from too little.
SMALLEST_COVERAGE = 0.7
# Cameras of the same vehicle differ by as much.
LARGEST_HEIGHT_RATIO = 1.15
PITCH_TOLERANCE_DEG = 1.0
# More stretching than this shows the network blurred images, which it was not trained with.
LARGEST_STRETCH = 1.25

# What the states become where nothing was seen.
_INFERRED = np.arange(len(VoxelState), dtype=np.uint8)
_INFERRED[[VoxelState.FREE_SEEN, VoxelState.SURFACE]] = VoxelState.FREE_INFERRED, VoxelState.COMPLETED

_log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class SeenImage:
    """An image whose pixels a student saw; it holds until the next one is seen by the same networks."""

    image: NDArray[np.uint8]  # uint8 [H, W, 3], the canonical image
    pixels: Pixels | None  # what its pixels show; None of a student that takes no evidence
    own: OwnView | None  # what they show before any evidence; None of such a student
    timings_ms: dict[str, float]  # milliseconds so far, as in `Completion`
    # By `time.perf_counter`, when it began to be seen, and when that ended: finding evidence counts, too.
    started_s: float = 0.0
    seen_s: float = 0.0


@dataclass(frozen=True, eq=False)
class Completion:
    """All that is known after one image."""

    voxels: SemanticVoxels
    # Opacity and probability of all voxels. From a GPU they are fetched when they are asked for, which has to be before
    # the next image, and in its thread.
    dense: scene_query.DenseField
    # float32 [h, w], expected z-depth through the grid, metres; rays that leave the grid end where they leave. NaN
    # where the ray misses the grid or the camera's image does not cover the pixel.
    depth: NDArray[np.float32]
    transmittance: NDArray[np.float32]  # float32 [h, w], the part of each ray that left the grid
    depth_camera: Camera
    image: NDArray[np.uint8]  # uint8 [H, W, 3], the canonical image
    # Milliseconds of resample, encode, query, march, assemble, label (next to none where the student has no classes),
    # and their total.
    timings_ms: dict[str, float]
    # Share of the image that shows anything, see `shown_share`. Below `BLIND` no voxel counts as seen: everything
    # was inferred.
    shown: float = 1.0
    # The labels are classes of this, and ``unknown``; None where they are those of the student.
    vocabulary: Vocabulary | None = None
    query: Vocabulary | None = None  # the query besides the labels; None without one
    matches: tuple[PhraseMatches, ...] = ()  # its answer, a phrase each
    ground: GroundSurface | None = None  # the ground ahead, of students that predict it; None of others
    own: OwnView | None = None  # see `SeenImage`
    standing: Standing | None = None  # of the camera, which is in all results; None of a student that takes no evidence

    @property
    def warning(self) -> str:
        """What makes the result doubtful; empty where nothing does."""
        against = self.standing.warning if self.standing else ""
        return "; ".join(filter(None, (scene_query.content_warning(self.shown), against)))

    def summary(self) -> dict[str, float | str]:
        """`Standing.summary`, and as `evidence.WARNING` the warning, if there is one."""
        summary = self.standing.summary() if self.standing else {}
        return summary | ({WARNING: self.warning} if self.warning else {})

    @property
    def alpha(self) -> NDArray[np.float32]:
        """Opacity over one voxel edge as the network gives it, [X, Y, Z]; 0 outside the view."""
        return self.dense.alpha

    @property
    def probability(self) -> NDArray[np.float32]:
        """Calibrated, [X, Y, Z]; 0 for unobserved voxels."""
        return self.dense.probability

    @property
    def shown_depth(self) -> NDArray[np.float32]:
        """Depth [h, w] as REP 118 wants it: +inf (too far) where the ray more likely than not leaves the grid."""
        too_far = (self.transmittance >= LARGEST_TRANSMITTANCE) & ~np.isnan(self.depth)
        return np.where(too_far, np.float32(np.inf), self.depth)


class Completer:
    """Completes the scene in front of one camera.

    It computes all that depends on the camera and the grid, and runs everything once, so that the first image is as
    fast as any. May be used from any thread, one image at a time. Raises CameraError where the camera sees nothing of
    the canonical image; BundleError where the engine cannot run the bundle, or gives no finite numbers; GridError where
    there is not enough memory for the grid; GpuError: TensorRT was asked for and cannot run, or failed.

    Attributes:
        encoder: What encodes its images.
        warnings: What about the camera lies outside of what the student was trained for, with numbers.
        in_view: Voxels, bool [X, Y, Z], that the camera's image covers; all others are unobserved.
    """

    def __init__(
        self,
        bundle: StudentBundle,
        camera: Camera,  # the camera that takes the images, distortion included
        *,
        grid: VoxelGrid | None = None,  # where voxels are wanted; None for the bundle's grid
        # Pose of the camera's optical frame in the grid, any rigid transform; None for the bundle's.
        grid_from_camera: RigidTransform | None = None,
        # Engine of the networks, see `encoder.make_networks`; with ``auto`` the CPU also takes over where the GPU has
        # not enough memory for the rest.
        engine: str = "auto",
        threads: int | None = None,  # CPU threads of encoder and kernels; None for all that this process may use
        # That of another completer, of the same bundle, engine and threads, or one that was made before; all that use
        # it then belong to one thread.
        encoder: scene_query.Networks | None = None,
        # Pose of the optical frame in a frame whose z axis points up and begins on the ground, for students that
        # take it; None where it is unknown.
        upright_from_camera: RigidTransform | None = None,
    ) -> None:
        self.bundle, self.upright_from_camera, self.camera = bundle, upright_from_camera, camera
        self.grid = bundle.grid if grid is None else grid
        self.threads = threads
        self._vocabulary: FoldedVocabulary | None = None
        self._queried: FoldedVocabulary | None = None
        canonical = bundle.canonical
        self._resampler = Resampler(camera, canonical)
        covered: NDArray[np.bool_] = self._resampler.validity
        if not covered.any():
            raise CameraError(
                f"a {camera.width}x{camera.height} camera with fx {camera.fx:.1f}, cx {camera.cx:.1f}, "
                f"cy {camera.cy:.1f} sees nothing of the canonical image",
                where="camera",
                cure="Check the calibration: the principal point must lie near the centre of the image.",
            )
        self.warnings = camera_warnings(bundle, camera, float(covered.mean()))
        self.depth_camera = ray_camera(canonical)
        self._ray_covered = Resampler(camera, self.depth_camera).validity
        pose = bundle.grid_from_camera if grid_from_camera is None else grid_from_camera
        failure = ""
        try:
            self._open(encoder or make_networks(bundle, engine, threads=threads), pose)
        except GpuError as error:
            if engine != "auto" or encoder:
                raise
            failure = str(error)
        if failure:  # not in the handler, where the error would keep what is on the GPU
            _log.warning("the CPU runs everything, because the GPU cannot: %s", failure)
            self._open(cpu_networks(bundle, threads=threads), pose)
        if self._too_far:
            what = f"{self._too_far} voxels lie more than {self._far:.0f} m ahead of the camera"
            self.warnings.append(f"{what}, farther than the student predicts: they stay unobserved")

    def _open(self, encoder: scene_query.Networks, grid_from_camera: RigidTransform) -> None:
        self.encoder, self.engine = encoder, encoder.name
        self._place(grid_from_camera)
        first = self.complete(np.zeros((self.camera.height, self.camera.width, 3), dtype=np.uint8))
        if not np.isfinite(first.alpha.sum()):
            raise self._not_finite()
        if self.bundle.feature_spaces:  # the first image with a vocabulary is as fast as any
            space = self.bundle.feature_spaces[0]
            rows, group = np.eye(1, space.dimension, dtype=np.float32).repeat(2, 0), np.array([0, BACKGROUND], np.int32)
            contrast = Contrast(0.0, (1.0,))
            some = FoldedVocabulary.of(Vocabulary(("any",), ((0, 0, 0),), rows, group, contrast=contrast), space)
            canonical = self.bundle.canonical
            blank = np.zeros((canonical.height, canonical.width, 3), dtype=np.uint8)
            self._query(scene_query.SceneImage(blank, Words(some, some), None, self._standing(None, NO_EVIDENCE)))

    def prepare_vocabulary(self, vocabulary: Vocabulary) -> FoldedVocabulary:
        """Makes a vocabulary ready for `set_vocabulary` and `set_query`, of this and all completers of the same bundle.

        It takes milliseconds and may be called from any thread, also while an image is completed. Raises
        VocabularyError where it was made by another text encoder than those of the student's feature spaces.
        """
        return FoldedVocabulary.of(vocabulary, self.bundle.feature_space_for(vocabulary))

    def set_vocabulary(self, vocabulary: FoldedVocabulary | None) -> None:
        """Labels of images to come: a prepared vocabulary, or None. Raises VocabularyError: for another student."""
        self._vocabulary = self._own(vocabulary)

    def set_query(self, query: FoldedVocabulary | None) -> None:
        """From the next image on, completions answer a query; None ends it.

        `query`: prepared from `TextBank.query`. Raises VocabularyError where it was prepared for another student, is a
        vocabulary of labels or has too many phrases.
        """
        if query is not None and (query.vocabulary.contrast is None or query.classes > MOST_QUERIED):
            raise VocabularyError(
                f"asks for {query.classes} phrases (1..{MOST_QUERIED}), "
                f"{'as labels' if query.vocabulary.contrast is None else 'by contrast'}",
                where="query",
                cure="Ask for fewer phrases at a time, and make the query with TextBank.query.",
            )
        self._queried = self._own(query)

    def _own(self, words: FoldedVocabulary | None) -> FoldedVocabulary | None:
        if words is not None and not any(words.space is space for space in self.bundle.feature_spaces):
            what = f"was prepared for another student than {self.bundle.name}"
            raise VocabularyError(what, where="vocabulary", cure="Prepare it with the completer that uses it.")
        return words

    def placed(self, grid_from_camera: RigidTransform) -> "Completer":
        """The completer of the same camera elsewhere in the grid; it shares the encoder, and has the same words."""
        moved = copy.copy(self)
        moved._place(grid_from_camera)
        return moved

    def mounted(self, upright_from_camera: RigidTransform | None) -> "Completer":
        """The completer of the same camera with another mounting; itself where that is the same, or not taken."""
        if not self.bundle.takes_evidence or upright_from_camera is self.upright_from_camera:
            return self
        moved = copy.copy(self)
        moved.upright_from_camera = upright_from_camera
        return moved

    def _place(self, grid_from_camera: RigidTransform) -> None:
        self.grid_from_camera = grid_from_camera
        try:
            coverage = self._resampler.validity
            prepared = scene_query.prepare_scene(self.bundle, self.grid, grid_from_camera, coverage)
        except MemoryError as error:
            what = f"there is not enough memory for {'x'.join(map(str, self.grid.shape))} voxels"
            raise GridError(what, where="grid", cure="Take larger voxels, or a smaller part of the space") from error
        view = prepared.query
        self.in_view: NDArray[np.bool_] = view.in_view
        self._far, self._too_far = view.far, view.too_far
        self._query: scene_query.SceneQuery = self.encoder.scene(prepared)

    def out_of_view(self) -> GridError | None:
        """What is wrong where the camera sees no voxel of the grid; None where it sees one."""
        if self.in_view.any():
            return None
        x, y, z = self.grid.origin
        return GridError(
            f"the camera sees none of the {'x'.join(map(str, self.grid.shape))} voxels of {self.grid.voxel_size:g} m "
            f"from ({x:g}, {y:g}, {z:g}) on",
            where="grid",
            cure="Check origin, voxel_size and grid_from_camera, and that the grid lies before the camera, no farther "
            f"than the {self._far:.0f} m that the student predicts",
        )

    def _not_finite(self) -> BundleError:
        return BundleError(
            f"what {self.engine} and the head make of an image are no finite numbers",
            where=f"bundle {self.bundle.name}",
            cure="Try another engine; if that fails as well, export the bundle again",
        )

    def see(self, image_rgb: NDArray[np.uint8]) -> SeenImage:
        """See an image, up to where evidence of depth counts.

        Raises ImageError where the image has another size than the calibration, or is no RGB image. `image_rgb`: uint8
        [H, W, 3] RGB, of the size the camera was calibrated with, or averaged down as `resampling.decoder_shrink`
        allows.
        """
        started_s, clock = time.perf_counter(), scene_query.StageClock()
        if image_rgb.shape[2:] != (3,) or image_rgb.dtype != np.uint8:
            what = f"is {image_rgb.dtype} {image_rgb.shape} where uint8 [H, W, 3] is needed"
            raise ImageError(what, where="image", cure="Give RGB values of 8 bits")
        image = self._resampler(image_rgb)
        clock.lap("resample")
        pixels = self._query.see(image)
        own = None if pixels is None else OwnView.of(self.bundle, pixels)
        clock.lap("encode")
        return SeenImage(image, pixels, own, clock.laps_ms, started_s, time.perf_counter())

    def complete(
        self,
        image: NDArray[np.uint8] | SeenImage,
        stamp_ns: int = 0,
        *,
        labels: bool = True,
        evidence: Evidence = NO_EVIDENCE,
    ) -> Completion:
        """Completes the scene of one image.

        Raises errors of `see`; BundleError where the results are no finite numbers; GpuError where the GPU failed.
        `image`: that of a camera, or what `see` made of it last; `labels`: whether labels are wanted. Without them,
        which saves their time, every voxel is ``unlabelled``; `evidence`: what else is known of depth and of the pose
        of the camera, which a student that `takes_evidence` takes into account.
        """
        seen = image if isinstance(image, SeenImage) else self.see(image)
        evidence_ms = 1e3 * (time.perf_counter() - seen.seen_s)
        words = Words(self._vocabulary if labels else None, self._queried, labels)
        standing = self._standing(seen.own, evidence)
        answer = self._query(scene_query.SceneImage(seen.image, words, seen.pixels, standing))
        assembling = scene_query.StageClock()
        parts = answer.transmittance, answer.probability, answer.confidence
        if not (answer.finite and np.isfinite(sum(float(part.sum()) for part in parts))):
            raise self._not_finite()
        shown = scene_query.shown_share(seen.image, self._resampler.validity)
        answer.depth[~self._ray_covered] = np.nan
        vocabulary = None if words.vocabulary is None else words.vocabulary.vocabulary
        legend: dict[str, Any] = {}  # of voxels that are unlabelled
        if vocabulary is not None:
            legend = {"class_names": vocabulary.legend_names, "class_colours": vocabulary.legend_colours}
        elif labels:
            legend = {"class_names": self.bundle.class_names, "class_colours": self.bundle.class_colours}
        voxels = SemanticVoxels(
            grid=self.grid,
            grid_from_camera=self.grid_from_camera,
            stamp_ns=stamp_ns,
            state=answer.state if shown >= scene_query.BLIND else _INFERRED[answer.state],
            index=axis_indices(answer.occupied, self.grid.shape),
            probability=answer.probability,
            label=answer.label,
            confidence=answer.confidence,
            **legend,
        )
        ground: GroundSurface | None = None
        if answer.ground is not None and self.bundle.volume is not None and standing is not None:
            place = volume_pose(standing.upright_from_camera, self.bundle.height_above_ground)
            ground = ground_surface(answer.ground, self.bundle.volume, self.bundle.canonical, place)
        assembling.lap("assemble")
        times_ms = {**seen.timings_ms, **answer.times_ms}
        times_ms["encode"] += seen.timings_ms["encode"] + evidence_ms
        times_ms["assemble"] += assembling.laps_ms["assemble"]
        times_ms["total"] = 1e3 * (time.perf_counter() - seen.started_s)
        return Completion(
            voxels=voxels,
            dense=answer.dense,
            depth=answer.depth,
            transmittance=answer.transmittance,
            depth_camera=self.depth_camera,
            image=seen.image,
            timings_ms=times_ms,
            shown=shown,
            vocabulary=vocabulary,
            query=None if words.queried is None else words.queried.vocabulary,
            matches=answer.matches,
            ground=ground,
            own=seen.own,
            standing=standing,
        )

    def _standing(self, own: OwnView | None, evidence: Evidence) -> Standing | None:
        """How the camera stands for an image, of a student that takes evidence."""
        if not self.bundle.takes_evidence:
            return None
        return Standing.of(self.bundle, own, evidence, self.upright_from_camera)

    def evidence_estimator(self, *, corners: bool) -> EvidenceEstimator:
        """What estimates the evidence of its images, of their `SeenImage.own`."""
        return EvidenceEstimator(self.bundle, self._resampler.validity, corners=corners)


TRAINING = "train with this camera (scene-completion train, docs/training.md#another-camera)"
BY_PARAMETERS = "set the node's parameters camera.height and camera.pitch, or base_frame"
MOUNTING_UNKNOWN = "the student is more accurate with the height and the pitch of its camera"


def mounting_warnings(
    bundle: StudentBundle, upright_from_camera: RigidTransform | None, cure: str = BY_PARAMETERS
) -> list[str]:
    """What about the place of a camera lies outside of what the student was trained for, with numbers.

    Depth follows from the height: seen from half as high, the same image shows a street half as large.
    `upright_from_camera`: pose of the optical frame in a frame whose z axis points up and begins on the ground; None
    where it is unknown, which `cure` changes.
    """
    if upright_from_camera is None:
        return [f"{MOUNTING_UNKNOWN}: {cure}"] if bundle.takes_evidence else []
    warnings = []
    height, trained = float(upright_from_camera.translation[2]), bundle.height_above_ground
    lowest, highest = bundle.height_range or (trained, trained)
    if not lowest / LARGEST_HEIGHT_RATIO <= height <= highest * LARGEST_HEIGHT_RATIO:
        nearest = min(max(height, lowest), highest)
        warnings.append(
            f"the camera stands {height:.2f} m above the ground, the student was trained at {nearest:.2f} m. Expect "
            f"distances that are off by a factor of {nearest / max(height, 0.01):.2f}; {TRAINING}"
        )
    down = -float(np.degrees(np.arcsin(np.clip(upright_from_camera.rotation[2, 2], -1.0, 1.0))))
    low, high = np.degrees(bundle.pitch_range)
    roll = math.degrees(RoadPlane.of_mounting(upright_from_camera).roll)
    if MOST_ROLL_DEG < abs(roll) < 180.0 - MOST_ROLL_DEG:
        warnings.append(f"the camera rolls by {roll:.0f}°: images on their side are not completed; turn them upright")
    if body_axes(upright_from_camera.rotation[2:], np.zeros((0, 3))):
        warnings.append(f"the camera {LOOKS_UP}")
    elif not low - PITCH_TOLERANCE_DEG <= down <= high + PITCH_TOLERANCE_DEG:
        warnings.append(
            f"the camera looks {abs(down):.1f}° {'down' if down > 0.0 else 'up'}, the student was trained with "
            f"{low:.1f}° to {high:.1f}° (down is positive): expect worse depth; {TRAINING}"
        )
    return warnings


def camera_warnings(bundle: StudentBundle, camera: Camera, coverage: float) -> list[str]:
    """What about a camera, of which the image is covered by `coverage` (0..1), lies outside of the training."""
    warnings = []
    ratio, (low, high) = camera.fx / camera.width, bundle.focal_range
    if not 0.99 * low <= ratio <= 1.01 * high:
        angle, narrowest, widest = (2.0 * math.degrees(math.atan(0.5 / one)) for one in (ratio, high, low))
        warnings.append(
            f"focal length / image width is {ratio:.3f} (a pinhole of {angle:.1f}°), the student was trained on "
            f"{low:.3f} to {high:.3f} ({narrowest:.1f}° to {widest:.1f}°): it completes these images, but expect worse "
            f"distances. Check the calibration; or take a {'longer' if ratio < low else 'wider'} lens, or {TRAINING}"
        )
    stretch = max(bundle.canonical.fx / camera.fx, bundle.canonical.fy / camera.fy)
    if stretch > LARGEST_STRETCH:
        warnings.append(
            f"the image is enlarged {stretch:.2f} times to fit the canonical camera (fx {camera.fx:.0f}, canonical "
            f"{bundle.canonical.fx:.0f}): use a higher resolution or a longer lens"
        )
    if coverage < SMALLEST_COVERAGE:
        warnings.append(
            f"the image covers {100 * coverage:.0f} % of the canonical view ({bundle.canonical.width}x"
            f"{bundle.canonical.height}, fx {bundle.canonical.fx:.0f}): voxels behind the rest stay "
            "unobserved. A wider lens or the uncropped image covers more"
        )
    return warnings


class SequentialCompleter:
    """Completes the images of one camera one after the other, each with the evidence of those before it.

    Of a student that takes no evidence, and where no scale is wanted, each image is completed by itself. `scale_from`:
    ``odometry`` for how far the camera moved since earlier images, ``corners`` also for depths of single corners by
    that, ``off`` for nothing.
    """

    def __init__(self, completer: Completer, scale_from: str) -> None:
        self._completer = completer
        self._estimator: EvidenceEstimator | None = None
        if scale_from != "off" and completer.bundle.takes_evidence:
            self._estimator = completer.evidence_estimator(corners=scale_from == "corners")

    def complete(
        self, image_rgb: NDArray[np.uint8], stamp_ns: int, pose: RigidTransform | str, **options: Any
    ) -> Completion:
        """Completes the next image; see `Completer.complete`, which gets the options, and `EvidenceEstimator`."""
        seen, evidence, stated = self._completer.see(image_rgb), NO_EVIDENCE, self._completer.upright_from_camera
        if self._estimator is not None and seen.own is not None:
            evidence = self._estimator.evidence(seen.image, seen.own, pose, stamp_ns, stated)
        completion = self._completer.complete(seen, stamp_ns, evidence=evidence, **options)
        if self._estimator is not None and seen.own is not None:
            self._estimator.follow(seen.image, seen.own, pose, stamp_ns, stated)
        return completion
