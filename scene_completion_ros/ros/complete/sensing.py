"""What a sensor of depth saw, as evidence about the image of its time."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sensor_msgs.msg import PointCloud2

from scene_completion_ros.errors import SceneCompletionError
from scene_completion_ros.geometry.cameras import Camera
from scene_completion_ros.inference.bundle import StudentBundle
from scene_completion_ros.inference.completer import Completer
from scene_completion_ros.inference.evidence import sensed_depth
from scene_completion_ros.messages.images import decode_depth, read_xyz
from scene_completion_ros.ros.frame import DepthReading, Epoch, Frame, NotYetError
from scene_completion_ros.ros.health.counters import FrameCounters
from scene_completion_ros.ros.health.inference_health import DepthRecord

MOST_POINTS = 200_000  # of a cloud: about four for each pixel that takes one
MOST_RATIO = 3.0  # between depths of the sensor and of the network: beyond it, units or the pose are wrong


class Sensing:
    """Reads what sensors of depth saw; belongs to the inference thread.

    Depths are compared with those that the network said of the image before, so that the first image has none. An image
    whose depth cannot be used is completed without it, and the log and the record say why.
    """

    def __init__(self, record: DepthRecord, counters: FrameCounters) -> None:
        self._record, self._counters = record, counters
        self._before: dict[str, tuple[Epoch, StudentBundle, NDArray[np.float32] | None]] = {}
        self._rays: dict[str, tuple[Camera, int, NDArray[np.float32]]] = {}

    def sensed(self, frame: Frame, completer: Completer, epoch: Epoch) -> NDArray[np.float32] | None:
        """`Evidence.sensed` of an image that is about to be completed; None where there is none."""
        if frame.depth is None:
            return None
        if isinstance(frame.depth, NotYetError):
            self._record.without(f"{frame.topic}: {frame.depth}")
            return None
        of_epoch, of_bundle, own = self._before.get(frame.name, (None, None, None))
        if own is None or of_epoch != epoch or of_bundle is not completer.bundle:
            self._record.without(f"{frame.topic}: the first image has none before it to compare depths with")
            return None
        try:
            sensed = self._read(frame, frame.depth, completer.bundle, own)
        except SceneCompletionError as error:
            self._record.without(f"{frame.topic}: {error}")
            self._counters.warn(f"{frame.topic}: depth", f"{frame.topic}: completed without depth: {error}")
            return None
        self._record.sensed(frame.depth.age_ns / 1e6, float((sensed[1] > 0.0).mean()))
        return sensed

    def follow(self, frame: Frame, completer: Completer, epoch: Epoch) -> None:
        """Remember what the network itself said of an image."""
        if frame.depth is not None:
            self._before[frame.name] = epoch, completer.bundle, frame.completion.own_depth

    def _read(
        self, frame: Frame, reading: DepthReading, bundle: StudentBundle, own: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        if isinstance(reading.message, PointCloud2):
            points = read_xyz(reading.message)
            points = reading.camera_from_sensor.apply(points[:: 1 + len(points) // MOST_POINTS])
        else:
            points = self._unprojected(frame, reading.message, bundle.canonical)
        sensed = sensed_depth(points, bundle.canonical, frame.parameters.depth_deviation)
        known = sensed[1] > 0.0
        if not known.any():
            what = f"none of {len(points)} points lies in the image"
            raise SceneCompletionError(what, where="depth", cure="Check its frame_id and the transform between both")
        ratio = math.exp(float(np.median(sensed[0, known] - np.log(own[known]))))
        if not 1.0 / MOST_RATIO <= ratio <= MOST_RATIO:
            what = f"the sensor says {ratio:.3g} times the depth of the network"
            cure = "Check its units (16UC1: millimetres, 32FC1 and clouds: metres) and the transform between both"
            raise SceneCompletionError(what, where="depth", cure=cure)
        return sensed

    def _unprojected(self, frame: Frame, message: Any, canonical: Camera) -> NDArray[np.float32]:
        """The points [N, 3] of a depth image, about one for each pixel that takes one (optical frame, metres)."""
        depth = decode_depth(message)
        camera = frame.camera.of_resized_image(depth.shape[1], depth.shape[0])
        step = max(1, int(2.0 * min(camera.axial_focal_lengths) / max(canonical.fx, canonical.fy)))
        kept = self._rays.get(frame.name)
        if kept is None or kept[:2] != (camera, step):
            rays = camera.unproject(camera.pixel_centres()[step // 2 :: step, step // 2 :: step])
            kept = self._rays[frame.name] = camera, step, np.asarray(rays, np.float32)
        z = np.nan_to_num(depth[step // 2 :: step, step // 2 :: step], nan=0.0, posinf=0.0, neginf=0.0)
        return np.asarray((kept[2] * z[..., None]).reshape(-1, 3), np.float32)
