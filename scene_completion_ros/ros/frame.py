"""What travels through the node: the frame of one image, and the scene that frames of one moment make.

The stages fill them in, one after the other: `receive`, `place`, `complete`, `join`, `publish`. A field that a stage
has not set yet cannot be read.
"""

from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from scene_completion_ros.errors import SceneCompletionError
from scene_completion_ros.geometry.cameras import Camera
from scene_completion_ros.geometry.transforms import RigidTransform
from scene_completion_ros.inference.completer import Completion
from scene_completion_ros.inference.label_query import Words
from scene_completion_ros.mapping.clearing import clearing_voxels
from scene_completion_ros.ros.parameters import NodeParameters
from scene_completion_ros.voxels.semantic_voxels import SemanticVoxels


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
    # None where successive images are not joined.
    odometry_from_grid: RigidTransform | NotYetError | None = None
    # What the map takes for the height of the camera above the ground, metres, as nothing says how high it is; None
    # where something does.
    assumed_height: float | None = None

    def upright_from_camera(self, parameters: NodeParameters) -> RigidTransform | None:
        """Pose of the camera's optical frame in an upright frame on the ground; None where nobody knows it.

        A frame stands on the ground where `base_frame` names it, or parameters say how high the camera is.
        """
        if self.assumed_height is not None or not (parameters.base_frame or parameters.camera_height):
            return None
        return self.map_from_grid @ self.grid_from_camera


@dataclass(frozen=True, eq=False)
class DepthReading:
    """What a sensor of depth saw when an image was taken."""

    message: Any  # sensor_msgs/Image in the frame of the image, or sensor_msgs/PointCloud2
    age_ns: int  # by how much it is older than the image
    camera_from_sensor: RigidTransform  # pose of its frame in the camera's optical frame


@dataclass(eq=False)
class Frame:
    """One image on its way through the node."""

    name: str  # name of its camera; empty where there is one camera only
    topic: str  # where the message came from, for warnings
    message: Any
    stamp_ns: int  # its stamp, nanoseconds
    arrived_s: float  # when it arrived (`time.perf_counter`)
    parameters: NodeParameters  # those of that moment
    camera: Camera = field(init=False)  # the calibration that belongs to it; `receive` sets it
    placement: Placement = field(init=False)  # where its voxels lie; `place` sets it
    # What a sensor saw of its depths, or why that is not known; None where nobody asks for it. `receive` sets it.
    depth: DepthReading | NotYetError | None = None
    completion: Completion = field(init=False)  # what the student says of it; `complete` sets it
    decode_ms: float = field(init=False)  # milliseconds that decoding took, likewise

    @property
    def header(self) -> Any:
        """The header of the message."""
        return self.message.header

    @property
    def frame_id(self) -> str:
        """The camera's optical frame, without the slash before it that ROS 1 had."""
        return str(self.message.header.frame_id).strip("/")

    @property
    def odometry_from_camera(self) -> RigidTransform | None:
        """Pose of that in the odometry frame; None where nobody knows it, or not yet."""
        found = self.placement.odometry_from_grid
        return found @ self.placement.grid_from_camera if isinstance(found, RigidTransform) else None


class Epoch(NamedTuple):
    """What is remembered of images of another epoch is of no use to these."""

    activation: int  # number of the node's activation; disabling and resetting count as well
    era: int  # how often time had begun anew


# Pose of the grid in the odometry frame at the stamp of an image, or why there is none, once that is known.
PoseToCome: TypeAlias = Future[RigidTransform | NotYetError]


@dataclass(eq=False)
class Scene:
    """The image of the one camera, or images of several that belong together, and what they became."""

    frames: tuple[Frame, ...]  # at least one; from `complete` on those that could be completed
    parameters: NodeParameters  # those of when the last one arrived
    words: Words  # those of the moment when they were handed to the inference thread
    epoch: Epoch
    pose: PoseToCome | None = None  # becomes the pose of the grid in the odometry frame; None where nobody asks for it
    # Those that are published: of the one image, or of several fused; `join` sets it.
    voxels: SemanticVoxels = field(init=False)
    # Without those of earlier images, where `voxels` have them; otherwise None.
    voxels_of_moment: SemanticVoxels | None = None

    @property
    def placement(self) -> Placement:
        """Where the voxels lie; where there are several cameras, that of the first."""
        return self.frames[0].placement

    @property
    def odometry_from_grid(self) -> RigidTransform | NotYetError | None:
        """That of the oldest image (see `Placement`), whose stamp the voxels have."""
        return min(self.frames, key=lambda frame: frame.stamp_ns).placement.odometry_from_grid

    def clearing_voxels(self) -> SemanticVoxels:
        """The voxels that clearing rays are followed through: what is remembered clears nothing."""
        return self.voxels if self.voxels_of_moment is None else clearing_voxels(self.voxels, self.voxels_of_moment)


# Gives the calibrated probability of all voxels, float32 [X, Y, Z]; it may have to be fetched from a GPU.
Probability: TypeAlias = Callable[[], NDArray[np.float32]]
