"""The node in this process, with a model that does as the test tells it."""
# ruff: noqa: E402

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from tests.ros.rclpy_required import require_rclpy

require_rclpy()

import numpy as np
import pytest
from numpy.typing import NDArray
from rclpy.parameter import Parameter
from sensor_msgs.msg import Image

from scene_completion_ros.errors import CameraError
from scene_completion_ros.geometry.cameras import Camera
from scene_completion_ros.inference.completer import Completion
from scene_completion_ros.ros import completion_node, messages, topics
from scene_completion_ros.ros.completion_node import CompletionNode
from scene_completion_ros.ros.declared_parameters import ExplainingNode
from tests.ros.graph import Graph
from tests.ros.voxel_samples import some_voxels

CAMERA = Camera(20.0, 20.0, 15.5, 11.5, 32, 24)
DEPTH = np.array([[3.0, 51.2, np.nan]], np.float32)
TRANSMITTANCE = np.array([[0.2, 0.9, 1.0]], np.float32)


class Model:
    """Stands in for `Completer`: remembers what was built and completed, and waits for `go_on` while it is built."""

    def __init__(self) -> None:
        self.built: list[Camera] = []
        self.settings: list[dict[str, Any]] = []
        self.completed: list[tuple[Camera, int]] = []
        self.completed_with: list[dict[str, Any]] = []
        self.unusable: Camera | None = None
        self.building, self.go_on = threading.Event(), threading.Event()
        self.go_on.set()

    def __call__(self, bundle: Any, camera: Camera, **settings: Any) -> Any:
        self.built.append(camera)
        self.settings.append(settings)
        self.building.set()
        assert self.go_on.wait(10)
        if camera == self.unusable:
            raise CameraError("sees nothing", where="camera", cure="Calibrate")

        def complete(image: NDArray[np.uint8], stamp_ns: int) -> Completion:
            self.completed.append((camera, stamp_ns))
            self.completed_with.append(settings)
            voxels = some_voxels(3, stamp_ns)
            nothing = np.zeros(voxels.state.shape, np.float32)
            times = dict.fromkeys(topics.STAGES, 1.0)
            return Completion(voxels, nothing, nothing, DEPTH, TRANSMITTANCE, CAMERA, image, times)

        return SimpleNamespace(complete=complete, warnings=[])


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> Model:
    model = Model()
    monkeypatch.setattr(completion_node, "Completer", model)
    return model


@pytest.fixture
def graph() -> Iterator[Graph]:
    graph = Graph()
    yield graph
    graph.close()


@pytest.fixture
def node(graph: Graph, model: Model, bundle_folder: Path) -> Iterator[CompletionNode]:
    bundle = Parameter("bundle", value=str(bundle_folder))
    own = ExplainingNode(
        topics.NODE_NAME, namespace=graph.namespace, context=graph.context, parameter_overrides=[bundle]
    )
    node = CompletionNode(own)
    graph.spin_with(own)
    yield node
    model.go_on.set()
    node.close()
    own.destroy_node()


def projection(fx: float) -> list[float]:
    return list(messages.camera_info_message(replace(CAMERA, fx=fx, fy=fx), 0, "front").p)


def calibrate(node: CompletionNode, camera: Camera, projection: list[float] | None = None) -> None:
    message = messages.camera_info_message(camera, 0, "front")
    message.p = projection or message.p
    node._on_camera_info(message)


def show(node: CompletionNode, stamp_ns: int) -> None:
    node._on_image(messages.image_message(np.zeros((24, 32, 3), np.uint8), stamp_ns, "front"))


