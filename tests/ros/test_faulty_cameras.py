"""Images of another size than their calibration, as the running node completes them."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from scene_completion_ros.geometry.cameras import Camera
from scene_completion_ros.inference.completer import Completer
from scene_completion_ros.ros import messages
from tests.ros.camera_to_voxels import CAMERA, FRAME, is_cloud_of, some_image


def test_resized_images_need_no_other_calibration_and_cropped_ones_do(
    start: Any, completer: Callable[..., Completer]
) -> None:
    running = start()
    running.start()
    before = running.show(some_image(3))
    half = some_image(4, replace(CAMERA, width=160, height=48))
    answer = running.show(half)
    by_hand = Camera(92.8, 92.8, 79.5, 22.125, 160, 48)  # (159.5 + 0.5) / 2 - 0.5 and (44.75 + 0.5) / 2 - 0.5
    wanted = completer(by_hand).complete(half).voxels
    assert len(wanted) > 50 and is_cloud_of(answer, wanted)
    running.until_logged("images are 160x48, calibrated for 320x96")
    cropped = some_image(4, replace(CAMERA, width=300))
    running.until_logged(
        "the image is 300x96, the calibration is that of 320x96: other proportions",
        lambda: running.images.publish(messages.image_message(cropped, running.stamp(), FRAME)),
    )
    assert running.show(some_image(3)).data == before.data
    running.node.end_with_all_counted()
