"""How well occupancy fused from stereo, which supervises the student, agrees with voxels accumulated from LiDAR.

    python -m benchmarks.stereo_occupancy --data DIR [--windows 04]

Scored on voxels that both know: the semantic voxels of frame 0, without what is officially invalid.
"""

from __future__ import annotations

import argparse
from functools import cache
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from scene_completion_ros.evaluation.occupancy import OccupancyByRange
from scene_completion_ros.geometry import OPTICAL_FROM_FORWARD
from scene_completion_ros.sequences.kitti import kitti_odometry
from training.data.fused_occupancy import DepthView, fuse_occupancy
from training.data.stereo import stereo_depth, stereo_pair
from training.data.voxel_evidence import FusionSettings, fusion_views
from training.evaluation.kitti import SEMANTIC_KITTI_GRID, VoxelTruth, open_window


def fused_evidence(data: Path, name: str) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Occupancy evidence of a window's frame 0 on the grid of its ground truth.

    Args:
        data: Folder of the recordings.
        name: Window, e.g. "04".

    Returns:
        Target in 0..1 and whether there is evidence, [X, Y, Z] each.
    """
    sequence = kitti_odometry(data / "kitti_windows" / "sequences" / name)
    left, right, baseline = stereo_pair(sequence)
    focal = sequence.cameras[left].fx

    @cache
    def depth(index: int) -> NDArray[np.float32]:
        grey = [cv2.cvtColor(sequence.image(index, camera), cv2.COLOR_RGB2GRAY) for camera in (left, right)]
        return stereo_depth(np.asarray(grey[0], np.uint8), np.asarray(grey[1], np.uint8), focal, baseline)

    velodyne_from_left = sequence.rig_from_sensor["velodyne"].inverse() @ sequence.rig_from_camera[left]
    to_velodyne = velodyne_from_left @ OPTICAL_FROM_FORWARD
    views = [
        DepthView(view.depth, view.matrix, to_velodyne @ view.grid_from_camera, view.focal_baseline, view.trust)
        for view in fusion_views(sequence, 0, left, depth, focal * baseline, FusionSettings())
    ]
    generator = np.random.default_rng(0)
    centres, target, _ = fuse_occupancy(views, SEMANTIC_KITTI_GRID, free_samples=3_000_000, generator=generator)
    index = tuple(np.moveaxis(SEMANTIC_KITTI_GRID.index_of(centres)[0], -1, 0))
    score, known = np.zeros(SEMANTIC_KITTI_GRID.shape, np.float32), np.zeros(SEMANTIC_KITTI_GRID.shape, bool)
    score[index], known[index] = target, True
    return score, known


def main() -> None:
    """Prints average precision, precision and recall at 0.3 by range."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--windows", nargs="+", default=["04"])
    arguments = parser.parse_args()
    print("| window | range | voxels known to both | occupied | AP | best IoU | IoU at 0.3 |")
    print("|---|---|---|---|---|---|---|")
    for name in arguments.windows:
        truth: VoxelTruth = open_window(arguments.data, name).voxel_truth()
        score, known = fused_evidence(arguments.data, name)
        both = known & truth.known
        metric = OccupancyByRange(SEMANTIC_KITTI_GRID)
        metric.update(score, truth.occupied, both, {"both": np.ones_like(both)}, score > 0.3)
        for (range_m, _), found in metric.compute().items():
            print(
                f"| {name} | {range_m} m | {found.voxels} | {found.occupied_fraction:.3f} "
                f"| {found.average_precision:.3f} | {found.best_iou:.3f} | {found.iou:.3f} |"
            )


if __name__ == "__main__":
    main()
