"""Calibrates a student on recordings with LiDAR and labelled voxels: who has these needs no stereo for it."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from scene_completion_ros.errors import BundleError, SequenceError
from scene_completion_ros.evaluation.calibration import fit_calibration
from scene_completion_ros.evaluation.occupancy import best_iou, score_histogram
from scene_completion_ros.inference.bundle import WEIGHTS, StudentBundle
from scene_completion_ros.sequences.opening import lidar_depth
from scene_completion_ros.sequences.posed_sequence import PosedSequence
from scene_completion_ros.voxels.occupancy import opacity
from scene_completion_training.evaluation.controls import CALIBRATION_WINDOW, TEST_WINDOWS, TRAINING_WINDOWS
from scene_completion_training.evaluation.density_stretch import DensityStretch, fit_stretch, rays_to_depth
from scene_completion_training.evaluation.deployed_model import DeployedModel
from scene_completion_training.evaluation.geometry import density_in_view, voxel_frames


def calibrate_on_truth(bundle: StudentBundle, recordings: Sequence[PosedSequence], *, every: int = 1) -> StudentBundle:
    """Fit a student's depth and its probabilities; the bundle with both, as it is written.

    First the two numbers of a `DensityStretch`, on the LiDAR of all frames. They leave the order of the voxels as it
    is, and a student that says depth itself needs none. Then α → probability and the threshold with the largest IoU, on
    the voxels that count. Raises BundleError where the bundle was never saved; SequenceError where the recordings have
    no LiDAR, no frame has voxels, or one is a window of KITTI that the shipped students are trained or tested on.
    `recordings`: neither training nor testing uses them.
    """
    names_of_windows = {f"sequences/{window}" for window in (*TRAINING_WINDOWS, *TEST_WINDOWS)}
    if used := {sequence.name for sequence in recordings} & names_of_windows:
        cure = f"Fit to a recording that is used for nothing else, such as sequences/{CALIBRATION_WINDOW}"
        raise SequenceError(f"{', '.join(sorted(used))} is used for training or testing", where="--labelled", cure=cure)
    if bundle.folder is None:
        raise BundleError("has not been saved", where=f"bundle {bundle.name}", cure="Save it first")
    stretch = DensityStretch()
    if bundle.head.volume is None:
        model = DeployedModel(bundle)
        rays = []
        for sequence in recordings:
            measured = ((index, lidar_depth(sequence, index)) for index in range(0, len(sequence), every))
            rays += rays_to_depth(model, sequence, ((index, depth) for index, depth in measured if depth is not None))
        stretch = fit_stretch(rays)
    folder, encoder, weights = bundle.folder, bundle.encoder_path.read_bytes(), None
    if WEIGHTS in bundle.sha256 and (folder / WEIGHTS).is_file():
        weights = stretch.of_weights(bundle.load_weights(), prior=bundle.head.prior is not None)
    bundle = dataclasses.replace(bundle, head=stretch.of_head(bundle.head))
    model = DeployedModel(bundle)
    alpha, occupied = [np.zeros(0, np.float32)], [np.zeros(0, np.bool_)]
    for frame in voxel_frames(recordings, every):
        truth = frame.truth.voxels
        if truth is not None:
            density = density_in_view(truth, model.observe(frame.sequence, frame.index))[truth.counted]
            alpha.append(opacity(density, bundle.grid.voxel_size))
            occupied.append(truth.occupied[truth.counted])
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
