"""A deployed student under the KITTI protocol, and the fit of its calibration."""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray

from scene_completion_ros.errors import BundleError
from scene_completion_ros.evaluation.calibration import fit_calibration
from scene_completion_ros.evaluation.occupancy import best_iou, score_histogram
from scene_completion_ros.geometry import Resampler
from scene_completion_ros.inference.bundle import WEIGHTS, StudentBundle
from scene_completion_ros.inference.encoder import make_encoder
from scene_completion_ros.inference.query_kernel import VoxelQuery
from scene_completion_ros.inference.render import render_depth
from scene_completion_training.evaluation.density_stretch import fit_stretch, lidar_rays
from scene_completion_training.evaluation.deployed_model import DeployedModel
from scene_completion_training.evaluation.kitti import SEMANTIC_KITTI_GRID, VoxelPrediction, Window


class StudentPredictor:
    """The parts of the deployed `Completer`, queried also outside the view and rendered beyond the grid."""

    def __init__(
        self, bundle: StudentBundle, window: Window, *, engine: str = "auto", threads: int | None = None
    ) -> None:
        self.bundle, self.window = bundle, window
        self._resampler = Resampler(window.camera, bundle.canonical)
        self._encoder = make_encoder(bundle, engine, threads=threads)

    def depth(self, image: NDArray[np.uint8], wanted: NDArray[np.bool_]) -> NDArray[np.float32]:
        """Expected z-depth [H, W] of the field along the rays of the wanted pixels, metres; 0 elsewhere."""
        row, column = np.nonzero(wanted)
        near, far = self.bundle.depth_range
        depth = np.zeros(wanted.shape, dtype=np.float32)
        depth[row, column] = render_depth(
            self._features(image),
            self.bundle,
            self.window.camera,
            pixels=np.stack([column, row], axis=-1).astype(np.float64),
            near=near,
            far=far,
        )
        return depth

    def voxels(self, image: NDArray[np.uint8]) -> VoxelPrediction:
        """Opacity of each voxel as its score, calibrated probability at the bundle's threshold as occupied."""
        bundle, features = self.bundle, self._features(image)
        query = VoxelQuery(
            bundle.head,
            bundle.point_code,
            bundle.canonical,
            bundle.feature_size,
            SEMANTIC_KITTI_GRID,
            self.window.velodyne_from_camera.inverse(),
            extrapolate=True,
        )
        alpha = query.opacity(features)
        probability = bundle.calibration.apply(alpha)
        return VoxelPrediction(alpha, probability >= bundle.threshold, probability, query.density(features))

    def _features(self, image: NDArray[np.uint8]) -> NDArray[np.float32]:
        return self._encoder(self._resampler(image))


def calibrate(
    bundle: StudentBundle, window: Window, *, engine: str = "auto", threads: int | None = None
) -> StudentBundle:
    """Fit a student's depth and its probabilities on one window, and write both into the bundle.

    First the two numbers of a `DensityStretch`, on the LiDAR depth of all frames; they leave the order of the voxels as
    it is. Then α → probability and the threshold with the largest IoU, on the known voxels in view of frame 0, as the
    student is used.

    Args:
        bundle: The student; its folder is written.
        window: A window that neither training nor testing uses.

    Returns:
        The bundle as written.

    Raises:
        BundleError: The bundle was never saved.
        SequenceError: The window has no LiDAR.
    """
    if bundle.folder is None:
        raise BundleError("has not been saved", where=f"bundle {bundle.name}", cure="Save it first")
    stretch = fit_stretch(lidar_rays(DeployedModel(bundle, engine=engine, threads=threads), window))
    folder, encoder, weights = bundle.folder, bundle.encoder_path.read_bytes(), None
    if WEIGHTS in bundle.sha256 and (folder / WEIGHTS).is_file():
        weights = stretch.of_weights(bundle.load_weights(), prior=bundle.head.prior is not None)
    bundle = dataclasses.replace(bundle, head=stretch.of_head(bundle.head))
    predictor = StudentPredictor(bundle, window, engine=engine, threads=threads)
    truth = window.voxel_truth()
    counted = truth.known & truth.in_view
    alpha, occupied = predictor.voxels(window.image(0)).score[counted], truth.occupied[counted]
    calibration = fit_calibration(score_histogram(alpha, occupied))
    iou, threshold = best_iou(score_histogram(calibration.apply(alpha), occupied))
    record = {
        "fitted_on": f"KITTI odometry window {window.name}: densities on its LiDAR, probabilities on frame 0, in view",
        "density_stretch": {"scale": round(stretch.scale, 4), "offset": round(stretch.offset, 4)},
        "iou_there": round(iou, 4),
    }
    changed = dataclasses.replace(
        bundle,
        calibration=calibration,
        threshold=threshold,
        provenance={**bundle.provenance, "calibration": record},
    )
    return changed.save(folder, encoder, weights)
