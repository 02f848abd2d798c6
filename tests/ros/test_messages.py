"""Messages made from the package's types, field checks switched on."""
# ruff: noqa: E402

from __future__ import annotations

import json

from tests.ros.rclpy_required import require_rclpy

require_rclpy()

import numpy as np
import pytest
from rclpy.serialization import deserialize_message, serialize_message
from sensor_msgs.msg import CameraInfo, PointCloud2, PointField
from std_msgs.msg import String

from scene_completion_ros.geometry.camera_files import camera_from_camera_info
from scene_completion_ros.geometry.cameras import Camera
from scene_completion_ros.messages.images import decode_depth, decode_image, decode_published_depth
from scene_completion_ros.ros import messages
from tests.ros.voxel_samples import some_voxels


def test_stamps_are_exact() -> None:
    stamp_ns = 1_795_000_000_123_456_789
    assert messages.stamp_nanoseconds(messages.stamp_message(stamp_ns)) == stamp_ns


def test_voxel_message_has_the_documented_layout() -> None:
    voxels = some_voxels(1000, stamp_ns=7_000_000_001, classes=5)
    sent = messages.voxels_message(voxels, "front_optical")
    message = deserialize_message(serialize_message(sent), PointCloud2)
    assert (message.header.frame_id, message.header.stamp.sec, message.header.stamp.nanosec) == ("front_optical", 7, 1)
    assert (message.height, message.width, message.point_step, message.row_step) == (1, 1000, 24, 24000)
    assert message.is_dense
    assert not message.is_bigendian
    float32, uint8 = PointField.FLOAT32, PointField.UINT8
    assert [(field.name, field.offset, field.datatype, field.count) for field in message.fields] == [
        ("x", 0, float32, 1),
        ("y", 4, float32, 1),
        ("z", 8, float32, 1),
        ("rgb", 12, float32, 1),
        ("probability", 16, float32, 1),
        ("label", 20, uint8, 1),
        ("state", 21, uint8, 1),
        ("confidence", 22, uint8, 1),
    ]
    raw = np.frombuffer(message.data, np.uint8).reshape(1000, 24)
    np.testing.assert_array_equal(raw[:, :12].copy().view("<f4"), voxels.points_camera())
    np.testing.assert_array_equal(raw[:, [14, 13, 12]], np.array(voxels.class_colours)[voxels.label])  # 0x00RRGGBB
    np.testing.assert_array_equal(raw[:, 16:20].copy().view("<f4")[:, 0], voxels.probability)
    np.testing.assert_array_equal(raw[:, 20], voxels.label)
    np.testing.assert_array_equal(raw[:, 21], voxels.state[tuple(voxels.index.T)])
    np.testing.assert_array_equal(raw[:, 22], np.rint(voxels.confidence * 255))


def test_the_legend_is_json_in_a_standard_message() -> None:
    message = messages.legend_message(("road", "Fußweg"), ((128, 64, 128), (244, 35, 232)))
    received = deserialize_message(serialize_message(message), String)
    expected = {"class_names": ["road", "Fußweg"], "class_colours": [[128, 64, 128], [244, 35, 232]]}
    assert json.loads(received.data) == expected


def test_memory_of_an_older_message_is_used_again() -> None:
    made = None
    for count in (5, 0, 9, 2, 2):
        voxels = some_voxels(count)
        address = made.data.buffer_info()[0] if made else None
        made = messages.voxels_message(voxels, f"frame {count}", into=made)
        fresh = messages.voxels_message(voxels, f"frame {count}")
        assert made == fresh and made.data == fresh.data and len(made.data) == made.row_step == 24 * count
    assert made is not None and made.data.buffer_info()[0] == address


def test_no_voxels_make_an_empty_cloud() -> None:
    message = messages.voxels_message(some_voxels(0), "front_optical")
    assert (message.width, len(message.data), message.row_step) == (0, 0, 0)


def test_images_come_back() -> None:
    image = np.random.default_rng(0).integers(0, 255, (6, 10, 3), dtype=np.uint8)
    np.testing.assert_array_equal(decode_image(messages.image_message(image, 5, "c")), image)
    flat = np.full((32, 48, 3), (200, 60, 20), np.uint8)
    np.testing.assert_allclose(decode_image(messages.compressed_image_message(flat, 5, "c")), flat, atol=4)
    depth = np.linspace(1, 80, 60, dtype=np.float32).reshape(6, 10)
    np.testing.assert_array_equal(decode_depth(messages.depth_message(depth, 5, "c")), depth)
    depth[0, :2] = np.inf, np.nan  # too far, and unknown, are no depth of 0
    np.testing.assert_array_equal(decode_published_depth(messages.depth_message(depth, 5, "c")), depth)


@pytest.mark.parametrize(
    "camera",
    [
        Camera(500.0, 510.0, 319.0, 241.0, 640, 480),
        Camera(500.0, 510.0, 319.0, 241.0, 640, 480, "plumb_bob", (-0.3, 0.1, 0.001, 0.002, 0.01)),
        Camera(300.0, 300.0, 319.0, 241.0, 640, 480, "equidistant", (0.1, 0.01, 0.001, 0.0001)),
    ],
)
def test_camera_info_describes_the_camera(camera: Camera) -> None:
    message = messages.camera_info_message(camera, 5, "c")
    assert camera_from_camera_info(message) == camera
    assert camera_from_camera_info(messages.copied_camera_info(message, 6)) == camera
    assert camera_from_camera_info(message, rectified=True) == camera.without_distortion()


def test_copied_camera_info_keeps_region_and_binning() -> None:
    message = CameraInfo(binning_x=2, binning_y=2, width=640, height=480)
    message.roi.x_offset, message.roi.width = 16, 320
    copy = messages.copied_camera_info(message, 9)
    assert (copy.binning_x, copy.roi.x_offset, copy.roi.width, copy.header.stamp.nanosec) == (2, 16, 320, 9)
