"""The node in this process, with a model that does as the test tells it."""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from diagnostic_msgs.msg import DiagnosticArray
from numpy.typing import NDArray
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.parameter import Parameter
from sensor_msgs.msg import CameraInfo, Image, PointCloud2

from scene_completion_ros.errors import CameraError, SceneCompletionError
from scene_completion_ros.geometry.cameras import Camera
from scene_completion_ros.inference.completer import Completion
from scene_completion_ros.inference.scene_query import HostField
from scene_completion_ros.ros import completion_node, messages, student, topics
from scene_completion_ros.ros.completion_node import CompletionNode
from scene_completion_ros.ros.frame import Frame
from scene_completion_ros.ros.join import scene_memory
from scene_completion_ros.ros.parameters.declared import ExplainingNode
from scene_completion_ros.ros.publish import publishers
from tests.ros.graph import PATIENCE_S, Graph
from tests.ros.moving_robot import LATCHED
from tests.ros.voxel_samples import some_voxels

CAMERA = Camera(20.0, 20.0, 15.5, 11.5, 32, 24)
DEPTH = np.array([[3.0, 51.2, np.nan]], np.float32)
TRANSMITTANCE = np.array([[0.2, 0.9, 1.0]], np.float32)


class Built:
    def __init__(self, complete: Callable[..., Completion]) -> None:
        self.complete = complete
        self.warnings: list[str] = []
        self.engine = "made up"

    def use(self, vocabulary: object) -> None:
        """Labels stay what they are."""

    ask = use

    def unseen(self) -> None:
        """The camera sees the grid."""


class Model:
    """Stands in for `Completer`: remembers what was built and completed, and waits for `go_on` while it is built."""

    def __init__(self) -> None:
        self.built: list[Camera] = []
        self.settings: list[dict[str, Any]] = []
        self.completed: list[tuple[Camera, int]] = []
        self.completed_with: list[dict[str, Any]] = []
        self.labelled: list[bool] = []
        self.released_in: list[str] = []
        self.unusable: Camera | None = None
        self.shown = 1.0
        self.building, self.go_on = threading.Event(), threading.Event()
        self.go_on.set()

    def __call__(self, bundle: Any, camera: Camera, **settings: Any) -> Any:
        self.built.append(camera)
        self.settings.append(settings)
        self.building.set()
        assert self.go_on.wait(PATIENCE_S)
        if camera == self.unusable:
            raise CameraError("sees nothing", where="camera", cure="Calibrate")

        def complete(image: NDArray[np.uint8], stamp_ns: int, *, labels: bool = True) -> Completion:
            self.labelled.append(labels)
            self.completed.append((camera, stamp_ns))
            self.completed_with.append(settings)
            voxels = some_voxels(3, stamp_ns)
            nothing = np.zeros(voxels.state.shape, np.float32)
            times = dict.fromkeys(topics.STAGES, 1.0)
            dense = HostField(nothing, nothing)
            return Completion(voxels, dense, DEPTH, TRANSMITTANCE, CAMERA, image, times, self.shown)

        made = Built(complete)
        weakref.finalize(made, lambda: self.released_in.append(threading.current_thread().name))
        return made


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> Model:
    model = Model()
    monkeypatch.setattr(student, "Completer", model)
    return model


@pytest.fixture
def graph() -> Iterator[Graph]:
    graph = Graph()
    yield graph
    graph.close()


def wanted(node: CompletionNode) -> bool:
    assert node._thread is not None
    return node._thread._outputs.wanted(node.parameters())


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
def node(graph: Graph, own: ExplainingNode, model: Model) -> Iterator[CompletionNode]:
    node = CompletionNode(own)
    node.start()
    graph.collect(PointCloud2, f"{graph.namespace}/{topics.NODE_NAME}/voxels")
    assert graph.until(lambda: wanted(node))
    yield node
    model.go_on.set()
    node.close()


def projection(fx: float) -> list[float]:
    return list(messages.camera_info_message(replace(CAMERA, fx=fx, fy=fx), 0, "front").p)


def calibrate(node: CompletionNode, camera: Camera, projection: list[float] | None = None) -> None:
    message = messages.camera_info_message(camera, 0, "front")
    message.p = projection or message.p
    assert node.inputs is not None
    node.inputs.cameras[0]._on_camera_info(message)


