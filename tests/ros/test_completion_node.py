"""The node in this process, with a model that does as the test tells it."""

import math
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.parameter import Parameter
from sensor_msgs.msg import PointCloud2

from scene_completion_ros.errors import CameraError, SceneCompletionError
from scene_completion_ros.geometry.cameras import Camera
from scene_completion_ros.inference.completer import Completion, SeenImage
from scene_completion_ros.inference.evidence import NO_EVIDENCE, Evidence
from scene_completion_ros.inference.scene_query import DenseField
from scene_completion_ros.ros import completion_node, frame, messages, topics
from scene_completion_ros.ros.completion_node import CompletionNode
from scene_completion_ros.ros.declared_parameters import ExplainingNode
from scene_completion_ros.ros.health import diagnostics
from scene_completion_ros.ros.health.judgement import Drops, Level, Status
from scene_completion_ros.ros.parameters import NodeParameters
from tests.ros.graph import PATIENCE_S, Graph
from tests.voxels.samples import some_voxels

CAMERA = Camera(20.0, 20.0, 15.5, 11.5, 32, 24)
DEPTH = np.array([[3.0, 51.2, np.nan]], np.float32)
TRANSMITTANCE = np.array([[0.2, 0.9, 1.0]], np.float32)


class Built:
    def __init__(self, complete: Callable[..., Completion]) -> None:
        self.complete = complete
        self.warnings: list[str] = []
        self.engine, self.encoder = "made up", None
        self.bundle = SimpleNamespace(takes_evidence=False)

    def see(self, image: NDArray[np.uint8]) -> SeenImage:
        return SeenImage(image, None, None, {})

    def set_vocabulary(self, vocabulary: object) -> None:
        """Labels stay what they are."""

    set_query = set_vocabulary

    def mounted(self, upright_from_camera: object) -> "Built":
        """It takes no mounting."""
        return self

    def out_of_view(self) -> None:
        """The camera sees the grid."""


class Model:
    """Stands in for `Completer`: remembers what was built and completed, and waits for `go_on` while it does."""

    def __init__(self) -> None:
        self.built: list[Camera] = []
        self.completed: list[tuple[Camera, int]] = []
        self.completed_with: list[dict[str, Any]] = []
        self.released_in: list[str] = []
        self.unusable: Camera | None = None
        self.shown = 1.0
        self.building, self.completing, self.go_on = (threading.Event() for _ in range(3))
        self.go_on.set()

    def __call__(self, bundle: Any, camera: Camera, **settings: Any) -> Any:
        self.built.append(camera)
        self.building.set()
        assert self.go_on.wait(PATIENCE_S)
        if camera == self.unusable:
            raise CameraError("sees nothing", where="camera", cure="Calibrate")

        def complete(image: SeenImage, stamp_ns: int, *, labels: bool = True, evidence: Evidence) -> Completion:
            assert evidence is NO_EVIDENCE
            self.completing.set()
            assert self.go_on.wait(PATIENCE_S)
            self.completed.append((camera, stamp_ns))
            self.completed_with.append(settings)
            voxels = some_voxels(3, stamp_ns)
            nothing = np.zeros(voxels.state.shape, np.float32)
            times = dict.fromkeys(topics.STAGES, 1.0)
            dense = DenseField(lambda which: nothing)
            return Completion(voxels, dense, DEPTH, TRANSMITTANCE, CAMERA, image.image, times, self.shown)

        made = Built(complete)
        weakref.finalize(made, lambda: self.released_in.append(threading.current_thread().name))
        return made


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> Model:
    model = Model()
    monkeypatch.setattr(frame, "Completer", model)
    return model


@pytest.fixture
def own(graph: Graph, bundle_folder: Path) -> Iterator[ExplainingNode]:
    """The rclpy node that the one under test works for."""
    bundle = Parameter("bundle", value=str(bundle_folder))
    own = ExplainingNode(
        topics.NODE_NAME, namespace=graph.namespace, context=graph.context, parameter_overrides=[bundle]
    )
    graph.spin_with(own)
    yield own
    own.destroy_node()


