"""Earlier images of each camera, that complete a scene together with that of now."""

from dataclasses import dataclass

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
        count, pose = frame.parameters.views - 1, frame.odometry_from_camera
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
            camera, pose, view = self._cameras.get(frame.name), frame.odometry_from_camera, frame.completion.view
            if camera is not None and pose is not None and view is not None:
                camera.memory.add(view, pose, frame.stamp_ns)
