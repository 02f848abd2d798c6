from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scene_completion_training.street_world.camera_rig import LEFT, RIGHT
from scene_completion_training.street_world.drive import StreetDrive
from scene_completion_training.street_world.drive_bag import write_drive_bag

from scene_completion_ros.bags.reader import BagReader


def test_bag_is_read_back(drive: StreetDrive, tmp_path: Path) -> None:
    write_drive_bag(drive.sequence(("lidar",)), tmp_path / "bag", lidar_every=2)
    with BagReader(tmp_path / "bag") as reader:
        assert not reader.losses
        topic = reader.choose_image_topic()
        assert topic == "/camera/image_raw/compressed"
        camera = reader.camera_for(topic)
        assert camera.matrix == pytest.approx(drive.rig.cameras[LEFT].matrix)
        frames = list(reader.images(topic))
        assert [frame.stamp_ns for frame in frames] == drive.stamps
        assert np.abs(frames[2].image_rgb.astype(int) - drive.image(2, LEFT)).mean() < 4.0
        transforms = reader.tf_buffer()
        pose = transforms.lookup("map", frames[1].frame_id, drive.stamps[1], 0)
        expected = drive.poses[1] @ drive.rig.rig_from_camera[LEFT]
        assert pose.matrix == pytest.approx(expected.matrix, abs=1e-6)
        clouds = list(reader.point_clouds("/velodyne_points"))
        assert len(clouds) == 2
        base_from_lidar = transforms.lookup("base_link", clouds[1].frame_id, drive.stamps[2], 0)
        assert base_from_lidar.apply(clouds[1].xyz) == pytest.approx(drive.lidar(2), abs=0.003)
        assert reader.counts["/odom"] == 3


def test_stereo_bag_has_a_namespace_for_each_camera(drive: StreetDrive, tmp_path: Path) -> None:
    write_drive_bag(drive.sequence(()), tmp_path / "bag", cameras=(LEFT, RIGHT), lidar_every=0)
    with BagReader(tmp_path / "bag") as reader:
        assert reader.image_topics() == [f"/{name}/image_raw/compressed" for name in (LEFT, RIGHT)]
        assert "/velodyne_points" not in reader.topics
