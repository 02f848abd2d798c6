"""Lock step over DDS: a node that stops answering is reported."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from scene_completion_ros.bags.reader import BagReader
from scene_completion_ros.errors import SceneCompletionError
from scene_completion_ros.ros.replay import bag_replay, player
from scene_completion_ros.ros.replay.played_node import NodeProcess
from scene_completion_ros.ros.replay.results import ReplayResult
from tests.checkout import ROOT
from tests.ros.replay.test_bag_replay import START_NS, STEP_NS, write_bag

TOPIC = "/front/image_raw"


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