@pytest.fixture
def published(graph: Graph) -> list[Any]:
    """The voxels that the node below publishes."""
    return graph.collect(PointCloud2, f"{graph.namespace}/{topics.NODE_NAME}/voxels")


@pytest.fixture
def node(graph: Graph, own: ExplainingNode, model: Model, published: list[Any]) -> Iterator[CompletionNode]:
    node = CompletionNode(own)
    node.start()
    assert graph.until(node._thread._outputs.wanted)
    yield node
    model.go_on.set()
    node.close()


def calibrate(node: CompletionNode, camera: Camera) -> None:
    node.inputs.camera._on_camera_info(messages.camera_info_message(camera, 0, "front"))


def show(node: CompletionNode, stamp_ns: int) -> None:
    node.inputs.camera._on_image(messages.image_message(np.zeros((24, 32, 3), np.uint8), stamp_ns, "front"))


def show_in_turn(node: CompletionNode, *stamps_ns: int) -> None:
    """Images, each once it is known what became of the one before."""
    for stamp_ns in stamps_ns:
        show(node, stamp_ns)
        wait_for(lambda: all_accounted_for(node))


def calibrate_slowly(node: CompletionNode, model: Model) -> None:
    """A calibration whose model is being built from now on, until `model.go_on` is set."""
    model.go_on.clear()
    calibrate(node, CAMERA)
    assert model.building.wait(10)


