"""Calibrates a student on drives that it was not trained on by what their stereo says: no label, no LiDAR.

Stereo is that of a pair where the rig has one, and of the camera's motion elsewhere (`depth_meter`). It gets a place
prior: the log odds of the smoothed mean occupancy of training drives. Drives that the student was not trained on say
how much its own logits x are worth beside the prior. A logistic regression of the fused stereo occupancy on x and prior
gives the weights, which change with the distance. They differ between where the prior expects something (the ground,
what lines a street) and where it does not. There the mean of other drives says nothing of the obstacle that stands in
this one, and only the student counts.
"""

import dataclasses
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
from scipy.optimize import minimize

from scene_completion_ros.errors import BundleError, SequenceError
from scene_completion_ros.evaluation.baselines import PriorGrid
from scene_completion_ros.evaluation.occupancy import average_precision, best_iou, score_histogram
from scene_completion_ros.geometry.depth_images import depth_at_rays
from scene_completion_ros.geometry.grids import DEFAULT_GRID_FROM_CAMERA, VoxelGrid
from scene_completion_ros.inference.bundle import WEIGHTS, StudentBundle
from scene_completion_ros.inference.head import PlacePrior
from scene_completion_ros.sequences.posed_sequence import PosedSequence
from scene_completion_ros.voxels.occupancy import log_odds_of_probability, logit_of_density, probability_of_log_odds
from scene_completion_training.arrays import Doubles, Floats, Ints, Mask, Random
from scene_completion_training.data.motion_stereo import DepthMeter, depth_meter, depth_summaries
from scene_completion_training.data.stereo_voxels import OCCUPIED, stereo_evidence
from scene_completion_training.evaluation.controls import PRIOR_SIGMA
from scene_completion_training.evaluation.density_model import DeployedModel
from scene_completion_training.evaluation.density_stretch import DensityStretch, RayLogits, fit_stretch, rays_to_depth
from scene_completion_training.networks.density_field import link_calibration
from scene_completion_training.viewpoint import Viewpoint, Volume

# Metres ahead at which the weights are fitted, where the volume reaches as far as a street's, and in proportion
# elsewhere. Between them they are linear in the logarithm.
DISTANCES = (4.0, 12.8, 25.6, 51.2)
BLOCK = (8, 8, 1)  # voxels between knots of the lattice along x, y, z: half of the standard deviation of the smoothing
POINTS = 60_000  # voxels of a frame that take part, drawn from those with evidence
LARGEST_LOGIT = 25.0
# Log odds of the prior (a mean of 12 %) around which something is expected there, and how sharply that changes.
EXPECTED_FROM, EXPECTED_SLOPE = -2.0, 2.0
RAREST = 1e-3  # smallest and, as its complement, largest mean occupancy
_GAINS = 2 * len(DISTANCES)
Groups: TypeAlias = "Sequence[Sequence[FrameEvidence]]"  # of drives; all count equally


