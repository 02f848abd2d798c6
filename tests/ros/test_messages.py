"""Messages made from the package's types, field checks switched on."""

import numpy as np
from nav_msgs.msg import OccupancyGrid
from rclpy.serialization import deserialize_message, serialize_message
from sensor_msgs.msg import PointCloud2, PointField

from scene_completion_ros.mapping.ground_map import GroundMap
from scene_completion_ros.ros import messages
from scene_completion_ros.voxels.cloud import MATCH_CLOUD_DTYPE
from tests.voxels.samples import some_voxels

STAMP_NS = 7_000_000_001
FLOAT32, UINT8 = PointField.FLOAT32, PointField.UINT8
PLACE = [("x", 0, FLOAT32, 1), ("y", 4, FLOAT32, 1), ("z", 8, FLOAT32, 1)]


def checked_header(message) -> None:
    header = message.header
    assert (header.frame_id, header.stamp.sec, header.stamp.nanosec) == ("front_optical", 7, 1)


def fields_of(message: PointCloud2) -> list[tuple[str, int, int, int]]:
    return [(field.name, field.offset, field.datatype, field.count) for field in message.fields]


def test_voxel_message_has_the_documented_layout() -> None:
    voxels = some_voxels(1000, stamp_ns=STAMP_NS, classes=5)
    sent = messages.voxels_message(voxels, "front_optical")
    message = deserialize_message(serialize_message(sent), PointCloud2)
    checked_header(message)
    assert (message.height, message.width, message.point_step, message.row_step) == (1, 1000, 24, 24000)
    assert message.is_dense
    assert not message.is_bigendian
    assert fields_of(message) == [
        *PLACE,
        ("rgb", 12, FLOAT32, 1),
        ("probability", 16, FLOAT32, 1),
        ("label", 20, UINT8, 1),
        ("state", 21, UINT8, 1),
        ("confidence", 22, UINT8, 1),
    ]
    raw = np.frombuffer(message.data, np.uint8).reshape(1000, 24)
    np.testing.assert_array_equal(raw[:, :12].copy().view("<f4"), voxels.points_camera())
    np.testing.assert_array_equal(raw[:, [14, 13, 12]], np.array(voxels.class_colours)[voxels.label])  # 0x00RRGGBB
    np.testing.assert_array_equal(raw[:, 16:20].copy().view("<f4")[:, 0], voxels.probability)
    np.testing.assert_array_equal(raw[:, 20], voxels.label)
    np.testing.assert_array_equal(raw[:, 21], voxels.state[tuple(voxels.index.T)])
    np.testing.assert_array_equal(raw[:, 22], np.rint(voxels.confidence * 255))


def test_answers_to_a_query_have_the_documented_layout() -> None:
    cloud = np.zeros(2, MATCH_CLOUD_DTYPE)
    cloud["x"], cloud["score"], cloud["probability"], cloud["phrase"] = (1.5, 2.5), (-0.25, 0.5), (0.5, 1.0), (3, 31)
    sent = messages.matches_message(cloud, STAMP_NS, "front_optical")
    message = deserialize_message(serialize_message(sent), PointCloud2)
    checked_header(message)
    assert (message.width, message.point_step, message.row_step, message.is_bigendian) == (2, 24, 48, False)
    assert fields_of(message) == [
        *PLACE,
        ("score", 12, FLOAT32, 1),
        ("probability", 16, FLOAT32, 1),
        ("phrase", 20, UINT8, 1),
    ]
    raw = np.frombuffer(message.data, np.uint8).reshape(2, 24)
    numbers = [[1.5, 0.0, 0.0, -0.25, 0.5], [2.5, 0.0, 0.0, 0.5, 1.0]]
    np.testing.assert_array_equal(raw[:, :20].copy().view("<f4"), numbers)
    assert raw[:, 20].tolist() == [3, 31]


def test_the_map_is_stored_row_by_row() -> None:
    cells = np.array([[0, -1, 100], [37, 0, 0]], dtype=np.int8)
    ground = GroundMap((1.5, -2.0), 0.25, cells)
    sent = messages.occupancy_grid_message(ground, STAMP_NS, "front_optical")
    message = deserialize_message(serialize_message(sent), OccupancyGrid)
    checked_header(message)
    assert list(message.data) == [0, -1, 100, 37, 0, 0]
    info = message.info
    assert (info.width, info.height, info.resolution) == (3, 2, 0.25)
    assert (info.origin.position.x, info.origin.position.y, info.origin.position.z) == (1.5, -2.0, 0.0)
    assert (info.origin.orientation.x, info.origin.orientation.z, info.origin.orientation.w) == (0.0, 0.0, 1.0)
    assert info.map_load_time == message.header.stamp