def wait_for(condition: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + PATIENCE_S
    while not condition() and time.monotonic() < deadline_s:
        time.sleep(0.005)
    assert condition()


def all_accounted_for(node: CompletionNode) -> bool:
    counters = node.counters
    return counters.received == counters.processed + counters.unwanted + sum(counters.dropped.values())


def test_jittering_calibration_queues_nothing_and_every_image_keeps_its_own(node: CompletionNode, model: Model) -> None:
    cameras = [replace(CAMERA, fx=20.0 * 1.25 ** (number % 7)) for number in range(200)]
    model.go_on.clear()
    for number, camera in enumerate(cameras):
        calibrate(node, camera)
        show(node, number)
        if number == 0:
            assert model.building.wait(10)
    calibrate(node, CAMERA)
    calibrate(node, replace(CAMERA, fx=30.0))
    model.go_on.set()
    wait_for(lambda: all_accounted_for(node) and len(model.built) >= 3)
    assert [camera.fx for camera in model.built] == [20.0, cameras[-1].fx, 30.0]
    drops = Drops(node.counters.dropped, node.counters.dropped, 10.0)
    status = diagnostics.inference_status(node._thread.record, drops, processed=0, unwanted=0)
    assert (status.level, status.message) == (
        Level.WARN,
        "the calibration changed 2 times in the last 10 s by more than 0.3 pixel, and each time the node built its "
        f"model anew; {200 - len(model.completed)} images were dropped meanwhile: fix the focus and zoom of the "
        "camera, or publish one CameraInfo",
    )
    assert all(camera == cameras[stamp_ns] for camera, stamp_ns in model.completed)
    assert model.completed[-1] == (cameras[-1], 199)
    assert node.counters.dropped["newer image arrived"] == 200 - len(model.completed)


def test_a_model_that_is_in_work_for_long_is_a_warning(
    node: CompletionNode, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    def inference() -> Status:
        return next(status for status in node._diagnostics.statuses(node.observed()) if status.name == "inference")

    monkeypatch.setattr(diagnostics, "LONGEST_WORK_S", 0.0)
    calibrate_slowly(node, model)
    warned = inference()
    assert (warned.level, warned.message.startswith("nothing has come of ")) == (Level.WARN, True)
    assert warned.message.endswith(" s: building")
    model.go_on.set()
    wait_for(lambda: inference().level == Level.OK)


def test_an_autofocus_keeps_its_model_until_the_image_has_moved(node: CompletionNode, model: Model) -> None:
    for number in range(40):
        calibrate(node, replace(CAMERA, fx=20.0 + 1e-4 * number, cx=15.5 + 1e-4 * number))
        show_in_turn(node, number)
    assert len(model.completed) == 40 and model.built == [CAMERA]
    assert "new calibration" not in node.counters.warned
    for number in range(40, 44):
        calibrate(node, replace(CAMERA, cx=15.5 + 0.2 * (number - 39)))  # each step is small, the way is not
        show_in_turn(node, number)
    assert [camera.cx for camera in model.built] == pytest.approx([15.5, 15.9, 16.3])


def calibration_status(node: CompletionNode) -> Status:
    return next(status for status in node._diagnostics.statuses(node.observed()) if status.name == "calibration")


def test_a_calibration_that_varies_with_every_message_builds_no_more_models(node: CompletionNode, model: Model) -> None:
    lengths = 20.0 + np.random.default_rng(0).uniform(-0.35, 0.35, 100)
    for number, fx in enumerate(lengths):
        calibrate(node, replace(CAMERA, fx=fx, fy=fx))
        show_in_turn(node, number)
    assert len(model.completed) == 100 and len(model.built) <= 4
    assert node.counters.warned["varying calibration"] == 1
    status = calibration_status(node)
    assert status.level == Level.WARN
    assert "the calibration varies from message to message, by up to 0.7 pixels" in status.message
    assert f"the node keeps one (fx {model.built[-1].fx:.1f}) until another lasts for 30 messages" in status.message
    for number in range(100, 140):
        calibrate(node, CAMERA)
        show_in_turn(node, number)
    assert calibration_status(node).message == "32x24, fx 20.0 px, as the student knows it"


def test_a_doubtful_calibration_is_a_warning(node: CompletionNode, model: Model) -> None:
    calibrate(node, replace(CAMERA, cx=19.5, cy=14.5))
    show_in_turn(node, 1)
    assert len(model.completed) == 1
    status = calibration_status(node)
    assert status.level == Level.WARN and "images 1.25 times larger, 40x30, or this image is a crop" in status.message
    calibrate(node, CAMERA)
    assert calibration_status(node).message == "32x24, fx 20.0 px, as the student knows it"


def test_images_that_say_to_be_rectified_and_would_be_again_are_a_warning(
    node: CompletionNode, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(node.inputs.camera, "_image_topic", "/camera/rect/image")
    calibrate(node, replace(CAMERA, distortion_model="plumb_bob", distortion=(-0.2, 0.05, 0.0, 0.0, 0.0)))
    words = "image.rectified: /camera/rect/image says that its images are rectified, but they are rectified once more"
    assert words in calibration_status(node).message
    calibrate(node, replace(CAMERA, fx=25.0, fy=25.0))  # nothing to rectify
    assert "once more" not in calibration_status(node).message


def test_an_unusable_calibration_changes_nothing_and_an_invalid_stamp_costs_its_image(
    node: CompletionNode, model: Model
) -> None:
    calibrate(node, CAMERA)
    calibration = messages.camera_info_message(CAMERA, 0, "front")
    calibration.k[0] = math.nan
    node.inputs.camera._on_camera_info(calibration)
    image = messages.image_message(np.zeros((24, 32, 3), np.uint8), 1, "front")
    image.header.stamp.nanosec = 10**9
    node.inputs.camera._on_image(image)
    show(node, 2)
    wait_for(lambda: model.completed == [(CAMERA, 2)])
    assert node.counters.dropped == {"bad CameraInfo": 1, "bad image": 1} and model.built == [CAMERA]


def test_frames_lose_the_slash_that_ros_1_put_before_them(
    graph: Graph, node: CompletionNode, published: list[Any]
) -> None:
    calibrate(node, CAMERA)
    node.inputs.camera._on_image(messages.image_message(np.zeros((24, 32, 3), np.uint8), 1, "/front"))
    assert graph.until(lambda: bool(published))
    assert published[0].header.frame_id == "front"
    assert NodeParameters(grid_frame="/base_link", base_frame="/a/b").grid_frame == "base_link"


def test_parameters_set_by_others_hold_for_images_after_it(graph: Graph, node: CompletionNode, model: Model) -> None:
    calibrate_slowly(node, model)
    show(node, 1)
    result = graph.set_parameters(topics.NODE_NAME, threads=2)  # while the model is being built
    assert result.successful, result.reason
    model.go_on.set()
    wait_for(lambda: all_accounted_for(node))
    show_in_turn(node, 2, 3)
    assert [settings["threads"] for settings in model.completed_with] == [None, 2, 2]
    assert len(model.built) == 2  # once for each, not for every image


def test_cleanup_releases_the_model_in_its_thread_and_all_else(own: Any, node: CompletionNode, model: Model) -> None:
    calibrate(node, CAMERA)
    wait_for(lambda: len(model.built) == 1)
    thread, publishers = weakref.ref(node._thread), len(list(own.publishers))
    bundle = weakref.ref(node._thread.student.bundle)  # type: ignore[union-attr]
    own.trigger_deactivate()
    assert not model.released_in
    own.trigger_cleanup()
    assert model.released_in == ["inference"]
    assert thread() is bundle() is node.inputs is None
    assert len(list(own.publishers)) < publishers
    own.trigger_configure()
    own.trigger_activate()
    assert len(list(own.publishers)) == publishers


def test_an_unexpected_error_leads_to_unconfigured_with_everything_released(
    graph: Graph, own: Any, node: CompletionNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    own.trigger_deactivate()
    own.trigger_cleanup()
    publishers = len(list(own.publishers))

    def fail(*arguments: Any) -> Any:
        assert len(list(own.publishers)) > publishers  # there is something to release
        raise RuntimeError("out of something")

    with monkeypatch.context() as patch:
        patch.setattr(completion_node, "InferenceThread", fail)
        assert own.trigger_configure() == TransitionCallbackReturn.ERROR
        assert graph.state(topics.NODE_NAME) == "unconfigured"
        assert len(list(own.publishers)) == publishers
        with pytest.raises(SceneCompletionError, match="RuntimeError: out of something"):
            node.start()
    node.start()
    assert graph.state(topics.NODE_NAME) == "active"


@pytest.mark.parametrize(("shown", "so"), [(0.02, "no voxel counts as seen"), (0.45, "the rest is a guess"), (0.7, "")])
def test_images_that_show_little_are_warned_of(
    node: CompletionNode, model: Model, monkeypatch: pytest.MonkeyPatch, shown: float, so: str
) -> None:
    warned: list[str] = []
    monkeypatch.setattr(node.counters, "warn", lambda key, text: warned.append(f"{key}: {text}"))
    model.shown = shown
    calibrate(node, CAMERA)
    show_in_turn(node, 1)
    wait_for(lambda: node.counters.processed == 1)
    assert len(warned) == bool(so) and all(
        f"only {100 * shown:.0f} % of the image" in text and so in text for text in warned
    )


def test_each_dropped_image_is_reported_with_its_reason_and_never_published(
    graph: Graph, own: Any, node: CompletionNode, model: Model, published: list[Any]
) -> None:
    announced: list[tuple[str, int]] = []
    node.counters.on_dropped_image = lambda reason, header: announced.append(
        (reason, messages.stamp_nanoseconds(header.stamp))
    )
    show(node, 1)
    calibrate(node, CAMERA)
    show_in_turn(node, 2)
    model.completing.clear()
    model.go_on.clear()
    show(node, 5)
    assert model.completing.wait(10)
    for stamp_ns in (10, 20, 15, 30):
        show(node, stamp_ns)
    own.trigger_deactivate()  # while one image is in work and another one waits
    own.trigger_activate()
    model.go_on.set()
    model.unusable = replace(CAMERA, fx=30.0)
    calibrate(node, model.unusable)
    show(node, 40)
    wait_for(lambda: all_accounted_for(node) and len(announced) == sum(node.counters.dropped.values()))
    assert sorted(announced, key=lambda drop: drop[1]) == [
        ("no CameraInfo", 1),
        ("deactivated", 5),
        ("newer image arrived", 10),
        ("stamp went back", 15),
        ("newer image arrived", 20),
        ("deactivated", 30),
        ("unusable camera", 40),
    ]
    assert sum(node.counters.dropped.values()) == len(announced)
    calibrate(node, CAMERA)
    show(node, 50)
    assert graph.until(lambda: len(published) > 1)
    assert [messages.stamp_nanoseconds(cloud.header.stamp) for cloud in published] == [2, 50]
