"""A drive as a sequence on disk and as a bag."""

from pathlib import Path

import numpy as np
import pytest

from scene_completion_ros.bags.reader import BagReader
from scene_completion_ros.sequences.posed_sequence import PosedSequence
from scene_completion_training.street_world.camera_rig import LEFT, RIGHT
from scene_completion_training.street_world.drive import StreetDrive
from scene_completion_training.street_world.drive_bag import write_drive_bag


def test_sequence_folder(drive: StreetDrive, tmp_path: Path) -> None:
    drive.sequence(("lidar", "depth", "label")).save(tmp_path / "sequence")
    loaded = PosedSequence.load(tmp_path / "sequence")
    assert len(loaded) == 3
    assert loaded.metric_scale
    assert loaded.provenance["role"] == "validation"
    assert loaded.provenance["seed"] == 1000
    assert np.abs(loaded.image(1, RIGHT).astype(int) - drive.image(1, RIGHT)).mean() < 4.0
    assert np.array_equal(loaded.lidar(2), drive.lidar(2))
    assert np.array_equal(loaded.asset(0, "depth"), drive.view(0).depth)
    assert np.array_equal(loaded.asset(0, "label"), drive.view(0).label)
    assert loaded.asset(0, "voxel_label") is None
    baseline = loaded.world_from_camera(0, LEFT).translation - loaded.world_from_camera(0, RIGHT).translation
    assert np.linalg.norm(baseline) == pytest.approx(0.54)


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
