"""The thread in which a frame goes through the last stages: completed, published."""

import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from scene_completion_ros.arrays import Bytes
from scene_completion_ros.errors import BundleError, CameraError, GpuError, ImageError, in_words
from scene_completion_ros.geometry.cameras import Camera
from scene_completion_ros.geometry.resampling import decoder_shrink
from scene_completion_ros.geometry.transforms import RigidTransform
from scene_completion_ros.inference.bundle import StudentBundle
from scene_completion_ros.inference.completer import Completer, SeenImage
from scene_completion_ros.inference.evidence import NO_EVIDENCE, Evidence, EvidenceEstimator, OwnView
from scene_completion_ros.inference.label_query import FoldedVocabulary, Words
from scene_completion_ros.inference.text_bank import Vocabulary
from scene_completion_ros.messages.drop_reasons import DropReason
from scene_completion_ros.messages.images import announced_size
from scene_completion_ros.ros.conversions import to_rgb
from scene_completion_ros.ros.frame import Epoch, Frame, NotYetError, PoseToCome, Student
from scene_completion_ros.ros.health.diagnostics import InferenceRecord
from scene_completion_ros.ros.health.judgement import FrameCounters
from scene_completion_ros.ros.parameters import NodeParameters
from scene_completion_ros.ros.publishers import Outputs
from scene_completion_ros.ros.waiting import NewestWorker
from scene_completion_ros.voxels.cloud_kernel import compile_kernel

MOST_WAITING = 30  # images whose pose has not come yet; older ones are left out


@dataclass(frozen=True, eq=False)
class _Seen:
    image: Bytes
    own: OwnView
    stamp_ns: int
    grid_from_camera: RigidTransform
    pose: PoseToCome | RigidTransform | NotYetError  # of the grid in the odometry frame
    stated: RigidTransform | None  # `Completer.upright_from_camera`


@dataclass(eq=False)
class _Measured:
    estimator: EvidenceEstimator
    of: tuple[StudentBundle, Epoch, str]  # whose depths these are, since when, and of which frame: no others count
    waiting: deque[_Seen] = field(default_factory=lambda: deque(maxlen=MOST_WAITING))
    work: Future[None] | None = None  # the measurement that was begun last


class ScaleEstimator:
    """Gives scale and plane measured from the images before, and measures those of each image once it was published.

    Belongs to the inference thread. What was measured of another epoch, student or frame is forgotten. What is known of
    an image comes from those before it alone: no image waits for a measurement that has not begun.
    """

    def __init__(self, record: InferenceRecord) -> None:
        self._record = record  # takes the scale of the last measurement
        self._pool = ThreadPoolExecutor(1, "scale")
        self._measured: _Measured | None = None

    def evidence(self, frame: Frame, completer: Completer, seen: SeenImage) -> Evidence:
        """What is known of the depths of an image that the network has seen.

        Corners want the pose of the frame, and none waits for it.
        """
        if frame.parameters.scale_from == "off" or seen.own is None:
            if self._measured is not None:
                self._measured = None
                self._pool.submit(setattr, self._record, "scale", None)  # behind what is measured now
            return NO_EVIDENCE
        measured, of = self._measured, (completer.bundle, frame.epoch, frame.frame_id)
        if measured is None or measured.of != of:
            measured = self._measured = _Measured(completer.evidence_estimator(corners=True), of)
        self._finish(measured)
        measured.estimator.corners = frame.parameters.scale_from == "corners"
        try:
            pose = _pose_of(frame) or "the pose has not come"
            return measured.estimator.evidence(
                seen.image, seen.own, pose, frame.stamp_ns, completer.upright_from_camera
            )
        except Exception as error:  # a failed measurement must not cost an image
            measured.estimator.forget(in_words(error))
            return Evidence(measured.estimator.scale)

    def follow(self, frame: Frame) -> None:
        """Measure an image, as soon as it is known where its camera was."""
        measured, own = self._measured, frame.completion.own
        if measured is None or own is None:
            return
        unknown = NotYetError("the camera's motion is unknown", may_come=False)
        pose = frame.placement.odometry_from_grid or frame.pose or unknown
        image, grid_from_camera = frame.completion.image, frame.placement.grid_from_camera
        stated = frame.placement.upright_from_camera(frame.parameters)
        measured.waiting.append(_Seen(image, own, frame.stamp_ns, grid_from_camera, pose, stated))
        self._begin(measured)

    def _finish(self, measured: _Measured) -> None:
        """Wait for what can be measured of the images so far: the same in each run."""
        self._begin(measured)
        if measured.work is not None:
            measured.work.result()

    def _begin(self, measured: _Measured) -> None:
        """Hand those images to the thread whose pose is known, in order."""
        while measured.waiting:
            seen = measured.waiting[0]
            if isinstance(seen.pose, Future) and not seen.pose.done():
                return
            measured.waiting.popleft()
            pose = seen.pose.result() if isinstance(seen.pose, Future) else seen.pose
            measured.work = self._pool.submit(self._measure, measured.estimator, seen, pose)

    def _measure(self, estimator: EvidenceEstimator, seen: _Seen, grid: RigidTransform | NotYetError) -> None:
        pose = grid.what if isinstance(grid, NotYetError) else grid @ seen.grid_from_camera
        try:
            estimator.follow(seen.image, seen.own, pose, seen.stamp_ns, seen.stated)
        except Exception as error:  # a failed measurement must not cost an image
            estimator.forget(in_words(error))
        self._record.scale = estimator.scale

    def close(self) -> None:
        """End the thread after what it does now."""
        self._pool.shutdown(wait=False, cancel_futures=True)


