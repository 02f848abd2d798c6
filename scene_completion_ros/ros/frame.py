"""What travels through the node: the frame of one image.

The stages fill it in, one after the other: `receive`, `place`, `submit`, `complete`, `publish`. A field that a stage
has not set yet cannot be read.
"""

import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np

from scene_completion_ros.errors import GpuError, SceneCompletionError, in_words
from scene_completion_ros.geometry.cameras import Camera
from scene_completion_ros.geometry.grids import VoxelGrid
from scene_completion_ros.geometry.transforms import RigidTransform
from scene_completion_ros.inference.bundle import StudentBundle
from scene_completion_ros.inference.completer import Completer, Completion, mounting_warnings
from scene_completion_ros.inference.encoder import engine_for_cpu
from scene_completion_ros.inference.label_query import Words
from scene_completion_ros.ros.parameters import NodeParameters


class NotYetError(SceneCompletionError):
    """Something that is needed is not there."""

    def __init__(self, what: str, *, where: str = "", cure: str = "", may_come: bool) -> None:
        self.may_come = may_come  # whether it is worth waiting for
        super().__init__(what, where=where, cure=cure)


@dataclass(frozen=True, eq=False)
class Placement:
    """Where the voxels of one image lie."""

    frame_id: str  # frame that voxels are published in
    grid_from_camera: RigidTransform  # pose of the camera's optical frame in the grid, at the stamp of the image
    frame_from_grid: RigidTransform  # pose of the grid in that frame
    map_frame_id: str  # frame that the map of the ground is published in
    map_from_grid: RigidTransform  # pose of the grid in the upright frame of the map
    # Pose of the map in its frame: identity, or what lays it on the ground below a camera.
    frame_from_map: RigidTransform = field(default_factory=RigidTransform.identity)
    # Pose of the grid in the odometry frame, at the stamp of the image, or why there is none: images can do without.
    # None where no image waits for it.
    odometry_from_grid: RigidTransform | NotYetError | None = None
    # What the map takes for the height of the camera above the ground, metres, where that is unknown; None
    # where it is known.
    assumed_height: float | None = None

    def upright_from_camera(self, parameters: NodeParameters) -> RigidTransform | None:
        """Pose of the camera's optical frame in an upright frame on the ground; None where it is unknown.

        A frame stands on the ground where `base_frame` names it, or `camera.height` is given.
        """
        if self.assumed_height is not None or not (parameters.base_frame or parameters.camera_height):
            return None
        return self.map_from_grid @ self.grid_from_camera


class Epoch(NamedTuple):
    """What is remembered of images of another epoch is of no use to these."""

    activation: int  # number of the node's activation
    era: int  # how often time had begun anew


# Pose of the grid in the odometry frame at the stamp of an image, or why there is none, once that is known.
PoseToCome: TypeAlias = Future[RigidTransform | NotYetError]


@dataclass(eq=False)
class Frame:
    """One image on its way through the node."""

    topic: str  # where the message came from, for warnings
    message: Any
    stamp_ns: int  # its stamp, nanoseconds
    arrived_s: float  # when it arrived (`time.perf_counter`)
    parameters: NodeParameters  # those of that moment
    camera: Camera = field(init=False)  # the calibration that belongs to it; `receive` sets it
    placement: Placement = field(init=False)  # where its voxels lie; `place` sets it
    words: Words = field(init=False)  # those of the moment when it was handed to the inference thread, by `submit`
    epoch: Epoch = field(init=False)  # likewise
    pose: PoseToCome | None = None  # becomes the pose of the grid in the odometry frame; None where it is not needed
    completion: Completion = field(init=False)  # the result of the student; `complete` sets it
    decode_ms: float = field(init=False)  # milliseconds that decoding took, likewise

    def __post_init__(self) -> None:
        # The camera's optical frame, without the slash before it that ROS 1 had; `place` may find another one.
        self.frame_id = str(self.message.header.frame_id).strip("/")

    @property
    def header(self) -> Any:
        """The header of the message."""
        return self.message.header


# Metres by which a corner of the grid may be wrong after the camera has moved in it: a quarter of a voxel.
LARGEST_SHIFT = 0.05
ModelState = Literal["waiting for a calibration", "building", "ready", "unusable"]


