"""The running node in its own process, spoken to over DDS."""

import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from diagnostic_msgs.msg import DiagnosticArray
from sensor_msgs.msg import CameraInfo, Image

from scene_completion_ros.geometry.camera_info import camera_from_camera_info
from scene_completion_ros.geometry.cameras import Camera
from scene_completion_ros.geometry.resampling import decoder_shrink
from scene_completion_ros.inference.completer import Completer
from scene_completion_ros.messages.images import decode_image
from scene_completion_ros.ros import messages, topics
from scene_completion_ros.voxels.cloud import cloud_array_from_message
from tests.inference.small_bundle import CANONICAL
from tests.ros import faulty_node
from tests.ros.camera_to_voxels import CAMERA, FRAME, SECOND_NS, CameraToVoxels, is_cloud_of, some_image
from tests.ros.graph import LATCHED, PATIENCE_S
from tests.voxels.samples import voxels_to_cloud_array

Start = Callable[..., Any]


@pytest.fixture(scope="module")
def running(start_once: Start) -> Iterator[CameraToVoxels]:
    """A node that tests share."""
    running: CameraToVoxels = start_once()
    running.start()
    yield running
    running.node.end_with_all_counted()


def test_voxels_are_those_of_the_completer_in_the_frame_and_with_the_stamp_of_the_image(
    running: CameraToVoxels, completer: Callable[..., Completer]
) -> None:
    depths = running.graph.collect(Image, f"{running.output}/depth/image")
    depth_cameras = running.graph.collect(CameraInfo, f"{running.output}/depth/camera_info")
    times = running.graph.collect(DiagnosticArray, topics.PROCESSING_TIME.replace("~", running.output))
    image, stamp_ns = some_image(1), running.stamp() + 345
    message = running.answer(messages.image_message(image, stamp_ns, FRAME), depths, depth_cameras, times)

    assert message.header.frame_id == FRAME
    assert messages.stamp_nanoseconds(message.header.stamp) == stamp_ns
    expected = completer(CAMERA).complete(image)
    assert len(expected.voxels) > 100  # or the comparison shows nothing
    assert len(np.unique(expected.voxels.label)) > 1
    received, wanted = cloud_array_from_message(message), voxels_to_cloud_array(expected.voxels)
    for name in wanted.dtype.names or ():
        if name == "probability":  # another number of threads adds up in another order
            np.testing.assert_allclose(received[name], wanted[name], atol=1e-5)
        else:
            np.testing.assert_array_equal(received[name], wanted[name])

    assert depths[-1].header == message.header
    shown = expected.shown_depth
    received_depth = np.frombuffer(bytes(depths[-1].data), np.float32).reshape(shown.shape)
    np.testing.assert_allclose(received_depth, shown, rtol=1e-6)
    assert camera_from_camera_info(depth_cameras[-1]) == expected.depth_camera
    latest = messages.processing_times(times[-1])
    assert tuple(latest) == topics.STAGES and times[-1].header == message.header
    assert all(value >= 0 for value in latest.values())
    assert latest["latency"] >= latest["total"] > latest["query"] > 0


def test_misspelt_parameters_are_warned_about_and_live_ones_change_the_next_answer(
    start: Start, completer: Callable[..., Completer], tmp_path: Path
) -> None:
    own_file = tmp_path / "own.yaml"
    own_file.write_text(
        f"/**/{topics.NODE_NAME}:\n  ros__parameters:\n    image: {{rectifed: true}}\n    threads: 1\n"
        "other_node:\n  ros__parameters:\n    wheel_radius: 0.1\n",
        encoding="utf-8",
    )
    running = start("--params-file", str(own_file))
    running.until_logged("parameter image.rectifed is unknown and has no effect: known are ")
    assert running.node.log.count("is unknown") == 1
    running.start()
    rectified = messages.camera_info_message(replace(CAMERA, fx=250.0, fy=250.0), 0, FRAME)
    info = messages.camera_info_message(CAMERA, 0, FRAME)
    info.p = rectified.p

    def heard() -> int:
        return int(running.diagnosed.fresh("calibration")["CameraInfo received since activation"])

    before = heard()
    assert running.graph.repeat(lambda: running.camera_infos.publish(info), lambda: heard() > before)
    before = running.answer(messages.image_message(some_image(6), SECOND_NS, FRAME))

    accepted = running.graph.set_parameters(topics.NODE_NAME, image_rectified=True)
    assert accepted.successful, accepted.reason
    after = running.answer(messages.image_message(some_image(6), 3 * SECOND_NS, FRAME))
    assert after.data != before.data
    rectified_completer = completer(camera_from_camera_info(info, rectified=True))
    assert is_cloud_of(after, rectified_completer.complete(some_image(6)).voxels)
    assert "fx 250.0" in running.node.log


def test_compressed_images(start: Start, completer: Callable[..., Completer]) -> None:
    """Images of four times the student's resolution are decoded at half their size; the voxels lie where they did."""
    camera = CAMERA.resized(8 * CAMERA.width, 8 * CAMERA.height)
    running = start("-p", "image.transport:=compressed", transport="compressed")
    running.start(camera)
    image = running.make_image(some_image(4, camera), SECOND_NS, FRAME)
    answer = running.answer(image)
    assert answer.header == image.header
    assert answer.width > 100
    halved = decode_image(image, decoder_shrink(camera, CANONICAL))
    assert halved.shape == (camera.height // 2, camera.width // 2, 3)
    assert is_cloud_of(answer, completer(camera).complete(halved).voxels)


def test_resized_images_need_no_other_calibration_and_cropped_ones_do(
    running: CameraToVoxels, completer: Callable[..., Completer]
) -> None:
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


def test_a_latched_camera_info_is_heard_and_sigterm_ends_a_busy_node(start: Start, hold: tuple[Path, Path]) -> None:
    held_while, reached = hold
    running = start("-p", "image.qos:=reliable", script=faulty_node.__file__, camera_info_qos=LATCHED)
    node = running.node
    running.camera_infos.publish(messages.camera_info_message(CAMERA, 0, FRAME))  # once, before the node is there
    image = messages.image_message(some_image(0), 0, FRAME)
    running.until_logged("ready for", lambda: running.images.publish(image))
    running.answer(messages.image_message(some_image(0), 1, FRAME))  # after which none is on its way
    held_while.touch()
    running.receive(messages.image_message(some_image(1), SECOND_NS, FRAME))
    assert running.graph.until(reached.exists), node.log
    for number in (2, 3):
        running.receive(messages.image_message(some_image(number), number * SECOND_NS, FRAME))
    assert node.end(signal.SIGTERM) == 0
    assert "the inference thread did not end within 1 s" in node.log
    received, processed, dropped = node.counts
    assert received == processed + dropped.total() + 1  # the one in hand
    assert processed == len(running.stamps_ns) and dropped["newer image arrived"] >= 1


def test_a_node_that_cannot_start_has_the_reason_in_its_log(start: Start) -> None:
    node = start("-p", "bundle:=/nowhere").node
    assert node.process.wait(PATIENCE_S) == 1
    assert "scene_completion_node cannot start: parameter bundle: there is no folder /nowhere" in node.log
    assert "Traceback" not in node.log
