"""Successive images joined by the running node: what it publishes, what it does without odometry, when it forgets."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from diagnostic_msgs.msg import DiagnosticArray
from lifecycle_msgs.msg import Transition

from scene_completion_ros.inference.completer import Completer
from scene_completion_ros.mapping.clearing import ClearingRays, clearing_voxels
from scene_completion_ros.ros import messages, topics
from scene_completion_ros.ros.messages import processing_times
from scene_completion_ros.voxels.semantic_voxels import VoxelState
from tests.ros.camera_to_voxels import CAMERA, FRAME, OK, SECOND_NS, WARN, is_cloud_of
from tests.ros.moving_robot import TENTH_NS, TOPICS, FusedTruth, FusingDrive


@pytest.fixture(scope="module")
def truth(completer: Callable[..., Completer]) -> FusedTruth:
    return FusedTruth(completer(CAMERA))


@pytest.fixture(scope="module")
def running(start_once: Callable[..., Any], truth: FusedTruth) -> Iterator[FusingDrive]:
    truth.joined(truth.map(), 0, 0, 0.0)  # compiled, so that no image of the node comes late for that
    drive: FusingDrive = start_once(*TOPICS, kind=FusingDrive)
    drive.begin()
    yield drive
    assert "Traceback" not in drive.node.log


@pytest.fixture
def drive(running: FusingDrive) -> FusingDrive:
    running.reset()
    return running


def test_images_are_joined_where_the_robot_drives(drive: FusingDrive, truth: FusedTruth) -> None:
    times = drive.graph.collect(DiagnosticArray, topics.PROCESSING_TIME.replace("~", drive.output))
    fusion, remembered = truth.map(), 0
    for number, (x, yaw) in enumerate(((0.0, 0.0), (0.3, 0.02), (0.7, 0.1), (0.9, 0.3)), start=1):
        cloud = drive.show(number, x, yaw)
        stamp_ns = drive.now_ns
        alone, fused = truth.alone(number, stamp_ns), truth.joined(fusion, number, stamp_ns, x, yaw)
        assert fused.reset == ""
        assert cloud.header.frame_id == FRAME
        assert is_cloud_of(cloud, fused.voxels)
        assert is_cloud_of(cloud, alone.voxels) == (number == 1)  # the first one as it was, no other

        # The same voxels in the dense grid. Free, so that it may clear, is only what this image itself sees free.
        grid = np.reshape(drive.stamped(drive.states, stamp_ns).data, truth.grid.shape)
        free_seen = grid == VoxelState.FREE_SEEN
        np.testing.assert_array_equal(free_seen, fused.voxels.state == VoxelState.FREE_SEEN)
        assert (alone.voxels.state[free_seen] == VoxelState.FREE_SEEN).all()
        remembered += int(((alone.voxels.state == VoxelState.UNOBSERVED) & (grid >= VoxelState.SURFACE)).sum())

        rays = ClearingRays(truth.grid, truth.grid_from_camera, alone.depth_camera, threads=1)
        wanted = rays(clearing_voxels(fused.voxels, alone.voxels))
        assert len(wanted) > 1000
        ends = np.frombuffer(drive.stamped(drive.clearing, stamp_ns).data, np.float32).reshape(-1, 3)
        np.testing.assert_allclose(ends, wanted, atol=1e-4)

        depth = np.frombuffer(drive.stamped(drive.depths, stamp_ns).data, np.float32).reshape(alone.depth.shape)
        np.testing.assert_allclose(depth, alone.shown_depth, rtol=1e-4)  # that of one image
    assert remembered > 20
    assert drive.graph.until(lambda: any(processing_times(time)["fuse"] > 0.0 for time in times)), drive.node.log
    assert drive.graph.until(lambda: drive.numbers()["map age s"] == "0.3"), drive.numbers()
    assert float(drive.numbers()["map MB"]) == pytest.approx(fusion.megabytes, abs=0.1)
    assert int(drive.numbers()["map voxels"]) == fusion.memory.weight.size


def test_an_image_without_odometry_is_published_alone_and_counted(drive: FusingDrive, truth: FusedTruth) -> None:
    fusion = truth.map()
    drive.show(1, 0.0)
    truth.joined(fusion, 1, drive.now_ns, 0.0)
    before = int(drive.numbers()["images published alone"])

    with drive.impatient():
        lost = drive.show(2, 0.2, posed=False)
    assert is_cloud_of(lost, truth.alone(2).voxels)
    status = drive.diagnosed.until("fusion", WARN, "without those of earlier ones", "after the last")
    assert "transforms must reach up to the stamps of images" in status.message  # what to do
    assert int(drive.numbers()["images published alone"]) == before + 1
    assert "voxels are those of one image, not joined with earlier ones" in drive.node.log

    # What is remembered is still there, without the image whose place is unknown.
    found = drive.show(3, 0.4)
    assert is_cloud_of(found, truth.joined(fusion, 3, drive.now_ns, 0.4).voxels)
    assert not is_cloud_of(found, truth.alone(3).voxels)


def loop(drive: FusingDrive) -> None:
    """The recording begins anew: an image of before, and odometry of before."""
    drive.now_ns -= 20 * SECOND_NS
    heard = len(drive.voxels)
    with drive.impatient():
        drive.images.publish(drive.image(9, drive.now_ns))
        assert drive.graph.until(lambda: len(drive.voxels) > heard), drive.node.log  # alone
    assert "stamps jumped back" in drive.node.log


def configure_again(drive: FusingDrive) -> None:
    drive.change(Transition.TRANSITION_DEACTIVATE, Transition.TRANSITION_CLEANUP)
    drive.diagnosed.until("fusion", OK, "nothing to do: the node is unconfigured")
    drive.change(Transition.TRANSITION_CONFIGURE)
    drive.diagnosed.until("fusion", OK, "waiting for the first image")
    drive.change(Transition.TRANSITION_ACTIVATE)
    until_heard_again(drive)


def until_heard_again(drive: FusingDrive) -> None:
    """Calibrated and mounted again; images without a pose are published alone."""
    answered = len(drive.voxels)

    def heard() -> bool:
        drive.robot.say_mount()
        drive.camera_infos.publish(messages.camera_info_message(CAMERA, 0, FRAME))
        drive.now_ns += TENTH_NS
        drive.images.publish(drive.image(9, drive.now_ns))
        return drive.graph.until(lambda: len(drive.voxels) > answered, 1.0)

    with drive.impatient():
        assert drive.graph.until(heard), drive.node.log
        drive.now_ns += TENTH_NS
        drive.answer(drive.image(9, drive.now_ns))  # after which none is on its way
    assert drive.graph.until(drive.hears_all), drive.node.log


@pytest.mark.parametrize("begin", [FusingDrive.reset, loop, configure_again])
def test_the_past_is_forgotten(begin: Callable[[FusingDrive], None], drive: FusingDrive, truth: FusedTruth) -> None:
    drive.show(1, 0.0)
    fusion = truth.map()
    truth.joined(fusion, 1, drive.now_ns, 0.0)
    assert is_cloud_of(drive.show(2, 0.3), truth.joined(fusion, 2, drive.now_ns, 0.3).voxels)
    begin(drive)
    again = drive.show(3, 0.6)
    assert is_cloud_of(again, truth.joined(truth.map(), 3, drive.now_ns, 0.6).voxels)
