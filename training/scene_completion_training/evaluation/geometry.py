"""Frames that are scored against voxels, depth and LiDAR, and controls that a completion has to beat.

Controls are predictors: nothing, the visible surface, a thick surface, and the mean of the training set. Occupied
points have a density at which a voxel is opaque, free ones have none.
"""

from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path
from typing import TypeAlias

import numpy as np

from scene_completion_ros.errors import GridError, SequenceError
from scene_completion_ros.evaluation.occupancy import best_iou, fit_calibration, score_histogram
from scene_completion_ros.evaluation.truth import FrameTruth, VoxelTruth
from scene_completion_ros.geometry.cameras import Camera
from scene_completion_ros.geometry.grids import DEFAULT_GRID, DEFAULT_GRID_FROM_CAMERA, VoxelGrid
from scene_completion_ros.geometry.transforms import RigidTransform
from scene_completion_ros.progress import watched
from scene_completion_ros.sequences import opening
from scene_completion_ros.sequences.frame_lists import SIDES, FrameSplit, frame_indices
from scene_completion_ros.sequences.posed_sequence import UNKNOWN_POSES, PosedSequence, reference_camera, stored_grid
from scene_completion_ros.voxels.occupancy import Thresholds, density_of_opacity, opacity
from scene_completion_training.arrays import Floats, Mask
from scene_completion_training.data.stereo import measured_depth
from scene_completion_training.evaluation import lidar_evaluation, predictor
from scene_completion_training.evaluation.predictor import Frame, Prediction, Predictor
from scene_completion_training.viewpoint import STREET_AHEAD_M

TRAINING_WINDOWS = ("00", "01", "02", "03", "05", "07")
CALIBRATION_WINDOW, TEST_WINDOWS = "04", ("06", "09")
PRIOR_SIGMA = (16.0, 16.0, 0.5)  # voxels; the largest mean average precision in view on the calibration window
OPAQUE = 50.0  # per metre: an opacity of 0.99995 over a voxel
THICKNESS = 4.0
_DEPTH_STRIDE = 4  # pixels between rendered rays of a model's own depth

# z-depth [H, W] of the reference camera at a frame, metres; 0 or not finite where there is none.
DepthSource: TypeAlias = Callable[[PosedSequence, int], Floats]


class EmptyControl(Predictor):
    """Nothing occupied anywhere."""

    name = "nothing"

    def complete(self, sequence: PosedSequence, index: int) -> Prediction:
        """The empty field."""
        camera = sequence.cameras[reference_camera(sequence)]
        return Prediction(camera, lambda points: np.zeros(len(points), dtype=np.float32))


class SurfaceControl(Predictor):
    """The surface of a depth image, and what lies behind it up to a thickness, metres in a volume of street's measure.

    Every pixel's point occupies its voxel, and so do points behind it along the ray, every half voxel, in the voxels of
    the recording's ground truth, or a street's.
    """

    def __init__(self, depth: DepthSource, depth_name: str, thickness: float = 0.0) -> None:
        self.name = f"surface{f' + {thickness:g} m' if thickness else ''} ({depth_name})"
        self._depth, self._thickness = depth, thickness

    def complete(self, sequence: PosedSequence, index: int) -> Prediction:
        """Fill the voxels behind the pixels of a frame."""
        camera, grid = sequence.cameras[reference_camera(sequence)], stored_grid(sequence)
        pose = level_grid(sequence, index) or DEFAULT_GRID_FROM_CAMERA
        thickness = self._thickness * grid.shape[0] * grid.voxel_size / STREET_AHEAD_M
        occupied = surface_voxels(self._depth(sequence, index), camera, thickness, grid, pose)
        density = np.where(occupied, np.float32(OPAQUE), np.float32(0.0))
        return Prediction(camera, grid_density(density, grid, pose))


class PriorControl(Predictor):
    """The mean occupancy of each voxel in training frames; the published cut-off lies at the prior's own threshold."""

    name = "prior of the training set"

    def __init__(
        self,
        mean: Floats,  # mean occupancy, float32 [X, Y, Z], 0..1
        threshold: float,  # mean from which a voxel counts as occupied, 0..1
        grid: VoxelGrid = DEFAULT_GRID,  # its grid
        grid_from_camera: RigidTransform = DEFAULT_GRID_FROM_CAMERA,  # pose of the reference camera in it
    ) -> None:
        # Over any one length: it cancels out.
        scale = predictor.PUBLISHED_CUTOFF / density_of_opacity(np.clip(threshold, 1e-4, 1.0 - 1e-4), 1.0)
        density = scale * density_of_opacity(np.minimum(mean, np.float32(1.0 - 1e-6)), 1.0)
        self._density, self._grid, self._pose = density.astype(np.float32), grid, grid_from_camera

    def complete(self, sequence: PosedSequence, index: int) -> Prediction:
        """The same field at every frame, upright on the floor where the grids of the sequence are."""
        pose = level_grid(sequence, index) or self._pose
        return Prediction(sequence.cameras[reference_camera(sequence)], grid_density(self._density, self._grid, pose))


