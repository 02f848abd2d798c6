from pathlib import Path

import numpy as np
import pytest

from scene_completion_ros.bags.reader import BagReader
from scene_completion_ros.geometry.grids import DEFAULT_GRID_FROM_CAMERA
from scene_completion_ros.report.lidar import LidarOfBag


@pytest.fixture(scope="module")
def bags(shared_data: Path) -> Path:
    return shared_data / "rosbag2"


def test_scans_come_in_the_grid_frame(bags: Path) -> None:
    bag = bags / "kitti04_stereo_lidar_10f"
    with BagReader(bag) as reader:
        frames = list(reader.images("/camera_color_left/image_raw/compressed"))
    with LidarOfBag(bag) as lidar:
        assert lidar.topic == "/velodyne_points"
        clouds = [lidar.points_grid(f.frame_id, f.stamp_ns, DEFAULT_GRID_FROM_CAMERA) for f in frames]
    found = [cloud for cloud in clouds if cloud is not None]
    assert len(found) >= 8
    for cloud in found:
        near = cloud[(np.abs(cloud[:, 1]) < 2) & (cloud[:, 0] > 4) & (cloud[:, 0] < 15)]
        # Camera and LiDAR stand about 1.65 m above KITTI's road; x is forward, z up.
        assert np.median(near[:, 2]) == pytest.approx(-1.65, abs=0.25)


def test_without_lidar_a_scan_near_the_image_or_a_known_frame_there_is_none(bags: Path) -> None:
    with LidarOfBag(bags / "kitti00_gray_100f") as lidar:
        assert lidar.topic is None
        assert lidar.points_grid("camera", 0, DEFAULT_GRID_FROM_CAMERA) is None
    with LidarOfBag(bags / "kitti04_stereo_lidar_10f") as lidar:
        assert lidar.points_grid("nowhere", 1_317_000_000_000_000_000, DEFAULT_GRID_FROM_CAMERA) is None
        assert lidar.points_grid("camera_color_left_optical", 10, DEFAULT_GRID_FROM_CAMERA) is None
