from pathlib import Path

from scene_completion_ros.geometry.grids import DEFAULT_GRID_FROM_CAMERA
from scene_completion_ros.scoring import LidarOfBag


def test_without_lidar_a_scan_near_the_image_or_a_known_frame_there_is_none(shared_data: Path) -> None:
    bags = shared_data / "rosbag2"
    with LidarOfBag(bags / "kitti00_gray_100f") as lidar:
        assert lidar.topic is None
        assert lidar.points_grid("camera", 0, DEFAULT_GRID_FROM_CAMERA) is None
    with LidarOfBag(bags / "kitti04_stereo_lidar_10f") as lidar:
        assert lidar.points_grid("nowhere", 1_317_000_000_000_000_000, DEFAULT_GRID_FROM_CAMERA) is None
        assert lidar.points_grid("camera_color_left_optical", 10, DEFAULT_GRID_FROM_CAMERA) is None
