"""The life of one image in the inference thread: decoded, completed, published."""

from __future__ import annotations

import functools
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scene_completion_ros.errors import BundleError, CameraError, GpuError, ImageError
from scene_completion_ros.geometry.cameras import Camera
from scene_completion_ros.geometry.grids import VoxelGrid
from scene_completion_ros.geometry.resampling import decoder_shrink
from scene_completion_ros.geometry.transforms import RigidTransform
from scene_completion_ros.inference.bundle import StudentBundle
from scene_completion_ros.inference.completer import Completion
from scene_completion_ros.inference.phrase_query import NO_WORDS, FoldedVocabulary, Words
from scene_completion_ros.inference.text_bank import Vocabulary
from scene_completion_ros.jit import kernel_threads
from scene_completion_ros.mapping.camera_fusion import fuse_views
from scene_completion_ros.messages.drop_reasons import DropReason
from scene_completion_ros.messages.images import announced_size, decode_image
from scene_completion_ros.ros.completion.placements import Placement
from scene_completion_ros.ros.completion.record_triggers import RecordTriggers
from scene_completion_ros.ros.completion.scene import Life, Scene, SceneMemory, View
from scene_completion_ros.ros.completion.shadow import FollowedImage, PoseToCome, Shadow, Student
from scene_completion_ros.ros.completion.view_completers import ViewCompleters
from scene_completion_ros.ros.completion.worker import NewestWorker
from scene_completion_ros.ros.health.counters import FrameCounters
from scene_completion_ros.ros.health.inference_health import InferenceRecord, Result
from scene_completion_ros.ros.messages import stamp_nanoseconds
from scene_completion_ros.ros.outputs.publishers import Outputs
from scene_completion_ros.ros.parameters.schema import NodeParameters
from scene_completion_ros.voxels.semantic_voxels import SemanticVoxels

CLOSE_TIMEOUT_S = 5.0
_MEMORY = "/memory"  # no name of a camera


@dataclass(frozen=True)
class ArrivedImage:
    """An image message, where its voxels lie, and the calibration of when it arrived.

    Attributes:
        name: Name of its camera; empty where there is one camera only.
        arrived_s: When it arrived (`time.perf_counter`).
        topic: Where it came from, for warnings.
    """

    name: str
    message: Any
    camera: Camera
    placement: Placement
    arrived_s: float
    topic: str


@dataclass(frozen=True, eq=False)
class Deployed:
    """What completes images: a student, and what its voxels are compared with."""

    student: Student
    words: Words


@dataclass(frozen=True)
class ArrivedSet:
    """The image of the one camera, or images of several that belong together.

    Attributes:
        views: At least one.
        parameters: Those of when the last one arrived.
        deployed: The student and the words of that moment.
        pose: Becomes the pose of the grid in the odometry frame; None where nobody asks for it.
        activation: Number of the node's activation in which they arrived.
        era: How often time had begun anew when they arrived.
    """

    views: tuple[ArrivedImage, ...]
    parameters: NodeParameters
    deployed: Deployed
    pose: PoseToCome | None
    activation: int
    era: int

    @property
    def life(self) -> Life:
        """What is remembered of images of another life is of no use to these."""
        return self.activation, self.era


