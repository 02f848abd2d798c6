"""Images are decoded one by one, and completed with what motion and sensors of depth say about them."""

import functools
import math
import time
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sensor_msgs.msg import PointCloud2

from scene_completion_ros.errors import BundleError, CameraError, GpuError, ImageError, SceneCompletionError, in_words
from scene_completion_ros.geometry.cameras import Camera
from scene_completion_ros.geometry.resampling import decoder_shrink
from scene_completion_ros.geometry.transforms import RigidTransform
from scene_completion_ros.inference.bundle import StudentBundle
from scene_completion_ros.inference.completer import Completer, EarlierImages
from scene_completion_ros.inference.label_query import Words
from scene_completion_ros.inference.motion_scale import MotionScale, Scale
from scene_completion_ros.inference.scene_query import NO_EVIDENCE, CornerDepths, Evidence, sensed_depth
from scene_completion_ros.messages.drop_reasons import DropReason
from scene_completion_ros.messages.images import announced_size, decode_depth, read_xyz
from scene_completion_ros.ros.conversions import to_rgb
from scene_completion_ros.ros.frame import DepthReading, Epoch, Frame, NotYetError, PoseToCome, Scene, Student
from scene_completion_ros.ros.health.diagnostics import TIMES_KEPT, DepthReport
from scene_completion_ros.ros.health.judgement import FrameCounters, Record

MOST_WAITING = 30  # images whose pose has not come yet; older ones are left out


@dataclass(frozen=True, eq=False)
class _Seen:
    image: NDArray[np.uint8]
    depth: NDArray[np.float32]
    stamp_ns: int
    grid_from_camera: RigidTransform
    pose: PoseToCome | RigidTransform | NotYetError  # of the grid in the odometry frame


@dataclass(eq=False)
class _Camera:
    motion: MotionScale
    of: tuple[StudentBundle, Epoch, str]  # whose depths these are, since when, and of which frame: others say nothing
    waiting: deque[_Seen] = field(default_factory=deque)
    work: Future[None] | None = None  # the measurement that was begun last


class Scaling:
    """Gives the scale that the images before say, and measures that of each image once it was published.

    Belongs to the inference thread. What was measured of another epoch, student or frame is forgotten. An image
    is scaled by those before it alone: no image waits for a measurement that has not begun.
    """

    def __init__(self, scales: dict[str, Scale]) -> None:
        self._scales = scales  # of the last measurement, by the names of the cameras
        self._pool = ThreadPoolExecutor(1, "scale")
        self._cameras: dict[str, _Camera] = {}

    def evidence(self, frame: Frame, completer: Completer, epoch: Epoch, coming: PoseToCome | None = None) -> Evidence:
        """What is known of the scale of an image that is about to be completed.

        `coming`: see `Scene.pose`. Corners want it once the network has seen the image, so none waits for it.
        """
        if frame.parameters.scale_from == "off" or not completer.bundle.takes_evidence:
            if self._cameras.pop(frame.name, None) is not None:
                self._pool.submit(self._scales.pop, frame.name, None)  # behind what is measured now
            return NO_EVIDENCE
        camera, of = self._cameras.get(frame.name), (completer.bundle, epoch, frame.frame_id)
        if camera is None or camera.of != of:
            camera = self._cameras[frame.name] = _Camera(completer.motion_scale(), of)
        self._finish(frame.name, camera)
        corners: CornerDepths | None = None
        if frame.parameters.scale_from == "corners":
            corners = functools.partial(_corner_depths, camera.motion, frame, coming)
        return Evidence(camera.motion.scale, corner_depths=corners)

    def follow(self, scene: Scene) -> None:
        """Measure the images of a scene, as soon as it is known where their cameras were."""
        for frame in scene.frames:
            camera, depth = self._cameras.get(frame.name), frame.completion.own_depth
            placed = frame.placement.odometry_from_grid
            pose = placed if placed is not None else scene.pose
            if camera is None or depth is None:
                continue
            if pose is None:
                pose = NotYetError("nothing says how the camera moves", may_come=False)
            image, grid_from_camera = frame.completion.image, frame.placement.grid_from_camera
            camera.waiting.append(_Seen(image, depth, frame.stamp_ns, grid_from_camera, pose))
            while len(camera.waiting) > MOST_WAITING:
                camera.waiting.popleft()
            self._begin(frame.name, camera)

    def _finish(self, name: str, camera: _Camera) -> None:
        """Wait for what can be measured of the images so far: the same in each run."""
        self._begin(name, camera)
        if camera.work is not None:
            camera.work.result()

    def _begin(self, name: str, camera: _Camera) -> None:
        """Hand those images to the thread whose pose is known, in order."""
        while camera.waiting:
            seen = camera.waiting[0]
            pose = seen.pose
            if isinstance(pose, Future):
                if not pose.done():
                    return
                pose = pose.result()
            camera.waiting.popleft()
            camera.work = self._pool.submit(self._measure, name, camera, seen, pose)

    def _measure(self, name: str, camera: _Camera, seen: _Seen, grid: RigidTransform | NotYetError) -> None:
        pose, motion = grid.what if isinstance(grid, NotYetError) else grid @ seen.grid_from_camera, camera.motion
        try:
            EarlierImages(motion).add(seen.image, seen.depth, pose, seen.stamp_ns)
        except Exception as error:  # a measurement beside the images must not cost any
            motion.forget(in_words(error))
        self._scales[name] = motion.scale

    def close(self) -> None:
        """End the thread after what it does now."""
        self._pool.shutdown(wait=False, cancel_futures=True)


