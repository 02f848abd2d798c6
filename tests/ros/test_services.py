"""~/save, ~/reset and ~/set_enabled of the running node, and what happens to files below it."""

from __future__ import annotations

import functools
import resource
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lifecycle_msgs.msg import Transition
from std_srvs.srv import SetBool, Trigger

from scene_completion_ros.geometry.cameras import Camera
from scene_completion_ros.ros import messages, topics
from scene_completion_ros.voxels.cloud import cloud_array_from_message
from scene_completion_ros.voxels.files import read_npz
from tests.inference.small_bundle import make_small_bundle
from tests.ros import held_node, held_saving_node
from tests.ros.camera_to_voxels import CAMERA, FRAME, SECOND_NS, CameraToVoxels
from tests.ros.diagnosed import ERROR, OK, values

OTHER_CAMERA = Camera(200.0, 200.0, 159.5, 44.75, 320, 96)

Start = Callable[..., Any]


class Served(CameraToVoxels):
    """A running node and its services."""

    folder: Path  # where it may save

    def trigger(self, service: str) -> Any:
        return self.graph.call(Trigger, service.replace("~", topics.NODE_NAME), Trigger.Request())

    def refused(self, service: str) -> str:
        answer = self.trigger(service)
        assert not answer.success, answer.message
        assert answer.message in self.node.log
        return str(answer.message)

    def save(self) -> str:
        answer = self.trigger(topics.SAVE)
        assert answer.success, answer.message
        return str(answer.message)

    def set_enabled(self, enabled: bool) -> Any:
        request = SetBool.Request(data=enabled)
        return self.graph.call(SetBool, topics.SET_ENABLED.replace("~", topics.NODE_NAME), request)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where the node may save."""
    folder = tmp_path / "saved"
    folder.mkdir()
    return folder


@pytest.fixture
def start(start: Start, folder: Path) -> Start:
    return functools.partial(start, "-p", f"save_folder:={folder}", kind=Served)


@pytest.fixture(scope="module")
def running(start_once: Start, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("running")
    running: Served = start_once("-p", f"save_folder:={folder}", kind=Served)
    running.folder = folder
    running.start()
    yield running
    running.node.end_well()


@pytest.fixture
def served(running: Served) -> Served:
    """A node that tests share, as if no image had come and nothing had been saved."""
    for path in running.folder.iterdir():
        path.unlink()
    assert running.trigger(topics.RESET).success
    return running


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_save_writes_what_was_published_and_nothing_over_anything(served: Served, tmp_path: Path) -> None:
    folder = served.folder
    assert "the node has not completed an image yet" in served.refused(topics.SAVE)
    cloud = cloud_array_from_message(served.answer(served.image(1, 12 * SECOND_NS + 34)))
    message = served.save()
    npz, ply = folder / "voxels_12_000000034.npz", folder / "voxels_12_000000034.ply"
    assert message == f"saved {len(cloud)} occupied voxels as {npz} and {ply}"
    assert names(folder) == {npz.name, ply.name}
    saved = read_npz(npz)
    voxels = saved.voxels
    assert (voxels.stamp_ns, saved.camera_frame) == (12 * SECOND_NS + 34, FRAME)
    np.testing.assert_array_equal(voxels.points_camera(), np.stack([cloud[axis] for axis in "xyz"], axis=-1))
    np.testing.assert_array_equal(voxels.probability, cloud["probability"])
    np.testing.assert_array_equal(voxels.label, cloud["label"])
    np.testing.assert_array_equal(voxels.state[tuple(voxels.index.T)], cloud["state"])
    assert f"comment {len(cloud)} occupied voxels" in ply.read_bytes()[:200].decode("ascii")

    before = {path: path.read_bytes() for path in (npz, ply)}
    assert f"{npz}: is there already. Move it away" in served.refused(topics.SAVE)
    assert {path: path.read_bytes() for path in before} == before

    target = tmp_path / "elsewhere"
    (folder / "voxels_13_000000000.ply").symlink_to(target)  # somebody hopes that it is followed
    served.answer(served.image(2, 13 * SECOND_NS))
    assert "is there already" in served.refused(topics.SAVE)
    assert not target.exists()
    assert names(folder) == {npz.name, ply.name, "voxels_13_000000000.ply"}


def test_a_full_disk_or_a_lost_folder_leaves_no_half_files_and_the_node_goes_on(served: Served) -> None:
    folder = served.folder
    served.answer(served.image(1, 10 * SECOND_NS))
    served.save()
    sizes = {path.suffix: path.stat().st_size for path in folder.iterdir()}
    assert sizes[".npz"] < sizes[".ply"]
    served.answer(served.image(2, 11 * SECOND_NS))
    before = names(folder)
    # No file of the node may be larger than this, as on a disk that fills up between the two files.
    limits = resource.prlimit(served.node.process.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(served.node.process.pid, resource.RLIMIT_FSIZE, ((sizes[".npz"] + sizes[".ply"]) // 2, limits[1]))
    answer = served.trigger(topics.SAVE)
    resource.prlimit(served.node.process.pid, resource.RLIMIT_FSIZE, limits)
    assert not answer.success
    assert f"{folder}: the node saved nothing: File too large. The largest size of a file is limited" in answer.message
    assert names(folder) == before

    moved = folder.rename(folder.with_name("moved"))
    assert "The folder was removed: make it again" in served.refused(topics.SAVE)
    moved.rename(folder)
    served.save()
    assert len(names(folder)) == 4
    served.answer(served.image(3, 12 * SECOND_NS))


def test_a_save_folder_is_checked_when_configuring_before_which_services_refuse(start: Start, folder: Path) -> None:
    folder.rmdir()
    served = start("-p", "autostart:=false")
    for service in (topics.SAVE, topics.RESET):
        assert "the node is not configured" in served.refused(service)
    assert "the node is not configured" in served.set_enabled(False).message
    assert not served.graph.change_state(topics.NODE_NAME, Transition.TRANSITION_CONFIGURE)
    served.told.until("lifecycle", ERROR, f"parameter save_folder: there is no folder {folder}; name a writable folder")
    folder.mkdir()
    served.change(Transition.TRANSITION_CONFIGURE)
    served.told.until("lifecycle", OK, "inactive")


def test_saving_keeps_neither_images_nor_other_services_waiting(
    start: Start, folder: Path, hold: tuple[Path, Path]
) -> None:
    held_while, reached = hold
    served = start(script=held_saving_node.__file__)
    served.start()
    served.answer(served.image(1, 10 * SECOND_NS))
    held_while.touch()
    client = served.graph.node.create_client(Trigger, topics.SAVE.replace("~", served.output))
    assert served.graph.until(client.service_is_ready)
    first = client.call_async(Trigger.Request())
    assert served.graph.until(reached.exists), served.node.log
    second = client.call_async(Trigger.Request())
    served.answer(served.image(2, 11 * SECOND_NS))
    assert served.trigger(topics.RESET).success
    assert not first.done() and not names(folder)
    held_while.unlink()
    assert served.graph.until(lambda: first.done() and second.done()), served.node.log
    assert first.result().success, first.result().message  # what was the last result when it was asked for
    assert names(folder) == {"voxels_10_000000000.npz", "voxels_10_000000000.ply"}
    assert "the node has not completed an image yet" in second.result().message  # asked again only after the reset
    held_while.touch()
    served.answer(served.image(3, 12 * SECOND_NS))
    reached.unlink()
    client.call_async(Trigger.Request())
    assert served.graph.until(reached.exists), served.node.log
    served.node.end_well()  # does not wait for ever, nor raise
    assert not [name for name in names(folder) if name.startswith("voxels_12")]


def test_reset_forgets_stamps_and_results(served: Served) -> None:
    told = served.told
    served.answer(served.image(1, 100 * SECOND_NS))
    late = served.image(2, 100 * SECOND_NS - SECOND_NS // 2)
    served.until_logged("stamp went back, 1 so far", lambda: served.images.publish(late))
    assert served.trigger(topics.RESET).message == "forgot stamps, times and the last result"
    assert "the node has not completed an image yet" in served.refused(topics.SAVE)

    def forgot() -> bool:
        parts = {name: values(status) for name, status in told.newest.items()}
        return (
            parts["outputs"].get("seconds since the last result") == "none yet"
            and int(parts["inference"].get("images completed", 0)) >= 2  # counts go on
        )

    assert served.graph.until(lambda: bool(told.newest) and forgot()), served.node.log
    served.answer(late)
    served.save()


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
