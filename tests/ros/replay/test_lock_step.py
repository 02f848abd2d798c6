"""Lock step over DDS: nothing is lost, two runs write the same recording, a node that stops answering is reported."""

import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from rclpy.serialization import serialize_message

from scene_completion_ros.bags.reader import BagReader
from scene_completion_ros.bags.writer import BagWriter
from scene_completion_ros.errors import SceneCompletionError
from scene_completion_ros.inference.completer import Completer
from scene_completion_ros.ros.messages import odometry_message
from scene_completion_ros.ros.replay import bag_replay, player
from scene_completion_ros.ros.replay.played_node import NodeProcess
from scene_completion_ros.ros.replay.results import ReplayResult
from tests.checkout import ROOT
from tests.ros.camera_to_voxels import some_image
from tests.ros.moving_robot import MOUNT, ODOM, pose
from tests.ros.replay.test_bag_replay import CAMERA, FRAME, START_NS, STEP_NS, write_bag

TOPIC = "/front/image_raw"
FRAMES = 6


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


ODOMETRY, STEP_M = "/replayed_odometry", 0.4


def test_two_runs_write_the_same_recording(
    tmp_path: Path, node_parameters: dict[str, object], completer: Callable[..., Completer]
) -> None:
    # The process that compiles kernels rounds otherwise than those after it: that is this one, and no replay.
    of_camera = completer(CAMERA)
    occupied = [len(of_camera.complete(some_image(number)).voxels) for number in (0, 1, 2, 4, 5)]
    write_bag(tmp_path / "drive", frames=FRAMES, bad=3)
    # Written anew with where the camera was, between images too.
    with BagReader(tmp_path / "drive") as reader:
        written = [(one.topic, one.type, one.raw, one.stamp_ns) for one in reader.messages()]
    shutil.rmtree(tmp_path / "drive")
    for number in range(2 * FRAMES):
        stamp_ns = START_NS + number * STEP_NS // 2
        message = serialize_message(odometry_message(pose(number * STEP_M / 2) @ MOUNT, stamp_ns, ODOM, FRAME))
        written.append((ODOMETRY, "nav_msgs/msg/Odometry", message, stamp_ns))
    with BagWriter(tmp_path / "drive") as bag:
        for one in sorted(written, key=lambda one: one[3]):
            bag.write(*one)
    node_parameters |= {"scale.wait": True, "odometry.topics": ODOMETRY}
    for run in ("first", "second"):
        (tmp_path / run).mkdir()
        results: list[ReplayResult] = []
        with BagReader(tmp_path / "drive") as reader:
            statistics = bag_replay.replay_over_dds(
                reader,
                TOPIC,
                output_bag=tmp_path / run / "completed",
                on_result=results.append,
                also=[ODOMETRY],
                node_parameters=node_parameters,
            )
        assert (statistics.frames_in, statistics.frames_out) == (FRAMES, FRAMES - 1), statistics.node_log
        assert statistics.dropped == {"bad image": 1}
        assert statistics.occupied == occupied == [len(result.voxels) for result in results], statistics.node_log
    messages = []
    for run in ("first", "second"):
        with BagReader(tmp_path / run / "completed") as reader:
            messages.append([(one.topic, one.type, one.stamp_ns, one.raw) for one in reader.messages()])
    assert len(messages[0]) == 2 + 6 * (FRAMES - 1)
    assert messages[0] == messages[1]
    assert len({raw for *_, raw in messages[0]}) > FRAMES  # not one frame again and again
    assert files_of(tmp_path / "first" / "completed") == files_of(tmp_path / "second" / "completed")


def test_a_node_that_stops_answering_is_reported_and_what_came_before_is_kept(
    tmp_path: Path, node_parameters: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_bag(tmp_path / "drive", frames=4)
    nodes: list[NodeProcess] = []

    class Remembered(NodeProcess):
        def __enter__(self) -> NodeProcess:
            nodes.append(self)
            return super().__enter__()

    def freeze(result: ReplayResult) -> None:
        if result.stamp_ns == START_NS + STEP_NS:
            nodes[0]._process.send_signal(signal.SIGSTOP)

    def thawed(self: NodeProcess) -> int:  # a stopped process heeds no SIGTERM
        self._process.send_signal(signal.SIGCONT)
        return stop(self)

    stop = NodeProcess.stop
    monkeypatch.setattr(bag_replay, "NodeProcess", Remembered)
    monkeypatch.setattr(player, "ANSWER_TIMEOUT_S", 3.0)
    monkeypatch.setattr(NodeProcess, "stop", thawed)
    with BagReader(tmp_path / "drive") as reader, pytest.raises(SceneCompletionError) as caught:
        bag_replay.replay_over_dds(
            reader, TOPIC, output_bag=tmp_path / "completed", on_result=freeze, node_parameters=node_parameters
        )
    said = str(caught.value)
    assert "neither completed nor dropped image 2" in said
    assert "within 3 s: no ~/voxels" in said
    assert "--offline" in said
    with BagReader(tmp_path / "completed") as written, BagReader(tmp_path / "drive") as recorded:
        assert written.losses == []
        clouds = [one.stamp_ns for one in written.messages(["/scene_completion/voxels"])]
        assert clouds == [one.stamp_ns for one in recorded.messages([TOPIC])][:2]
        assert clouds[1] - clouds[0] == STEP_NS


PARENT = """
import subprocess, sys, time
from scene_completion_ros.ros.replay.played_node import ending_with_parent
child = subprocess.Popen([sys.executable, "-c", "import time; print('child', flush=True); time.sleep(600)"],
                         preexec_fn=ending_with_parent())
time.sleep(600)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child that its parent has died")
def test_a_child_ends_when_its_parent_is_killed() -> None:
    parent = subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert parent.stdout.readline() == "child\n"
    parent.kill()
    assert parent.stdout.read() == ""  # ends once the child, which holds the pipe too, has ended
    assert parent.wait() != 0
