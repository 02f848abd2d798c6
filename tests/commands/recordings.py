"""A short recording with all that a replay meets: images, some of them unusable, CameraInfo, transforms, LiDAR."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from scene_completion_ros.bags.writer import BagWriter
from scene_completion_ros.geometry.cameras import Camera
from tests.bags import recordings
from tests.inference.small_bundle import CANONICAL
from tests.messages.test_images import cloud

TOPIC = "/camera/image_raw"
FRAME = "camera_optical"
START_NS = 1_700_000_000_000_000_000
STEP_NS = 100_000_000


def write_image(
    writer: BagWriter, picture: NDArray[np.uint8], stamp_ns: int, bag_ns: int, *, encoding: str = "rgb8"
) -> None:
    height, width, _ = picture.shape
    message = recordings.image(picture, encoding, width=width, height=height, stamp_ns=stamp_ns, frame_id=FRAME)
    writer.write(TOPIC, "sensor_msgs/msg/Image", message, bag_ns)


def write_camera_info(writer: BagWriter, camera: Camera, stamp_ns: int) -> None:
    size = {"width": camera.width, "height": camera.height}
    message = recordings.camera_info(stamp_ns=stamp_ns, f=camera.fx, centre=(camera.cx, camera.cy), **size)
    writer.write("/camera/camera_info", "sensor_msgs/msg/CameraInfo", message, stamp_ns)


POLE = np.array([[20.0, 5.0, z] for z in np.linspace(-2.4, 0.0, 30)], dtype=np.float32)  # in the LiDAR's frame


def record(path: Path, *, frames: int = 3, broken: bool = False, camera: Camera = CANONICAL) -> Path:
    """Write the recording; ``broken`` adds an image of an unknown encoding, a smaller one, and one from the past."""
    rng = np.random.default_rng(0)
    with BagWriter(path) as writer:
        above = recordings.transform(FRAME, "lidar", (0.0, -1.0, 0.0), START_NS)  # and along the camera's axis
        above.transforms[0].transform.rotation = recordings.make(
            "geometry_msgs/Quaternion", x=0.5, y=-0.5, z=0.5, w=0.5
        )
        writer.write("/tf_static", "tf2_msgs/msg/TFMessage", above, START_NS)
        for i in range(frames):
            now = START_NS + i * STEP_NS
            write_camera_info(writer, camera, now)
            image = rng.integers(0, 255, (CANONICAL.height, CANONICAL.width, 3), dtype=np.uint8)
            pole = cloud(POLE)
            pole.header = recordings.header(now, "lidar")
            writer.write("/lidar", "sensor_msgs/msg/PointCloud2", pole, now)
            write_image(writer, image, now, now)
        if broken:
            now = START_NS + frames * STEP_NS
            write_image(writer, image, now, now, encoding="smell8")
            write_image(writer, image[::2, ::2], now, now)
            write_image(writer, image, START_NS, now)
    return path
