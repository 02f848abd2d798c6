"""The thread in which a scene goes through the stages: completed, joined with earlier ones, published."""

import functools
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import CancelledError, Future
from typing import Any, TypeVar

from scene_completion_ros.errors import GpuError, SceneCompletionError
from scene_completion_ros.geometry.cameras import Camera
from scene_completion_ros.geometry.grids import VoxelGrid
from scene_completion_ros.geometry.transforms import RigidTransform
from scene_completion_ros.inference.label_query import FoldedVocabulary, Words
from scene_completion_ros.inference.text_bank import Vocabulary
from scene_completion_ros.messages.drop_reasons import DropReason
from scene_completion_ros.ros.frame import Epoch, Frame, PoseToCome, Scene, Student
from scene_completion_ros.ros.health.diagnostics import InferenceRecord, meaning_of
from scene_completion_ros.ros.health.judgement import FrameCounters
from scene_completion_ros.ros.image_completion import Completing, Scaling, Sensing
from scene_completion_ros.ros.parameters import NodeParameters
from scene_completion_ros.ros.publishers import Outputs
from scene_completion_ros.ros.scene_memory import SceneMemory
from scene_completion_ros.ros.waiting import NewestWorker

CLOSE_TIMEOUT_S = 5.0
_MEMORY = "/memory"  # no name of a camera
Result = TypeVar("Result")