def _corner_depths(
    motion: MotionScale,
    frame: Frame,
    coming: PoseToCome | None,
    image_rgb: NDArray[np.uint8],
    own_depth: NDArray[np.float32],
) -> NDArray[np.float32] | None:
    """See `MotionScale.depths`; None where the pose has not come, or measuring fails, which must not cost the image."""
    pose = frame.odometry_from_camera
    if pose is None and coming is not None and coming.done():
        grid = coming.result()
        pose = None if isinstance(grid, NotYetError) else grid @ frame.placement.grid_from_camera
    try:
        return None if pose is None else motion.depths(image_rgb, own_depth, pose, frame.stamp_ns)
    except Exception as error:
        motion.forget(in_words(error))
        return None


MOST_POINTS = 200_000  # of a cloud: about four for each pixel that takes one
MOST_RATIO = 3.0  # between depths of the sensor and of the network: beyond it, units or the pose are wrong


class Sensing:
    """Reads what sensors of depth saw; belongs to the inference thread.

    Depths are compared with those that the network said of the image before, so that the first image has none. An image
    whose depth cannot be used is completed without it, and the log and the record say why.
    """

    def __init__(self, record: Record[DepthReport], counters: FrameCounters) -> None:
        self._record, self._counters = record, counters
        self._before: dict[str, tuple[Epoch, StudentBundle, NDArray[np.float32] | None]] = {}
        self._rays: dict[str, tuple[Camera, int, NDArray[np.float32]]] = {}

    def sensed(self, frame: Frame, completer: Completer, epoch: Epoch) -> NDArray[np.float32] | None:
        """`Evidence.sensed` of an image that is about to be completed; None where there is none."""
        if frame.depth is None:
            return None
        if isinstance(frame.depth, NotYetError):
            self._record.happened("without", f"{frame.topic}: {frame.depth}")
            return None
        of_epoch, of_bundle, own = self._before.get(frame.name, (None, None, None))
        if own is None or of_epoch != epoch or of_bundle is not completer.bundle:
            self._record.happened(
                "without", f"{frame.topic}: the first image has none before it to compare depths with"
            )
            return None
        try:
            sensed = self._read(frame, frame.depth, completer.bundle, own)
        except SceneCompletionError as error:
            self._record.happened("without", f"{frame.topic}: {error}")
            self._counters.warn(f"{frame.topic}: depth", f"{frame.topic}: completed without depth: {error}")
            return None
        newest = frame.depth.age_ns / 1e6, float((sensed[1] > 0.0).mean())
        self._record.change(last=(*self._record.report.last, newest)[-TIMES_KEPT:])
        self._record.happened("sensed", "")
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