def calibrate_on_stereo(
    bundle: StudentBundle,  # the student; a prior that it has is replaced. Its folder is written
    training: Sequence[PosedSequence],  # drives that the student may have been trained on
    held_out: Sequence[Sequence[PosedSequence]],  # groups of drives that it was not trained on. Groups count equally
    *,
    earlier: StudentBundle | None = None,  # the student that this one went on from. It knows more drives than these
    every: int = 1,  # take every N-th frame
    threads: int | None = None,  # CPU threads of the encoder
) -> StudentBundle:
    """Gives a student its place prior, its depth and its probabilities, and writes the bundle, which it returns.

    1. The prior: the mean of what stereo says of the training drives, weighed against the student on held-out drives. A
    student that went on from an earlier one gets none if that has none, and else what ranks held-out voxels best, see
    `prior_choices`. 2. Two numbers that stretch its densities, fitted to the stereo depth of the held-out drives; the
    order of the voxels stays, and a student that says depth itself needs none. 3. α → probability, which follows from
    these, and the threshold with the largest IoU on the fused stereo occupancy of the held-out drives. Raises
    BundleError: the bundle was never saved; SequenceError: no drive says anything.
    """
    if bundle.folder is None:
        raise BundleError("has not been saved", where=f"bundle {bundle.name}", cure="Save it first")
    folder, encoder = bundle.folder, bundle.encoder_path.read_bytes()
    weights = bundle.load_weights() if WEIGHTS in bundle.sha256 and (folder / WEIGHTS).is_file() else None
    by_itself = dataclasses.replace(bundle, head=dataclasses.replace(bundle.head, prior=None))
    volume = Viewpoint.of_bundle(bundle).volume
    reader = _DriveReader(by_itself, every, volume, threads)
    mean = None
    if earlier is None or earlier.head.prior is not None:
        counts = PriorGrid(volume.grid.shape)
        for drive in map(reader.voxels, training):
            counts.add(drive)
        mean = mean_prior(counts, volume.grid)
    drives = [drive for group in held_out for drive in group]
    frames = map(reader.evidence, drives)
    groups = [[frame for _ in group for frame in next(frames)] for group in held_out]
    choices = prior_choices(groups, mean, earlier.head.prior if earlier else None, volume)
    ranked = {name: mean_average_precision(groups, choice) for name, choice in choices.items()}
    chosen = max(ranked, key=ranked.__getitem__)
    prior = choices[chosen]
    with_prior = dataclasses.replace(bundle, head=dataclasses.replace(bundle.head, prior=prior))
    stretch = DensityStretch()
    if bundle.head.volume is None:
        reader = dataclasses.replace(reader, bundle=with_prior, model=None)
        stretch = fit_stretch([ray for drive in map(reader.rays, drives) for ray in drive])
    # A prior makes a density's logit, before the stretch, that of the probability.
    gain, shift = (1.0, 0.0) if prior else fit_certainty(groups)
    log_scale, offset = math.log(gain / stretch.scale), shift - gain * stretch.offset / stretch.scale
    weights_of_link = {"log_scale": torch.tensor(log_scale), "offset": torch.tensor(offset)}
    link = link_calibration(weights_of_link, volume.voxel_size)
    changed = dataclasses.replace(with_prior, head=stretch.of_head(with_prior.head), calibration=link)
    iou, threshold = best_iou(np.sum([_histogram(frame, prior) for group in groups for frame in group], axis=0))
    record = {
        "fitted_on": "stereo alone: a prior on training drives, all else on held-out drives",
        "depth": depth_summaries([*training, *itertools.chain.from_iterable(held_out)], volume.ahead),
        "training_drives": [drive.name for drive in training],
        "held_out_drives": [[drive.name for drive in group] for group in held_out],
        "prior": chosen,
        "average_precision_with_prior": {name: round(value, 4) for name, value in ranked.items()},
        "density_stretch": {"scale": round(stretch.scale, 4), "offset": round(stretch.offset, 4)},
        "iou_there": round(iou, 4),
    }
    changed = dataclasses.replace(changed, threshold=threshold, provenance={**bundle.provenance, "calibration": record})
    if weights is not None:
        weights = stretch.of_weights(weights, prior=prior is not None)
    return changed.save(folder, encoder, weights)


@dataclass(eq=False)
class _DriveReader:
    """What stereo and a student say of a drive. Whoever asks the student makes its model."""

    bundle: StudentBundle
    every: int
    volume: Volume
    threads: int | None
    model: DeployedModel | None = None

    def voxels(self, drive: PosedSequence) -> PriorGrid:
        counts = PriorGrid(self.volume.grid.shape)
        for index, meter in self._frames(drive):
            score, known = self._fused(drive, index, meter)
            counts.update(known & (score > OCCUPIED), known)
        return counts

    def evidence(self, drive: PosedSequence) -> "list[FrameEvidence]":
        frames = []
        for index, meter in self._frames(drive):
            fused = self._fused(drive, index, meter)
            points, target = drawn_evidence(*fused, self.volume.grid, np.random.default_rng(index))
            density = self._student().observe(drive, index).density(points)
            frames.append(FrameEvidence(points, logit_of_density(density.astype(np.float64)), target))
        return frames

    def rays(self, drive: PosedSequence) -> list[RayLogits]:
        frames = ((index, meter(index), drive.cameras[meter.camera]) for index, meter in self._frames(drive))
        measured = ((index, depth_at_rays(found.depth, found.camera, camera)) for index, found, camera in frames)
        return rays_to_depth(self._student(), drive, measured)

    def _frames(self, drive: PosedSequence) -> Iterator[tuple[int, DepthMeter]]:
        """The frames that are looked at, and what measures their depth."""
        meter = depth_meter(drive, self.volume.ahead)
        for index in range(0, len(drive), self.every):
            yield index, meter

    def _fused(self, drive: PosedSequence, index: int, meter: DepthMeter) -> tuple[Floats, Mask]:
        return stereo_evidence(drive, index, self.volume.grid, DEFAULT_GRID_FROM_CAMERA, meter, self.volume)

    def _student(self) -> DeployedModel:
        if self.model is None:
            self.model = DeployedModel(self.bundle, threads=self.threads)
        return self.model


