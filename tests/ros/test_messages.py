"""Messages made from the package's types, field checks switched on, and what `cv_bridge` makes of images: the same."""

from typing import Any

import numpy as np
import pytest
from rclpy.serialization import deserialize_message, serialize_message
from sensor_msgs.msg import Image, PointCloud2, PointField
from std_msgs.msg import Header

from scene_completion_ros.messages.images import decode_image
from scene_completion_ros.ros import conversions, messages
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


HEIGHT, WIDTH = 48, 64


def raw_image(encoding: str, channels: int, cut: int = 0) -> Any:
    """An image of noise; its rows are padded by the bytes of the columns that are cut off."""
    rows = np.random.default_rng(7).integers(0, 256, (HEIGHT, WIDTH * channels), dtype=np.uint8)
    message = Image(height=HEIGHT, width=WIDTH - cut, encoding=encoding, step=rows.shape[1])
    return conversions.with_data(message, rows)


@pytest.mark.skipif(conversions.cv_bridge() is None, reason="no cv_bridge: source a distribution that has it")
def test_cv_bridge_converts_as_our_own_code_does() -> None:
    padded = raw_image("bgr8", 3, cut=1)  # decoded by our own code, whatever CvBridge makes of padded rows
    for image in [padded, *(raw_image(name, size) for name, size in conversions.BY_CV_BRIDGE.items())]:
        np.testing.assert_array_equal(conversions.to_rgb(image), decode_image(image), image.encoding)
    for encoding, channels in (("rgb8", 3), ("mono8", 1)):
        sent = raw_image(encoding, channels)
        pixels = np.frombuffer(sent.data, np.uint8).reshape(HEIGHT, WIDTH, channels).squeeze()
        again = conversions.image_message(pixels, encoding, Header())
        assert (again.encoding, again.step, bytes(again.data)) == (encoding, sent.step, bytes(sent.data))


class Bridge:
    """Stands in for a `CvBridge`, and counts."""

    def __init__(self) -> None:
        self.decoded: list[str] = []

    def imgmsg_to_cv2(self, message: Any, encoding: str) -> np.ndarray:
        assert encoding == "rgb8"
        self.decoded.append(message.encoding)
        return np.zeros((message.height, message.width, 3), np.uint8)


def test_cv_bridge_is_given_only_what_it_decodes_right(monkeypatch: pytest.MonkeyPatch) -> None:
    bridge = Bridge()
    monkeypatch.setattr(conversions, "cv_bridge", lambda: bridge)
    assert not conversions.to_rgb(raw_image("bgr8", 3)).any()
    for ours in (raw_image("bgr8", 3, cut=1), raw_image("yuv422", 2), raw_image("mono16", 2)):
        np.testing.assert_array_equal(conversions.to_rgb(ours), decode_image(ours))
    compressed = messages.compressed_image_message(decode_image(raw_image("rgb8", 3)), 0, "camera")
    assert conversions.to_rgb(compressed, 2).shape == (HEIGHT // 2, WIDTH // 2, 3)
    assert bridge.decoded == ["bgr8"]
