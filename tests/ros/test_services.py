"""~/reset and ~/set_enabled of the running node, and what happens to files below it."""

from __future__ import annotations

import functools
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from lifecycle_msgs.msg import Transition
from std_srvs.srv import SetBool, Trigger

from scene_completion_ros.geometry.cameras import Camera
from scene_completion_ros.ros import messages, topics
from tests.inference.small_bundle import make_small_bundle
from tests.ros import held_node
from tests.ros.camera_to_voxels import CAMERA, FRAME, SECOND_NS, CameraToVoxels
from tests.ros.diagnosed import ERROR, OK, values

OTHER_CAMERA = Camera(200.0, 200.0, 159.5, 44.75, 320, 96)

Start = Callable[..., Any]


class Served(CameraToVoxels):
    """A running node and its services."""

    def trigger(self, service: str) -> Any:
        return self.graph.call(Trigger, service.replace("~", topics.NODE_NAME), Trigger.Request())

    def refused(self, service: str) -> str:
        answer = self.trigger(service)
        assert not answer.success, answer.message
        assert answer.message in self.node.log
        return str(answer.message)

    def set_enabled(self, enabled: bool) -> Any:
        request = SetBool.Request(data=enabled)
        return self.graph.call(SetBool, topics.SET_ENABLED.replace("~", topics.NODE_NAME), request)


@pytest.fixture
def start(start: Start) -> Start:
    return functools.partial(start, kind=Served)


def test_services_refuse_before_the_node_is_configured(start: Start) -> None:
    served = start("-p", "autostart:=false")
    assert "the node is not configured" in served.refused(topics.RESET)
    assert "the node is not configured" in served.set_enabled(False).message


def test_reset_forgets_stamps_and_times(start: Start) -> None:
    served = start()
    served.start()
    told = served.told
    served.answer(served.image(1, 100 * SECOND_NS))
    late = served.image(2, 100 * SECOND_NS - SECOND_NS // 2)
    served.until_logged("stamp went back, 1 so far", lambda: served.images.publish(late))
    assert served.trigger(topics.RESET).message == "forgot stamps, times and earlier images"

    def forgot() -> bool:
        parts = {name: values(status) for name, status in told.newest.items()}
        return (
            parts["outputs"].get("seconds since the last result") == "none yet"
            and int(parts["inference"].get("images completed", 0)) >= 1  # counts go on
        )

    assert served.graph.until(lambda: bool(told.newest) and forgot()), served.node.log
    served.answer(late)
    served.node.end_well()


def test_while_disabled_nothing_is_published_and_everything_counted(start: Start, hold: tuple[Path, Path]) -> None:
    held_while, reached = hold
    served = start("-p", "image.qos:=reliable", script=held_node.__file__)
    told = served.told
    served.start()
    held_while.touch()
    served.images.publish(served.image(1, 10 * SECOND_NS))
    assert served.graph.until(reached.exists), served.node.log
    answer = served.set_enabled(False)
    assert answer.success and "until ~/set_enabled is called with true" in answer.message
    held_while.unlink()
    told.until("lifecycle", OK, "active, but disabled by ~/set_enabled: call ~/set_enabled with data: true to go on")
    served.images.publish(served.image(2, 11 * SECOND_NS))
    assert served.graph.until(lambda: values(told.newest["input"]).get("dropped: disabled") == "2"), served.node.log
    assert served.set_enabled(True).success
    served.answer(served.image(3, 12 * SECOND_NS))
    assert not set(served.stamps_ns) & {10 * SECOND_NS, 11 * SECOND_NS}
    told.until("lifecycle", OK)
    assert served.graph.until(lambda: values(told.newest["lifecycle"])["enabled"] == "true")
    served.node.end_well()
    received, processed, dropped = served.node.counts
    assert received == processed + dropped


def test_a_bundle_that_changes_on_disk_does_not_harm_the_running_node(
    start: Start, bundle_folder: Path, tmp_path: Path
) -> None:
    """Whoever writes a new bundle over the old one gets it when the node is configured again, and never half of it.

    What the node has in memory serves any calibration; a calibration that cannot be used takes nothing from it.
    """
    bundle = Path(shutil.copytree(bundle_folder, tmp_path / "bundle"))
    make_small_bundle(tmp_path / "other", seed=1, threshold=0.1, classes=5)
    served = start(bundle=bundle)
    told = served.told
    served.start()
    before = served.answer(served.image(1, 10 * SECOND_NS))

    def calibrated(camera: Camera, logged: str) -> None:
        served.send_camera(messages.camera_info_message(camera, 0, FRAME), logged)

    def goes_on_but_reads_no_other_encoder(stamp_ns: int, data: Any) -> None:
        assert served.answer(served.image(1, stamp_ns)).data == data
        calibrated(replace(CAMERA, fx=1e6, fy=1e6), "images of this camera cannot be completed")
        told.until("inference", ERROR, "sees nothing of the canonical image")
        served.until_answered(stamp_ns + SECOND_NS)  # with the former calibration
        told.until("inference", OK, "ready")
        calibrated(OTHER_CAMERA, f"fx {OTHER_CAMERA.fx:.1f} px")
        calibrated(CAMERA, f"fx {CAMERA.fx:.1f} px")
        assert served.answer(served.image(1, stamp_ns + 2 * SECOND_NS)).data == data
        for threads, level, complaints in (
            (2, ERROR, ("encoder.onnx", "clean up and configure a running node")),
            (1, OK, ("ready",)),
        ):
            assert served.graph.set_parameters(topics.NODE_NAME, threads=threads).successful
            told.until(
                "inference",
                level,
                *complaints,
                meanwhile=lambda: served.images.publish(served.image(1, stamp_ns + 3 * SECOND_NS)),
            )
        assert served.answer(served.image(1, stamp_ns + 4 * SECOND_NS)).data == data

    shutil.copytree(tmp_path / "other", bundle, dirs_exist_ok=True)
    goes_on_but_reads_no_other_encoder(11 * SECOND_NS, before.data)
    served.change(Transition.TRANSITION_DEACTIVATE, Transition.TRANSITION_CLEANUP)
    served.change(Transition.TRANSITION_CONFIGURE, Transition.TRANSITION_ACTIVATE)
    told.until("lifecycle", OK, "active")
    served.until_answered(20 * SECOND_NS)  # once it has found this graph again
    after = served.answer(served.image(1, 22 * SECOND_NS))
    assert after.width > 20 and after.data != before.data

    for path in bundle.iterdir():
        path.write_bytes(b"spoilt")  # in place: what had mapped the file would be killed
    goes_on_but_reads_no_other_encoder(24 * SECOND_NS, after.data)
    served.change(Transition.TRANSITION_DEACTIVATE, Transition.TRANSITION_CLEANUP)
    assert not served.graph.change_state(topics.NODE_NAME, Transition.TRANSITION_CONFIGURE)
    told.until("lifecycle", ERROR, str(bundle))
    shutil.copytree(bundle_folder, bundle, dirs_exist_ok=True)
    served.change(Transition.TRANSITION_CONFIGURE, Transition.TRANSITION_ACTIVATE)
    told.until("lifecycle", OK, "active")
    served.send_camera(messages.camera_info_message(OTHER_CAMERA, 0, FRAME), "ready for 320x96 images, fx 200.0 px")
    assert "Traceback" not in served.node.log
