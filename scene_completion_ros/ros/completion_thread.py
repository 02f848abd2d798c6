"""The life of one image in the inference thread: decoded, completed, published."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from typing import Any

from scene_completion_ros.bags.images import decode_image
from scene_completion_ros.errors import CameraError, ImageError, SceneCompletionError
from scene_completion_ros.geometry.cameras import Camera
from scene_completion_ros.geometry.grids import VoxelGrid
from scene_completion_ros.geometry.transforms import RigidTransform
from scene_completion_ros.inference.bundle import StudentBundle
from scene_completion_ros.inference.completer import Completer
from scene_completion_ros.ros.counters import FrameCounters
from scene_completion_ros.ros.inference_record import InferenceRecord, Result
from scene_completion_ros.ros.messages import stamp_nanoseconds
from scene_completion_ros.ros.outputs import Outputs
from scene_completion_ros.ros.parameters import NodeParameters
from scene_completion_ros.ros.worker import NewestWorker

CLOSE_TIMEOUT_S = 5.0
# Reasons under which images are counted that were overtaken by a deactivation, by ~/set_enabled or by ~/reset.
DEACTIVATED, DISABLED, RESET = "deactivated", "disabled", "reset"


@dataclass(frozen=True)
class ArrivedImage:
    """An image message, calibration and parameters of that moment, and when it was (`time.perf_counter`).

    Attributes:
        topic: Where it came from, for warnings.
        activation: Number of the node's activation in which it arrived.
    """

    message: Any
    camera: Camera
    parameters: NodeParameters
    arrived_s: float
    topic: str
    activation: int


class CompletionThread:
    """Completes the newest image and publishes what became of it, in a thread of its own.

    It takes calibration and parameters from the image, which got them when it arrived. An image that cannot be used is
    dropped, counted and warned about; one that nobody subscribed to the results of is only counted.

    Args:
        bundle: The student.
        grid: Where voxels are wanted.
        grid_from_camera: Pose of the camera's optical frame in the grid.
        outputs: Where results go; they must outlive this thread.
        counters: Count what becomes of the images.
        logger: The rclpy logger.

    Attributes:
        enabled: Images are completed; otherwise they are dropped as they come.
        record: What became of the model and of the last images.
    """

    def __init__(
        self,
        bundle: StudentBundle,
        grid: VoxelGrid,
        grid_from_camera: RigidTransform,
        outputs: Outputs,
        counters: FrameCounters,
        logger: Any,
    ) -> None:
        self._bundle = bundle
        self._grid, self._grid_from_camera = grid, grid_from_camera
        self._outputs = outputs
        self._counters = counters
        self._logger = logger
        # Whoever holds the lock either publishes or ends the activation, so that after its end nothing is published.
        self._publishing = threading.Lock()
        self._activation = 0
        self._overtaken_by = DEACTIVATED
        self.enabled = True
        self.record = InferenceRecord()
        # These three belong to the inference thread; there is no completer for a camera that cannot be used.
        self._completer: Completer | None = None
        self._completer_made_for: tuple[Camera, int, bool] | None = None
        self._wanted = True
        self._worker: NewestWorker[ArrivedImage] = NewestWorker(
            self._complete,
            on_replaced=lambda _: counters.drop("newer image arrived"),
            on_error=self._on_inference_error,
            on_end=self._release,
        )

    def prepare(self, camera: Camera, parameters: NodeParameters) -> None:
        """Have the completer built before an image needs it; never for something older than a waiting image has."""
        self._worker.prepare(lambda: self._use_camera(camera, parameters))

    def submit(self, message: Any, camera: Camera, parameters: NodeParameters, arrived_s: float, topic: str) -> None:
        """Complete an image, unless a newer one comes before its turn (see `ArrivedImage`)."""
        if not self.enabled:
            self._counters.drop(DISABLED)
            return
        self._worker.submit(ArrivedImage(message, camera, parameters, arrived_s, topic, self._activation))

    def end_activation(self, reason: str = DEACTIVATED) -> None:
        """Publish nothing any more of the images submitted so far, which are counted under a reason.

        The completer stays.
        """
        with self._publishing:
            self._activation += 1
            self._overtaken_by = reason
        if self._worker.give_up():
            self._counters.drop(reason)

    def set_enabled(self, enabled: bool) -> None:
        """Complete images, or drop them; once disabled, nothing is published of those submitted so far either."""
        self.enabled = enabled
        if not enabled:
            self.end_activation(DISABLED)

    def reset(self) -> None:
        """Forget what the images so far have left behind, and publish nothing more of them.

        Whatever is kept from one image to the next is to be forgotten where the inference thread meets an image of
        another activation than the last one.
        """
        self.end_activation(RESET)
        self.record.forget()

    def close(self) -> None:
        """End the thread and release the completer; both later, where the thread is busy for long."""
        self.end_activation()
        if not self._worker.close(CLOSE_TIMEOUT_S):
            self._logger.warning(
                f"the inference thread did not end within {CLOSE_TIMEOUT_S:.0f} s; it ends after what it is doing now"
            )

    def _release(self) -> None:
        self._completer, self._completer_made_for = None, None

    def _use_camera(self, camera: Camera, parameters: NodeParameters) -> None:
        """Build the completer for a camera, unless the last one was built for the same."""
        wanted = (camera, parameters.threads, parameters.extrapolate)
        if wanted == self._completer_made_for:
            return
        self._completer, self._completer_made_for = None, wanted
        self.record.building()
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
            self.record.failed(str(error))
            self._logger.error(f"images of this camera cannot be completed: {error}")
            return
        except Exception as error:
            self.record.failed(f"{type(error).__name__}: {error}")
            raise
        for warning in completer.warnings:
            self._logger.warning(warning)
        self._completer = completer
        self.record.ready(completer.engine, completer.warnings)
        self._logger.info(
            f"ready for {camera.width}x{camera.height} images, fx {camera.fx:.1f} px, "
            f"{camera.distortion_model} distortion, after {time.perf_counter() - started_s:.1f} s"
        )

    def _is_wanted(self) -> bool:
        """Whether anybody wants a result; a change is logged, for an idle node looks like a broken one."""
        wanted = self._outputs.wanted()
        if wanted != self._wanted:
            self._wanted = wanted
            self._logger.info(
                "images are completed again"
                if wanted
                else "nobody subscribed to voxels or depth: images are not completed until somebody does"
            )
        return wanted

    def _complete(self, image: ArrivedImage) -> None:
        if not self._is_wanted():
            self._counters.count_unwanted()
            return
        self._use_camera(image.camera, image.parameters)
        if self._completer is None:
            self._counters.drop("unusable camera", "see the error about the camera of these images")
            return
        header = image.message.header
        started_s = time.perf_counter()
        try:
            pixels = decode_image(image.message)
            decoded_s = time.perf_counter()
            completion = self._completer.complete(pixels, stamp_nanoseconds(header.stamp))
        except (ImageError, CameraError) as error:
            self._counters.drop("bad image", f"{image.topic}: {error}")
            return
        completed_s = time.perf_counter()
        with self._publishing:
            if image.activation != self._activation:
                self._counters.drop(self._overtaken_by)
                return
            self._outputs.publish(completion, header.frame_id, image.parameters)
            published_s = time.perf_counter()
            self._counters.count_processed()
            times_ms = {
                **completion.timings_ms,
                "decode": 1e3 * (decoded_s - started_s),
                "publish": 1e3 * (published_s - completed_s),
                "latency": 1e3 * (published_s - image.arrived_s),
            }
            self.record.completed(Result(completion.voxels, header.frame_id), times_ms)
            self._outputs.publish_times(times_ms)

    def _on_inference_error(self, error: Exception) -> None:
        self._counters.drop("internal error", f"{type(error).__name__}: {error}; please report this")
