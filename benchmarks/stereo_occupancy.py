"""How well occupancy fused from measured depth, which supervises students, agrees with voxels accumulated from LiDAR.

    python -m benchmarks.stereo_occupancy --data DIR [--windows 04]

Depth is that of the stereo pair, and of the motion of its left camera. Scored on voxels that it and LiDAR know:
the semantic voxels of frame 0, without what is officially invalid.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.motion_stereo import one_camera
from scene_completion_ros.evaluation.occupancy import OccupancyByRange
from scene_completion_ros.sequences.kitti import kitti_odometry
from scene_completion_ros.sequences.velodyne import SEMANTIC_KITTI_GRID
from scene_completion_training.data.motion_stereo import depth_meter
from scene_completion_training.evaluation.kitti import open_window
from scene_completion_training.evaluation.stereo_truth import stereo_evidence
from scene_completion_training.viewpoint import STREET_AHEAD_M


def main(argv: Sequence[str] | None = None) -> None:
    """Prints average precision, best IoU and IoU at 0.3 by range."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--windows", nargs="+", default=["04"])
    arguments = parser.parse_args(argv)
    print("| window | depth | range | voxels known to both | occupied | AP | best IoU | IoU at 0.3 |")
    print("|---|---|---|---|---|---|---|---|")
    for name in arguments.windows:
        window = open_window(arguments.data, name)
        truth = window.voxel_truth()
        pair = kitti_odometry(arguments.data / "kitti_windows" / "sequences" / name)  # a window has one camera
        for drive in (pair, one_camera(pair)):
            meter = depth_meter(drive, STREET_AHEAD_M)
            score, known = stereo_evidence(drive, 0, SEMANTIC_KITTI_GRID, window.velodyne_from_camera, meter)
            both = known & truth.known
            metric = OccupancyByRange(SEMANTIC_KITTI_GRID)
            metric.update(score, truth.occupied, both, {"both": np.ones_like(both)}, score > 0.3)
            for (range_m, _), found in metric.compute().items():
                print(
                    f"| {name} | {meter.told} | {range_m} m | {found.voxels} | {found.occupied_fraction:.3f} "
                    f"| {found.average_precision:.3f} | {found.best_iou:.3f} | {found.iou:.3f} |"
                )


if __name__ == "__main__":
    main()