def level_grid(sequence: PosedSequence, index: int) -> RigidTransform | None:
    """Pose of the camera in a grid that stands upright on the floor; None where the floor of a sequence is unknown."""
    return None if sequence.floor is None else sequence.grid_from_camera(index)


def fit_prior(truths: Iterable[VoxelTruth], held_out: VoxelTruth | None = None) -> tuple[Floats, float, VoxelGrid]:
    """Average voxels of training frames; the mean, the threshold on it with the largest IoU, and their grid.

    `truths`: ground truths on one grid; `held_out`: what the threshold is fitted to, the same frames if left out.
    Raises SequenceError where there are none; GridError where their grids differ.
    """
    grid, occupied, known = None, np.zeros(0, np.float32), np.zeros(0, np.float32)
    frames = []
    for truth in truths:
        if grid is None:
            grid = truth.grid
            occupied, known = np.zeros((2, *grid.shape), np.float32)
        elif truth.grid != grid:
            what = f"the towns have different voxel grids, {truth.grid} and {grid}"
            raise GridError(what, where="towns of the prior", cure="Name towns of one rig")
        occupied += truth.occupied & truth.known
        known += truth.known
        if held_out is None:
            frames.append((np.packbits(truth.occupied), np.packbits(truth.counted)))
    if grid is None:
        raise SequenceError("no frame has voxels", where="drives of the prior", cure="Render towns with their assets")
    mean = smoothed_share(occupied, known, PRIOR_SIGMA)
    if held_out is not None:
        frames.append((np.packbits(held_out.occupied), np.packbits(held_out.counted)))
    histogram = np.zeros_like(score_histogram(mean[:0], mean[:0] > 0.0))
    for bits in frames:
        true, counted = (np.unpackbits(packed).reshape(mean.shape).astype(bool) for packed in bits)
        histogram += score_histogram(mean[counted], true[counted])
    return mean, best_iou(histogram)[1], grid


def smoothed_share(occupied: Floats, known: Floats, sigma: tuple[float, float, float]) -> Floats:
    """Mean occupancy [X, Y, Z] of how often voxels were occupied, and how often they were known; 0 if nothing is near.

    Counts are smoothed by a Gaussian (along x, y, z, voxels) before they are divided: a voxel that was seldom known
    gets the share of its neighbours.
    """
    from scipy.ndimage import gaussian_filter

    known = gaussian_filter(known, sigma)
    near = known > 1e-6
    mean = np.where(near, gaussian_filter(occupied, sigma) / np.where(near, known, 1.0), 0.0)
    return np.clip(mean, 0.0, 1.0).astype(np.float32)


def prior_of_windows(windows: Path) -> Callable[[PosedSequence], PriorControl]:
    """The prior grid of the KITTI training windows, for any window; the threshold is that of the calibration window."""

    def truth_of(name: str) -> VoxelTruth:
        truth = opening.voxel_truth(opening.open_recording(windows / name), 0)
        if truth is None:
            raise SequenceError("has no semantic voxels", where=str(windows / name), cure="Restore ssc_derived")
        return truth

    found = fit_prior(map(truth_of, TRAINING_WINDOWS), truth_of(CALIBRATION_WINDOW))

    def prior(sequence: PosedSequence) -> PriorControl:
        camera, lidar = sequence.rig_from_camera[reference_camera(sequence)], sequence.rig_from_sensor["velodyne"]
        return PriorControl(*found, lidar.inverse() @ camera)

    return prior


def surface_controls(sequence: PosedSequence, model: Predictor | None = None) -> list[Predictor]:
    """Surface and thick surface from the best depth that a sequence has, and from a model's own depth."""
    true = "depth" in sequence.frames[0].assets
    sources: list[tuple[DepthSource, str]] = [(true_depth, "true depth") if true else (measured_depth, "stereo depth")]
    if model is not None:
        sources.append((depth_of_model(model), f"depth of {model.name}"))
    return [SurfaceControl(depth, name, thick) for depth, name in sources for thick in (0.0, THICKNESS)]


def true_depth(sequence: PosedSequence, index: int) -> Floats:
    """The exact depth of a rendered sequence's left camera; a `SequenceError` where the frame has none."""
    depth = sequence.asset(index, "depth")
    if depth is None:
        what = "no depth"
        raise SequenceError(what, where=f"{sequence.name}, frame {index}", cure="Render the town with the asset depth")
    return np.asarray(depth, dtype=np.float32)


