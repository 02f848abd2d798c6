"""Our conversions of images and clouds beside those of ROS packages, as Markdown tables with ratios of one run.

``python -m benchmarks.conversions`` needs `sensor_msgs`; rows of `cv_bridge` and `sensor_msgs_py` need those packages.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from sensor_msgs.msg import Image
from std_msgs.msg import Header

from benchmarks.measuring import Runs, demo_drive, hardware, in_turn, ratio_table
from scene_completion_ros.inference.completer import Completer
from scene_completion_ros.inference.shipped import open_student
from scene_completion_ros.messages.images import decode_image
from scene_completion_ros.ros import conversions, messages
from scene_completion_ros.voxels.cloud import VOXEL_CLOUD_FIELDS, voxels_to_cloud_array

REPEATS = 20


def compared(title: str, ours: Callable[[], object], name: str, theirs: Callable[[], object] | None) -> str:
    """A table of ours and theirs, which may not be installed."""
    works = {"this package": ours} | ({name: theirs} if theirs else {})
    rows: dict[str, Runs | str] = dict(in_turn(works, REPEATS))
    return ratio_table(title, rows | ({} if theirs else {name: "not installed"}))


def main() -> None:
    """Prints the tables."""
    print(hardware(1), flush=True)
    camera, images = demo_drive()
    completer = Completer(open_student(None), camera, threads=1)
    voxels = completer.complete(images[0], 0).voxels
    header, fields = Header(), conversions.point_fields(VOXEL_CLOUD_FIELDS)
    cloud, bridge = conversions.sensor_msgs_py(), conversions.cv_bridge()
    title = f"cloud of {len(voxels)} voxels, 24 bytes each"

    def made() -> Any:
        points = voxels_to_cloud_array(voxels).view(cloud.dtype_from_fields(fields, 24))  # colours count as floats
        return cloud.create_cloud(header, fields, points, 24)

    voxel_table = compared(
        title, lambda: messages.voxels_message(voxels, "camera", threads=1), "sensor_msgs_py", made if cloud else None
    )
    print(f"\n{voxel_table}")
    points = voxels.points_camera().astype(np.float32)[:10_000]
    plain = [(name, 4 * place, 7, 1) for place, name in enumerate("xyz")]
    points_table = compared(
        "cloud of 10 000 points",
        lambda: conversions.cloud_message(points, plain, header),
        "sensor_msgs_py",
        (lambda: cloud.create_cloud_xyz32(header, points)) if cloud else None,
    )
    print(f"\n{points_table}")
    height, width = images[0].shape[:2]
    image = Image(height=height, width=width, encoding="bgr8", step=3 * width)
    conversions.with_data(image, images[0][..., ::-1])
    title = f"image of {width}×{height}, bgr8"
    theirs = (lambda: bridge.imgmsg_to_cv2(image, "rgb8")) if bridge else None
    print("\n" + compared(title, lambda: decode_image(image), "cv_bridge", theirs))


if __name__ == "__main__":
    main()