class CompletionThread:
    """Completes the newest image and publishes what became of it, in a thread of its own.

    It takes calibration, pose, parameters and student from the image, which got them when it arrived. An image that
    cannot be used is dropped, counted and warned about; one that nobody subscribed to the results of is only counted.

    Args:
        bundle: The student that is deployed at first.
        outputs: Where results go; they must outlive this thread.
        vocabulary: What labels mean at first; None for the classes of the bundle.

    Attributes:
        enabled: Images are completed; otherwise they are dropped as they come.
        record: What became of the model and of the last images.
        shadow: What runs behind the deployed student.
        cameras: What a student has to be prepared for: camera, pose in the grid and parameters, by name.
    """

    def __init__(
        self,
        bundle: StudentBundle,
        grid: VoxelGrid,
        outputs: Outputs,
        counters: FrameCounters,
        logger: Any,
        vocabulary: FoldedVocabulary | None = None,
    ) -> None:
        self._outputs = outputs
        self._counters = counters
        self._logger = logger
        # Whoever holds the lock either publishes or ends the activation, so that after its end nothing is published.
        self._publishing = threading.Lock()
        self._activation = self._era = 0
        self._overtaken_by: DropReason = DropReason.DEACTIVATED
        self.enabled = True
        self.record = InferenceRecord(_said(vocabulary))
        self._to_prepare: dict[str, Callable[[], object]] = {}
        self._choosing = threading.Lock()
        first = Student(ViewCompleters(bundle, grid, logger, self.record))
        self.record.student = first.named
        self._next = Deployed(first, Words(vocabulary, NO_WORDS.asked))  # of images to come
        self._students = [first]
        self.cameras: dict[str, tuple[Camera, RigidTransform, NodeParameters]] = {}
        self._released = False
        self._between: deque[tuple[Callable[[], object], Future[None]]] = deque()
        self.shadow = Shadow(grid, logger)
        # These seven belong to the inference thread.
        self._now = self._next
        self._in_hand: tuple[ArrivedImage, ...] = ()
        self._resized: dict[str, Camera] = {}
        self._completers = first.completers
        self._memory = SceneMemory(grid, bundle.threshold, counters, self.record.fusion)
        self._triggers = RecordTriggers(outputs.ask_for_recording, counters)
        self._wanted = True
        self._worker: NewestWorker[ArrivedSet] = NewestWorker(
            self._take_in_hand,
            on_replaced=lambda replaced: self._drop(replaced, DropReason.NEWER_IMAGE),
            on_error=self._on_inference_error,
            on_end=self._release,
        )

    def prepare(self, name: str, camera: Camera, grid_from_camera: RigidTransform, parameters: NodeParameters) -> None:
        """Have the completer built before an image needs it; never for something older than a waiting image has."""
        self.cameras[name] = camera, grid_from_camera, parameters
        self._to_prepare[name] = lambda: self._completers.prepare(name, camera, grid_from_camera, parameters)
        self._to_prepare[_MEMORY] = functools.partial(self._memory.prepare, grid_from_camera, parameters)
        self._worker.prepare(self._prepare)

    def submit(
        self, views: tuple[ArrivedImage, ...], parameters: NodeParameters, pose: PoseToCome | None = None
    ) -> None:
        """Complete images that belong together, unless newer ones come before their turn (see `ArrivedSet`)."""
        with self._choosing:  # no image of the student before comes after one of the next
            arrived = ArrivedSet(views, parameters, self._next, pose, self._activation, self._era)
            if self.enabled:
                self._worker.submit(arrived)
                return
        self._drop(arrived, DropReason.DISABLED)

    def end_activation(self, reason: DropReason = DropReason.DEACTIVATED) -> None:
        """Publish nothing any more of the images submitted so far, which are counted under a reason.

        The completer stays.
        """
        with self._publishing:
            self._activation += 1
            self._overtaken_by = reason
        given_up = self._worker.give_up()
        if given_up is not None:
            self._drop(given_up, reason)

    def set_enabled(self, enabled: bool) -> None:
        """Complete images, or drop them; once disabled, nothing is published of those submitted so far either."""
        self.enabled = enabled
        if not enabled:
            self.end_activation(DropReason.DISABLED)

    def reset(self) -> None:
        """Forget what the images so far have left behind, and publish nothing more of them.

        Whatever is kept from one image to the next is forgotten where the inference thread meets an image of another
        life than the last one.
        """
        self.end_activation(DropReason.RESET)
        self.record.forget()

    def forget(self) -> None:
        """Join no image that is submitted from now on with those before it: time began anew."""
        self._era += 1

    def use(self, vocabulary: FoldedVocabulary | None) -> None:
        """Name the voxels of images to come by a vocabulary; None for the classes of the bundle. Any thread."""
        self._choose(words=lambda words: words._replace(vocabulary=vocabulary))

    def ask(self, query: FoldedVocabulary | None) -> None:
        """Look for phrases in images to come; None for no more. Any thread."""
        self._choose(words=lambda words: words._replace(asked=query))

    def deploy(self, student: Student, words: Words) -> None:
        """Complete images to come by a student that is prepared for `cameras`. Any thread."""
        self._choose(student, lambda _: words)

    def _choose(self, student: Student | None = None, words: Callable[[Words], Words] = lambda words: words) -> None:
        with self._choosing:
            self._next = Deployed(student or self._next.student, words(self._next.words))
        self._worker.prepare(self._prepare)

    @property
    def deployed(self) -> Student:
        """The student of images to come."""
        return self._next.student

    @property
    def class_names(self) -> tuple[str, ...]:
        """What the labels of images to come mean."""
        return self.class_names_of(self.deployed)

    def class_names_of(self, student: Student) -> tuple[str, ...]:
        """What they would mean if another student were deployed."""
        vocabulary = self._next.words.vocabulary
        return student.bundle.class_names if vocabulary is None else vocabulary.vocabulary.legend_names

    @property
    def trained_height(self) -> float:
        """Height above the ground of the cameras that the student of images to come was trained with, metres."""
        return self.deployed.bundle.height_above_ground

    def attend(self, student: Student) -> None:
        """Release another student, too, where this thread ends."""
        self._students.append(student)

    def between(self, work: Callable[[], object]) -> Future[None]:
        """Do something in this thread, to which what is on a GPU belongs, before the next image; cancelled at its end.

        Errors are those of the future.
        """
        done: Future[None] = Future()
        if self._released:
            done.cancel()
            return done
        self._between.append((work, done))
        self._worker.prepare(self._prepare)
        return done

    def close(self) -> None:
        """End the thread and release the completer; both later, where the thread is busy for long."""
        self.end_activation()
        if not self._worker.close(CLOSE_TIMEOUT_S):
            self._logger.warning(
                f"the inference thread did not end within {CLOSE_TIMEOUT_S:.0f} s; it ends after its present work"
            )
        self.shadow.close()

    def _release(self) -> None:
        for student in self._students:
            student.completers.release()
        self._released = True
        for _, done in self._between:
            done.cancel()

    def _do_between(self) -> None:
        while self._between:
            work, done = self._between.popleft()
            try:
                work()
            except Exception as error:
                done.set_exception(error)
            else:
                done.set_result(None)

    def _prepare(self) -> None:
        self._do_between()
        for name in list(self._to_prepare):  # what is added meanwhile comes after an image that waits
            self._to_prepare.pop(name)()
        self._outputs.prepare()
        self._take(self._next)

    def _take(self, deployed: Deployed) -> None:
        """Take student and words of the next image; all before it is published by now."""
        before, self._now = self._now, deployed
        student, words = deployed.student, deployed.words
        exchanged = student is not before.student
        if exchanged:
            self._completers = student.completers
            self.record.exchange_models(self._completers.record)
            before.student.completers.record, self._completers.record = self._completers.record, self.record
            self.record.student = student.named
            self._memory.decide_by(student.bundle.threshold)
        before_words = before.words
        if exchanged or words.vocabulary is not before_words.vocabulary:
            self._memory.relabel()
            self._outputs.publish_legend(student.bundle, _said(words.vocabulary))
        if words.vocabulary is not before_words.vocabulary:
            self.record.words.named(_said(words.vocabulary))
        if words.asked is not before_words.asked:
            self._outputs.query.ask(_said(words.asked))
            self.record.words.asked(_said(words.asked))

    def _drop(self, images: ArrivedSet, reason: DropReason) -> None:
        for image in images.views:
            self._counters.drop(reason, header=image.message.header)

    def _is_wanted(self, parameters: NodeParameters) -> bool:
        """Whether anybody wants a result; a change is logged, for an idle node looks like a broken one."""
        wanted = self._outputs.wanted(parameters)
        if wanted != self._wanted:
            self._wanted = wanted
            self._logger.info(
                "the node completes images again"
                if wanted
                else "nobody subscribed to voxels or depth: the node completes no image until somebody does"
            )
        return wanted

    def _take_in_hand(self, images: ArrivedSet) -> None:
        self._in_hand = images.views
        self._do_between()
        self._take(images.deployed)
        published = self._complete(images)
        self._in_hand = ()
        if published is not None:
            self._follow(images, *published)

    def _follow(self, images: ArrivedSet, image: ArrivedImage, completion: Completion) -> None:
        """Let the shadow complete an image, too, where none waits that is to be published."""
        if not self.shadow.wants(images.parameters):
            return
        if self._worker.waiting:
            self.shadow.skip("a newer image waited already")
            return
        completer = self._completers.completer(image.name)
        if completer is not None:
            followed = FollowedImage(
                image.name,
                image.message,
                completer,
                completion,
                image.placement.odometry_from_grid or images.pose,
                images.life,
                images.parameters,
            )
            self.shadow.follow(followed, images.deployed.student)

    def _complete(self, images: ArrivedSet) -> tuple[ArrivedImage, Completion] | None:
        """Complete images and publish what they became.

        Returns:
            The first of them; None where nothing was published.
        """
        if not self._is_wanted(images.parameters):
            for _ in images.views:
                self._counters.count_unwanted()
            return None
        words = self._now.words if self._outputs.query.wanted else Words(self._now.words.vocabulary)
        started = [self._complete_view(image, words, images.parameters) for image in images.views]
        done = [(image, *result) for image, result in zip(images.views, started, strict=True) if result is not None]
        self._in_hand = tuple(image for image, *_ in done)
        if not done:
            return None
        views = tuple(View(image.name, image.message.header.frame_id, completion) for image, completion, _ in done)
        fusing_s = time.perf_counter()
        oldest = min((image for image, *_ in done), key=lambda image: stamp_nanoseconds(image.message.header.stamp))
        try:
            voxels, probability = self._fused(views, images.parameters)
            remembering_s = time.perf_counter()
            scene = self._memory.join(
                Scene(voxels, done[0][0].placement, views),
                probability,
                oldest.placement.odometry_from_grid,
                images.life,
                images.parameters,
            )
        except GpuError as error:  # what is known of all voxels is fetched from there
            self._completers.gpu_failed(error, images.parameters)
            for image, *_ in done:
                self._counters.drop(DropReason.GPU_FAILED, str(error), header=image.message.header)
            return None
        completed_s = time.perf_counter()
        with self._publishing:
            if images.activation != self._activation:
                for image, *_ in done:
                    self._counters.drop(self._overtaken_by, header=image.message.header)
                return None
            self._outputs.publish(scene, images.parameters)
            self._in_hand = ()  # whatever fails from here on, they were published
            published_s = time.perf_counter()
            for _ in done:
                self._counters.count_processed()
            times = _summed([{**completion.timings_ms, "decode": decode_ms} for _, completion, decode_ms in done])
            times_ms = {
                **times,
                "assemble": times["assemble"] + 1e3 * (remembering_s - fusing_s),
                "fuse": 1e3 * (completed_s - remembering_s),
                "total": times["total"] + 1e3 * (completed_s - fusing_s),
                "publish": 1e3 * (published_s - completed_s),
                "latency": 1e3 * (published_s - min(image.arrived_s for image, *_ in done)),
            }
            self.record.completed(_result(scene, images.parameters), times_ms)
            self._outputs.publish_times(times_ms)
            if self._outputs.triggers_wanted(images.parameters):
                self._triggers.look(scene, oldest.placement.odometry_from_grid, images.life, images.parameters)
            else:
                self._triggers.forget()
        return done[0][:2]

    def _fused(
        self, views: tuple[View, ...], parameters: NodeParameters
    ) -> tuple[SemanticVoxels, Callable[[], NDArray[np.float32]]]:
        """The voxels of all views together; and what gives the probability of each, which may be on a GPU."""
        if len(views) == 1:
            completion = views[0].completion
            return completion.voxels, lambda: completion.probability
        with kernel_threads(parameters.threads or None):
            voxels, probability = fuse_views(
                [view.completion.voxels for view in views],
                [view.completion.probability for view in views],
                self._completers.bundle.threshold,
            )
        return voxels, lambda: probability

    def _complete_view(
        self, image: ArrivedImage, words: Words, parameters: NodeParameters
    ) -> tuple[Completion, float] | None:
        """The completion of one image, and the milliseconds of decoding it; None where it was dropped."""
        started_s, header = time.perf_counter(), image.message.header
        try:
            camera = self._camera_of(image)  # before decoding: the proportions alone refuse most that is damaged
            pixels = decode_image(image.message, decoder_shrink(camera, self._completers.bundle.canonical))
            decode_ms = 1e3 * (time.perf_counter() - started_s)
            completer = self._completers.get(image.name, camera, image.placement.grid_from_camera, parameters)
            if completer is None:
                self._counters.drop(
                    DropReason.UNUSABLE_CAMERA, "see the error about the camera of these images", header=header
                )
                return None
            self.cameras[image.name] = camera, image.placement.grid_from_camera, parameters
            self._completers.check_mounting(image.name, image.placement, parameters)
            completer.use(words.vocabulary)
            completer.ask(words.asked)
            completion = completer.complete(pixels, stamp_nanoseconds(header.stamp))
            if completion.warning:
                self._counters.warn(f"{image.topic}: blind", f"{image.topic}: {completion.warning}")
            return completion, decode_ms
        except (ImageError, CameraError) as error:
            self._counters.drop(DropReason.BAD_IMAGE, f"{image.topic}: {error}", header=header)
        except GpuError as error:
            self._completers.gpu_failed(error, parameters)
            self._counters.drop(DropReason.GPU_FAILED, str(error), header=header)
        except BundleError as error:
            self._counters.drop(DropReason.NOT_FINITE, str(error), header=header)
        except Exception as error:  # it must not keep the images of other cameras from being completed
            self._drop_after(error, header)
        return None

    def _camera_of(self, image: ArrivedImage) -> Camera:
        width, height = announced_size(image.message)
        camera = image.camera.of_resized_image(width, height)
        if camera is not image.camera and self._resized.get(image.name) != camera:
            self._resized[image.name] = camera
            self._logger.warning(
                f"{image.topic}: images are {width}x{height}, calibrated for {image.camera.width}x"
                f"{image.camera.height}: the node scales the calibration, as for resized images. If they are cropped "
                "instead, publish roi in the CameraInfo"
            )
        return camera

    def _on_inference_error(self, error: Exception) -> None:
        views, self._in_hand = self._in_hand, ()  # none where it was a preparation
        for header in [image.message.header for image in views] or [None]:
            self._drop_after(error, header)

    def _drop_after(self, error: Exception, header: Any) -> None:
        why = f"{type(error).__name__}: {error}; please report this"
        self._counters.drop(DropReason.INTERNAL_ERROR, why, header=header)


def _result(scene: Scene, parameters: NodeParameters) -> Result:
    """What is kept of a scene; the grid then has the name of the frame that it is attached to."""
    grid = replace(scene.voxels.grid, frame=parameters.grid_frame or scene.voxels.grid.frame)
    return Result(replace(scene.voxels, grid=grid), scene.views[0].frame_id)


def _said(words: FoldedVocabulary | None) -> Vocabulary | None:
    return None if words is None else words.vocabulary


def _summed(times: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {stage: sum(part[stage] for part in times) for stage in times[0]}
