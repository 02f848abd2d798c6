"""Messages made from the package's types, field checks switched on."""

import numpy as np
from rclpy.serialization import deserialize_message, serialize_message
from sensor_msgs.msg import PointCloud2, PointField

from scene_completion_ros.ros import messages
from tests.voxels.samples import some_voxels

FLOAT32, UINT8 = PointField.FLOAT32, PointField.UINT8


def test_voxel_message_has_the_documented_layout() -> None:
    voxels = some_voxels(1000, stamp_ns=7_000_000_001, classes=5)
    sent = messages.voxels_message(voxels, "front_optical")
    message = deserialize_message(serialize_message(sent), PointCloud2)
    header = message.header
    assert (header.frame_id, header.stamp.sec, header.stamp.nanosec) == ("front_optical", 7, 1)
    assert (message.height, message.width, message.point_step, message.row_step) == (1, 1000, 24, 24000)
    assert message.is_dense and not message.is_bigendian
    assert [(field.name, field.offset, field.datatype, field.count) for field in message.fields] == [
        *((axis, offset, FLOAT32, 1) for axis, offset in (("x", 0), ("y", 4), ("z", 8))),
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