@dataclass(frozen=True)
class ModelReport:
    """The model for the camera."""

    state: ModelState = "waiting for a calibration"  # what it is doing
    engine: str = ""  # what runs the student; empty where none does
    error: str = ""  # why it cannot be used
    warnings: tuple[str, ...] = ()  # what about the camera lies outside of what the student was trained for


class _MadeFor(NamedTuple):
    camera: Camera
    threads: int

    def fits(self, wanted: "_MadeFor") -> bool:
        return self.threads == wanted.threads and self.camera.agrees(wanted.camera)


@dataclass
class _Made:
    made_for: _MadeFor
    grid_from_camera: RigidTransform
    completer: Completer
    mounting: tuple[object, ...] = ()  # the parameters for which it was looked at how the camera stands
    warnings: list[str] = field(default_factory=list)

    def report(self) -> ModelReport:
        return ModelReport("ready", self.completer.engine, warnings=tuple(self.warnings))


class Student:
    """A student, and its completer for the camera, which belongs to the inference thread.

    A completer stays until the next one is ready. Where that one cannot be built, the former goes on as soon as the
    former calibration is back, also if the bundle is gone from the disk by then.
    """

    def __init__(self, bundle: StudentBundle, grid: VoxelGrid, logger: Any) -> None:
        self.bundle = bundle  # what it was made of
        self.model = ModelReport()  # that of now
        # When the model was built anew because the calibration changed (`time.perf_counter`).
        self.rebuilt_s: deque[float] = deque(maxlen=100)
        self._grid, self._logger = grid, logger
        self._made: _Made | None = None
        self._unusable: tuple[_MadeFor, str] | None = None  # what could not be built last, and why
        self._gpu_failed = False

    @property
    def title(self) -> str:
        """Its name and its folder."""
        return f"{self.bundle.name} ({self.bundle.folder})"

    def release(self) -> None:
        """Release the completer."""
        self._made = None

    def prepare(self, camera: Camera, grid_from_camera: RigidTransform, parameters: NodeParameters) -> None:
        """Build the completer before an image needs it, at a pose that is a guess: it moves none.

        `grid_from_camera`: the guess, unless a better one is known from images; `parameters`: those that images will
        have.
        """
        known = grid_from_camera if self._made is None else self._made.grid_from_camera
        self.get(camera, known, parameters)

    def get(
        self,
        camera: Camera,
        grid_from_camera: RigidTransform,
        parameters: NodeParameters,  # those of the image
        # Pose of the camera in an upright frame on the ground; None where it is unknown.
        upright_from_camera: RigidTransform | None = None,
    ) -> Completer | None:
        """The completer, built or moved if need be.

        Moving one costs the preparation of the voxel query, not that of the encoder. It is not moved as long as no
        corner of the grid is off by more than `LARGEST_SHIFT`; another mounting costs nothing. It is not built anew as
        long as calibrations agree (`Camera.agrees`).
        Returns None where the camera cannot be used; why was logged.
        """
        wanted = _MadeFor(camera, parameters.threads)
        made = self._made
        if made is not None and made.made_for.fits(wanted):
            if self.model.error:  # that of a calibration which is gone again
                self.model = made.report()
            if largest_shift(self._grid, made.grid_from_camera, grid_from_camera) > LARGEST_SHIFT:
                made.completer = made.completer.placed(grid_from_camera)
                made.grid_from_camera = grid_from_camera
            made.completer = made.completer.mounted(upright_from_camera)
            return made.completer
        if self._unusable is not None and self._unusable[0].fits(wanted):
            self.model = ModelReport("unusable", error=self._unusable[1])
            return None
        if made is not None and made.made_for.threads == wanted.threads:
            self.rebuilt_s.append(time.perf_counter())
        completer = self._build(camera, grid_from_camera, parameters)
        if completer is not None:
            completer = completer.mounted(upright_from_camera)
            self._made = _Made(wanted, grid_from_camera, completer, warnings=completer.warnings)
        return completer

    def check_mounting(self, upright_from_camera: RigidTransform | None, parameters: NodeParameters) -> None:
        """Warn of a camera that stands otherwise than those of the training, or sees nothing of the grid.

        It is looked at when the first image is placed, and again when parameters of its place changed.
        `upright_from_camera`: pose of the camera in an upright frame on the ground; None where it is unknown.
        """
        made = self._made
        if made is None:
            return
        unseen = made.completer.out_of_view()
        looked_at = parameters.base_frame, parameters.camera_height, parameters.camera_pitch, unseen is None
        if made.mounting == looked_at:
            return
        made.mounting, warnings = looked_at, mounting_warnings(self.bundle, upright_from_camera)
        if unseen is not None:
            warnings.append(str(unseen))
        self._warn(warnings)
        made.warnings = [*made.completer.warnings, *warnings]
        self.model = made.report()

    def _warn(self, warnings: Sequence[str]) -> None:
        for warning in warnings:
            self._logger.warning(warning)

    def gpu_failed(self, error: GpuError, parameters: NodeParameters) -> None:
        """The GPU failed while an image was completed: from now on the CPU works, where `engine` is auto.

        Otherwise the camera is unusable until the node is cleaned up and configured again.
        """
        if parameters.engine == "auto":
            self._fall_back(str(error))
            return
        if self._made is not None:
            self._unusable = self._made.made_for, str(error)
            self.model = ModelReport("unusable", error=str(error))
        self._made = None
        self._logger.error(f"the node cannot complete images any more: {error}")

    def _fall_back(self, failure: str) -> None:
        self._gpu_failed = True
        self._made = self._unusable = None
        self._logger.warning(f"from now on the CPU runs the student, because the GPU failed: {failure}")

    def _build(self, camera: Camera, grid_from_camera: RigidTransform, parameters: NodeParameters) -> Completer | None:
        self.model = ModelReport("building")
        started_s = time.perf_counter()
        try:
            completer = self._completer_or_cpu(camera, grid_from_camera, parameters)
        except Exception as error:
            why = in_words(error)
            self._unusable = _MadeFor(camera, parameters.threads), why
            self.model = ModelReport("unusable", error=why)
            self._logger.error(f"images of this camera cannot be completed: {why}")
            return None
        self._warn(completer.warnings)
        self.model = ModelReport("ready", completer.engine, warnings=tuple(completer.warnings))
        self._logger.info(
            f"ready for {camera.width}x{camera.height} images, fx {camera.fx:.1f} px, {camera.distortion_model} "
            f"distortion, after {time.perf_counter() - started_s:.1f} s"
        )
        return completer

    def _completer_or_cpu(
        self, camera: Camera, grid_from_camera: RigidTransform, parameters: NodeParameters
    ) -> Completer:
        try:
            return self._completer(camera, grid_from_camera, parameters)
        except GpuError as error:  # the engine could be made, but not run
            if parameters.engine != "auto" and self._made is None:
                raise
            failure = str(error)
        # Not in the handler, where the error would keep what is on the GPU.
        if self._made is not None:  # its memory may be too small for the former and the next at once
            self._made = None
            return self._completer_or_cpu(camera, grid_from_camera, parameters)
        self._fall_back(failure)
        return self._completer(camera, grid_from_camera, parameters)

    def _completer(self, camera: Camera, grid_from_camera: RigidTransform, parameters: NodeParameters) -> Completer:
        alike = self._made is not None and self._made.made_for.threads == parameters.threads
        return Completer(
            self.bundle,
            camera,
            grid=self._grid,
            grid_from_camera=grid_from_camera,
            engine=engine_for_cpu(self.bundle) if self._gpu_failed else parameters.engine,
            threads=parameters.threads or None,
            encoder=self._made.completer.encoder if self._made is not None and alike else None,
        )


def largest_shift(grid: VoxelGrid, grid_from_camera: RigidTransform, grid_from_camera_now: RigidTransform) -> float:
    """How far the corner of a grid that moves most is moved by another pose of the camera, metres."""
    if grid_from_camera is grid_from_camera_now:
        return 0.0
    steps = np.stack(np.meshgrid(*([0, size] for size in grid.shape), indexing="ij"), axis=-1).reshape(8, 3)
    corners = np.asarray(grid.origin) + steps * grid.voxel_size
    moved = (grid_from_camera_now @ grid_from_camera.inverse()).apply(corners)
    return float(np.linalg.norm(moved - corners, axis=1).max())
