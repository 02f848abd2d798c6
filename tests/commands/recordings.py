"""A short recording with all that a replay meets: images, some of them unusable, CameraInfo, transforms, LiDAR."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from scene_completion_ros.bags.writer import BagWriter
from tests.bags import recordings
from tests.bags.recordings import make
from tests.inference.small_bundle import CANONICAL
from tests.messages.test_clouds import cloud

TOPIC = "/camera/image_raw"
FRAME = "camera_optical"
START_NS = 1_700_000_000_000_000_000
STEP_NS = 100_000_000


class Recorder:
    """Writes messages of a camera and of a LiDAR."""

    def __init__(self, writer: BagWriter) -> None:
        self.writer = writer

    def image(
        self, picture: NDArray[np.uint8], stamp_ns: int, bag_ns: int, *, topic: str, encoding: str = "rgb8"
    ) -> None:
        height, width, _ = picture.shape
        message = recordings.image(picture, encoding, width=width, height=height, stamp_ns=stamp_ns, frame_id=FRAME)
        self.writer.write(topic, "sensor_msgs/msg/Image", message, bag_ns)

    def camera_info(self, stamp_ns: int) -> None:
        c = CANONICAL
        message = recordings.camera_info(
            stamp_ns=stamp_ns, frame_id=FRAME, width=c.width, height=c.height, f=c.fx, centre=(c.cx, c.cy)
        )
        self.writer.write("/camera/camera_info", "sensor_msgs/msg/CameraInfo", message, stamp_ns)

    def lidar_above_camera(self, stamp_ns: int) -> None:
        """/tf_static: the LiDAR looks along the camera's axis and stands one metre above it."""
        message = recordings.transform(FRAME, "lidar", (0.0, -1.0, 0.0), stamp_ns)
        message.transforms[0].transform.rotation = make("geometry_msgs/Quaternion", x=0.5, y=-0.5, z=0.5, w=0.5)
        self.writer.write("/tf_static", "tf2_msgs/msg/TFMessage", message, stamp_ns)

    def cloud(self, points: NDArray[np.float32], stamp_ns: int) -> None:
        message = cloud(points)
        message.header = recordings.header(stamp_ns, "lidar")
        self.writer.write("/lidar", "sensor_msgs/msg/PointCloud2", message, stamp_ns)


POLE = np.array([[20.0, 5.0, z] for z in np.linspace(-2.4, 0.0, 30)], dtype=np.float32)  # in the LiDAR's frame


def record(path: Path, *, frames: int = 3, cameras: int = 1, calibrated: bool = True, broken: bool = False) -> Path:
    """Write the recording; ``broken`` adds an image of an unknown encoding, a smaller one, and one from the past."""
    rng = np.random.default_rng(0)
    with BagWriter(path) as writer:
        recorder = Recorder(writer)
        recorder.lidar_above_camera(START_NS)
        for i in range(frames):
            now = START_NS + i * STEP_NS
            if calibrated:
                recorder.camera_info(now)
            image = rng.integers(0, 255, (CANONICAL.height, CANONICAL.width, 3), dtype=np.uint8)
            recorder.cloud(POLE, now)
            for camera in range(cameras):
                recorder.image(image, now, now, topic=TOPIC if camera == 0 else f"/camera_{camera}/image_raw")
        if broken:
            now = START_NS + frames * STEP_NS
            recorder.image(image, now, now, topic=TOPIC, encoding="smell8")
            recorder.image(image[::2, ::2], now, now, topic=TOPIC)
            recorder.image(image, START_NS, now, topic=TOPIC)
    return path