def wait_for(condition: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + 10
    while not condition() and time.monotonic() < deadline_s:
        time.sleep(0.005)
    assert condition()


def all_accounted_for(node: CompletionNode) -> bool:
    return node.counters.received == node.counters.processed + sum(node.counters.dropped.values())


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
        show(node, number)
        wait_for(lambda: all_accounted_for(node))
    assert [stamp_ns for _, stamp_ns in model.completed] == [0, 1, 2, 3, 4]


def test_an_unusable_camera_is_tried_once(node: CompletionNode, model: Model) -> None:
    model.unusable = CAMERA
    calibrate(node, CAMERA)
    for number in range(3):
        show(node, number)
        wait_for(lambda: all_accounted_for(node))
    assert len(model.built) == 1
    assert node.counters.dropped["unusable camera"] == 3


@pytest.mark.parametrize(
    ("stamps", "completed"),
    [
        ([0, 0, 0], [0, 0, 0]),
        ([5_000, 4_000, 5_000, 6_000], [5_000, 5_000, 6_000]),
        ([3_000_000_000, 1_000, 2_000], [3_000_000_000, 1_000, 2_000]),
    ],
)
def test_stamps_that_repeat_or_go_back(
    node: CompletionNode, model: Model, stamps: list[int], completed: list[int]
) -> None:
    calibrate(node, CAMERA)
    for stamp_ns in stamps:
        show(node, stamp_ns)
        wait_for(lambda: all_accounted_for(node))
    assert [stamp_ns for _, stamp_ns in model.completed] == completed
    assert node.counters.dropped["stamp went back"] == len(stamps) - len(completed)


def test_depth_is_infinite_where_the_ray_leaves_the_grid(graph: Graph, node: CompletionNode) -> None:
    depths = graph.collect(Image, f"{graph.namespace}/{topics.NODE_NAME}/depth/image")
    calibrate(node, CAMERA)
    assert graph.until(lambda: node._depth.get_subscription_count() > 0)

    def seen() -> bool:
        show(node, 7)
        graph.spin(0.2)
        return bool(depths)

    assert graph.until(seen, 20.0)
    np.testing.assert_array_equal(np.frombuffer(bytes(depths[0].data), np.float32), [3.0, np.inf, np.nan])


def test_parameters_set_by_another_node_hold_for_the_next_image(
    graph: Graph, node: CompletionNode, model: Model
) -> None:
    calibrate(node, CAMERA)
    show(node, 1)
    wait_for(lambda: all_accounted_for(node))
    result = graph.set_parameters(topics.NODE_NAME, extrapolate=True, threads=2)
    assert result.successful, result.reason
    show(node, 2)
    wait_for(lambda: all_accounted_for(node))
    used = [(settings["extrapolate"], settings["threads"]) for settings in model.completed_with]
    assert used == [(False, None), (True, 2)]
    show(node, 3)
    wait_for(lambda: all_accounted_for(node))
    assert len(model.built) == 2  # once for each, not for every image


def test_a_refused_change_has_a_reason_and_leaves_the_next_image_as_it_was(
    graph: Graph, node: CompletionNode, model: Model
) -> None:
    calibrate(node, CAMERA, [0.0] * 12)
    for refused, words in (
        ({"threads": 1000}, "parameter threads: 1000 lies outside of 0 to 256"),
        ({"threads": "many"}, "must be of type integer: 0 to 256"),
        ({"engine": "openvino"}, "read-only"),
        ({"extrapolat": True}, "did you mean extrapolate?"),
        ({"rectified": True}, "P is missing or all zero"),
    ):
        result = graph.set_parameters(topics.NODE_NAME, **{"extrapolate": True, **refused})
        assert not result.successful
        assert words in result.reason
    show(node, 1)
    wait_for(lambda: all_accounted_for(node))
    assert [(settings["extrapolate"], settings["threads"]) for settings in model.settings] == [(False, None)]
    assert node.counters.processed == 1


def test_an_image_keeps_the_parameters_of_when_it_arrived(graph: Graph, node: CompletionNode, model: Model) -> None:
    model.go_on.clear()
    calibrate(node, CAMERA)
    assert model.building.wait(10)
    show(node, 1)
    assert graph.set_parameters(topics.NODE_NAME, extrapolate=True).successful  # while the model is being built
    model.go_on.set()
    wait_for(lambda: all_accounted_for(node))
    show(node, 2)
    wait_for(lambda: all_accounted_for(node))
    assert [settings["extrapolate"] for settings in model.completed_with] == [False, True]


def test_nothing_is_built_for_parameters_that_have_changed_meanwhile(
    graph: Graph, node: CompletionNode, model: Model
) -> None:
    model.go_on.clear()
    calibrate(node, CAMERA)
    assert model.building.wait(10)
    calibrate(node, replace(CAMERA, fx=30.0))  # waits to be prepared
    assert graph.set_parameters(topics.NODE_NAME, extrapolate=True).successful
    show(node, 1)
    model.go_on.set()
    wait_for(lambda: all_accounted_for(node))
    show(node, 2)
    wait_for(lambda: all_accounted_for(node))
    built = [(camera.fx, settings["extrapolate"]) for camera, settings in zip(model.built, model.settings, strict=True)]
    assert built == [(20.0, False), (30.0, True)]


def test_rectified_reads_the_calibration_at_hand_anew(graph: Graph, node: CompletionNode, model: Model) -> None:
    calibrate(node, CAMERA, projection(25.0))
    for number, rectified in enumerate((False, True, False)):
        assert graph.set_parameters(topics.NODE_NAME, rectified=rectified).successful
        show(node, number)
        wait_for(lambda: all_accounted_for(node))
    assert [camera.fx for camera, _ in model.completed] == [20.0, 25.0, 20.0]
    assert graph.set_parameters(topics.NODE_NAME, rectified=True).successful
    calibrate(node, CAMERA, projection(26.0))
    show(node, 3)
    wait_for(lambda: all_accounted_for(node))
    assert model.completed[-1][0].fx == 26.0