def _pose_of(frame: Frame) -> RigidTransform | None:
    """Pose of the camera in the odometry frame; None where it has not come."""
    grid = frame.placement.odometry_from_grid
    if not isinstance(grid, RigidTransform) and frame.pose is not None and frame.pose.done():
        grid = frame.pose.result()
    return grid @ frame.placement.grid_from_camera if isinstance(grid, RigidTransform) else None


class ImageCompleter:
    """Completes frames, in the inference thread; one that cannot be completed is dropped, with a warning."""

    def __init__(self, student: Student, counters: FrameCounters, logger: Any, scaling: ScaleEstimator) -> None:
        self._student, self._counters, self._logger, self._scaling = student, counters, logger, scaling
        self._resized: tuple[int, ...] = ()  # sizes that were warned of

    def complete(self, frame: Frame, *, with_query: bool, with_labels: bool) -> bool:
        """Whether a frame could be completed; `with_query`, `with_labels`: what is needed of it."""
        student, words, parameters = self._student, frame.words, frame.parameters
        started_s, placement = time.perf_counter(), frame.placement
        try:
            camera = self._camera_of(frame)  # before decoding: the proportions alone refuse most that is damaged
            pixels = to_rgb(frame.message, decoder_shrink(camera, student.bundle.canonical))
            frame.decode_ms = 1e3 * (time.perf_counter() - started_s)
            upright = placement.upright_from_camera(parameters)
            completer = student.get(camera, placement.grid_from_camera, parameters, upright)
            if completer is None:
                why = "see the error about the camera of these images"
                self._counters.drop(DropReason.UNUSABLE_CAMERA, why, header=frame.header)
                return False
            student.check_mounting(upright, parameters)
            completer.set_vocabulary(words.vocabulary)
            completer.set_query(words.queried if with_query else None)
            seen = completer.see(pixels)
            evidence = self._scaling.evidence(frame, completer, seen)
            frame.completion = completer.complete(seen, frame.stamp_ns, labels=with_labels, evidence=evidence)
            if warning := frame.completion.warning:
                self._counters.warn("blind", warning)
            return True
        except (ImageError, CameraError) as error:
            self._counters.drop(DropReason.BAD_IMAGE, f"{frame.topic}: {error}", header=frame.header)
        except GpuError as error:
            student.gpu_failed(error, parameters)
            self._counters.drop(DropReason.GPU_FAILED, str(error), header=frame.header)
        except BundleError as error:
            self._counters.drop(DropReason.NOT_FINITE, str(error), header=frame.header)
        return False

    def _camera_of(self, frame: Frame) -> Camera:
        width, height = announced_size(frame.message)
        camera = frame.camera.of_resized_image(width, height)
        sizes = width, height, frame.camera.width, frame.camera.height
        if camera is not frame.camera and self._resized != sizes:
            self._resized = sizes
            self._logger.warning(
                f"{frame.topic}: images are {width}x{height}, calibrated for {frame.camera.width}x"
                f"{frame.camera.height}: the node scales the calibration, as for resized images. If they are cropped "
                "instead, publish roi in the CameraInfo"
            )
        return camera


CLOSE_TIMEOUT_S = 5.0


