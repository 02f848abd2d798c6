"""Images in, completed voxels out: the topics of the node and the life of one frame."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy, qos_profile_sensor_data
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, PointCloud2
from std_msgs.msg import Float64, String

from scene_completion_ros.bags.images import decode_image
from scene_completion_ros.bags.stamp_order import WENT_BACK, StampOrder
from scene_completion_ros.errors import CameraError, ImageError, SceneCompletionError
from scene_completion_ros.geometry.camera_files import camera_from_camera_info
from scene_completion_ros.geometry.cameras import Camera
from scene_completion_ros.geometry.grids import read_grid
from scene_completion_ros.inference.bundle import StudentBundle, load_default_bundle
from scene_completion_ros.inference.completer import Completer, Completion
from scene_completion_ros.ros.counters import FrameCounters
from scene_completion_ros.ros.declared_parameters import DeclaredParameters
from scene_completion_ros.ros.messages import (
    camera_info_message,
    depth_message,
    legend_message,
    stamp_nanoseconds,
    voxels_message,
)
from scene_completion_ros.ros.parameters import NodeParameters
from scene_completion_ros.ros.topics import (
    CAMERA_INFO,
    DEPTH,
    DEPTH_CAMERA_INFO,
    IMAGE,
    LEGEND,
    STAGES,
    VOXELS,
    stage_topic,
)
from scene_completion_ros.ros.worker import NewestWorker

OUTPUT_DEPTH = 5  # messages kept for slow reliable readers
CLOSE_TIMEOUT_S = 5.0
LATCHED_QOS = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL)


@dataclass(frozen=True)
class ArrivedImage:
    """An image message, calibration and parameters of that moment, and when it was (`time.perf_counter`)."""

    message: Any
    camera: Camera
    parameters: NodeParameters
    arrived_s: float


class CompletionNode:
    """Subscribes to an image and its CameraInfo and publishes completed voxels in the image's frame and with its stamp.

    Callbacks only keep the newest image; decoding, inference and publishing happen in one inference thread. It takes
    calibration and parameters from the image, which got them when it arrived. A message that cannot be used is dropped,
    counted and warned about, and never ends the node.

    Args:
        node: The rclpy node to put parameters, subscriptions and publishers on.

    Raises:
        SceneCompletionError: A parameter, the bundle or the grid file cannot be used.
    """

    def __init__(self, node: Any) -> None:
        self._node = node
        self._logger = node.get_logger()
        # These belong to the executor's thread: the newest usable message, how it was read, and what for.
        self._camera_info: Any = None
        self._camera: Camera | None = None
        self._rectified = False
        self._prepared_for: tuple[Camera, NodeParameters] | None = None
        self._parameters = DeclaredParameters(node, self._check_change)
        parameters = self._parameters.snapshot()
        folder = parameters.bundle
        self._bundle = StudentBundle.load(Path(folder)) if folder else load_default_bundle()
        self._grid, self._grid_from_camera = self._bundle.grid, self._bundle.grid_from_camera
        if parameters.grid_file:
            self._grid, self._grid_from_camera = read_grid(Path(parameters.grid_file))
        self.counters = FrameCounters(self._logger)
        self._order = StampOrder()
        # These two belong to the inference thread; there is no completer for a camera that cannot be used.
        self._completer: Completer | None = None
        self._completer_made_for: tuple[Camera, int, bool] | None = None
        self._create_publishers()
        self._worker: NewestWorker[ArrivedImage] = NewestWorker(
            self._complete,
            on_replaced=lambda _: self.counters.drop("newer image arrived"),
            on_error=self._on_inference_error,
        )
        self._create_subscriptions(parameters)

    def close(self) -> None:
        """End the inference thread and log what became of the images."""
        if not self._worker.close(CLOSE_TIMEOUT_S):
            self._logger.warning(f"the inference thread did not end within {CLOSE_TIMEOUT_S:.0f} s")
        self._logger.info(self.counters.summary())

    def _create_publishers(self) -> None:
        create = self._node.create_publisher
        self._voxels = create(PointCloud2, VOXELS, OUTPUT_DEPTH)
        self._depth = create(Image, DEPTH, OUTPUT_DEPTH)
        self._depth_camera_info = create(CameraInfo, DEPTH_CAMERA_INFO, OUTPUT_DEPTH)
        self._legend = create(String, LEGEND, LATCHED_QOS)  # once: it is that of the bundle
        self._legend.publish(legend_message(self._bundle.class_names, self._bundle.class_colours))
        self._stage_times = {stage: create(Float64, stage_topic(stage), OUTPUT_DEPTH) for stage in STAGES}

    def _create_subscriptions(self, parameters: NodeParameters) -> None:
        reliable = QoSProfile(depth=qos_profile_sensor_data.depth, reliability=ReliabilityPolicy.RELIABLE)
        image_qos = reliable if parameters.image_qos == "reliable" else qos_profile_sensor_data
        # As image_transport does: the base name is remapped, the transport is appended to the result.
        topic, image_type = self._node.resolve_topic_name(IMAGE), Image
        if parameters.image_transport == "compressed":
            topic, image_type = f"{topic}/compressed", CompressedImage
        self._image_topic = topic
        self._image_subscription = self._node.create_subscription(image_type, topic, self._on_image, image_qos)
        self._camera_info_topic = self._node.resolve_topic_name(CAMERA_INFO)
        self._camera_info_subscription = self._node.create_subscription(
            CameraInfo, self._camera_info_topic, self._on_camera_info, qos_profile_sensor_data
        )
        self._latched_subscription: Any = None
        self._logger.info(
            f"waiting for images on {topic} ({parameters.image_qos}) and CameraInfo on {self._camera_info_topic}"
        )

    def _check_change(self, parameters: NodeParameters) -> None:
        """Raise CameraError where the calibration at hand has nothing to offer for changed parameters."""
        if self._camera_info is not None:
            self._read_camera(self._camera_info, parameters)

    def _read_camera(self, camera_info: Any, parameters: NodeParameters) -> Camera:
        return camera_from_camera_info(camera_info, rectified=parameters.rectified, where=self._camera_info_topic)

    def _on_camera_info(self, message: Any) -> None:
        parameters = self._parameters.snapshot()
        try:
            camera = self._read_camera(message, parameters)
        except SceneCompletionError as error:
            self.counters.drop("bad CameraInfo", str(error))
            return
        if self._camera is not None and camera != self._camera and parameters.rectified == self._rectified:
            self.counters.warn("new calibration", f"{self._camera_info_topic}: the calibration has changed")
        self._camera_info, self._camera, self._rectified = message, camera, parameters.rectified
        self._prepare(camera, parameters)

    def _camera_for(self, parameters: NodeParameters) -> Camera | None:
        """The newest usable camera; the CameraInfo is read anew where it is now to be read in another way."""
        if self._camera_info is not None and parameters.rectified != self._rectified:
            self._camera = self._read_camera(self._camera_info, parameters)  # usable: see `_check_change`
            self._rectified = parameters.rectified
        return self._camera

    def _prepare(self, camera: Camera, parameters: NodeParameters) -> None:
        """Have the completer built before an image needs it; never for something older than a waiting image has."""
        if (camera, parameters) != self._prepared_for:
            self._prepared_for = camera, parameters
            self._worker.prepare(lambda: self._use_camera(camera, parameters))

    def _look_for_latched_camera_info(self) -> None:
        """Subscribe a second time where the CameraInfo was published once and latched.

        Only a transient-local reader receives that one. It never matches a volatile publisher, and makes every such
        publisher log a warning; therefore not until it is needed.
        """
        publishers = self._node.get_publishers_info_by_topic(self._camera_info_topic)
        latched = (info.qos_profile.durability == DurabilityPolicy.TRANSIENT_LOCAL for info in publishers)
        if self._latched_subscription is None and any(latched):
            self._latched_subscription = self._node.create_subscription(
                CameraInfo, self._camera_info_topic, self._on_camera_info, LATCHED_QOS
            )

    def _on_image(self, message: Any) -> None:
        arrived_s = time.perf_counter()
        self.counters.count_received()
        parameters = self._parameters.snapshot()
        camera = self._camera_for(parameters)
        if camera is None:
            self._look_for_latched_camera_info()
            self.counters.drop(
                "no CameraInfo",
                f"no usable CameraInfo on {self._camera_info_topic} yet; check the topic and its remapping",
            )
            return
        stamp_ns = stamp_nanoseconds(message.header.stamp)
        arrival, behind_ns = self._order.arrived(stamp_ns), self._order.behind_ns
        if arrival == "late":
            self.counters.drop(
                WENT_BACK,
                f"{self._image_topic}: stamp {stamp_ns} ns is {behind_ns / 1e6:.1f} ms before the last one",
            )
            return
        if arrival == "restarted":
            self.counters.warn("clock jump", f"stamps jumped back by {behind_ns / 1e9:.1f} s: a restarted recording?")
        self._prepare(camera, parameters)
        self._worker.submit(ArrivedImage(message, camera, parameters, arrived_s))

    def _use_camera(self, camera: Camera, parameters: NodeParameters) -> None:
        """Build the completer for a camera, unless the last one was built for the same."""
        wanted = (camera, parameters.threads, parameters.extrapolate)
        if wanted == self._completer_made_for:
            return
        self._completer, self._completer_made_for = None, wanted
        started_s = time.perf_counter()
        try:
            completer = Completer(
                self._bundle,
                camera,
                grid=self._grid,
                grid_from_camera=self._grid_from_camera,
                engine=parameters.engine,
                threads=parameters.threads or None,
                extrapolate=parameters.extrapolate,
            )
        except SceneCompletionError as error:
            self._logger.error(f"images of this camera cannot be completed: {error}")
            return
        for warning in completer.warnings:
            self._logger.warning(warning)
        self._completer = completer
        self._logger.info(
            f"ready for {camera.width}x{camera.height} images, fx {camera.fx:.1f} px, "
            f"{camera.distortion_model} distortion, after {time.perf_counter() - started_s:.1f} s"
        )

    def _complete(self, image: ArrivedImage) -> None:
        self._use_camera(image.camera, image.parameters)
        if self._completer is None:
            self.counters.drop("unusable camera", f"see the error about the CameraInfo on {self._camera_info_topic}")
            return
        header = image.message.header
        started_s = time.perf_counter()
        try:
            pixels = decode_image(image.message)
            decoded_s = time.perf_counter()
            completion = self._completer.complete(pixels, stamp_nanoseconds(header.stamp))
        except (ImageError, CameraError) as error:
            self.counters.drop("bad image", f"{self._image_topic}: {error}")
            return
        completed_s = time.perf_counter()
        self._publish(completion, header.frame_id)
        published_s = time.perf_counter()
        self.counters.count_processed()
        times_ms = {
            **completion.timings_ms,
            "decode": 1e3 * (decoded_s - started_s),
            "publish": 1e3 * (published_s - completed_s),
            "latency": 1e3 * (published_s - image.arrived_s),
        }
        for stage, publisher in self._stage_times.items():
            publisher.publish(Float64(data=float(times_ms[stage])))

    def _publish(self, completion: Completion, frame_id: str) -> None:
        voxels = completion.voxels
        self._voxels.publish(voxels_message(voxels, frame_id))
        if self._depth.get_subscription_count():
            self._depth.publish(depth_message(completion.shown_depth, voxels.stamp_ns, frame_id))
        if self._depth_camera_info.get_subscription_count():
            self._depth_camera_info.publish(camera_info_message(completion.depth_camera, voxels.stamp_ns, frame_id))

    def _on_inference_error(self, error: Exception) -> None:
        self.counters.drop("internal error", f"{type(error).__name__}: {error}; please report this")
