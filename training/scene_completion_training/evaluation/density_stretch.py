"""Two numbers by which a student's densities render the depth of a drive best, without another order of its voxels.

Training leaves surfaces soft: part of a ray ends before a far wall, part goes through near ground. A field with
densities `softplus(k x + c)` instead of `softplus(x)`, x its logit, calls the same voxels denser than others. It is
sharper for k > 1. `calibrate_on_truth` fits them to LiDAR.
"""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from scene_completion_ros.errors import BundleError, SequenceError
from scene_completion_ros.evaluation.occupancy import best_iou, fit_calibration, score_histogram
from scene_completion_ros.inference.bundle import WEIGHTS, StudentBundle
from scene_completion_ros.inference.head import HeadWeights
from scene_completion_ros.inference.scene_query import inverse_distance_samples
from scene_completion_ros.sequences.opening import lidar_depth
from scene_completion_ros.sequences.posed_sequence import PosedSequence
from scene_completion_ros.voxels.occupancy import composite, density_of_logit, logit_of_density, opacity
from scene_completion_training.arrays import Doubles, Floats
from scene_completion_training.evaluation.controls import CALIBRATION_WINDOW, TEST_WINDOWS, TRAINING_WINDOWS
from scene_completion_training.evaluation.deployed import DeployedStudent
from scene_completion_training.evaluation.geometry import counted_depth, voxel_frames
from scene_completion_training.evaluation.predictor import Predictor
from scene_completion_training.networks.density_field import LAST_WEIGHTS

PIXELS = 2000  # pixels of a frame that are looked at, drawn from those with a depth
SAMPLES = 64
BOUNDS = ((-np.log(4.0), np.log(4.0)), (-4.0, 4.0))  # of ln k and c; who needs more has not learned depth


