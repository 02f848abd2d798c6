"""The scale of each camera's images by motion, measured in a thread of its own."""

import functools
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from scene_completion_ros.geometry.transforms import RigidTransform
from scene_completion_ros.inference.bundle import StudentBundle
from scene_completion_ros.inference.completer import Completer
from scene_completion_ros.inference.earlier_images import EarlierImages
from scene_completion_ros.inference.evidence import NO_EVIDENCE, CornerDepths, Evidence
from scene_completion_ros.inference.motion_scale import MotionScale
from scene_completion_ros.ros.frame import Epoch, Frame, NotYetError, PoseToCome, Scene
from scene_completion_ros.ros.health.inference_health import ScaleRecord

MOST_WAITING = 30  # images whose pose has not come yet; older ones are left out


@dataclass(frozen=True, eq=False)
class _Seen:
    image: NDArray[np.uint8]
    depth: NDArray[np.float32]
    stamp_ns: int
    grid_from_camera: RigidTransform
    pose: PoseToCome | RigidTransform | NotYetError  # of the grid in the odometry frame


@dataclass(eq=False)
class _Camera:
    motion: MotionScale
    of: tuple[StudentBundle, Epoch, str]  # whose depths these are, since when, and of which frame: others say nothing
    waiting: deque[_Seen] = field(default_factory=deque)
    work: Future[None] | None = None  # the measurement that was begun last


class Scaling:
    """Gives the scale that the images before say, and measures that of each image once it was published.

    Belongs to the inference thread. What was measured of another epoch, student or frame is forgotten. An image
    is scaled by those before it alone: no image waits for a measurement that has not begun.
    """

    def __init__(self, record: ScaleRecord) -> None:
        self._record = record
        self._pool = ThreadPoolExecutor(1, "scale")
        self._cameras: dict[str, _Camera] = {}

    def evidence(self, frame: Frame, completer: Completer, epoch: Epoch, coming: PoseToCome | None = None) -> Evidence:
        """What is known of the scale of an image that is about to be completed.

        `coming`: see `Scene.pose`. Corners want it once the network has seen the image, so none waits for it.
        """
        if frame.parameters.scale_from == "off" or not completer.bundle.takes_evidence:
            if self._cameras.pop(frame.name, None) is not None:
                self._pool.submit(self._record.drop, frame.name)  # behind what is measured now
            return NO_EVIDENCE
        camera, of = self._cameras.get(frame.name), (completer.bundle, epoch, frame.frame_id)
        if camera is None or camera.of != of:
            camera = self._cameras[frame.name] = _Camera(completer.motion_scale(), of)
        self._finish(frame.name, camera)
        corners: CornerDepths | None = None
        if frame.parameters.scale_from == "corners":
            corners = functools.partial(_corner_depths, camera.motion, frame, coming)
        return Evidence(camera.motion.scale, corner_depths=corners)

    def follow(self, scene: Scene) -> None:
        """Measure the images of a scene, as soon as it is known where their cameras were."""
        for frame in scene.frames:
            camera, depth = self._cameras.get(frame.name), frame.completion.own_depth
            placed = frame.placement.odometry_from_grid
            pose = placed if placed is not None else scene.pose
            if camera is None or depth is None:
                continue
            if pose is None:
                pose = NotYetError("nothing says how the camera moves", may_come=False)
            image, grid_from_camera = frame.completion.image, frame.placement.grid_from_camera
            camera.waiting.append(_Seen(image, depth, frame.stamp_ns, grid_from_camera, pose))
            while len(camera.waiting) > MOST_WAITING:
                camera.waiting.popleft()
            self._begin(frame.name, camera)

    def _finish(self, name: str, camera: _Camera) -> None:
        """Wait for what can be measured of the images so far: the same in each run."""
        self._begin(name, camera)
        if camera.work is not None:
            camera.work.result()

    def _begin(self, name: str, camera: _Camera) -> None:
        """Hand those images to the thread whose pose is known, in order."""
        while camera.waiting:
            seen = camera.waiting[0]
            pose = seen.pose
            if isinstance(pose, Future):
                if not pose.done():
                    return
                pose = pose.result()
            camera.waiting.popleft()
            camera.work = self._pool.submit(self._measure, name, camera, seen, pose)

    def _measure(self, name: str, camera: _Camera, seen: _Seen, grid: RigidTransform | NotYetError) -> None:
        pose, motion = grid.what if isinstance(grid, NotYetError) else grid @ seen.grid_from_camera, camera.motion
        try:
            EarlierImages(motion).add(seen.image, seen.depth, pose, seen.stamp_ns)
        except Exception as error:  # a measurement beside the images must not cost any
            motion.forget(_failed(error))
        self._record.set(name, motion.scale)

    def close(self) -> None:
        """End the thread after what it does now."""
        self._pool.shutdown(wait=False, cancel_futures=True)


def _corner_depths(
    motion: MotionScale,
    frame: Frame,
    coming: PoseToCome | None,
    image_rgb: NDArray[np.uint8],
    own_depth: NDArray[np.float32],
) -> NDArray[np.float32] | None:
    """See `MotionScale.depths`; None where the pose has not come, or measuring fails, which must not cost the image."""
    pose = frame.odometry_from_camera
    if pose is None and coming is not None and coming.done():
        grid = coming.result()
        pose = None if isinstance(grid, NotYetError) else grid @ frame.placement.grid_from_camera
    try:
        return None if pose is None else motion.depths(image_rgb, own_depth, pose, frame.stamp_ns)
    except Exception as error:
        motion.forget(_failed(error))
        return None


def _failed(error: Exception) -> str:
    return f"{type(error).__name__}: {error}; please report this"
