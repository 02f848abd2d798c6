"""One image after the other: decoded, and completed by the student."""

import time
from dataclasses import replace
from typing import Any

from scene_completion_ros.errors import BundleError, CameraError, GpuError, ImageError
from scene_completion_ros.geometry.cameras import Camera
from scene_completion_ros.geometry.resampling import decoder_shrink
from scene_completion_ros.inference.phrase_query import Words
from scene_completion_ros.messages.drop_reasons import DropReason
from scene_completion_ros.messages.images import announced_size
from scene_completion_ros.ros.complete.scaling import Scaling
from scene_completion_ros.ros.complete.sensing import Sensing
from scene_completion_ros.ros.conversions import to_rgb
from scene_completion_ros.ros.frame import Frame, Scene
from scene_completion_ros.ros.health.counters import FrameCounters
from scene_completion_ros.ros.student import Student


class Completing:
    """Completes frames of scenes, in the inference thread; one that cannot be completed is dropped, with a warning."""

    def __init__(
        self, student: Student, counters: FrameCounters, logger: Any, scaling: Scaling, sensing: Sensing
    ) -> None:
        self._student, self._counters, self._logger = student, counters, logger
        self._scaling, self._sensing = scaling, sensing
        self._resized: dict[str, tuple[int, ...]] = {}  # by camera, sizes that were warned of

    def complete(self, scene: Scene, *, with_query: bool, with_labels: bool) -> None:
        """Leave those frames in a scene that could be completed; are answers to the query heard, and labels read?"""
        words = scene.words
        words = Words(words.vocabulary, words.queried if with_query else None, with_labels)
        scene.frames = tuple(frame for frame in scene.frames if self._completed(frame, words, scene))

    def _completed(self, frame: Frame, words: Words, scene: Scene) -> bool:
        student, epoch = self._student, scene.epoch
        started_s, placement, parameters = time.perf_counter(), frame.placement, frame.parameters
        try:
            camera = self._camera_of(frame)  # before decoding: the proportions alone refuse most that is damaged
            pixels = to_rgb(frame.message, decoder_shrink(camera, student.bundle.canonical))
            frame.decode_ms = 1e3 * (time.perf_counter() - started_s)
            upright = placement.upright_from_camera(parameters)
            completer = student.get(frame.name, camera, placement.grid_from_camera, parameters, upright)
            if completer is None:
                why = "see the error about the camera of these images"
                self._counters.drop(DropReason.UNUSABLE_CAMERA, why, header=frame.header)
                return False
            student.check_mounting(frame.name, upright, parameters)
            completer.use(words.vocabulary)
            completer.ask(words.queried)
            evidence = self._scaling.evidence(frame, completer, epoch, scene.pose)
            evidence = replace(evidence, sensed=self._sensing.sensed(frame, completer, epoch))
            frame.completion = completer.complete(pixels, frame.stamp_ns, labels=words.labels, evidence=evidence)
            self._sensing.follow(frame, completer, epoch)
            if warning := frame.completion.warning:
                self._counters.warn(f"{frame.topic}: blind", f"{frame.topic}: {warning}")
            return True
        except (ImageError, CameraError) as error:
            self._counters.drop(DropReason.BAD_IMAGE, f"{frame.topic}: {error}", header=frame.header)
        except GpuError as error:
            student.gpu_failed(error, parameters)
            self._counters.drop(DropReason.GPU_FAILED, str(error), header=frame.header)
        except BundleError as error:
            self._counters.drop(DropReason.NOT_FINITE, str(error), header=frame.header)
        except Exception as error:  # it must not keep the images of other cameras from being completed
            self._counters.drop_after(error, frame.header)
        return False

    def _camera_of(self, frame: Frame) -> Camera:
        width, height = announced_size(frame.message)
        camera = frame.camera.of_resized_image(width, height)
        sizes = width, height, frame.camera.width, frame.camera.height
        if camera is not frame.camera and self._resized.get(frame.name) != sizes:
            self._resized[frame.name] = sizes
            self._logger.warning(
                f"{frame.topic}: images are {width}x{height}, calibrated for {frame.camera.width}x"
                f"{frame.camera.height}: the node scales the calibration, as for resized images. If they are cropped "
                "instead, publish roi in the CameraInfo"
            )
        return camera
