"""The recorder in a process of its own, beside a robot that publishes images, calibration and odometry."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from diagnostic_msgs.msg import DiagnosticArray
from nav_msgs.msg import Odometry
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_srvs.srv import Trigger

from scene_completion_ros.bags.pieces import DESCRIPTION
from scene_completion_ros.bags.reader import BagReader
from scene_completion_ros.cli import main
from scene_completion_ros.geometry.extrinsics import Extrinsic
from scene_completion_ros.ros import messages, topics
from scene_completion_ros.ros.place.transform_source import transform_message
from scene_completion_ros.sequences.posed_sequence import PosedSequence
from tests.ros.camera_to_voxels import CAMERA, FRAME, CameraToVoxels, some_image
from tests.ros.graph import Graph, NodeUnderTest
from tests.ros.moving_robot import LATCHED, ODOM, odometry_message, pose

PERIOD_S = 0.1
STEP_M = 0.25


class Recording:
    """A robot that drives, and the recorder beside it."""

    def __init__(self, folder: Path, *arguments: str, budget: str = "100MB") -> None:
        self.graph = Graph()
        node, self.prefix = self.graph.node, f"{self.graph.namespace}/{topics.NODE_NAME}"
        self.images = node.create_publisher(CompressedImage, "camera/compressed", 10)
        self.raw = node.create_publisher(Image, "camera", 10)
        self.odometry = node.create_publisher(Odometry, "odometry", 10)
        self.depth = node.create_publisher(Image, f"{topics.NODE_NAME}/depth/image", 10)
        self.trigger = node.create_publisher(DiagnosticArray, f"{topics.NODE_NAME}/record_trigger", 10)
        calibration = node.create_publisher(CameraInfo, "camera/camera_info", LATCHED)
        calibration.publish(messages.camera_info_message(CAMERA, 0, FRAME))  # once, before the recorder is there
        self.folder, self.number = folder, 0
        seconds = ["--before", "1", "--after", "1"]
        command = ["-m", "scene_completion_ros.cli", "record", "--output", str(folder), "--budget", budget]
        command += ["--node", self.prefix, *seconds, *arguments]
        self.recorder = NodeUnderTest(command, folder.with_suffix(".log"))

    def close(self) -> None:
        self.graph.close()
        self.recorder.close()

    def drive(self, until: Callable[[], bool]) -> None:
        """Ten images a second, and where they were taken."""

        def step() -> bool:
            stamp_ns = self.graph.node.get_clock().now().nanoseconds
            self.number += 1
            at = transform_message(Extrinsic(ODOM, FRAME, pose(STEP_M * self.number)), stamp_ns)
            self.odometry.publish(odometry_message(at))
            self.images.publish(messages.compressed_image_message(some_image(self.number), stamp_ns, FRAME))
            self.depth.publish(messages.image_message(some_image(0), stamp_ns, FRAME))
            self.graph.spin(PERIOD_S)
            return until()

        assert self.graph.until(step), self.recorder.log

    def drive_for(self, seconds: float) -> None:
        last = self.number + round(seconds / PERIOD_S)
        self.drive(lambda: self.number >= last)

    def heard(self) -> bool:
        publishers = (self.images, self.odometry, self.trigger)
        return all(publisher.get_subscription_count() for publisher in publishers) and all(
            "reliable" in line
            for name in ("camera/compressed", "odometry")
            for line in [next((one for one in self.recorder.log.splitlines() if f"{name}: subscribed" in one), "")]
        )

    def pieces(self) -> list[Path]:
        return sorted(path.parent for path in self.folder.glob(f"[0-9]*/{DESCRIPTION}"))


@pytest.fixture
def recording(tmp_path: Path) -> Iterator[Callable[..., Recording]]:
    started: list[Recording] = []

    def start(*arguments: str, folder: str = "pieces", **further: Any) -> Recording:
        started.append(Recording(tmp_path / folder, *arguments, **further))
        return started[-1]

    yield start
    for one in started:
        one.close()


def described(piece: Path) -> dict[str, Any]:
    said: dict[str, Any] = json.loads((piece / DESCRIPTION).read_text(encoding="utf-8"))
    return said


def test_two_requests_make_a_piece_that_becomes_a_sequence(recording: Callable[..., Recording], tmp_path: Path) -> None:
    robot = recording()
    robot.drive(robot.heard)
    robot.drive_for(3.0)
    robot.trigger.publish(DiagnosticArray())
    robot.drive_for(0.7)  # within the second after it
    robot.trigger.publish(DiagnosticArray())
    robot.drive(lambda: bool(robot.pieces()))
    (piece,) = robot.pieces()
    said = described(piece)
    assert [moment["name"] for moment in said["moments"]] == ["by hand", "by hand"]
    assert said["value"] == 1.0
    first, second = (moment["arrived_ns"] for moment in said["moments"])
    assert said["stop_ns"] == pytest.approx(second + 1e9, abs=2)
    assert -2 <= said["start_ns"] - (first - 10**9) < 0.5e9  # that of the first message that it still had

    namespace = robot.graph.namespace
    with BagReader(piece) as bag:
        assert bag.losses == []
        assert set(bag.topics) == {
            f"{namespace}/{name}" for name in ("camera/compressed", "camera/camera_info", "odometry")
        }  # neither what the node makes, nor the raw twin
        images = [message.message for message in bag.messages([f"{namespace}/camera/compressed"])]
        assert bag.camera_for(f"{namespace}/camera/compressed").fx == pytest.approx(CAMERA.fx)
        info = next(bag.messages([f"{namespace}/camera/camera_info"]))
        assert info.stamp_ns == said["start_ns"]  # it came long before
    length_s = (said["stop_ns"] - said["start_ns"]) / 1e9
    assert 0.5 * length_s / PERIOD_S < len(images) <= length_s / PERIOD_S + 1

    assert main(["extract", "--output", str(tmp_path / "sequences"), "--set", "min_frames=3", str(piece)]) == 0
    (sequence,) = [PosedSequence.load(file.parent) for file in (tmp_path / "sequences").rglob("sequence.json")]
    assert len(sequence.frames) > 5
    robot.recorder.end_well()


def test_the_node_asks_where_its_student_is_unsure(recording: Callable[..., Recording], start: Any) -> None:
    asking: CameraToVoxels = start()
    recorder = recording("--node", asking.output, "--topics", f"{asking.graph.namespace}/image")
    asking.start()
    assert asking.graph.repeat(
        lambda: asking.answer(asking.image(1, asking.graph.node.get_clock().now().nanoseconds)),
        lambda: f"recording {asking.graph.namespace}/image" in recorder.recorder.log,
    )
    assert asking.graph.until(lambda: asking.images.get_subscription_count() == 2)
    assert asking.graph.set_parameters(topics.NODE_NAME, record_unsure=0.01).successful

    def holds_its_moment() -> bool:  # the recorder may be found before it has found who publishes images
        return bool(recorder.pieces()) and described(recorder.pieces()[-1])["moments"][0]["stamp_ns"] in stamps()

    def stamps() -> list[int]:
        with BagReader(recorder.pieces()[-1]) as bag:
            return [messages.stamp_nanoseconds(message.message.header.stamp) for message in bag.messages()]

    assert asking.graph.repeat(lambda: ask_again(asking), holds_its_moment), recorder.recorder.log
    said = described(recorder.pieces()[-1])
    moment = said["moments"][0]
    assert {one["name"] for one in said["moments"]} == {"unsure"}
    assert 0.01 == moment["threshold"] < moment["score"] < 1.0
    assert "of its occupied voxels to be free" in moment["message"]


def ask_again(asking: CameraToVoxels) -> None:
    """The node forgets that it has asked, and completes another image."""
    asking.graph.call(Trigger, f"{topics.NODE_NAME}/reset", Trigger.Request())
    asking.answer(asking.image(2, asking.graph.node.get_clock().now().nanoseconds))


def test_a_signal_keeps_what_is_in_hand_and_a_restart_counts_it(recording: Callable[..., Recording]) -> None:
    robot = recording("--after", "100", "--longest", "200")
    robot.drive(robot.heard)
    robot.trigger.publish(DiagnosticArray())
    robot.drive_for(1.0)
    assert robot.pieces() == []
    robot.recorder.end_well()
    (piece,) = robot.pieces()
    assert described(piece)["messages"][f"{robot.graph.namespace}/camera/compressed"] > 3
    again = recording()
    assert again.graph.until(lambda: "1 pieces with" in again.recorder.log), again.recorder.log
    other = recording()
    assert other.recorder.process.wait(60.0) == 2
    assert "another recorder writes there" in other.recorder.log
