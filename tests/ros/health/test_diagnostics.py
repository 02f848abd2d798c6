"""/diagnostics of the running node, in all its states and with the faults that users meet."""

from collections.abc import Callable
from pathlib import Path

from lifecycle_msgs.msg import Transition
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Image

from scene_completion_ros.ros import messages, topics
from tests.ros.camera_to_voxels import CAMERA, ERROR, FRAME, OK, SECOND_NS, WARN, CameraToVoxels, some_image, values

PARTS = {"lifecycle", "input", "calibration", "inference", "outputs"}
BEST_EFFORT = QoSProfile(depth=5, reliability=ReliabilityPolicy.BEST_EFFORT)

Start = Callable[..., CameraToVoxels]


def test_states_arrivals_and_faults_of_calibration(start: Start) -> None:
    running = start("-p", "autostart:=false")
    diagnosed = running.diagnosed

    def images() -> None:
        running.images.publish(running.image(1, running.stamp()))

    def both() -> None:
        running.camera_infos.publish(messages.camera_info_message(CAMERA, running.now_ns + SECOND_NS, FRAME))
        images()

    diagnosed.until("lifecycle", OK, "unconfigured: nothing is loaded; configure")
    assert set(diagnosed.newest) == PARTS
    for part in ("input", "calibration", "inference", "outputs"):
        assert diagnosed.newest[part].level == OK
        assert "the node is unconfigured" in diagnosed.newest[part].message
    assert {status.hardware_id for status in diagnosed.newest.values()} == {"camera"}

    assert running.graph.change_state(topics.NODE_NAME, Transition.TRANSITION_CONFIGURE)
    diagnosed.until("lifecycle", OK, "inactive: nothing is subscribed")
    diagnosed.until("input", OK, "the node is inactive")
    diagnosed.until("inference", OK, "waiting for a calibration")

    assert running.graph.change_state(topics.NODE_NAME, Transition.TRANSITION_ACTIVATE)
    diagnosed.until("lifecycle", OK, "active")
    diagnosed.until("input", ERROR, "no image for", "1 publisher exists")
    assert "input: no image for" in running.node.log

    status = diagnosed.until("input", OK, "images/s", meanwhile=images)
    assert int(values(status)["dropped: no CameraInfo"]) >= 1
    assert "input: in order again" in running.node.log

    diagnosed.until("inference", OK, "ready", "latency", meanwhile=both)
    diagnosed.until("calibration", WARN, "the image is enlarged 2.00 times", meanwhile=both)
    inference = values(diagnosed.newest["inference"])
    assert inference["engine"] in {"openvino", "openvino_bf16", "onnxruntime"}
    for stage in topics.STAGES:
        mean, p95, largest = (float(part.split()[1]) for part in inference[f"{stage} ms"].split(", "))
        assert 0 <= mean <= largest, stage
        assert 0 <= p95 <= largest, stage
    received = values(diagnosed.newest["input"])
    assert float(received["images/s"]) > 0
    assert received["image"] == f"320x96 rgb8, {320 * 96 * 3} bytes, frame {FRAME}"

    assert "Traceback" not in running.node.log


def test_failures_are_reported_while_simulated_time_stands_still(start: Start, tmp_path: Path) -> None:
    missing = tmp_path / "bundle"
    running = start("-p", "use_sim_time:=true", "-p", "autostart:=false", bundle=missing)
    diagnosed = running.diagnosed
    assert not running.graph.change_state(topics.NODE_NAME, Transition.TRANSITION_CONFIGURE)
    diagnosed.until("lifecycle", ERROR, "unconfigured: the last transition failed", f"there is no folder {missing}")
    heard = len(diagnosed.arrays)
    assert running.graph.until(lambda: len(diagnosed.arrays) >= heard + 2)
    assert all(array.header.stamp.sec == 0 for array in diagnosed.arrays)  # /clock has no publisher


def test_topics_without_publishers_and_publishers_that_do_not_match(start: Start) -> None:
    running = start("-p", "image.qos:=reliable")
    diagnosed = running.diagnosed
    running.graph.node.destroy_publisher(running.images)
    diagnosed.until("input", ERROR, f"no publisher on {running.graph.namespace}/image", "-r image:=<topic>")
    listening = diagnosed.until("outputs", OK, "have subscribers")
    assert values(listening)[f"subscribers of {running.output}/voxels"] == "1"

    images = running.graph.node.create_publisher(Image, "image", BEST_EFFORT)
    image = messages.image_message(some_image(1), 0, FRAME)
    diagnosed.until(
        "input", ERROR, "does not match the reliable subscription", "RELIABILITY", "set image.qos:=sensor_data",
        meanwhile=lambda: images.publish(image),
    )  # fmt: skip
    assert "see parameter image.qos" in running.node.log
