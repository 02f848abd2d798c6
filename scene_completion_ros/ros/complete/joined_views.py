"""Earlier images of each camera, that complete a scene together with that of now."""

from dataclasses import dataclass

from scene_completion_ros.geometry.transforms import RigidTransform
from scene_completion_ros.inference.completer import Completer
from scene_completion_ros.inference.earlier_views import Earlier, ViewMemory
from scene_completion_ros.ros.frame import Epoch, Frame, Scene


@dataclass(frozen=True, eq=False)
class _Camera:
    memory: ViewMemory
    of: tuple[object, Epoch, str]  # whose views these are, since when, and of which frame


class JoinedViews:
    """Gives the images before that of now, where odometry says from where they were taken.

    Belongs to the inference thread. What was seen in another epoch, or by another student, is forgotten, and so is all
    after an image whose pose nobody knows.
    """

    def __init__(self) -> None:
        self._cameras: dict[str, _Camera] = {}

    def chosen(self, frame: Frame, completer: Completer, epoch: Epoch) -> tuple[Earlier, ...]:
        """Those that are completed together with an image."""
        count, pose = frame.parameters.views - 1, _pose(frame)
        if not count or not completer.bundle.takes_views or pose is None:
            self._cameras.pop(frame.name, None)
            return ()
        camera = self._cameras.get(frame.name)
        of = completer.bundle, epoch, frame.frame_id
        if camera is None or camera.of != of:
            camera = self._cameras[frame.name] = _Camera(completer.view_memory(), of)
        return camera.memory.chosen(pose, frame.stamp_ns, count)

    def follow(self, scene: Scene) -> None:
        """Remember the images of a scene."""
        for frame in scene.frames:
            camera, pose, view = self._cameras.get(frame.name), _pose(frame), frame.completion.view
            if camera is not None and pose is not None and view is not None:
                camera.memory.add(view, pose, frame.stamp_ns)


def _pose(frame: Frame) -> RigidTransform | None:
    """Pose of the camera's optical frame in the odometry frame; None where nobody knows it."""
    found = frame.placement.odometry_from_grid
    return found @ frame.placement.grid_from_camera if isinstance(found, RigidTransform) else None