class InferenceThread:
    """Takes the newest frame, and hands it from stage to stage, in a thread of its own.

    A frame brings along calibration, pose and parameters, of when its image arrived, and gets the words here.
    """

    def __init__(
        self,
        student: Student,  # what completes images; released where this thread ends
        outputs: Outputs,  # where results go; they must outlive this thread
        counters: FrameCounters,
        logger: Any,
        vocabulary: FoldedVocabulary | None = None,  # what labels mean at first; None for the classes of the bundle
    ) -> None:
        self._outputs, self._counters, self._logger = outputs, counters, logger
        # The holder of the lock either publishes or ends the activation, so that after its end nothing is published.
        self._publishing = threading.Lock()
        self._epoch = Epoch(0, 0)
        self.record = InferenceRecord(student, _vocabulary(vocabulary))  # what became of the last images
        self._to_prepare: deque[Callable[[], object]] = deque(maxlen=1)  # for the newest calibration
        self._choosing = threading.Lock()
        self.student = student
        self._words = Words(vocabulary)  # those of images to come
        # These five belong to the inference thread.
        self._now = self._words
        self._in_hand: Frame | None = None
        self._scaling = ScaleEstimator(self.record)
        self._completing = ImageCompleter(student, counters, logger, self._scaling)
        self._wanted = True
        self._worker: NewestWorker[Frame] = NewestWorker(
            self._handle,
            on_replaced=lambda replaced: self._drop(replaced, DropReason.NEWER_IMAGE),
            on_error=self._on_error,
            on_end=self._release,
        )
        self.record.busy_s = lambda: self._worker.busy_s

    @property
    def class_names(self) -> tuple[str, ...]:
        """What the labels of images to come mean."""
        vocabulary = _vocabulary(self._words.vocabulary)
        return self.student.bundle.class_names if vocabulary is None else vocabulary.legend_names

    def prepare(self, camera: Camera, grid_from_camera: RigidTransform, parameters: NodeParameters) -> None:
        """Have the completer built before an image needs it; never for something older than a waiting image has."""
        self._to_prepare.append(lambda: self.student.prepare(camera, grid_from_camera, parameters))
        self._worker.prepare(self._prepare)

    def submit(self, frame: Frame) -> None:
        """Complete an image, unless a newer one comes before its turn."""
        with self._choosing:  # no image with the words before comes after one with the next
            frame.words, frame.epoch = self._words, self._epoch
            self._worker.submit(frame)

    def end_activation(self) -> None:
        """Publish nothing any more of the images submitted so far."""
        with self._publishing:
            self._epoch = self._epoch._replace(activation=self._epoch.activation + 1)
        given_up = self._worker.give_up()
        if given_up is not None:
            self._drop(given_up, DropReason.DEACTIVATED)

    def forget(self) -> None:
        """Use nothing of the images before for those that are submitted from now on: time began anew."""
        self._epoch = self._epoch._replace(era=self._epoch.era + 1)

    def select(self, change: Callable[[Words], Words]) -> None:
        """Compare images to come with other words. Any thread."""
        with self._choosing:
            self._words = change(self._words)
        self._worker.prepare(self._prepare)

    def close(self) -> None:
        """End the thread and release the student; both later, where the thread is busy for long."""
        self.end_activation()
        if not self._worker.close(CLOSE_TIMEOUT_S):
            self._logger.warning(
                f"the inference thread did not end within {CLOSE_TIMEOUT_S:.0f} s; it ends after its present work"
            )

    def _handle(self, frame: Frame) -> None:
        self._in_hand = frame
        self._take(frame.words)
        if self._results_wanted():
            with_labels = self._outputs.labels_wanted()
            completed = self._completing.complete(frame, with_query=self._outputs.query.wanted, with_labels=with_labels)
            if completed and self._published(frame):
                self._scaling.follow(frame)
        else:
            self._counters.count("unwanted")
        self._in_hand = None

    def _published(self, frame: Frame) -> bool:
        completed_s = time.perf_counter()
        with self._publishing:
            if frame.epoch.activation != self._epoch.activation:
                self._drop(frame, DropReason.DEACTIVATED)
                return False
            self._outputs.publish(frame)
            self._in_hand = None  # whatever fails from here on, it was published
            published_s = time.perf_counter()
            self._counters.count("processed")
            times_ms = {
                **frame.completion.timings_ms,
                "decode": frame.decode_ms,
                "publish": 1e3 * (published_s - completed_s),
                "latency": 1e3 * (published_s - frame.arrived_s),
            }
            self.record.completed(times_ms)
            self._outputs.publish_times(frame, times_ms)
        return True

    def _prepare(self) -> None:
        if self._to_prepare:  # what comes meanwhile is prepared after an image that waits
            self._to_prepare.pop()()
        compile_kernel()  # of clouds, so that the first one is as fast as any
        self._take(self._words)

    def _take(self, words: Words) -> None:
        """Take the words of the next image; all before it is published by now."""
        before, self._now = self._now, words
        if words.vocabulary is not before.vocabulary:
            vocabulary = _vocabulary(words.vocabulary)
            self._outputs.publish_legend(self.student.bundle, vocabulary)
            self.record.words.change(classes=() if vocabulary is None else vocabulary.names, asked=True)
        if words.queried is not before.queried:
            query = _vocabulary(words.queried)
            self._outputs.query.choose(query)
            self.record.words.change(phrases=() if query is None else query.names, asked=True)

    def _results_wanted(self) -> bool:
        """Whether a result has a subscriber; a change is logged, since an idle node resembles a broken one."""
        wanted = self._outputs.wanted()
        if wanted != self._wanted:
            self._wanted = wanted
            self._logger.info(
                "the node completes images again"
                if wanted
                else "voxels and depth have no subscribers: the node completes no image until one has"
            )
        return wanted

    def _release(self) -> None:
        self._scaling.close()
        self.student.release()

    def _on_error(self, error: Exception) -> None:
        frame, self._in_hand = self._in_hand, None  # none where it was a preparation
        self._counters.drop_after(error, None if frame is None else frame.header)

    def _drop(self, frame: Frame, reason: DropReason) -> None:
        self._counters.drop(reason, header=frame.header)


def _vocabulary(words: FoldedVocabulary | None) -> Vocabulary | None:
    return None if words is None else words.vocabulary