class InferenceThread:
    """Takes the newest scene, and hands it from stage to stage, in a thread of its own.

    A scene brings along calibration, pose and parameters, of when its images arrived, and gets the words here.
    """

    def __init__(
        self,
        student: Student,  # what completes images; released where this thread ends
        grid: VoxelGrid,
        outputs: Outputs,  # where results go; they must outlive this thread
        counters: FrameCounters,
        logger: Any,
        vocabulary: FoldedVocabulary | None = None,  # what labels mean at first; None for the classes of the bundle
    ) -> None:
        self._outputs, self._counters, self._logger = outputs, counters, logger
        # Whoever holds the lock either publishes or ends the activation, so that after its end nothing is published.
        self._publishing = threading.Lock()
        self._epoch = Epoch(0, 0)
        self._overtaken_by: DropReason = DropReason.DEACTIVATED
        self.enabled = True  # images are completed; otherwise they are dropped as they come
        self.record = InferenceRecord(student, _vocabulary(vocabulary))  # what became of the last images
        self._to_prepare: dict[str, Callable[[], object]] = {}
        self._choosing = threading.Lock()
        self.student = student
        self._words = Words(vocabulary)  # those of images to come
        self._released = False
        self._between: deque[tuple[Callable[[SceneMemory, Sequence[str], Epoch], object], Future[Any]]] = deque()
        # These six belong to the inference thread.
        self._now = self._words
        self._in_hand: tuple[Frame, ...] = ()
        self._scaling = Scaling(self.record.scales)
        sensing = Sensing(self.record.depth, counters)
        self._completing = Completing(student, counters, logger, self._scaling, sensing)
        self._memory = SceneMemory(grid, student.bundle, counters, self.record.fusion)
        self._wanted = True
        self._worker: NewestWorker[Scene] = NewestWorker(
            self._handle,
            on_replaced=lambda replaced: self._drop(replaced.frames, DropReason.NEWER_IMAGE),
            on_error=self._on_error,
            on_end=self._release,
        )
        self.record.busy_s = lambda: self._worker.busy_s

    @property
    def class_names(self) -> tuple[str, ...]:
        """What the labels of images to come mean."""
        return self._names(self._words)

    def prepare(self, name: str, camera: Camera, grid_from_camera: RigidTransform, parameters: NodeParameters) -> None:
        """Have the completer built before an image needs it; never for something older than a waiting image has."""
        self._to_prepare[name] = lambda: self.student.prepare(name, camera, grid_from_camera, parameters)
        self._to_prepare[_MEMORY] = functools.partial(self._memory.prepare, grid_from_camera, parameters)
        self._worker.prepare(self._prepare)

    def submit(self, frames: tuple[Frame, ...], parameters: NodeParameters, pose: PoseToCome | None = None) -> None:
        """Complete images that belong together, unless newer ones come before their turn (see `Scene`)."""
        with self._choosing:  # no image with the words before comes after one with the next
            if self.enabled:
                self._worker.submit(Scene(frames, parameters, self._words, self._epoch, pose))
                return
        self._drop(frames, DropReason.DISABLED)

    def end_activation(self, reason: DropReason = DropReason.DEACTIVATED) -> None:
        """Publish nothing any more of the images submitted so far, which are counted under a reason."""
        with self._publishing:
            self._epoch = self._epoch._replace(activation=self._epoch.activation + 1)
            self._overtaken_by = reason
        given_up = self._worker.give_up()
        if given_up is not None:
            self._drop(given_up.frames, reason)
        if self._between:  # what was given up may have been to do that
            self._worker.prepare(self._prepare)

    def set_enabled(self, enabled: bool) -> None:
        """Complete images, or drop them; once disabled, nothing is published of those submitted so far either."""
        self.enabled = enabled
        if not enabled:
            self.end_activation(DropReason.DISABLED)

    def reset(self) -> None:
        """Forget what the images so far have left behind, and publish nothing more of them.

        A stage forgets what it keeps from one image to the next where it meets an image of another epoch.
        """
        self.end_activation(DropReason.RESET)
        self.record.forget()

    def forget(self) -> None:
        """Join no image that is submitted from now on with those before it: time began anew."""
        self._epoch = self._epoch._replace(era=self._epoch.era + 1)

    def select(self, change: Callable[[Words], Words]) -> None:
        """Compare images to come with other words. Any thread."""
        with self._choosing:
            self._words = change(self._words)
        self._worker.prepare(self._prepare)

    def with_memory(self, work: Callable[[SceneMemory, Sequence[str], Epoch], Result]) -> Result:
        """Have work done with what is remembered, the classes of labels and the epoch of now.

        It is done in this thread before the next image, and another thread waits for that. Raises SceneCompletionError
        where the thread ends before, and what the work raises.
        """
        done: Future[Any] = Future()
        self._between.append((work, done))
        self._worker.prepare(self._prepare)
        if self._released:
            done.cancel()
        try:
            result: Result = done.result()
        except CancelledError:
            what = "the node released everything meanwhile"
            raise SceneCompletionError(what, cure="Configure it, and try again") from None
        return result

    def close(self) -> None:
        """End the thread and release the student; both later, where the thread is busy for long."""
        self.end_activation()
        if not self._worker.close(CLOSE_TIMEOUT_S):
            self._logger.warning(
                f"the inference thread did not end within {CLOSE_TIMEOUT_S:.0f} s; it ends after its present work"
            )

    def _handle(self, scene: Scene) -> None:
        self._in_hand = scene.frames
        self._do_between()
        self._take(scene.words)
        if self._results_wanted():
            with_labels = self._outputs.labels_wanted(scene.parameters)
            self._completing.complete(scene, with_query=self._outputs.query.wanted, with_labels=with_labels)
            self._in_hand = scene.frames
            if scene.frames and self._joined_and_published(scene):
                self._scaling.follow(scene)
        else:
            for _ in scene.frames:
                self._counters.count("unwanted")
        self._in_hand = ()

    def _joined_and_published(self, scene: Scene) -> bool:
        joining_s = time.perf_counter()
        try:
            self._memory.join(scene)
        except GpuError as error:  # what is known of all voxels is fetched from there
            self.student.gpu_failed(error, scene.parameters)
            self._drop(scene.frames, DropReason.GPU_FAILED, str(error))
            return False
        joined_s = time.perf_counter()
        with self._publishing:
            if scene.epoch.activation != self._epoch.activation:
                self._drop(scene.frames, self._overtaken_by)
                return False
            self._outputs.publish(scene)
            self._in_hand = ()  # whatever fails from here on, they were published
            published_s = time.perf_counter()
            for _ in scene.frames:
                self._counters.count("processed")
            times_ms = _times_ms(scene, joining_s, joined_s, published_s)
            self.record.completed(times_ms)
            self._outputs.publish_times(scene, times_ms)
        return True

    def _prepare(self) -> None:
        self._do_between()
        for name in list(self._to_prepare):  # what is added meanwhile comes after an image that waits
            self._to_prepare.pop(name)()
        self._outputs.prepare()
        self._take(self._words)

    def _take(self, words: Words) -> None:
        """Take the words of the next image; all before it is published by now."""
        before, self._now = self._now, words
        if words.vocabulary is not before.vocabulary:
            vocabulary = _vocabulary(words.vocabulary)
            self._memory.relabel()
            self._outputs.publish_legend(self.student.bundle, vocabulary)
            record = self.record.words
            record.change(changed=record.report.changed + 1, **meaning_of(vocabulary))
        if words.queried is not before.queried:
            query = _vocabulary(words.queried)
            self._outputs.query.choose(query)
            self.record.words.change(phrases=() if query is None else query.names)

    def _names(self, words: Words) -> tuple[str, ...]:
        vocabulary = _vocabulary(words.vocabulary)
        return self.student.bundle.class_names if vocabulary is None else vocabulary.legend_names

    def _results_wanted(self) -> bool:
        """Whether anybody wants a result; a change is logged, for an idle node looks like a broken one."""
        wanted = self._outputs.wanted()
        if wanted != self._wanted:
            self._wanted = wanted
            self._logger.info(
                "the node completes images again"
                if wanted
                else "nobody subscribed to voxels or depth: the node completes no image until somebody does"
            )
        return wanted

    def _do_between(self) -> None:
        while self._between:
            work, done = self._between.popleft()
            try:
                self._take(self._words)
                result = work(self._memory, self._names(self._now), self._epoch)
            except Exception as error:
                done.set_exception(error)
            else:
                done.set_result(result)

    def _release(self) -> None:
        self._scaling.close()
        self.student.release()
        self._released = True
        for _, done in self._between:
            done.cancel()

    def _on_error(self, error: Exception) -> None:
        frames, self._in_hand = self._in_hand, ()  # none where it was a preparation
        for header in [frame.header for frame in frames] or [None]:
            self._counters.drop_after(error, header)

    def _drop(self, frames: tuple[Frame, ...], reason: DropReason, why: str = "") -> None:
        for frame in frames:
            self._counters.drop(reason, why, header=frame.header)


def _times_ms(scene: Scene, joining_s: float, joined_s: float, published_s: float) -> Mapping[str, float]:
    """Milliseconds by stage (see `topics.STAGES`), those of several cameras together."""
    completions = [frame.completion for frame in scene.frames]
    stages = {stage: sum(one.timings_ms[stage] for one in completions) for stage in completions[0].timings_ms}
    return {
        **stages,
        "decode": sum(frame.decode_ms for frame in scene.frames),
        "fuse": 1e3 * (joined_s - joining_s),
        "total": stages["total"] + 1e3 * (joined_s - joining_s),
        "publish": 1e3 * (published_s - joined_s),
        "latency": 1e3 * (published_s - min(frame.arrived_s for frame in scene.frames)),
    }


def _vocabulary(words: FoldedVocabulary | None) -> Vocabulary | None:
    return None if words is None else words.vocabulary