def depth_of_model(model: Predictor) -> DepthSource:
    """The depth that a model renders, every fourth pixel, taken over by its neighbours."""

    def source(sequence: PosedSequence, index: int) -> Floats:
        seen = model.complete(sequence, index)
        pixels = seen.camera.pixel_centres()[::_DEPTH_STRIDE, ::_DEPTH_STRIDE]
        depth = seen.depth(pixels.reshape(-1, 2)).reshape(pixels.shape[:2])
        full = depth.repeat(_DEPTH_STRIDE, axis=0).repeat(_DEPTH_STRIDE, axis=1)
        return full[: seen.camera.height, : seen.camera.width]

    return source


def surface_voxels(
    depth: Floats,  # z-depth [H, W], metres
    camera: Camera,
    thickness: float,  # metres along the rays behind the surface that are filled too
    grid: VoxelGrid,
    grid_from_camera: RigidTransform,  # pose of the camera in the voxels of `grid`
) -> Mask:
    """Voxels that a depth image fills. Returns bool [X, Y, Z]."""
    wanted = np.isfinite(depth) & (depth > 0.0)
    rays = camera.unproject(camera.pixel_centres()[wanted])
    direction = rays / np.linalg.norm(rays, axis=1, keepdims=True)
    surface = rays * depth[wanted].astype(np.float64)[:, None]
    occupied = np.zeros(grid.shape, dtype=np.bool_)
    for behind in np.arange(0.0, thickness + 1e-6, grid.voxel_size / 2.0):
        index, inside = grid.index_of(grid_from_camera.apply(surface + behind * direction))
        occupied[tuple(np.asarray(index)[np.asarray(inside)].T)] = True
    return occupied


def grid_density(density: Floats, grid: VoxelGrid, grid_from_camera: RigidTransform) -> predictor.PointFunction:
    """The density of the voxel [X, Y, Z] that a point (optical frame) lies in; 0 outside of the grid."""

    def lookup(points: Floats) -> Floats:
        index, inside = grid.index_of(grid_from_camera.apply(points.astype(np.float64)))
        found = np.zeros(len(points), dtype=np.float32)
        found[np.asarray(inside)] = density[tuple(np.asarray(index)[np.asarray(inside)].T)]
        return found

    return lookup


def scored_frames(
    sequence: PosedSequence, every: int, *, scans: int = 20, split: FrameSplit | None = None, at: int | None = None
) -> Iterator[Frame]:
    """Frames with voxels, or with scans: those with all N ahead, or frame 0 of a shorter recording.

    `every`: frames between scored ones; of those with voxels, images between them. `scans`: scans N that the LiDAR
    protocols accumulate. `split`: a frame list instead; of the frames near the end of a drive, which have fewer scans
    ahead, it has some. `at`: this frame alone, against the voxels of the first one: what robots know of earlier frames,
    the first one of a labelled window does not have. Raises SequenceError where there is no frame `at`.
    """
    if at is not None:
        later = opening.truth_later(sequence, *chosen_frames(sequence, at=at))
        if later is not None:
            yield Frame(sequence, at, FrameTruth(later, None))
        return
    pitch = lidar_evaluation.camera_pitch(sequence)
    scanned: Collection[int] = ()
    related = lidar_evaluation.LIDAR in sequence.rig_from_sensor and sequence.pose_source != UNKNOWN_POSES
    if related and ("bag" in sequence.provenance or "lidar" in sequence.frames[0].assets):
        posed = [index for index, _ in lidar_evaluation.scan_poses(sequence)]
        scanned = posed[: max(1, len(posed) - scans + 1) : every]
    with_voxels = set(frames_with_voxels(sequence, every))
    indices: Collection[int] = sorted(with_voxels.union(scanned))
    if split is not None:
        indices = listed_frames(sequence, split)
        with_voxels, scanned = set(indices), indices if scanned else ()
    for index in indices:
        truth = opening.voxel_truth(sequence, index) if index in with_voxels else None
        slabs: tuple[lidar_evaluation.SlabTruth, ...] = ()
        if index in scanned:
            slabs = lidar_evaluation.slabs_of(lidar_evaluation.level_scans(sequence, index, scans, pitch), pitch)
        if truth is not None or slabs:
            yield Frame(sequence, index, FrameTruth(truth, None), slabs)


def scan_frames(sequence: PosedSequence, every: int) -> Iterator[Frame]:
    """Every so many-th frame with a scan of its own, against the voxels that this scan knows."""
    for index in scanned_frames(sequence)[::every]:
        known = opening.scan_voxels(sequence, index)
        if known is not None:
            yield Frame(sequence, index, FrameTruth(known, None))


