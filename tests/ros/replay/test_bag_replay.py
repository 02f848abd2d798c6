"""Bags played through the running node, and a node that stops answering."""

import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rclpy.serialization import serialize_message

from scene_completion_ros.bags.reader import BagReader
from scene_completion_ros.bags.writer import STREET, BagWriter
from scene_completion_ros.errors import BagError, SceneCompletionError
from scene_completion_ros.ros import conversions, messages, topics
from scene_completion_ros.ros.replay import bag_replay, player
from scene_completion_ros.ros.replay.bag_replay import replay_over_dds
from scene_completion_ros.ros.replay.played_node import NodeProcess
from scene_completion_ros.ros.replay.player import Answers, SentImage
from scene_completion_ros.ros.replay.results import ReplayResult, ReplayStatistics
from scene_completion_ros.voxels.cloud import cloud_array_from_message
from tests.checkout import ROOT
from tests.ros.camera_to_voxels import CAMERA, FRAME, some_image

IMAGES = "/front/image_raw"
START_NS = 1_700_000_000_000_000_000
STEP_NS = 100_000_000

Replay = Callable[..., tuple[ReplayStatistics, list[ReplayResult]]]


def write_bag(
    path: Path, *, frames: int, compressed: bool = False, camera_info: bool = True, bad: int = -1, stamped: bool = True
) -> None:
    """A short drive; frame `bad` has an unknown encoding. Images reach the recorder 5 ms after their stamp."""
    with BagWriter(path) as bag:
        for number in range(frames):
            stamp_ns = START_NS + number * STEP_NS
            header_ns = stamp_ns if stamped else 0
            image = some_image(number)
            if camera_info:
                info = messages.camera_info_message(CAMERA, stamp_ns, FRAME)
                bag.write("/front/camera_info", "sensor_msgs/msg/CameraInfo", serialize_message(info), stamp_ns)
            if compressed:
                kind, message = "CompressedImage", messages.compressed_image_message(image, header_ns, FRAME)
            else:
                kind, message = "Image", messages.image_message(image, header_ns, FRAME)
            if number == bad:
                message.encoding = "holographic8"
            topic = f"{IMAGES}/compressed" if compressed else IMAGES
            bag.write(topic, f"sensor_msgs/msg/{kind}", serialize_message(message), stamp_ns + 5_000_000)


@pytest.fixture
def replay(tmp_path: Path, bundle_folder: Path, grid_file: Path) -> Replay:
    """Plays the bag `drive` through a node, and writes `completed`; its statistics and results."""

    def play(topic: str = IMAGES, **options: Any) -> tuple[ReplayStatistics, list[ReplayResult]]:
        results: list[ReplayResult] = []
        parameters = {"bundle": str(bundle_folder), "grid.file": str(grid_file), "threads": 1}
        given = {"on_result": results.append, "node_parameters": parameters, **options}
        with BagReader(tmp_path / "drive") as reader:
            return replay_over_dds(reader, topic, output_bag=tmp_path / "completed", **given), results

    return play


@pytest.mark.parametrize("source", [None, object()])
def test_what_a_slow_machine_sends_seconds_later_still_counts(source: Any) -> None:
    """The processing times, and the map before them: else two replays would not be the same."""
    answers = Answers([topics.VOXELS], [topics.PROCESSING_TIME, topics.OCCUPANCY_GRID])
    sent = SentImage(0, FRAME, 0, 0.0, source)
    answers.waiting = sent
    cloud = conversions.points_message(np.zeros((0, 3), np.float32), messages.header_message(0, FRAME))
    answers.take(topics.VOXELS, serialize_message(cloud), 1.0)
    assert answers.take_ready(4.0) is None
    times = messages.processing_time_message({}, {}, 0, FRAME)
    answers.take(topics.PROCESSING_TIME, serialize_message(times), 4.0)
    assert answers.take_ready(4.4) is None
    assert answers.take_ready(4.6) is (sent if source else None)  # there may be no map; the warm-up is not handed over