def prior_choices(
    groups: Groups, mean: PlacePrior | None, earlier: PlacePrior | None, volume: Volume
) -> Mapping[str, PlacePrior | None]:
    """Priors that a student may get, by name; without an earlier one, the fitted `mean` of its training drives, if any.

    Few new drives say little of the streets that the earlier prior came from, and nothing of it was kept but its log
    odds. These are weighed anew, alone and averaged with the new mean, and the earlier prior may also stay as it is.
    """
    if mean is None:
        return {"none": None}
    choices = {"of the training drives": fit_place_prior(groups, mean, volume)}
    if earlier is None:
        return choices
    choices["the earlier one"] = earlier
    if earlier.logit.shape == mean.logit.shape and np.allclose(earlier.lattice, mean.lattice):
        for name, logit in (
            ("the earlier one, weighed anew", earlier.logit),
            ("of the training drives and the earlier one", np.float32(0.5) * (earlier.logit + mean.logit)),
        ):
            choices[name] = fit_place_prior(groups, dataclasses.replace(mean, logit=logit), volume)
    return choices


def mean_average_precision(groups: Groups, prior: PlacePrior | None = None) -> float:
    """Mean over groups of the average precision of all their voxels."""
    found = [average_precision(np.sum([_histogram(frame, prior) for frame in group], axis=0)) for group in groups]
    return float(np.mean(found))


def _histogram(frame: "FrameEvidence", prior: PlacePrior | None) -> Ints:
    gain, logit = prior.at(frame.points).T if prior else (1.0, 0.0)
    probability = probability_of_log_odds(gain * frame.logit + logit)
    return score_histogram(probability.astype(np.float32), frame.target > OCCUPIED)


@dataclass(frozen=True, eq=False)
class FrameEvidence:
    """Some voxels of a frame that the student has never seen."""

    points: Floats  # [N, 3], centres in the camera's optical frame, metres
    logit: Doubles  # logit x of the student's density [N]
    target: Floats  # share of the stereo evidence that speaks for "occupied" [N], 0..1


def mean_prior(counts: PriorGrid, grid: VoxelGrid) -> PlacePrior:
    """Log odds of the smoothed mean occupancy: a prior beside which students count; a `SequenceError` without any."""
    if not counts.known.any():
        raise SequenceError("no frame says anything", where="training drives", cure="Name drives that move")
    mean = np.clip(counts.compute(PRIOR_SIGMA), RAREST, 1.0 - RAREST).astype(np.float64)
    logit = _block_means(log_odds_of_probability(mean))
    edge, block = grid.voxel_size, np.array(BLOCK)
    # The grid lies along the camera's forward axes, so that its lattice is that of the prior.
    lattice = np.stack([np.array(grid.origin) + edge * block / 2.0, edge * block])
    return PlacePrior(np.ones(logit.shape, np.float32), logit.astype(np.float32), lattice.astype(np.float32))


def fit_place_prior(groups: Groups, mean: PlacePrior, volume: Volume | None = None) -> PlacePrior:
    """Believes student and prior as far as frames that the student was not trained on bear them out, groups equally.

    logit P(occupied) = s (a x + b prior + c) + (1 - s) (a' x + c'), with the smallest cross-entropy. s goes from 0 to 1
    with the prior, see `EXPECTED_FROM`; the five weights change with the distance ahead; a, a', b ≥ 0. Returns the
    prior by which the density's logit is that of the probability. Raises SequenceError where a group has no frame.
    `mean`: see `mean_prior`; `volume`: the space that is completed; a street's if left out.
    """
    _check_groups(groups)
    knots = np.log(np.array(DISTANCES) * (volume or Volume()).scale)
    parts, targets = [], []
    for group in groups:
        for frame in group:
            logit = np.clip(frame.logit, -LARGEST_LOGIT, LARGEST_LOGIT)[:, None]
            forward, expected = frame.points[:, 2], mean.at(frame.points)[:, 1]
            place = _terms(forward.astype(np.float64), expected.astype(np.float64), knots)
            parts.append(np.concatenate([place[:, :_GAINS] * logit, place[:, _GAINS:]], axis=1))
            targets.append(frame.target.astype(np.float64))
    features, target, weight = np.concatenate(parts), np.concatenate(targets), _weights(groups)

    def cross_entropy(numbers: Doubles) -> tuple[float, Doubles]:
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


