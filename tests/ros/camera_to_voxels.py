"""A camera, the running node that completes its images, the voxels that come back, and what the node says of itself."""

import functools
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from numpy.typing import NDArray
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, PointCloud2

from scene_completion_ros.geometry.cameras import Camera
from scene_completion_ros.geometry.transforms import RigidTransform
from scene_completion_ros.ros import messages, topics
from scene_completion_ros.voxels.cloud import cloud_array_from_message
from scene_completion_ros.voxels.semantic_voxels import SemanticVoxels
from tests.ros.graph import LONGEST_PERIOD_S, Graph, NodeUnderTest

OK, WARN, ERROR = DiagnosticStatus.OK, DiagnosticStatus.WARN, DiagnosticStatus.ERROR


class Diagnosed:
    """The newest statuses of the completion node in a graph's namespace."""

    def __init__(self, graph: Graph, node: NodeUnderTest) -> None:
        self.graph, self.node = graph, node
        self.prefix = f"{graph.namespace}/{topics.NODE_NAME}".lstrip("/")
        self.arrays = graph.collect(DiagnosticArray, topics.DIAGNOSTICS)

    @property
    def newest(self) -> dict[str, DiagnosticStatus]:
        """By part; empty before the first."""
        for array in reversed(self.arrays):
            if all(status.name.startswith(f"{self.prefix}: ") for status in array.status):
                return {status.name.removeprefix(f"{self.prefix}: "): status for status in array.status}
        return {}

    def fresh(self, part: str) -> dict[str, str]:
        """The numbers of a part as they are from now on."""
        self.arrays.clear()
        assert self.graph.until(lambda: part in self.newest), self.node.log
        return values(self.newest[part])

    def until(
        self, part: str, level: bytes, *words: str, meanwhile: Callable[[], None] = lambda: None
    ) -> DiagnosticStatus:
        """Wait for a status with a level and words in its message; do something again and again meanwhile."""

        def diagnosed() -> bool:
            status = self.newest.get(part)
            return status is not None and status.level == level and all(word in status.message for word in words)

        def tried() -> bool:
            meanwhile()
            return self.graph.until(diagnosed, 0.2)

        found = self.graph.until(tried)
        said = {name: (status.level, status.message) for name, status in self.newest.items()}
        assert found, f"no {part} {level!r} {words}, but {said}; log:\n{self.node.log}"
        return self.newest[part]


def values(status: DiagnosticStatus) -> dict[str, str]:
    """The numbers of a status."""
    return {pair.key: pair.value for pair in status.values}


CAMERA = Camera(185.6, 185.6, 159.5, 44.75, 320, 96)  # half the student's canonical camera
FRAME = "front_optical"
SECOND_NS = 1_000_000_000
PATIENT_S = 10.0  # the most that `sync.timeout` may be


def some_image(seed: int, camera: Camera = CAMERA) -> NDArray[np.uint8]:
    rough = np.random.default_rng(seed).integers(0, 255, (12, 40, 3), dtype=np.uint8)
    return np.asarray(cv2.resize(rough, (camera.width, camera.height)), np.uint8)