def chosen_frames(
    sequence: PosedSequence, split: FrameSplit | None = None, every: int = 1, at: int | None = None
) -> list[int]:
    """Those that a list names, or the one `at`, or each so many-th; a SequenceError where there is no frame `at`."""
    if at is not None and at >= len(sequence):
        what = f"has no frame {at}, but {len(sequence)} frames"
        raise SequenceError(what, where=sequence.name, cure="Name an earlier one with --at")
    if split is not None:
        return listed_frames(sequence, split)
    return [*range(0, len(sequence), every)] if at is None else [at]


def listed_frames(sequence: PosedSequence, split: FrameSplit) -> list[int]:
    """Frames that a list names for the left camera, as it orders them."""
    return [index for index, side in split.of(sequence) if side == SIDES[0]]


def frames_with_voxels(sequence: PosedSequence, every: int = 1) -> list[int]:
    """Frames that have voxels, each at least so many images (by number, as in SemanticKITTI) after the last."""
    number_of = {index: number for number, index in frame_indices(sequence).items()}
    found: list[int] = []
    for index in range(len(sequence)):
        if opening.holds_voxels(sequence, index) and (
            not found or number_of.get(index, index) >= number_of.get(found[-1], found[-1]) + every
        ):
            found.append(index)
    return found


def voxel_places(
    recordings: Iterable[PosedSequence], every: int = 1, split: FrameSplit | None = None
) -> Iterator[tuple[PosedSequence, int]]:
    """The frames of recordings that have voxels, or those of them that a list names."""
    for sequence in recordings:
        listed = None if split is None else set(listed_frames(sequence, split))
        for index in frames_with_voxels(sequence, every if listed is None else 1):
            if listed is None or index in listed:
                yield sequence, index


def placed_frames(places: Iterable[tuple[PosedSequence, int]]) -> Iterator[Frame]:
    """Those frames with their voxels; a terminal shows how far it is."""
    for sequence, index in watched(places, "frame"):
        truth = opening.voxel_truth(sequence, index)
        if truth is not None:
            yield Frame(sequence, index, FrameTruth(truth, None))


def voxel_frames(drives: Iterable[PosedSequence], every: int = 1, split: FrameSplit | None = None) -> Iterator[Frame]:
    """Frames of recordings that have voxels, or those of them that a list names."""
    return placed_frames(voxel_places(drives, every, split))


def scanned_frames(sequence: PosedSequence, split: FrameSplit | None = None) -> list[int]:
    """Frames with a scan of their own, or those of them that a list names for the left camera, as it orders them."""
    scans = {number: k for number, k in frame_indices(sequence).items() if "lidar" in sequence.frames[k].assets}
    if split is None:
        return list(scans.values())
    return [index for index, side in split.of_drive(sequence.name, scans) if side == SIDES[0]]


def depth_frames(sequence: PosedSequence, indices: Iterable[int]) -> Iterator[Frame]:
    """Frames with the stored depth of their reference camera, or its LiDAR; those that have none are left out.

    Scores are means over frames of the errors of each frame, see `scene_completion_ros.evaluation.depth`. Published
    evaluations differ in details. They render 192 x 640 rays and enlarge the image, where here every counted pixel has
    its own ray. They place the LiDAR one pixel further left and up than it projects. The Eigen ground truth of
    Monodepth2 is the distance along the LiDAR's x axis. That is 0.27 m more than the depth in the camera's frame, which
    counts here as it does for Behind the Scenes. Models that encode several views take further frames of the drive,
    listed or not: unpack whole drives for them.
    """
    for index in indices:
        depth = opening.depth_truth(sequence, index)
        if depth is not None:
            yield Frame(sequence, index, FrameTruth(None, depth))


def calibrate(model: Predictor, frames: Iterable[Frame]) -> None:
    """Give a predictor the calibration and the threshold that fit frames which are not scored.

    Raises GridError where they tell nothing.
    """
    empty = np.zeros(0, dtype=np.float32)
    histogram = score_histogram(empty, empty > 0.0)
    for frame in frames:
        true, counted = frame.voxels, frame.voxels.counted
        density = model.complete(frame.sequence, frame.index).voxel_density(true)[counted]
        histogram += score_histogram(opacity(density, predictor.VOXEL_EDGE), true.occupied[counted])
    model.calibration = fit_calibration(histogram)
    threshold = float(model.calibration.apply(np.array([best_iou(histogram)[1]], dtype=np.float32))[0])
    model.thresholds = Thresholds(threshold, threshold)
    model.cutoffs = predictor.calibrated_cutoffs(model.calibration, threshold)
