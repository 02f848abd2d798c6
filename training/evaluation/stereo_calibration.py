"""Calibrates a student on drives that it was not trained on by what their stereo pairs say: no label, no LiDAR."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray

from scene_completion_ros.errors import BundleError
from scene_completion_ros.evaluation.occupancy import best_iou, score_histogram
from scene_completion_ros.geometry.grids import DEFAULT_GRID_FROM_CAMERA
from scene_completion_ros.inference.bundle import WEIGHTS, StudentBundle
from scene_completion_ros.inference.place_prior import PlacePrior
from scene_completion_ros.sequences.posed_sequence import PosedSequence
from scene_completion_ros.voxels.occupancy import logit_of_density, probability_of_log_odds
from scene_completion_training.evaluation.controls import measured_depth
from scene_completion_training.evaluation.density_stretch import RayLogits, fit_stretch, rays_to_depth
from scene_completion_training.evaluation.deployed_model import DeployedModel
from scene_completion_training.evaluation.place_prior_fit import (
    FrameEvidence,
    drawn_evidence,
    fit_place_prior,
    mean_prior,
)
from scene_completion_training.evaluation.stereo_truth import OCCUPIED, stereo_evidence
from scene_completion_training.networks.occupancy_link import link_calibration
from scene_completion_training.viewpoint import Viewpoint, Volume


def calibrate_on_stereo(
    bundle: StudentBundle,
    training: Sequence[PosedSequence],
    held_out: Sequence[Sequence[PosedSequence]],
    *,
    every: int = 1,
    engine: str = "auto",
    threads: int | None = None,
) -> StudentBundle:
    """Gives a student its place prior, its depth and its probabilities, and writes the bundle.

    1. The prior: the mean of what stereo says of the training drives, weighed against the student on held-out drives.
    2. Two numbers that stretch its densities, fitted to the stereo depth of the held-out drives; the order of the
       voxels stays as it is.
    3. α → probability, which follows from the first two, and the threshold with the largest IoU on the fused stereo
       occupancy of the held-out drives.

    Args:
        bundle: The student; a prior that it has is replaced. Its folder is written.
        training: Drives with a stereo pair, which the student may have been trained on.
        held_out: Groups of drives with a stereo pair that it was not trained on. Groups count equally.
        every: Take every N-th frame.
        engine: Encoder engine.
        threads: CPU threads of the encoder.

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
    mean = mean_prior((voxels for drive in training for voxels in _stereo_voxels(drive, every, volume)), volume.grid)
    groups = [[frame for drive in group for frame in _evidence(model, drive, every, volume)] for group in held_out]
    prior = fit_place_prior(groups, mean, volume)
    with_prior = dataclasses.replace(bundle, head=dataclasses.replace(bundle.head, prior=prior))
    model = DeployedModel(with_prior, engine=engine, threads=threads)
    rays = [ray for group in held_out for drive in group for ray in _stereo_rays(model, drive, every)]
    stretch = fit_stretch(rays)
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


def _stereo_rays(model: DeployedModel, drive: PosedSequence, every: int) -> list[RayLogits]:
    frames = range(0, len(drive), every)
    return rays_to_depth(model, drive, ((index, measured_depth(drive, index)) for index in frames))


def _best_threshold(frames: Sequence[FrameEvidence], prior: PlacePrior) -> tuple[float, float]:
    """Largest IoU over the voxels of frames, and the probability at which they have to be called occupied for it."""
    histograms = []
    for frame in frames:
        gain, logit = prior.at(frame.points).T
        probability = probability_of_log_odds(gain * frame.logit + logit)
        histograms.append(score_histogram(probability.astype(np.float32), frame.target > OCCUPIED))
    return best_iou(np.sum(histograms, axis=0))