@dataclass(frozen=True)
class DensityStretch:
    """σ = softplus(scale · x + offset) of logits x."""

    scale: float = 1.0
    offset: float = 0.0

    def of_head(self, head: HeadWeights) -> HeadWeights:
        """A head with stretched densities."""
        scale, offset = np.float32(self.scale), np.float32(self.offset)
        weight, bias = scale * head.density_weight, scale * head.density_bias + offset
        return dataclasses.replace(head, density_weight=weight, density_bias=bias)

    def of_weights(self, weights: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """The same of unfolded weights, in their own precision."""
        changed = dict.fromkeys(LAST_WEIGHTS, (self.scale, 0.0)) | {"density_layer.bias": (self.scale, self.offset)}
        stretched = dict(weights)
        for name in changed.keys() & weights.keys():
            factor, added = changed[name]
            stretched[name] = (weights[name] * np.float64(factor) + added).astype(weights[name].dtype)
        return stretched


@dataclass(frozen=True, eq=False)
class RayLogits:
    """Logits along the rays of some pixels of one frame."""

    logits: Doubles  # [R, K] at the distances of `inverse_distance_samples`
    length: Doubles  # distance along the ray of z-depth 1 [R]
    truth: Doubles  # true z-depth [R], metres
    distances: Doubles  # [K], metres

    def squared_log_error(self, stretch: DensityStretch) -> float:
        """Mean of (ln d − ln d*)², d the rendered z-depth."""
        density = density_of_logit(stretch.scale * self.logits + stretch.offset)
        depth = composite(density, self.distances).distance / self.length
        return float(np.mean(np.log(depth / self.truth) ** 2))


def fit_stretch(frames: Sequence[RayLogits]) -> DensityStretch:
    """The stretch with the smallest rmse_log (Eigen et al. 2014: near and far count alike), mean over frames."""

    def error(numbers: Doubles) -> float:
        scale, offset = numbers
        stretch = DensityStretch(float(np.exp(scale)), float(offset))
        return float(np.mean([np.sqrt(frame.squared_log_error(stretch)) for frame in frames]))

    found = minimize(error, np.zeros(2), method="Nelder-Mead", bounds=BOUNDS, options={"xatol": 1e-3, "fatol": 1e-6})
    scale, offset = found.x
    return DensityStretch(float(np.exp(scale)), float(offset))


def rays_to_depth(model: Predictor, drive: PosedSequence, depths: Iterable[tuple[int, Floats]]) -> list[RayLogits]:
    """Logits along rays to depths [H, W] of frames, metres, 0 for none; a `SequenceError` if there are no depths."""
    generator = np.random.default_rng(0)
    frames = []
    for index, measured in depths:
        truth = counted_depth(measured)
        hit = np.flatnonzero(truth)
        if len(hit):
            row, column = np.unravel_index(generator.choice(hit, min(PIXELS, len(hit)), replace=False), truth.shape)
            pixels = np.stack([column, row], axis=-1).astype(np.float64)
            seen = model.complete(drive, index)
            distances = inverse_distance_samples(SAMPLES, *seen.depth_range)
            density, length = seen.along_rays(pixels, distances)
            logits = logit_of_density(density.astype(np.float64))
            frames.append(RayLogits(logits, length, truth[row, column].astype(np.float64), distances))
    if not frames:
        what = "no depth in the image"
        raise SequenceError(what, where=drive.name, cure="Name a drive with LiDAR scans")
    return frames


def calibrate_on_truth(bundle: StudentBundle, recordings: Sequence[PosedSequence], *, every: int = 1) -> StudentBundle:
    """Fit a student's depth and its probabilities; the bundle with both, as it is written.

    First the two numbers of a `DensityStretch`, on the LiDAR of all frames, unless it says depth itself; the order of
    the voxels stays. Then α → probability and the threshold with the largest IoU, on the voxels that count. Raises
    BundleError where the bundle was never saved; SequenceError where the recordings have no LiDAR, no frame has voxels,
    or one is a window of KITTI that the shipped students are trained or tested on.
    """
    names_of_windows = {f"sequences/{window}" for window in (*TRAINING_WINDOWS, *TEST_WINDOWS)}
    if used := {sequence.name for sequence in recordings} & names_of_windows:
        cure = f"Fit to a recording that is used for nothing else, such as sequences/{CALIBRATION_WINDOW}"
        raise SequenceError(f"{', '.join(sorted(used))} is used for training or testing", where="--labelled", cure=cure)
    if bundle.folder is None:
        raise BundleError("has not been saved", where=f"bundle {bundle.name}", cure="Save it first")
    stretch = DensityStretch()
    if bundle.head.volume is None:
        model = DeployedStudent(bundle)
        rays = []
        for sequence in recordings:
            measured = ((index, lidar_depth(sequence, index)) for index in range(0, len(sequence), every))
            rays += rays_to_depth(model, sequence, ((index, depth) for index, depth in measured if depth is not None))
        stretch = fit_stretch(rays)
    folder, encoder, weights = bundle.folder, bundle.encoder_path.read_bytes(), None
    if WEIGHTS in bundle.sha256 and (folder / WEIGHTS).is_file():
        weights = stretch.of_weights(bundle.load_weights())
    bundle = dataclasses.replace(bundle, head=stretch.of_head(bundle.head))
    model = DeployedStudent(bundle)
    alpha, occupied = [np.zeros(0, np.float32)], [np.zeros(0, np.bool_)]
    for frame in voxel_frames(recordings, every):
        density = model.complete(frame.sequence, frame.index).voxel_density(frame.voxels)[frame.voxels.counted]
        alpha.append(opacity(density, bundle.grid.voxel_size))
        occupied.append(frame.voxels.occupied[frame.voxels.counted])
    names = ", ".join(sequence.name for sequence in recordings)
    if len(alpha) == 1:
        raise SequenceError("no frame has ground truth voxels", where=names, cure="Name recordings that have")
    found, true = np.concatenate(alpha), np.concatenate(occupied)
    calibration = fit_calibration(score_histogram(found, true))
    iou, threshold = best_iou(score_histogram(calibration.apply(found), true))
    record = {
        "fitted_on": f"{names}: densities on its LiDAR, probabilities on its voxels in view",
        "density_stretch": {"scale": round(stretch.scale, 4), "offset": round(stretch.offset, 4)},
        "iou_there": round(iou, 4),
    }
    changed = dataclasses.replace(
        bundle, calibration=calibration, threshold=threshold, provenance={**bundle.provenance, "calibration": record}
    )
    return changed.save(folder, encoder, weights)
