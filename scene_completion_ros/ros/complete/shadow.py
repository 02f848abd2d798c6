"""A second student behind the deployed one: it completes every n-th image, and their answers are compared."""

import time
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

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
from scene_completion_ros.inference.completer import Completion
from scene_completion_ros.ros.conversions import to_rgb
from scene_completion_ros.ros.frame import Epoch, Frame, NotYetError, PoseToCome, Scene
from scene_completion_ros.ros.health.shadow_health import ShadowRecord
from scene_completion_ros.ros.parameters.schema import NodeParameters
from scene_completion_ros.ros.student import Student

MOST_WAITING = 32  # frames that wait to be compared, of about a megabyte each
_POSE_SLACK_S = 1.0


class Shadow:
    """Has the student that is not deployed complete every n-th image, and compares their answers.

    Completing belongs to the inference thread. Comparing has a thread of its own, for it waits for poses. Where
    `MOST_WAITING` frames wait for it, it leaves out further ones and counts them.
    """

    def __init__(self, grid: VoxelGrid, logger: Any) -> None:
        self._grid, self._logger = grid, logger
        self.record = ShadowRecord()  # what came of it
        self._students: tuple[Student, Student] | None = None
        self._comparison: StudentComparison | None = None
        self._epoch: Epoch | None = None
        self._number = 0
        self._waiting: deque[Future[None]] = deque()
        self._comparing = ThreadPoolExecutor(1, "comparison")

    def follow_with(self, first: Student, second: Student) -> None:
        """Compare two students from now on, from nothing. Any thread."""
        self._students = first, second
        self._comparison = StudentComparison(self._grid, (first.bundle.threshold, second.bundle.threshold))
        self.record.began(first.title, second.title)

    def wants(self, parameters: NodeParameters) -> bool:
        """Whether this completed image is an n-th one."""
        if not parameters.shadow_every or self._students is None:
            return False
        self._number += 1
        return self._number % parameters.shadow_every == 0

    def follow(self, scene: Scene) -> None:
        """Complete the first image of a published scene by the other student; what fails there is recorded, no more."""
        students, comparison, deployed = self._students, self._comparison, scene.selection.student
        if students is None or comparison is None or deployed not in students:
            return
        student = students[1 - students.index(deployed)]
        if not student.lock.acquire(blocking=False):
            self.record.skipped("the student was being prepared")
            return
        try:
            started_s = time.perf_counter()
            compared = self._completed(scene.frames[0], deployed, student, students.index(deployed))
            if compared is not None:
                self.record.completed(1e3 * (time.perf_counter() - started_s))
                pose = scene.placement.odometry_from_grid or scene.pose
                timeout_s = scene.parameters.transform_timeout + _POSE_SLACK_S
                # Not the scene itself, which is large.
                waiting = self._comparing.submit(self._compare, comparison, compared, scene.epoch, pose, timeout_s)
                self._waiting.append(waiting)
        except GpuError as error:
            student.gpu_failed(error, scene.parameters)
            self._on_error(error)
        except Exception as error:  # what runs beside the deployed student must not harm it
            self._on_error(error)
        finally:
            student.lock.release()

    def _completed(self, frame: Frame, deployed: Student, student: Student, place: int) -> ComparedFrame | None:
        """What both students say of an image, None if one is not prepared; `place`: of the deployed one of the two."""
        while self._waiting and self._waiting[0].done():
            self._waiting.popleft()
        if len(self._waiting) >= MOST_WAITING:
            self.record.skipped("the comparison of earlier images went on")
            return None
        first, parameters = deployed.completer(frame.name), frame.parameters
        if first is None:
            return None
        if not student.knows(frame.name, first.camera, parameters):
            self.record.skipped("the student was not prepared for this camera yet")
            return None
        upright = frame.placement.upright_from_camera(parameters)
        second = student.get(frame.name, first.camera, first.grid_from_camera, parameters, upright)
        if second is None:
            return None
        voxels = compared_voxels(first.in_view & second.in_view)
        stamp_ns, pose = frame.completion.voxels.stamp_ns, frame.completion.voxels.grid_from_camera
        answers = [_answer(frame.completion, voxels)]  # before the next image, which a GPU would overwrite it with
        pixels = to_rgb(frame.message, decoder_shrink(second.camera, student.bundle.canonical))
        answers.append(_answer(second.complete(pixels, stamp_ns), voxels))
        return ComparedFrame(stamp_ns, (answers[place], answers[1 - place]), voxels, pose, None)

    def _compare(
        self,
        comparison: StudentComparison,
        frame: ComparedFrame,
        epoch: Epoch,
        pose: RigidTransform | NotYetError | PoseToCome | None,
        timeout_s: float,
    ) -> None:
        try:
            if epoch != self._epoch:
                comparison.interrupt()
                self._epoch = epoch
            if isinstance(pose, Future):
                pose = pose.result(timeout_s)
            if isinstance(pose, NotYetError):
                self.record.without_pose(str(pose))
                pose = None
            comparison.add(frame.at(pose))
            if comparison is self._comparison:
                self.record.compared(comparison.report())
        except Exception as error:
            self._on_error(error)

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