class CameraToVoxels:
    """A running node, and the topics around it."""

    now_ns = SECOND_NS  # stamp of the newest image

    def __init__(
        self,
        start: Callable[[Graph], NodeUnderTest],
        transport: str = "raw",
        camera_info_qos: Any = 10,
        *,
        listen: bool = True,
    ) -> None:
        self.graph = Graph()
        self.node = start(self.graph)
        self.output = f"{self.graph.namespace}/{topics.NODE_NAME}"
        compressed = transport == "compressed"
        image_type, topic = (CompressedImage, "image/compressed") if compressed else (Image, "image")
        self.make_image = messages.compressed_image_message if compressed else messages.image_message
        self.images = self.graph.node.create_publisher(image_type, topic, 50)
        self.camera_infos = self.graph.node.create_publisher(CameraInfo, "camera_info", camera_info_qos)
        self.voxels: list[Any] = []
        if listen:
            self.listen()

    def listen(self) -> None:
        """Subscribe to the voxels."""
        self.voxels = self.graph.collect(PointCloud2, f"{self.output}/voxels")

    @functools.cached_property
    def diagnosed(self) -> Diagnosed:
        """What the node says of itself, from when this is asked for first."""
        return Diagnosed(self.graph, self.node)

    def image(self, seed: int, stamp_ns: int, frame: str = FRAME) -> Any:
        """A message with a picture of the usual camera."""
        return self.make_image(some_image(seed), stamp_ns, frame)

    def stamp(self) -> int:
        """The next stamp, nanoseconds."""
        self.now_ns += SECOND_NS
        return self.now_ns

    def show(self, picture: int | NDArray[np.uint8]) -> Any:
        """Send a picture, or one by its seed, with the next stamp; the voxels that answer it."""
        pixels = some_image(picture) if isinstance(picture, int) else picture
        return self.answer(self.make_image(pixels, self.stamp(), FRAME))

    @property
    def state(self) -> str:
        """What the node says its state is."""
        return self.graph.state(topics.NODE_NAME)

    def change(self, *transitions: int) -> None:
        """Lead the node through its states."""
        for transition in transitions:
            assert self.graph.change_state(topics.NODE_NAME, transition), self.node.log

    def until_logged(self, text: str, publish: Callable[[], object] = lambda: None) -> None:
        """Wait until the node logs something; publish again and again, for a reader misses what comes early."""
        assert self.graph.repeat(publish, lambda: text in self.node.log), self.node.log

    def send_camera(self, message: Any, logged: str) -> None:
        """Publish a CameraInfo until the node has logged something once more than before."""
        before = self.node.log.count(logged)
        assert self.graph.repeat(
            lambda: self.camera_infos.publish(message), lambda: self.node.log.count(logged) > before
        ), self.node.log

    def start(self, camera: Camera = CAMERA) -> None:
        """Make sure that messages arrive in both directions; after that nothing is on its way any more."""
        image = self.make_image(some_image(0, camera), 0, FRAME)
        self.until_logged("no CameraInfo", lambda: self.images.publish(image))
        self.send_camera(messages.camera_info_message(camera, 0, FRAME), f"ready for {camera.width}x{camera.height}")
        self.until_answered(0, camera)

    def until_answered(self, stamp_ns: int, camera: Camera = CAMERA) -> None:
        """Send CameraInfo and images until the last of them is answered; the stamp grows by 1 ns with each.

        The node answers in order, and finds this graph anew after each activation.
        """
        camera_info, picture, last_ns = messages.camera_info_message(camera, 0, FRAME), some_image(0, camera), -1

        def send() -> None:
            nonlocal last_ns
            last_ns = max(stamp_ns, last_ns + 1)
            self.camera_infos.publish(camera_info)
            self.images.publish(self.make_image(picture, last_ns, FRAME))

        assert self.graph.repeat(send, lambda: last_ns in self.stamps_ns), self.node.log

    @property
    def stamps_ns(self) -> list[int]:
        """Of all voxels that came."""
        return [stamp_of(message) for message in self.voxels]

    def stamped(self, heard: list[Any], stamp_ns: int) -> Any:
        """The message of a time."""
        assert self.graph.until(lambda: stamp_ns in map(stamp_of, heard)), self.node.log
        return next(message for message in heard if stamp_of(message) == stamp_ns)

    def receive(self, message: Any) -> None:
        """Send an image and wait until the node has counted it; its publisher and the node's are reliable."""
        before = int(self.diagnosed.fresh("input")["images received"])
        self.images.publish(message)
        assert self.graph.until(lambda: int(self.diagnosed.fresh("input")["images received"]) > before), self.node.log

    def answer(self, message: Any, *also: list[Any]) -> Any:
        """Send an image and wait for its voxels, and until something has come on other topics that were subscribed to.

        Answers to earlier images may still come before.
        """
        heard = len(self.voxels)

        def answers() -> list[Any]:
            return [voxels for voxels in self.voxels[heard:] if voxels.header.stamp == message.header.stamp]

        self.images.publish(message)
        self.graph.until(lambda: bool(answers()), LONGEST_PERIOD_S)  # after that it may be lost
        send = functools.partial(self.images.publish, message)
        assert self.graph.repeat(send, lambda: bool(answers()) and all(also)), self.node.log
        return answers()[0]

    def wait_for(self, seconds: float) -> None:
        """How long images wait for what belongs to them, from now on."""
        assert self.graph.set_parameters(topics.NODE_NAME, sync_timeout=seconds).successful

    def close(self) -> None:
        self.graph.close()
        self.node.close()


def stamp_of(message: Any) -> int:
    """Nanoseconds."""
    return messages.stamp_nanoseconds(message.header.stamp)


def is_cloud_of(message: Any, voxels: SemanticVoxels, frame_from_grid: RigidTransform | None = None) -> bool:
    """Whether a cloud holds these voxels in a frame, by default the camera's, with states, labels and probabilities."""
    points = cloud_array_from_message(message)
    if len(points) != len(voxels):
        return False
    places = voxels.points_in(frame_from_grid or voxels.grid_from_camera.inverse())
    return bool(
        np.allclose(np.stack([points[axis] for axis in "xyz"], axis=-1), places, atol=1e-4)
        and np.array_equal(points["state"], voxels.state[tuple(voxels.index.T)])
        and np.array_equal(points["label"], voxels.label)
        and np.allclose(points["probability"], voxels.probability, atol=1e-4)
    )
