"""Cameras that stop, change, lie or send rubbish: nothing of that ends the node or comes out as if it were new."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Image

from scene_completion_ros.geometry.cameras import Camera
from scene_completion_ros.inference.completer import Completer
from scene_completion_ros.ros import messages
from tests.ros.camera_to_voxels import CAMERA, ERROR, FRAME, OK, is_cloud_of, some_image


def assert_taken_with(message: Any, completer: Completer, image: NDArray[np.uint8], *, fewest: int = 50) -> None:
    wanted = completer.complete(image).voxels
    assert len(wanted) > fewest
    assert is_cloud_of(message, wanted)


def test_unusable_calibrations_change_nothing_and_dull_images_are_completed(
    start: Any, completer: Callable[..., Completer]
) -> None:
    faulty = start("-p", "image.qos:=reliable")
    faulty.start()
    picture = some_image(1)
    first = faulty.show(picture)
    for shade in (0, 255):
        dull = np.full_like(picture, shade)
        assert_taken_with(faulty.show(dull), completer(CAMERA), dull, fewest=0)

    heard = len(faulty.voxels)
    for focal_length, width in ((math.nan, 320), (0.0, 320), (185.6, 0), (185.6, 2**32 - 1)):
        camera_info = messages.camera_info_message(CAMERA, 0, FRAME)
        camera_info.k[0], camera_info.width = focal_length, width
        faulty.camera_infos.publish(camera_info)
    faulty.until_logged("bad CameraInfo, 1 so far")
    assert faulty.show(picture).data == first.data  # by the last usable calibration
    assert len(faulty.voxels) == heard + 1

    dropped = faulty.node.end_with_all_counted("bad CameraInfo")
    assert dropped.pop("bad CameraInfo") >= 1  # of four, best effort
    assert dropped.pop("no CameraInfo") >= 1  # before the calibration came
    assert dropped.keys() <= {"newer image arrived"}  # of those that were sent to be found by the node


def test_a_camera_that_stops_returns_and_changes(start: Any, completer: Callable[..., Completer]) -> None:
    faulty = start()
    faulty.start()
    diagnosed = faulty.diagnosed
    before = faulty.show(some_image(3))

    # It stops: its publisher goes, nothing comes out any more; it returns, best effort this time.
    faulty.graph.node.destroy_publisher(faulty.images)
    heard = len(faulty.voxels)
    diagnosed.until("input", ERROR, "no image for", "no publisher")
    assert len(faulty.voxels) == heard
    best_effort = QoSProfile(depth=10, reliability=ReliabilityPolicy.BEST_EFFORT)
    faulty.images = faulty.graph.node.create_publisher(Image, "image", best_effort)

    faulty.until_answered(faulty.stamp(), seed=3)
    assert faulty.voxels[-1].data == before.data

    def goes_on() -> None:
        faulty.images.publish(messages.image_message(some_image(3), faulty.stamp(), FRAME))

    diagnosed.until("input", OK, "images/s", meanwhile=goes_on)

    # Other resolutions of the same picture need no other CameraInfo; what was cropped does.
    half = some_image(4, replace(CAMERA, width=160, height=48))
    answer = faulty.show(half)
    by_hand = Camera(92.8, 92.8, 79.5, 22.125, 160, 48)  # (159.5 + 0.5) / 2 - 0.5 and (44.75 + 0.5) / 2 - 0.5
    assert_taken_with(answer, completer(by_hand), half)
    faulty.until_logged("images are 160x48, calibrated for 320x96")
    cropped = some_image(4, replace(CAMERA, width=300))
    faulty.until_logged(
        "the image is 300x96, the calibration is that of 320x96: other proportions",
        lambda: faulty.images.publish(messages.image_message(cropped, faulty.stamp(), FRAME)),
    )
    assert faulty.show(some_image(3)).data == before.data

    # Part of a sensor, binned: the CameraInfo is that of the whole sensor.
    sensor = Camera(371.2, 371.2, 329.5, 120.0, 700, 240)  # twice as fine as CAMERA, and larger
    camera_info = messages.camera_info_message(sensor, 0, FRAME)
    camera_info.roi.x_offset, camera_info.roi.y_offset, camera_info.roi.width, camera_info.roi.height = 20, 30, 640, 192
    camera_info.binning_x = camera_info.binning_y = 2
    faulty.send_camera(camera_info, "ready for 320x96 images, fx 185.6 px, none distortion")
    by_hand = Camera(185.6, 185.6, 154.5, 44.75, 320, 96)  # (329.5 - 20 + 0.5) / 2 - 0.5, (120 - 30 + 0.5) / 2 - 0.5
    message = messages.image_message(some_image(5), 0, FRAME)
    wanted = faulty.stamp()
    message.header.stamp = messages.stamp_message(wanted)
    assert_taken_with(faulty.answer(message), completer(by_hand), some_image(5))
    faulty.node.end_with_all_counted()
