"""Calibrates a student on drives that it was not trained on by what their stereo pairs say: no label, no LiDAR.

It gets a place prior: the log odds of the smoothed mean occupancy of training drives. Drives that the student was not
trained on say how much its own logits x are worth beside the prior. A logistic regression of the fused stereo occupancy
on x and prior gives the weights, which change with the distance. They differ between where the prior expects something
(the ground, what lines a street) and where it does not. There the mean of other drives says nothing of the obstacle
that stands in this one, and only the student counts.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize

from scene_completion_ros.errors import BundleError, SequenceError
from scene_completion_ros.evaluation.baselines import PriorGrid
from scene_completion_ros.evaluation.occupancy import best_iou, score_histogram
from scene_completion_ros.geometry.grids import DEFAULT_GRID_FROM_CAMERA, VoxelGrid
from scene_completion_ros.inference.bundle import WEIGHTS, StudentBundle
from scene_completion_ros.inference.place_prior import PlacePrior
from scene_completion_ros.sequences.posed_sequence import PosedSequence
from scene_completion_ros.voxels.occupancy import log_odds_of_probability, logit_of_density, probability_of_log_odds
from scene_completion_training.evaluation.controls import measured_depth
from scene_completion_training.evaluation.density_stretch import DensityStretch, RayLogits, fit_stretch, rays_to_depth
from scene_completion_training.evaluation.deployed_model import DeployedModel
from scene_completion_training.evaluation.kitti import PRIOR_SIGMA
from scene_completion_training.evaluation.stereo_truth import OCCUPIED, stereo_evidence
from scene_completion_training.networks.occupancy_link import link_calibration
from scene_completion_training.viewpoint import Viewpoint, Volume

DISTANCES = (4.0, 12.8, 25.6, 51.2)
"""Metres ahead at which the weights are fitted, where the volume reaches as far as a street's, and in proportion
elsewhere; between them they are linear in the logarithm."""
BLOCK = (8, 8, 1)
"""Voxels between knots of the lattice along x, y, z: half of the standard deviation of the smoothing."""
POINTS = 60_000
"""Voxels of a frame that take part, drawn from those with evidence."""
LARGEST_LOGIT = 25.0
EXPECTED_FROM, EXPECTED_SLOPE = -2.0, 2.0
"""Log odds of the prior (a mean of 12 %) around which something is expected there, and how sharply that changes."""
RAREST = 1e-3
"""Smallest and, as its complement, largest mean occupancy."""
_GAINS = 2 * len(DISTANCES)
_Frame = TypeVar("_Frame")


def calibrate_on_stereo(
    bundle: StudentBundle,
    training: Sequence[PosedSequence],
    held_out: Sequence[Sequence[PosedSequence]],
    *,
    every: int = 1,
    engine: str = "auto",
    threads: int | None = None,
    on_frame: Callable[[], None] = lambda: None,
) -> StudentBundle:
    """Gives a student its place prior, its depth and its probabilities, and writes the bundle.

    1. The prior: the mean of what stereo says of the training drives, weighed against the student on held-out drives.
    2. Two numbers that stretch its densities, fitted to the stereo depth of the held-out drives; the order of the
       voxels stays as it is. A student that says depth itself needs none.
    3. α → probability, which follows from the first two, and the threshold with the largest IoU on the fused stereo
       occupancy of the held-out drives.

    Args:
        bundle: The student; a prior that it has is replaced. Its folder is written.
        training: Drives with a stereo pair, which the student may have been trained on.
        held_out: Groups of drives with a stereo pair that it was not trained on. Groups count equally.
        every: Take every N-th frame.
        engine: Encoder engine.
        threads: CPU threads of the encoder.
        on_frame: Called after each frame: once for those of training drives, twice for those of held-out drives, and
            once for these too where the student says depth itself.

    Returns:
        The bundle as written.

    Raises:
        BundleError: The bundle was never saved.
        SequenceError: A drive has no stereo pair, or says nothing.
    """
    if bundle.folder is None:
        raise BundleError("has not been saved", where=f"bundle {bundle.name}", cure="Save it first")
    folder, encoder = bundle.folder, bundle.encoder_path.read_bytes()
    weights = bundle.load_weights() if WEIGHTS in bundle.sha256 and (folder / WEIGHTS).is_file() else None
    by_itself = dataclasses.replace(bundle, head=dataclasses.replace(bundle.head, prior=None))
    model = DeployedModel(by_itself, engine=engine, threads=threads)
    volume = Viewpoint.of_bundle(bundle).volume
    learned = (voxels for drive in training for voxels in _stereo_voxels(drive, every, volume))
    mean = mean_prior(_told(learned, on_frame), volume.grid)
    groups = [
        [frame for drive in group for frame in _told(_evidence(model, drive, every, volume), on_frame)]
        for group in held_out
    ]
    prior = fit_place_prior(groups, mean, volume)
    with_prior = dataclasses.replace(bundle, head=dataclasses.replace(bundle.head, prior=prior))
    stretch = DensityStretch()
    if bundle.head.volume is None:
        model = DeployedModel(with_prior, engine=engine, threads=threads)
        drives = (drive for group in held_out for drive in group)
        stretch = fit_stretch([ray for drive in drives for ray in _stereo_rays(model, drive, every, on_frame)])
    # Before the stretch, a density's logit is that of the probability.
    log_scale, offset = -math.log(stretch.scale), -stretch.offset / stretch.scale
    weights_of_link = {"log_scale": torch.tensor(log_scale), "offset": torch.tensor(offset)}
    link = link_calibration(weights_of_link, volume.voxel_size)
    changed = dataclasses.replace(with_prior, head=stretch.of_head(with_prior.head), calibration=link)
    iou, threshold = _best_threshold([frame for group in groups for frame in group], prior)
    record = {
        "fitted_on": "stereo pairs alone: prior on training drives, all else on held-out drives",
        "training_drives": [drive.name for drive in training],
        "held_out_drives": [[drive.name for drive in group] for group in held_out],
        "density_stretch": {"scale": round(stretch.scale, 4), "offset": round(stretch.offset, 4)},
        "iou_there": round(iou, 4),
    }
    changed = dataclasses.replace(changed, threshold=threshold, provenance={**bundle.provenance, "calibration": record})
    if weights is not None:
        weights = stretch.of_weights(weights, prior=True)
    return changed.save(folder, encoder, weights)


def _stereo_voxels(
    drive: PosedSequence, every: int, volume: Volume
) -> Iterator[tuple[NDArray[np.bool_], NDArray[np.bool_]]]:
    depth = cache(measured_depth)
    for index in range(0, len(drive), every):
        score, known = stereo_evidence(drive, index, volume.grid, DEFAULT_GRID_FROM_CAMERA, depth, volume)
        yield known & (score > OCCUPIED), known


def _evidence(model: DeployedModel, drive: PosedSequence, every: int, volume: Volume) -> Iterator[FrameEvidence]:
    depth = cache(measured_depth)
    for index in range(0, len(drive), every):
        found = stereo_evidence(drive, index, volume.grid, DEFAULT_GRID_FROM_CAMERA, depth, volume)
        points, target = drawn_evidence(*found, volume.grid, np.random.default_rng(index))
        density = model.observe(drive, index).density(points)
        yield FrameEvidence(points, logit_of_density(density.astype(np.float64)), target)


def _stereo_rays(
    model: DeployedModel, drive: PosedSequence, every: int, on_frame: Callable[[], None]
) -> list[RayLogits]:
    measured = ((index, measured_depth(drive, index)) for index in range(0, len(drive), every))
    return rays_to_depth(model, drive, _told(measured, on_frame))


def _told(frames: Iterable[_Frame], on_frame: Callable[[], None]) -> Iterator[_Frame]:
    """The frames, each of which is told when the next one is asked for."""
    for frame in frames:
        yield frame
        on_frame()


def _best_threshold(frames: Sequence[FrameEvidence], prior: PlacePrior) -> tuple[float, float]:
    """Largest IoU over the voxels of frames, and the probability at which they have to be called occupied for it."""
    histograms = []
    for frame in frames:
        gain, logit = prior.at(frame.points).T
        probability = probability_of_log_odds(gain * frame.logit + logit)
        histograms.append(score_histogram(probability.astype(np.float32), frame.target > OCCUPIED))
    return best_iou(np.sum(histograms, axis=0))


@dataclass(frozen=True, eq=False)
class FrameEvidence:
    """Some voxels of a frame that the student has never seen.

    Attributes:
        points: [N, 3], centres in the camera's optical frame, metres.
        logit: Logit x of the student's density [N].
        target: Share of the stereo evidence that speaks for "occupied" [N], 0..1.
    """

    points: NDArray[np.float32]
    logit: NDArray[np.float64]
    target: NDArray[np.float32]


def mean_prior(voxels: Iterable[tuple[NDArray[np.bool_], NDArray[np.bool_]]], grid: VoxelGrid) -> PlacePrior:
    """The log odds of the smoothed mean occupancy, as a prior beside which the student counts in full.

    Args:
        voxels: Occupied, and known, bool [X, Y, Z] each, of every frame.
        grid: Their grid, see `Volume.grid`.

    Raises:
        SequenceError: There is no frame.
    """
    counts = PriorGrid(grid.shape)
    for occupied, known in voxels:
        counts.update(occupied, known)
    if not counts.known.any():
        raise SequenceError("no frame says anything", where="training drives", cure="Name drives with a stereo pair")
    mean = np.clip(counts.compute(PRIOR_SIGMA), RAREST, 1.0 - RAREST).astype(np.float64)
    logit = _block_means(log_odds_of_probability(mean))
    edge, block = grid.voxel_size, np.array(BLOCK)
    # The grid lies along the camera's forward axes, so that its lattice is that of the prior.
    lattice = np.stack([np.array(grid.origin) + edge * block / 2.0, edge * block])
    return PlacePrior(np.ones(logit.shape, np.float32), logit.astype(np.float32), lattice.astype(np.float32))


def fit_place_prior(
    groups: Sequence[Sequence[FrameEvidence]], mean: PlacePrior, volume: Volume | None = None
) -> PlacePrior:
    """Believes student and prior as far as frames that the student was not trained on bear them out.

    logit P(occupied) = s (a x + b prior + c) + (1 - s) (a' x + c'), with the smallest cross-entropy. s goes from 0 to 1
    with the prior, see `EXPECTED_FROM`; the five weights change with the distance ahead; a, a', b ≥ 0.

    Args:
        groups: Frames; groups count equally, whatever the number of their frames.
        mean: The prior beside which the student counts in full, see `mean_prior`.
        volume: The space that is completed; a street's if left out.

    Returns:
        The prior by which the density's logit is that of the probability.

    Raises:
        SequenceError: A group has no frame.
    """
    if not groups or not all(groups):
        raise SequenceError("no frame in it", where="held-out drives", cure="Name drives with a stereo pair")
    knots = np.log(np.array(DISTANCES) * (volume or Volume()).scale)
    parts, targets, weights = [], [], []
    for group in groups:
        for frame in group:
            logit = np.clip(frame.logit, -LARGEST_LOGIT, LARGEST_LOGIT)[:, None]
            forward, expected = frame.points[:, 2], mean.at(frame.points)[:, 1]
            place = _terms(forward.astype(np.float64), expected.astype(np.float64), knots)
            gains = place[:, :_GAINS]
            parts.append(np.concatenate([gains * logit, place[:, _GAINS:]], axis=1))
            targets.append(frame.target.astype(np.float64))
            weights.append(np.full(len(logit), 1.0 / (len(logit) * len(group) * len(groups))))
    features, target, weight = np.concatenate(parts), np.concatenate(targets), np.concatenate(weights)

    def cross_entropy(numbers: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        total = features @ numbers
        probability = probability_of_log_odds(total)
        loss = float(weight @ (np.logaddexp(0.0, total) - target * total))
        return loss, features.T @ (weight * (probability - target))

    positive, free = 3 * len(DISTANCES), 2 * len(DISTANCES)
    start = np.concatenate([np.ones(positive), np.zeros(free)])
    bounds = [(0.0, None)] * positive + [(None, None)] * free
    found = minimize(cross_entropy, start, jac=True, method="L-BFGS-B", bounds=bounds).x
    x = mean.lattice[0, 0] + mean.lattice[1, 0] * np.arange(mean.logit.shape[0], dtype=np.float64)
    ahead = np.broadcast_to(x[:, None, None], mean.logit.shape)
    terms = _terms(ahead.reshape(-1), mean.logit.reshape(-1).astype(np.float64), knots)
    gain, logit = terms[:, :_GAINS] @ found[:_GAINS], terms[:, _GAINS:] @ found[_GAINS:]
    shape = mean.logit.shape
    return PlacePrior(gain.reshape(shape).astype(np.float32), logit.reshape(shape).astype(np.float32), mean.lattice)


def drawn_evidence(
    score: NDArray[np.float32], known: NDArray[np.bool_], grid: VoxelGrid, generator: np.random.Generator
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Centres [N, 3] (optical frame, metres) and shares [N] of some voxels of a grid that have evidence."""
    there = np.flatnonzero(known)
    chosen = np.sort(generator.choice(there, min(POINTS, len(there)), replace=False))
    index = np.stack(np.unravel_index(chosen, known.shape), axis=-1)
    centres = np.asarray(grid.origin) + (index + 0.5) * grid.voxel_size
    return DEFAULT_GRID_FROM_CAMERA.inverse().apply(centres).astype(np.float32), score.reshape(-1)[chosen]


