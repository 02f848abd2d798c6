"""The managed node in its own process, led through its states over DDS."""

import gc
import json
import re
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from diagnostic_msgs.msg import DiagnosticArray
from lifecycle_msgs.msg import Transition
from std_msgs.msg import String

from scene_completion_ros.inference.bundle import StudentBundle
from scene_completion_ros.inference.completer import Completer
from scene_completion_ros.ros import messages, topics
from tests.inference.small_bundle import make_small_bundle
from tests.ros.camera_to_voxels import CAMERA, FRAME, SECOND_NS, is_cloud_of, some_image, stamp_of
from tests.ros.graph import LATCHED, PATIENCE_S

CONFIGURE, CLEANUP = Transition.TRANSITION_CONFIGURE, Transition.TRANSITION_CLEANUP
ACTIVATE, DEACTIVATE = Transition.TRANSITION_ACTIVATE, Transition.TRANSITION_DEACTIVATE

Start = Callable[..., Any]


def test_every_state_holds_what_it_should(start: Start) -> None:
    managed = start("-p", "autostart:=false")

    def subscribed() -> bool:
        return bool(managed.images.get_subscription_count() or managed.camera_infos.get_subscription_count())

    def published() -> bool:
        return bool(managed.graph.node.count_publishers(f"{managed.output}/voxels"))

    managed.until_logged("unconfigured: waiting for the manager of this node")
    assert managed.state == "unconfigured"
    assert not published()

    managed.change(CONFIGURE)
    assert managed.state == "inactive"
    assert managed.graph.until(published)
    legends = managed.graph.collect(String, f"{managed.output}/legend", LATCHED)
    assert managed.graph.until(lambda: bool(legends)), managed.node.log
    assert not subscribed()

    managed.change(ACTIVATE)
    assert managed.state == "active"
    managed.start()
    managed.answer(managed.image(1, SECOND_NS))

    managed.change(DEACTIVATE)
    assert managed.state == "inactive"
    assert managed.graph.until(lambda: not subscribed())
    managed.camera_infos.publish(messages.camera_info_message(CAMERA, 0, FRAME))
    managed.images.publish(managed.image(2, 2 * SECOND_NS))
    assert published()

    warnings = managed.node.log.count("no CameraInfo")
    managed.change(ACTIVATE)  # the calibration is awaited anew, the model is still there

    uncalibrated = managed.image(3, 3 * SECOND_NS)
    missed = managed.graph.repeat(
        lambda: managed.images.publish(uncalibrated), lambda: managed.node.log.count("no CameraInfo") > warnings
    )
    assert missed, managed.node.log
    managed.until_answered(4 * SECOND_NS)
    assert managed.node.log.count("ready for 320x96") == 1
    assert not {2 * SECOND_NS, 3 * SECOND_NS} & set(managed.stamps_ns)

    managed.change(DEACTIVATE, CLEANUP)
    assert managed.state == "unconfigured"
    assert managed.graph.until(lambda: not published())
    assert managed.node.end() == 0
    summaries = re.findall(r"received (\d+) images, processed (\d+)", managed.node.log)
    assert len(summaries) == 3  # of two deactivations and of the end: one goes on where the other was
    received, processed = (list(map(int, counts)) for counts in zip(*summaries, strict=True))
    assert received == sorted(received)
    assert 0 < processed[0] < processed[1] == processed[2]
    assert "Traceback" not in managed.node.log


def test_another_student_takes_over_by_cleanup_and_configure(
    start: Start, completer: Callable[..., Completer], bundle_folder: Path, tmp_path: Path
) -> None:
    first, second = StudentBundle.load(bundle_folder), make_small_bundle(tmp_path / "second", seed=1, classes=3)
    link = tmp_path / "student"
    link.symlink_to(bundle_folder)
    managed = start(bundle=link)
    legends = managed.graph.collect(String, f"{managed.output}/legend", LATCHED)
    managed.start()
    for number, bundle in enumerate((second, first), 1):
        managed.change(DEACTIVATE, CLEANUP)
        link.unlink()
        link.symlink_to(str(bundle.folder))
        managed.change(CONFIGURE, ACTIVATE)
        managed.until_answered(100 * number * SECOND_NS)
        cloud = managed.answer(managed.image(1, (100 * number + 50) * SECOND_NS))
        assert is_cloud_of(cloud, completer(CAMERA, bundle=bundle).complete(some_image(1)).voxels)
        legend = {"class_names": list(bundle.class_names), "class_colours": list(map(list, bundle.class_colours))}
        assert managed.graph.until(lambda legend=legend: json.loads(legends[-1].data) == legend)  # type: ignore[misc]
    managed.node.end_well()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_by_itself_it_becomes_active_and_a_signal_leaves_no_shared_memory(start: Start, number: signal.Signals) -> None:
    managed = start()
    managed.start()
    assert managed.state == "active"
    mapped = Path(f"/proc/{managed.node.process.pid}/maps").read_text(encoding="utf-8")
    segments = {Path(path) for path in re.findall(r"/dev/shm/fastdds_[0-9a-f]+$", mapped, re.MULTILINE)}
    large = {path for path in segments if path.stat().st_size > 2**20}  # its own, and that of this process
    assert len(large) >= 2 and managed.node.end(number) == 0
    assert managed.node.log.count("received ") == 1  # the transition that releases everything
    assert "Traceback" not in managed.node.log
    managed.close()
    deadline_s = time.monotonic() + PATIENCE_S
    while (left := [path for path in large if path.exists()]) and time.monotonic() < deadline_s:
        gc.collect()  # whatever still holds an entity of this process
        time.sleep(0.1)
    assert not left


def test_outputs_without_subscribers_are_not_computed(start: Start) -> None:
    managed = start(listen=False)
    times = managed.graph.collect(DiagnosticArray, topics.PROCESSING_TIME.replace("~", managed.output))
    camera_info, image = messages.camera_info_message(CAMERA, 0, FRAME), managed.image(0, SECOND_NS)
    managed.send_camera(camera_info, "ready for 320x96")
    managed.until_logged("voxels and depth have no subscribers", lambda: managed.images.publish(image))
    managed.listen()
    managed.until_answered(2 * SECOND_NS)
    assert managed.graph.until(lambda: bool(times)), managed.node.log
    assert SECOND_NS not in map(stamp_of, times)
    assert managed.node.log.count("the node completes images again") == 1
    assert managed.node.end() == 0
    counts = re.search(r"received (\d+) images, processed (\d+).* no subscriber for (\d+)", managed.node.log)
    assert counts is not None, managed.node.log
    received, processed, unwanted = map(int, counts.groups())
    assert processed >= 1 <= unwanted
    assert received >= processed + unwanted