def test_lock_step_answers_every_frame_and_writes_a_bag(tmp_path: Path, replay: Replay) -> None:
    write_bag(tmp_path / "drive", frames=5, bad=2)
    log: list[tuple[str, str]] = []
    statistics, results = replay(on_log=lambda *line: log.append(line))
    good = [0, 1, 3, 4]
    assert [result.stamp_ns for result in results] == [START_NS + number * STEP_NS for number in good]
    assert (statistics.frames_in, statistics.frames_out, statistics.frames_empty) == (5, 4, 0)
    assert statistics.lost_stamps_ns == [START_NS + 2 * STEP_NS]
    assert statistics.dropped == {"bad image": 1}  # by the notice of the node
    assert statistics.occupied == [len(result.voxels) for result in results]
    assert min(statistics.occupied) > 100
    (why,) = (text for severity, text in log if severity == "WARN" and text.startswith("dropped (bad image"))
    assert "holographic8" in why and IMAGES in why and "/replay_" not in why
    assert 50 < statistics.peak_memory_mib < 2000
    assert set(statistics.latency_ms) == {"end_to_end", *topics.STAGES}
    first = results[0]
    assert first.frame_id == FRAME
    assert first.image_rgb.shape == (CAMERA.height, CAMERA.width, 3)
    assert first.depth.shape == (first.depth_camera.height, first.depth_camera.width)
    # Voxels may be here before the node has published the depth, which its own latency includes.
    assert min(first.latency_ms, first.stages_ms["latency"]) >= first.stages_ms["total"] > 0
    with BagReader(tmp_path / "completed") as written:
        clouds = list(written.messages(["/scene_completion/voxels"]))
        assert set(written.counts.items()) == {
            ("/scene_completion/voxels", 4),
            ("/scene_completion/depth/image", 4),
            ("/scene_completion/depth/camera_info", 4),
            ("/scene_completion/occupancy_grid", 4),
            ("/scene_completion/obstacles", 4),
            ("/scene_completion/legend", 1),
            ("/image", 4),
            ("/tf_static", 1),
        }
        layout = (ROOT / "config" / "foxglove.json").read_text()  # shows nothing that is not there
        assert {*re.findall(r"/scene_completion/[a-z_/]+", layout)} <= written.counts.keys()
        (legend,) = written.messages(["/scene_completion/legend"])
        assert legend.stamp_ns == clouds[0].stamp_ns
        for cloud, result in zip(clouds, results, strict=True):
            assert cloud.stamp_ns == result.stamp_ns + 5_000_000  # with its image when both bags are played
            np.testing.assert_array_equal(cloud_array_from_message(cloud.message), result.voxels)
        for recorded, result in zip(written.messages(["/scene_completion/depth/image"]), results, strict=True):
            published = np.frombuffer(bytes(recorded.message.data), np.float32).reshape(result.depth.shape)
            np.testing.assert_array_equal(result.depth, published)
        assert not np.isfinite(first.depth).all()  # what is too far or unknown stays so
        shown = [f"/scene_completion/{name}" for name in ("voxels", "depth/image", "occupancy_grid")]
        # A viewer can open it alone.
        for frame in {one.message.header.frame_id for one in written.messages(["/image", *shown])}:
            written.tf_buffer().lookup(STREET, frame, START_NS)


def test_a_recording_without_stamps_is_completed_and_lost_times_do_not_matter(
    tmp_path: Path, replay: Replay, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_bag(tmp_path / "drive", frames=3, stamped=False)
    take = Answers.take
    heard = 0

    def lose_one(self: Answers, topic: str, *further: Any) -> None:
        nonlocal heard
        heard += topic == topics.PROCESSING_TIME
        if topic != topics.PROCESSING_TIME or heard != 2:  # that of the first image after the warm-up
            take(self, topic, *further)

    monkeypatch.setattr(Answers, "take", lose_one)
    log: list[tuple[str, str]] = []
    statistics, results = replay(on_log=lambda *line: log.append(line))
    assert any(severity == "WARN" and text.startswith("stamps stand still") for severity, text in log)
    assert (statistics.frames_out, statistics.lost_stamps_ns) == (3, [])
    assert len(results) == 3
    timed = [result for result in results if result.stages_ms]
    assert len(timed) >= 2
    for result in timed:
        assert result.latency_ms >= result.stages_ms["total"]
        assert result.stages_ms["latency"] >= result.stages_ms["total"]


def test_compressed_images_with_a_given_camera(tmp_path: Path, replay: Replay) -> None:
    write_bag(tmp_path / "drive", frames=3, compressed=True, camera_info=False)
    with pytest.raises(BagError, match="no CameraInfo"):
        replay(f"{IMAGES}/compressed")
    statistics, results = replay(f"{IMAGES}/compressed", camera=CAMERA)
    assert (statistics.frames_in, statistics.frames_out) == (3, 3)
    with BagReader(tmp_path / "completed") as written:
        assert written.counts["/image/compressed"] == 3
    assert all(result.image_rgb.shape == (CAMERA.height, CAMERA.width, 3) for result in results)


def test_a_node_that_stops_answering_is_reported_and_what_came_before_is_kept(
    tmp_path: Path, replay: Replay, monkeypatch: pytest.MonkeyPatch
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
    with pytest.raises(SceneCompletionError) as caught:
        replay(on_result=freeze)
    said = str(caught.value)
    assert "neither completed nor dropped image 2" in said
    assert "within 3 s: no ~/voxels" in said
    assert "--offline" in said
    with BagReader(tmp_path / "completed") as written, BagReader(tmp_path / "drive") as recorded:
        assert written.losses == []
        clouds = [one.stamp_ns for one in written.messages(["/scene_completion/voxels"])]
        assert clouds == [one.stamp_ns for one in recorded.messages([IMAGES])][:2]
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