def fit_certainty(groups: Groups) -> tuple[float, float]:
    """Gain a > 0 and shift b of a student without a prior: logit P(occupied) = a x + b; see `fit_place_prior`."""
    _check_groups(groups)
    logit = np.concatenate([np.clip(frame.logit, -LARGEST_LOGIT, LARGEST_LOGIT) for group in groups for frame in group])
    target = np.concatenate([frame.target.astype(np.float64) for group in groups for frame in group])
    weight = _weights(groups)

    def cross_entropy(numbers: Doubles) -> tuple[float, Doubles]:
        gain = math.exp(numbers[0])
        total = gain * logit + numbers[1]
        loss = float(weight @ (np.logaddexp(0.0, total) - target * total))
        off = weight * (probability_of_log_odds(total) - target)
        return loss, np.array([gain * float(off @ logit), float(off.sum())])

    bounds = [(-6.0, 6.0), (None, None)]
    log_gain, shift = minimize(cross_entropy, np.zeros(2), jac=True, method="L-BFGS-B", bounds=bounds).x
    return math.exp(log_gain), float(shift)


def _check_groups(groups: Groups) -> None:
    if not groups or not all(groups):
        raise SequenceError("no frame in it", where="held-out drives", cure="Name drives that move")


def _weights(groups: Groups) -> Doubles:
    """Of each voxel of each frame, in order: groups count equally, and so do the frames of one."""
    counts = [(len(frame.logit), len(group) * len(groups)) for group in groups for frame in group]
    return np.concatenate([np.full(count, 1.0 / (count * parts)) for count, parts in counts])


def drawn_evidence(score: Floats, known: Mask, grid: VoxelGrid, chance: Random) -> tuple[Floats, Floats]:
    """Centres [N, 3] (optical frame, metres) and shares [N] of some voxels of a grid that have evidence."""
    there = np.flatnonzero(known)
    chosen = np.sort(chance.choice(there, min(POINTS, len(there)), replace=False))
    index = np.stack(np.unravel_index(chosen, known.shape), axis=-1)
    centres = np.asarray(grid.origin) + (index + 0.5) * grid.voxel_size
    return DEFAULT_GRID_FROM_CAMERA.inverse().apply(centres).astype(np.float32), score.reshape(-1)[chosen]


def _terms(ahead: Doubles, prior: Doubles, knots: Doubles) -> Doubles:
    """What the weights of `fit_place_prior` go with, at distances and priors [N]: [N, 5 K] of a, a', b, c, c'."""
    place = np.interp(np.log(np.maximum(ahead, 1e-3)), knots, np.arange(len(knots)))
    near = np.maximum(0.0, 1.0 - np.abs(place[:, None] - np.arange(len(knots))))  # share of each knot, [N, K]
    expected = near / (1.0 + np.exp(-EXPECTED_SLOPE * (prior - EXPECTED_FROM)))[:, None]
    return np.concatenate([expected, near - expected, expected * prior[:, None], expected, near - expected], axis=1)


def _block_means(volume: Doubles) -> Doubles:
    """Means of blocks; where the last one is not whole, the outermost voxels stand for those that it lacks."""
    lacking = [(0, -size % block) for size, block in zip(volume.shape, BLOCK, strict=True)]
    volume = np.pad(volume, lacking, mode="edge")
    x, y, z = (size // block for size, block in zip(volume.shape, BLOCK, strict=True))
    return np.asarray(volume.reshape(x, BLOCK[0], y, BLOCK[1], z, BLOCK[2]).mean(axis=(1, 3, 5)))