def _terms(ahead: NDArray[np.float64], prior: NDArray[np.float64], knots: NDArray[np.float64]) -> NDArray[np.float64]:
    """What the weights of `fit_place_prior` are multiplied by, [N, 5 K]: those of a, a', b, c and c'.

    Args:
        ahead: Distances ahead [N], metres.
        prior: Log odds of the mean there [N].
        knots: Logarithms of the distances that have weights of their own [K].
    """
    near = _shares(ahead, knots)
    expected = near / (1.0 + np.exp(-EXPECTED_SLOPE * (prior - EXPECTED_FROM)))[:, None]
    return np.concatenate([expected, near - expected, expected * prior[:, None], expected, near - expected], axis=1)


def _shares(ahead: NDArray[np.float64], knots: NDArray[np.float64]) -> NDArray[np.float64]:
    """Share of each knot in distances ahead [N]: [N, K]; those nearer and farther take the outermost."""
    place = np.interp(np.log(np.maximum(ahead, 1e-3)), knots, np.arange(len(knots)))
    return np.asarray(np.maximum(0.0, 1.0 - np.abs(place[:, None] - np.arange(len(knots)))))


def _block_means(volume: NDArray[np.float64]) -> NDArray[np.float64]:
    """Means of blocks; where the last one is not whole, the outermost voxels stand for those that it lacks."""
    lacking = [(0, -size % block) for size, block in zip(volume.shape, BLOCK, strict=True)]
    volume = np.pad(volume, lacking, mode="edge")
    x, y, z = (size // block for size, block in zip(volume.shape, BLOCK, strict=True))
    return np.asarray(volume.reshape(x, BLOCK[0], y, BLOCK[1], z, BLOCK[2]).mean(axis=(1, 3, 5)))
