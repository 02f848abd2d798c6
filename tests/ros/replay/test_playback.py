"""A recording played to a running node: several times, with a clock, under other names, with further topics."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from rclpy.serialization import serialize_message
from rosgraph_msgs.msg import Clock
from std_msgs.msg import String

from scene_completion_ros.bags.reader import BagReader
from scene_completion_ros.bags.writer import BagWriter
from scene_completion_ros.errors import SceneCompletionError
from scene_completion_ros.ros import messages
from scene_completion_ros.ros.replay.bag_replay import ReplayResult, replay_over_dds
from scene_completion_ros.ros.replay.playback import InputTopics, Playback, check_loops, input_topics, parse_remappings
from tests.ros.camera_to_voxels import CameraToVoxels
from tests.ros.graph import as_arguments
from tests.ros.replay.test_bag_replay import CAMERA, FRAME, START_NS, STEP_NS, rough_image, write_bag

TOPIC, INFO, NOTES = "/front/image_raw", "/front/camera_info", "/notes"
FRAMES = 12  # longer than the second that makes a step back a restart
BEHIND_NS = 5_000_000


def write_drive(path: Path) -> None:
    """Images every 0.1 s, and a note 0.2 s after each, which lies before the image after the next."""
    with BagWriter(path) as bag:
        for number in range(FRAMES):
            stamp_ns = START_NS + number * STEP_NS
            if not number:
                info = messages.camera_info_message(CAMERA, stamp_ns, FRAME)
                bag.write(INFO, "sensor_msgs/msg/CameraInfo", serialize_message(info), stamp_ns)
            image = messages.image_message(rough_image(number), stamp_ns, FRAME)
            bag.write(TOPIC, "sensor_msgs/msg/Image", serialize_message(image), stamp_ns + BEHIND_NS)
            note = serialize_message(String(data=str(number)))
            bag.write(NOTES, "std_msgs/msg/String", note, stamp_ns + 2 * STEP_NS)


def test_a_running_node_survives_the_restart_of_recording_and_clock(
    tmp_path: Path, start: Callable[..., CameraToVoxels]
) -> None:
    write_drive(tmp_path / "drive")
    seen, clock = "/seen_again", "/clock_of_the_recording"
    renamed = ["-r", f"image:={seen}", "-r", f"camera_info:={INFO}", "-r", f"/clock:={clock}"]
    running = start(*renamed, *as_arguments({"use_sim_time": "true", "image.qos": "reliable"}))
    graph, node = running.graph, running.node
    ticks, notes = graph.collect(Clock, clock, 1000), graph.collect(String, "/said", 1000)
    results: list[ReplayResult] = []
    playback = Playback(
        loops=2,
        clock_hz=20.0,
        node=running.output,
        also=(NOTES,),
        remappings={TOPIC: seen, "/clock": clock, NOTES: "/said"},
    )
    with BagReader(tmp_path / "drive") as reader:
        statistics = replay_over_dds(
            reader, TOPIC, output_bag=tmp_path / "completed", on_result=results.append, playback=playback
        )
    assert (statistics.passes, statistics.frames_in, statistics.frames_out) == (2, 2 * FRAMES, 2 * FRAMES)
    assert not statistics.lost_stamps_ns
    assert not statistics.dropped
    assert [result.index for result in results] == list(range(FRAMES))  # of the first pass
    with BagReader(tmp_path / "completed") as written:
        assert written.counts["/scene_completion/voxels"] == FRAMES
    once = [START_NS + BEHIND_NS + i * STEP_NS // 2 for i in range(2 * FRAMES - 1)]
    assert graph.until(lambda: len(ticks) >= 2 * len(once))
    assert [messages.stamp_nanoseconds(tick.clock) for tick in ticks] == 2 * once
    assert graph.until(lambda: len(notes) >= 2 * FRAMES)
    assert [note.data for note in notes] == 2 * [str(number) for number in range(FRAMES)]
    assert node.process.poll() is None
    assert "jumped back" in node.log  # the clock or the stamps, whichever the node hears first
    assert node.end() == 0


def test_voxels_in_another_frame_than_the_images_are_refused(
    tmp_path: Path, start: Callable[..., CameraToVoxels]
) -> None:
    write_bag(tmp_path / "drive", frames=1)
    given = {"image.qos": "reliable", "grid.frame": "base_link", "camera.height": 1.0}
    running = start("-r", f"image:={TOPIC}", "-r", f"camera_info:={INFO}", *as_arguments(given))
    playback = Playback(node=running.output)
    with BagReader(tmp_path / "drive") as reader, pytest.raises(SceneCompletionError) as caught:
        replay_over_dds(reader, TOPIC, playback=playback)
    assert "voxels in the frame 'base_link', not in that of the images" in str(caught.value)
    assert "without the parameters grid.frame and cameras" in str(caught.value)


def test_a_missing_node_is_reported_with_what_to_check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_bag(tmp_path / "drive", frames=1)
    monkeypatch.setattr("scene_completion_ros.ros.replay.player.STARTUP_TIMEOUT_S", 1.0)
    with BagReader(tmp_path / "drive") as reader, pytest.raises(SceneCompletionError) as caught:
        replay_over_dds(reader, TOPIC, playback=Playback(node="/nobody/scene_completion"))
    assert "/nobody/scene_completion is active and subscribes to /front/image_raw and /front/camera_info" in str(
        caught.value
    )


def test_names_of_the_inputs() -> None:
    own = Playback()
    running = Playback(node="/scene_completion")
    renamed = Playback(node="/scene_completion", remappings=parse_remappings(["/front/image_raw:=/x/image"]))
    compressed = f"{TOPIC}/compressed"
    assert input_topics(compressed, INFO, own) == InputTopics("image", "camera_info")
    assert input_topics(compressed, INFO, own).compressed == "image/compressed"
    assert input_topics(compressed, INFO, running) == InputTopics(TOPIC, INFO)
    assert input_topics(TOPIC, None, running) == InputTopics(TOPIC, "/front/camera_info")
    assert input_topics(compressed, INFO, renamed).compressed == "/x/image/compressed"
    whole = Playback(remappings=parse_remappings([f"{compressed}:=x/image/compressed", f"{INFO}:=/x/info"]))
    assert input_topics(compressed, INFO, whole) == InputTopics("/x/image", "/x/info")


@pytest.mark.parametrize("rule", ["/image", "/image:=", ":=/image", "/image:=/a b", "/image=/other", "/a:=/b:=/c"])
def test_rules_of_another_form_are_refused(rule: str) -> None:
    with pytest.raises(SceneCompletionError, match="FROM:=TO"):
        parse_remappings([rule])


@pytest.mark.parametrize(
    ("playback", "wrong"),
    [
        (Playback(remappings={"/rear/image_raw": "/x"}), "/rear/image_raw is not played"),
        (Playback(remappings={"/clock": "/x"}), "/clock is not played"),
        (Playback(also=("/tf",)), "no further topic /tf is recorded"),
        (Playback(also=(TOPIC,)), "no further topic"),
        (Playback(loops=2), "lasts 0.01 s"),
    ],
)
def test_what_does_not_fit_the_recording_is_refused(tmp_path: Path, playback: Playback, wrong: str) -> None:
    write_bag(tmp_path / "drive", frames=1)
    with BagReader(tmp_path / "drive") as reader, pytest.raises(SceneCompletionError) as caught:
        replay_over_dds(reader, TOPIC, playback=playback)
    assert wrong in str(caught.value)


def test_a_longer_recording_may_be_repeated() -> None:
    check_loops(Playback(loops=0), 1_000_000_001)
    with pytest.raises(SceneCompletionError, match="loop a longer one"):
        check_loops(Playback(loops=0), 1_000_000_000)


@pytest.mark.parametrize(
    ("settings", "where"),
    [
        *(({"rate": rate}, "rate") for rate in (0.0, -1.0, float("nan"))),
        ({"loops": -1}, "loop"),
        ({"clock_hz": 0.0}, "clock"),
        ({"node": "scene completion"}, "node"),
    ],
)
def test_senseless_settings_are_refused(settings: dict[str, float | str], where: str) -> None:
    with pytest.raises(SceneCompletionError, match=f"^{where}: "):
        Playback(**settings)  # type: ignore[arg-type]