def show(node: CompletionNode, stamp_ns: int) -> None:
    assert node.inputs is not None
    node.inputs.cameras[0]._on_image(messages.image_message(np.zeros((24, 32, 3), np.uint8), stamp_ns, "front"))


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


def drops_told_of(node: CompletionNode) -> list[tuple[str, int]]:
    """Reasons and stamps of dropped images, from now on."""
    told: list[tuple[str, int]] = []
    node.counters.on_dropped_image = lambda reason, header: told.append(
        (reason, messages.stamp_nanoseconds(header.stamp))
    )
    return told


def wait_for(condition: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + PATIENCE_S
    while not condition() and time.monotonic() < deadline_s:
        time.sleep(0.005)
    assert condition()


def all_accounted_for(node: CompletionNode) -> bool:
    counters = node.counters
    return counters.received == counters.processed + counters.unwanted + sum(counters.dropped.values())


def test_a_jittering_calibration_queues_nothing_and_every_image_keeps_its_own(
    node: CompletionNode, model: Model
) -> None:
    cameras = [replace(CAMERA, fx=20.0 + 0.001 * number) for number in range(200)]
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
    assert all(camera == cameras[stamp_ns] for camera, stamp_ns in model.completed)
    assert model.completed[-1] == (cameras[-1], 199)
    assert node.counters.dropped["newer image arrived"] == 200 - len(model.completed)


def test_images_go_on_while_the_calibration_jitters(node: CompletionNode, model: Model) -> None:
    for number in range(5):
        calibrate(node, replace(CAMERA, fx=20.0 + number))
        show_in_turn(node, number)
    assert [stamp_ns for _, stamp_ns in model.completed] == [0, 1, 2, 3, 4]


def test_an_unusable_camera_is_tried_once(node: CompletionNode, model: Model) -> None:
    model.unusable = CAMERA
    calibrate(node, CAMERA)
    show_in_turn(node, *range(3))
    assert len(model.built) == 1
    assert node.counters.dropped["unusable camera"] == 3


def test_parameters_set_by_another_node_hold_for_the_next_image(
    graph: Graph, node: CompletionNode, model: Model
) -> None:
    calibrate(node, CAMERA)
    show_in_turn(node, 1)
    result = graph.set_parameters(topics.NODE_NAME, threads=2)
    assert result.successful, result.reason
    show_in_turn(node, 2)
    assert [settings["threads"] for settings in model.completed_with] == [None, 2]
    show_in_turn(node, 3)
    assert len(model.built) == 2  # once for each, not for every image


def test_an_image_keeps_the_parameters_of_when_it_arrived(graph: Graph, node: CompletionNode, model: Model) -> None:
    calibrate_slowly(node, model)
    show(node, 1)
    assert graph.set_parameters(topics.NODE_NAME, threads=2).successful  # while the model is being built
    model.go_on.set()
    wait_for(lambda: all_accounted_for(node))
    show_in_turn(node, 2)
    assert [settings["threads"] for settings in model.completed_with] == [None, 2]


def test_nothing_is_built_for_parameters_that_have_changed_meanwhile(
    graph: Graph, node: CompletionNode, model: Model
) -> None:
    calibrate_slowly(node, model)
    calibrate(node, replace(CAMERA, fx=30.0))  # waits to be prepared
    assert graph.set_parameters(topics.NODE_NAME, threads=2).successful
    show(node, 1)
    model.go_on.set()
    wait_for(lambda: all_accounted_for(node))
    show_in_turn(node, 2)
    built = [(camera.fx, settings["threads"]) for camera, settings in zip(model.built, model.settings, strict=True)]
    assert built == [(20.0, None), (30.0, 2)]


def test_rectified_reads_the_calibration_at_hand_anew(graph: Graph, node: CompletionNode, model: Model) -> None:
    calibrate(node, CAMERA, projection(25.0))
    for number, rectified in enumerate((False, True, False)):
        assert graph.set_parameters(topics.NODE_NAME, image_rectified=rectified).successful
        show_in_turn(node, number)
    assert [camera.fx for camera, _ in model.completed] == [20.0, 25.0, 20.0]
    assert graph.set_parameters(topics.NODE_NAME, image_rectified=True).successful
    calibrate(node, CAMERA, projection(26.0))
    show_in_turn(node, 3)
    assert model.completed[-1][0].fx == 26.0


def test_depth_alone_is_published_alone(
    own: Any, graph: Graph, node: CompletionNode, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[int] = []
    monkeypatch.setattr(
        publishers, "voxels_message", lambda voxels, frame_id, frame_from_grid: made.append(voxels.stamp_ns)
    )
    (voxels,) = (found for found in graph.node.subscriptions if found.msg_type is PointCloud2)
    graph.node.destroy_subscription(voxels)
    assert graph.until(lambda: not wanted(node))
    calibrate(node, CAMERA)
    show_in_turn(node, 1)
    assert (node.counters.unwanted, node.counters.dropped, model.completed) == (1, {}, [])
    wait_for(lambda: len(model.built) == 1)  # so that whoever subscribes need not wait for that
    graph.collect(DiagnosticArray, topics.PROCESSING_TIME.replace("~", f"{graph.namespace}/{topics.NODE_NAME}"))
    assert graph.until(lambda: own.count_subscribers(topics.PROCESSING_TIME) > 0)
    graph.spin(0.5)
    show_in_turn(node, 2)
    assert (node.counters.unwanted, model.completed) == (2, [])
    depths = graph.collect(Image, f"{graph.namespace}/{topics.NODE_NAME}/depth/image")
    assert graph.until(lambda: wanted(node))
    show(node, 3)
    assert graph.until(lambda: bool(depths))
    assert (model.completed, made, node.counters.processed) == ([(CAMERA, 3)], [], 1)
    assert model.labelled == [False]  # nobody reads them


def test_cleaning_up_releases_the_model_in_its_thread_and_all_else(
    own: Any, node: CompletionNode, model: Model
) -> None:
    calibrate(node, CAMERA)
    wait_for(lambda: len(model.built) == 1)
    thread, publishers = weakref.ref(node._thread), len(list(own.publishers))
    bundle = weakref.ref(node._thread.selection.student.bundle)  # type: ignore[union-attr]
    own.trigger_deactivate()
    assert not model.released_in
    own.trigger_cleanup()
    assert model.released_in == ["inference"]
    assert thread() is bundle() is node.inputs is None
    assert len(list(own.publishers)) < publishers
    own.trigger_configure()
    own.trigger_activate()
    assert len(list(own.publishers)) == publishers


def test_the_number_of_subscriptions_stays(graph: Graph, own: Any, node: CompletionNode) -> None:
    camera_infos = graph.node.create_publisher(CameraInfo, topics.CAMERA_INFO, LATCHED)
    before = len(list(own.subscriptions))
    for _ in range(3):
        camera_infos.publish(messages.camera_info_message(CAMERA, 0, "front"))
        assert graph.until(lambda: own.count_publishers(topics.CAMERA_INFO) > 0)
        show(node, 1)  # looks for the latched one
        assert len(list(own.subscriptions)) == before + 1
        own.trigger_deactivate()
        assert len(list(own.subscriptions)) == before - 2
        own.trigger_activate()
    assert len(list(own.subscriptions)) == before


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


def test_live_parameters_changed_while_inactive_hold_for_the_next_activation(
    graph: Graph, own: Any, node: CompletionNode, model: Model
) -> None:
    calibrate(node, CAMERA, [0.0] * 12)
    wait_for(lambda: len(model.built) == 1)  # a deactivation would give it up
    assert not graph.set_parameters(topics.NODE_NAME, image_rectified=True).successful
    own.trigger_deactivate()
    assert graph.set_parameters(
        topics.NODE_NAME, image_rectified=True, threads=3
    ).successful  # no calibration to refuse it
    own.trigger_activate()
    calibrate(node, CAMERA, [0.0] * 12)
    assert node.counters.dropped["bad CameraInfo"] == 1
    calibrate(node, CAMERA, projection(25.0))
    show(node, 1)
    wait_for(lambda: node.counters.processed == 1)
    assert [(camera.fx, settings["threads"]) for camera, settings in zip(model.built, model.settings, strict=True)] == [
        (20.0, None),
        (25.0, 3),
    ]


def test_more_images_than_wanted_are_left_out_by_their_stamps(graph: Graph, node: CompletionNode, model: Model) -> None:
    calibrate(node, CAMERA)
    assert graph.set_parameters(topics.NODE_NAME, largest_rate=10.0).successful
    milliseconds = [5000, 5033, 5067, 5099, 5133, 5185, 5200, 5400, 5450, 1000, 1050]  # the last two of a new recording
    for stamp_ms in milliseconds:
        show(node, stamp_ms * 1_000_000)
        wait_for(lambda: all_accounted_for(node))
    assert [stamp_ns // 1_000_000 for _, stamp_ns in model.completed] == [5000, 5099, 5200, 5400, 1000]
    assert node.counters.dropped == {"above largest_rate": 6}
    assert graph.set_parameters(topics.NODE_NAME, largest_rate=0.0).successful
    show(node, 1_051_000_000)
    wait_for(lambda: node.counters.processed == 6)


def test_an_image_that_waits_is_given_up_by_a_deactivation(own: Any, node: CompletionNode, model: Model) -> None:
    calibrate_slowly(node, model)
    show(node, 1)
    own.trigger_deactivate()
    own.trigger_activate()
    model.go_on.set()
    calibrate(node, CAMERA)
    show_in_turn(node, 2)
    assert [stamp_ns for _, stamp_ns in model.completed] == [2]
    assert node.counters.dropped == {"deactivated": 1}
    assert len(model.built) == 1


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


def test_a_fault_in_diagnostics_does_not_end_the_node(
    node: CompletionNode, graph: Graph, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        raise RuntimeError("of the developers")

    monkeypatch.setattr(node._diagnostics, "publish", fail)
    assert graph.until(lambda: node.counters.warned["diagnostics"] > 0)


def test_a_model_that_fails_in_an_unknown_way_is_unusable_and_not_being_built_for_ever(
    node: CompletionNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: Any, **settings: Any) -> Any:
        raise RuntimeError("of the developers")

    assert node._thread is not None
    record = node._thread.record.student.record
    monkeypatch.setattr(student, "Completer", fail)
    calibrate(node, CAMERA)
    wait_for(lambda: record.model().state == "unusable")
    assert record.model().error == "RuntimeError: of the developers; please report this"


def test_whoever_is_told_of_dropped_images_hears_of_each(own: Any, node: CompletionNode, model: Model) -> None:
    told = drops_told_of(node)
    show(node, 1)
    calibrate_slowly(node, model)
    for stamp_ns in (10, 20, 15, 30):
        show(node, stamp_ns)
    own.trigger_deactivate()
    own.trigger_activate()
    model.go_on.set()
    model.unusable = replace(CAMERA, fx=30.0)
    calibrate(node, model.unusable)
    show(node, 40)
    wait_for(lambda: all_accounted_for(node) and len(told) == sum(node.counters.dropped.values()))  # counted, then told
    assert sorted(told, key=lambda drop: drop[1]) == [
        ("no CameraInfo", 1),
        ("newer image arrived", 10),
        ("stamp went back", 15),
        ("newer image arrived", 20),
        ("deactivated", 30),
        ("unusable camera", 40),
    ]
    assert sum(node.counters.dropped.values()) == len(told)


def test_an_error_beyond_one_view_names_all_images_in_hand(
    node: CompletionNode, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: Any) -> Any:
        raise RuntimeError("of the developers")

    told = drops_told_of(node)
    monkeypatch.setattr(scene_memory, "fuse_views", fail)
    assert node._thread is not None
    assert node.inputs is not None
    parameters = node.parameters()
    placement = node.inputs._placements.place("front", 1, parameters)
    frames = []
    for name, rows, stamp_ns in (("front", 24, 7), ("left", 24, 8), ("rear", 5, 9)):  # the last one is cropped
        image = messages.image_message(np.zeros((rows, 32, 3), np.uint8), stamp_ns, name)
        frames.append(Frame(name, name, image, stamp_ns, 0.0, parameters))
        frames[-1].camera, frames[-1].placement = CAMERA, placement
    node._thread.submit(tuple(frames), parameters)
    wait_for(lambda: len(told) == 3)
    assert sorted(told) == [("bad image", 9), ("internal error", 7), ("internal error", 8)]
    assert node.counters.dropped == {"bad image": 1, "internal error": 2}

    monkeypatch.setattr(node._thread._outputs, "publish", fail)
    calibrate(node, CAMERA)
    show(node, 10)
    wait_for(lambda: len(told) == 4)
    assert told[-1] == ("internal error", 10)
    node.set_enabled(False)
    show(node, 11)
    assert told[-1] == ("disabled", 11)
    assert node.counters.processed == 0
