"""Messages made from the package's types, field checks switched on."""

import json

import numpy as np
import pytest
from nav_msgs.msg import OccupancyGrid
from rclpy.serialization import deserialize_message, serialize_message
from rosbags.typesys import Stores, get_typestore
from sensor_msgs.msg import Image, PointCloud2, PointField
from std_msgs.msg import ColorRGBA
from visualization_msgs.msg import Marker

from scene_completion_ros.geometry.transforms import RigidTransform
from scene_completion_ros.mapping.ground_map import GroundMap
from scene_completion_ros.messages.images import decode_image
from scene_completion_ros.ros import messages
from scene_completion_ros.voxels.cloud import MATCH_CLOUD_DTYPE
from tests.voxels.samples import bytes_to_state_and_label, some_voxels

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


def test_the_dense_grid_is_an_image_of_bytes() -> None:
    voxels = some_voxels(1000, STAMP_NS, classes=5)
    sent = messages.voxel_grid_message(voxels, "front_optical")
    message = deserialize_message(serialize_message(sent), Image)
    checked_header(message)
    assert (message.height, message.width, message.step, message.encoding) == (256, 8192, 8192, "mono8")
    dense = np.frombuffer(message.data, np.uint8).reshape(256, 256, 32)
    state, label = bytes_to_state_and_label(dense)
    np.testing.assert_array_equal(state, voxels.state)
    np.testing.assert_array_equal(label[tuple(voxels.index.T)], voxels.label)
    assert decode_image(message).shape == (256, 8192, 3)  # an image to everybody else
    info = json.loads(messages.voxel_grid_info_message(voxels.grid, voxels.grid_from_camera).data)
    assert info["shape"] == [256, 256, 32]
    assert message.step == info["shape"][1] * info["shape"][2]


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


def placed(marker: Marker) -> np.ndarray:
    position, turn = marker.pose.position, marker.pose.orientation
    pose = RigidTransform.from_quaternion([turn.x, turn.y, turn.z, turn.w], [position.x, position.y, position.z])
    return np.asarray(pose.apply(np.array([[point.x, point.y, point.z] for point in marker.points])))


def test_markers_are_cubes_on_the_grid() -> None:
    voxels = some_voxels(200, STAMP_NS, classes=5)
    sent, _ = messages.voxels_marker(voxels, "front_optical", 200)
    message = deserialize_message(sent, Marker)
    checked_header(message)
    assert (message.type, message.action, message.ns, message.id) == (Marker.CUBE_LIST, Marker.ADD, "voxels", 0)
    assert (message.scale.x, message.scale.y, message.scale.z, message.text) == (0.2, 0.2, 0.2, "")
    np.testing.assert_allclose(placed(message), voxels.points_camera(), atol=1e-4)
    colours = np.array([[colour.r, colour.g, colour.b, colour.a] for colour in message.colors])
    np.testing.assert_allclose(colours[:, :3], np.array(voxels.class_colours)[voxels.label] / 255, atol=1e-6)
    np.testing.assert_allclose(colours[:, 3], voxels.probability, atol=1e-6)


@pytest.mark.parametrize("frame", ["", "a", "front_optical", "vorn/größe"])
@pytest.mark.parametrize(("count", "shown"), [(0, 0), (1, 1), (10_000, 10_000), (10_001, 10_000)])
def test_markers_are_serialised_as_ros_does_it(frame: str, count: int, shown: int) -> None:
    sent, text = messages.voxels_marker(some_voxels(count, STAMP_NS), frame, 10_000)
    assert messages.header_of(sent) == (STAMP_NS, frame)
    message = deserialize_message(sent, Marker)
    assert (len(message.points), len(message.colors), message.text) == (shown, shown, text)
    assert message.action == (Marker.ADD if count else Marker.DELETE)
    assert bool(text) == (count > shown)
    types, kind = get_typestore(Stores.LATEST), "visualization_msgs/msg/Marker"
    again = types.deserialize_cdr(serialize_message(message), kind)
    assert sent == types.serialize_cdr(again, kind)  # with zeros between fields
    defaults = Marker()
    for name in ("lifetime", "frame_locked", "texture_resource", "texture", "uv_coordinates", "mesh_resource"):
        assert getattr(message, name) == getattr(defaults, name)
    assert (message.mesh_file, message.color) == (defaults.mesh_file, ColorRGBA(a=1.0))
    assert not message.mesh_use_embedded_materials
