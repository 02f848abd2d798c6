"""Which of two students is deployed: the second one is made while the first goes on, and they change places."""

import threading
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import numpy as np

from scene_completion_ros.errors import SceneCompletionError
from scene_completion_ros.geometry.grids import VoxelGrid
from scene_completion_ros.geometry.transforms import RigidTransform
from scene_completion_ros.inference.bundle import StudentBundle
from scene_completion_ros.inference.encoder import check_engine, gpu_is_offered
from scene_completion_ros.inference.shipped import open_student
from scene_completion_ros.ros import dds
from scene_completion_ros.ros.inference_thread import InferenceThread
from scene_completion_ros.ros.newest_worker import NewestWorker
from scene_completion_ros.ros.parameters.declared import DeclaredParameters
from scene_completion_ros.ros.parameters.schema import NodeParameters
from scene_completion_ros.ros.student import Student

LOOK_PERIOD_S = 0.5
CLOSE_TIMEOUT_S = 5.0
WHERE = "parameter shadow.bundle"


def second_student(
    parameters: NodeParameters, grid: VoxelGrid, grid_from_camera: RigidTransform | None
) -> StudentBundle | None:
    """The student of `shadow.bundle`; None where none is named.

    `grid`: the voxels that the node publishes; `grid_from_camera`: pose of the camera in them; None where the grid is
    attached to another frame. Raises SceneCompletionError where it cannot be loaded, has another grid than the node, or
    its engine cannot run here.
    """
    if not parameters.shadow_bundle:
        return None
    bundle = open_student(parameters.shadow_bundle)
    if parameters.occupancy_threshold:
        bundle = replace(bundle, threshold=parameters.occupancy_threshold)
    stands_alike = grid_from_camera is None or np.allclose(
        bundle.grid_from_camera.matrix, grid_from_camera.matrix, atol=1e-6
    )
    if not parameters.grid_file and not (bundle.grid == grid and stands_alike):
        raise SceneCompletionError(
            f"the student {bundle.name} has the grid {bundle.grid}, but the node publishes {grid}, or the camera has "
            "another place in the grid",
            where=WHERE,
            cure="Name one grid for both students in grid.file",
        )
    check_engine(bundle, parameters.engine, parameters.engine_options(), grid)
    return bundle


class Deployment:
    """The student of `bundle` and that of `shadow.bundle`, as long as the node is configured.

    The thread of whoever asks for the second one makes its models. The shadow has one of its own for that. The
    inference thread makes models on a GPU. A steady clock looks twice a second for what the shadow lacks.
    """

    def __init__(
        self,
        node: Any,
        parameters: DeclaredParameters,
        thread: InferenceThread,  # where the first student is deployed
        second: StudentBundle | None,  # the second student; None where there is none
        grid: VoxelGrid,  # the voxels that the node publishes
        # Called with a student to be deployed; raises SceneCompletionError where words or classes that are in use do
        # not fit it, and otherwise deploys it.
        deploy: Callable[[Student, NodeParameters], None],
        resources: ExitStack,
    ) -> None:
        self._parameters, self._thread, self._deploy = parameters, thread, deploy
        self._logger = node.get_logger()
        self._first = thread.selection.student
        self._second: Student | None = None
        if second is None:
            return
        self._second = Student(second, grid, _Prefixed(self._logger, f"second student {second.name}: "))
        thread.students.append(self._second)
        thread.shadow.follow_with(self._first, self._second)
        self._logger.info(f"second student: {self._second.title}")
        self._making = threading.Lock()
        self._worker: NewestWorker[Student] = NewestWorker(
            self._follow, on_replaced=lambda _: None, on_error=self._refuse, name="shadow"
        )
        resources.callback(self._worker.close, CLOSE_TIMEOUT_S)
        dds.steady_timer(node, LOOK_PERIOD_S, self._look, resources)

    def swap(self, parameters: NodeParameters) -> str:
        """Deploy the student that is not deployed, for images that arrive from then on; making it takes seconds.

        Returns which student is deployed now, in words. Raises SceneCompletionError where the other one cannot be; the
        deployed one goes on.
        """
        if self._second is None:
            cure = "Start the node with a folder, a shipped student or hf:owner/name@revision in it"
            raise SceneCompletionError("there is no second student", where=WHERE, cure=cure)
        with self._making:
            deployed, following = self._thread.selection.student, self._other
            self._prepare(following)
            warnings = [text for model in following.record.models.values() for text in model.warnings]
            self._deploy(following, parameters)
        note = f". Beware: {'; '.join(warnings)}" if warnings else ""
        return (
            f"{following.title} is deployed for images that arrive from now on; call ~/swap_bundle again to go back to "
            f"{deployed.title}{note}"
        )

    @property
    def _other(self) -> Student:
        assert self._second is not None
        return self._first if self._thread.selection.student is self._second else self._second

    def _look(self) -> None:
        """Make the models of the shadow once it is asked for, and those for cameras that are new."""
        if self._parameters.snapshot().shadow_every and not self._knows_all(self._other):
            self._worker.submit(self._other)

    def _follow(self, shadow: Student) -> None:
        with self._making:
            if shadow is self._other:
                self._prepare(shadow)
                if self._second is not None and self._thread.shadow.record.report.problem:  # it is over
                    self._thread.shadow.follow_with(self._first, self._second)

    def _refuse(self, error: Exception) -> None:
        why = str(error) if isinstance(error, SceneCompletionError) else f"{type(error).__name__}: {error}"
        self._logger.warning(f"there is no shadow student, and the deployed one goes on: {why}")
        self._thread.shadow.record.refused(why)

    def _knows_all(self, student: Student) -> bool:
        cameras = self._thread.cameras
        return all(student.knows(name, camera, parameters) for name, (camera, _, parameters) in cameras.items())

    def _prepare(self, student: Student) -> None:
        """Make the other student's models for all cameras. Raises SceneCompletionError where one cannot be used."""
        for name, (camera, grid_from_camera, parameters) in self._thread.cameras.items():

            def make(name: str = name, given: Any = (camera, grid_from_camera, parameters)) -> None:
                with student.lock:
                    student.get(name, *given)

            if parameters.engine in ("auto", "tensorrt") and gpu_is_offered(student.bundle):
                self._thread.between(make)
            else:
                make()
        for model in student.record.models.values():
            if model.error:
                raise SceneCompletionError(model.error, where=student.title, cure="See the log")


class _Prefixed:
    """A logger that says of which student it speaks."""

    def __init__(self, logger: Any, prefix: str) -> None:
        self._logger, self._prefix = logger, prefix

    def info(self, text: str) -> None:
        self._logger.info(self._prefix + text)

    def warning(self, text: str) -> None:
        self._logger.warning(self._prefix + text)

    def error(self, text: str) -> None:
        self._logger.error(self._prefix + text)
