"""A second student behind the deployed one: it completes every n-th image, and what both said is compared."""

from __future__ import annotations

import threading
import time
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from scene_completion_ros.errors import GpuError
from scene_completion_ros.evaluation.student_comparison import (
    ComparedFrame,
    StudentAnswer,
    StudentComparison,
    compared_voxels,
)
from scene_completion_ros.geometry.grids import VoxelGrid
from scene_completion_ros.geometry.resampling import decoder_shrink
from scene_completion_ros.geometry.transforms import RigidTransform
from scene_completion_ros.inference.bundle import StudentBundle
from scene_completion_ros.inference.completer import Completer, Completion
from scene_completion_ros.messages.images import decode_image
from scene_completion_ros.ros.completion.scene import Life
from scene_completion_ros.ros.completion.view_completers import ViewCompleters
from scene_completion_ros.ros.health.shadow_health import ShadowRecord
from scene_completion_ros.ros.inputs.waiting_room import NotYetError
from scene_completion_ros.ros.parameters.schema import NodeParameters

MOST_WAITING = 32
"""Frames that wait to be compared, of about a megabyte each."""
_POSE_SLACK_S = 1.0

PoseToCome: TypeAlias = "Future[RigidTransform | NotYetError]"
"""Pose of the grid in the odometry frame at the stamp of an image, or why there is none, once that is known."""


class Student:
    """A student with its models of the node's cameras.

    Attributes:
        lock: Held by whoever prepares models of a student that is not deployed, and by the shadow that uses them.
    """

    def __init__(self, completers: ViewCompleters) -> None:
        self.completers = completers
        self.lock = threading.Lock()

    @property
    def bundle(self) -> StudentBundle:
        """What it was made of."""
        return self.completers.bundle

    @property
    def named(self) -> str:
        """Its name and its folder: two students of one name are often compared."""
        return f"{self.bundle.name} ({self.bundle.folder})"


@dataclass(frozen=True, eq=False)
class FollowedImage:
    """An image whose completion was published.

    Attributes:
        name: Name of its camera; empty where there is one camera only.
        completer: What completed it.
        pose: Pose of the grid in the odometry frame, as far as it is known; None where nothing says it.
    """

    name: str
    message: Any
    completer: Completer
    completion: Completion
    pose: RigidTransform | NotYetError | PoseToCome | None
    life: Life
    parameters: NodeParameters


class Shadow:
    """Has the student that is not deployed complete every n-th image, and compares what both said.

    Completing belongs to the inference thread. Comparing has a thread of its own, for it waits for poses. Where
    `MOST_WAITING` frames wait for it, it leaves out further ones and counts them.

    Attributes:
        record: What came of it.
    """

    def __init__(self, grid: VoxelGrid, logger: Any) -> None:
        self._grid = grid
        self._logger = logger
        self.record = ShadowRecord()
        self._students: tuple[Student, Student] | None = None
        self._comparison: StudentComparison | None = None
        self._life: Life | None = None
        self._number = 0
        self._waiting: deque[Future[None]] = deque()
        self._comparing = ThreadPoolExecutor(1, "comparison")

    def follow_with(self, first: Student, second: Student) -> None:
        """Compare two students from now on, from nothing. Any thread."""
        self._students = first, second
        self._comparison = StudentComparison(self._grid, (first.bundle.threshold, second.bundle.threshold))
        self.record.began(first.named, second.named)

    def wants(self, parameters: NodeParameters) -> bool:
        """Whether this completed image is an n-th one."""
        if not parameters.shadow_every or self._students is None:
            return False
        self._number += 1
        return self._number % parameters.shadow_every == 0

    def skip(self, why: str) -> None:
        """An n-th image is not completed."""
        self.record.skipped(why)

    def follow(self, image: FollowedImage, deployed: Student) -> None:
        """Complete an image by the student that is not deployed; whatever fails there is recorded, and no more."""
        students, comparison = self._students, self._comparison
        if students is None or comparison is None or deployed not in students:
            return
        student = students[1 - students.index(deployed)]
        if not student.lock.acquire(blocking=False):
            self.record.skipped("the student was being prepared")
            return
        try:
            started_s = time.perf_counter()
            frame = self._completed(image, student, students.index(deployed))
            if frame is not None:
                self.record.completed(1e3 * (time.perf_counter() - started_s))
                self._waiting.append(self._comparing.submit(self._compare, comparison, image, frame))
        except GpuError as error:
            student.completers.gpu_failed(error, image.parameters)
            self._on_error(error)
        except Exception as error:  # what runs beside the deployed student must not harm it
            self._on_error(error)
        finally:
            student.lock.release()

    def _completed(self, image: FollowedImage, student: Student, deployed: int) -> ComparedFrame | None:
        """What both students said of an image; None where the second one is not prepared for it."""
        while self._waiting and self._waiting[0].done():
            self._waiting.popleft()
        if len(self._waiting) >= MOST_WAITING:
            self.record.skipped("the comparison of earlier images went on")
            return None
        first, parameters = image.completer, image.parameters
        if not student.completers.knows(image.name, first.camera, parameters):
            self.record.skipped("the student was not prepared for this camera yet")
            return None
        second = student.completers.get(image.name, first.camera, first.grid_from_camera, parameters)
        if second is None:
            return None
        voxels = compared_voxels(first.in_view & second.in_view)
        said = [_answer(image.completion, voxels)]  # before the next image, which a GPU would overwrite it with
        pixels = decode_image(image.message, decoder_shrink(second.camera, student.bundle.canonical))
        said.append(_answer(second.complete(pixels, image.completion.voxels.stamp_ns), voxels))
        stamp_ns, pose = image.completion.voxels.stamp_ns, image.completion.voxels.grid_from_camera
        return ComparedFrame(stamp_ns, (said[deployed], said[1 - deployed]), voxels, pose, None)

    def _compare(self, comparison: StudentComparison, image: FollowedImage, frame: ComparedFrame) -> None:
        try:
            self._add(comparison, image, frame)
        except Exception as error:
            self._on_error(error)

    def _add(self, comparison: StudentComparison, image: FollowedImage, frame: ComparedFrame) -> None:
        if image.life != self._life:
            comparison.interrupt()
            self._life = image.life
        pose = image.pose
        if isinstance(pose, Future):
            pose = pose.result(image.parameters.transform_timeout + _POSE_SLACK_S)
        if isinstance(pose, NotYetError):
            self.record.without_pose(str(pose))
            pose = None
        comparison.add(frame.at(pose))
        if comparison is self._comparison:
            self.record.compared(comparison.report())

    def close(self) -> None:
        """End the comparison; what is done now is not waited for."""
        self._comparing.shutdown(wait=False, cancel_futures=True)

    def _on_error(self, error: Exception) -> None:
        why = f"{type(error).__name__}: {error}"
        if self.record.failed(why):
            self._logger.warning(f"the shadow student failed, and the deployed one goes on: {why}")


def _answer(completion: Completion, voxels: np.ndarray[Any, np.dtype[np.int64]]) -> StudentAnswer:
    probability = np.asarray(completion.probability).reshape(-1)[voxels]
    return StudentAnswer(probability, completion.shown_depth, completion.depth_camera)
