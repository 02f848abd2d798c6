"""Images of other moments beside that of now: which ones are kept, and what a decoder is given of them."""

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scene_completion_ros.geometry.grids import DEFAULT_GRID_FROM_CAMERA
from scene_completion_ros.geometry.transforms import RigidTransform
from scene_completion_ros.inference.bundle import StudentBundle
from scene_completion_ros.inference.lookup_kernel import write_lookups
from scene_completion_ros.inference.motion_scale import measure_of, odometry_jump
from scene_completion_ros.inference.volume_pose import Lookups

MOST_VIEWS = 3
"""Images of one scene, that of now among them."""
# Lengths are those of a street; rooms bring their own measure. Way between two images that are joined, the farthest an
# image may have been taken from here, and by how much it may look another way.
APART_M, FARTHEST_M, MOST_TURNED = 2.0, 16.0, np.cos(np.radians(60.0))
KEPT = 8


@dataclass(frozen=True, eq=False)
class Earlier:
    """What the pixels of an image of another moment say, and where it was taken."""

    view: NDArray[np.float32]  # float32 [K + 3, H / 2, W / 2], see `EncodedImage.view`
    now_from_then: RigidTransform  # pose of the camera of then in the optical frame of that of now


class SeveralViews:
    """What a decoder is given of one image and of earlier ones, in memory of its own.

    Args:
        bundle: A student that `takes_views`.
        beside: What it is given of one image, see `StudentBundle.graph_inputs`.
        volume_from_camera: As there.
        count: Images, that of now among them.
    """

    def __init__(
        self,
        bundle: StudentBundle,
        beside: Mapping[str, NDArray[np.float32]],
        volume_from_camera: RigidTransform | None,
        count: int,
    ) -> None:
        self._bundle, self._pose = bundle, volume_from_camera or DEFAULT_GRID_FROM_CAMERA
        self._now = dict(beside)
        self._given = {name: np.repeat(values, count, axis=0) for name, values in beside.items()}
        self._views = np.zeros((count - 1, *bundle.view_shape[1:]), np.float32)

    def __call__(
        self, given: Mapping[str, NDArray[np.float32]], earlier: Sequence[Earlier]
    ) -> dict[str, NDArray[np.float32]]:
        """All inputs of the decoder, by name, and ``earlier``, the views behind that of now.

        `given`: what is known of the image of now, see `Evidence.inputs`; its scale is that of the earlier ones, too.
        `earlier`: at least one, at most as many as there is room for.
        """
        bundle, stride = self._bundle, self._bundle.head.unit_stride
        for number, place in enumerate(self._views):
            one = earlier[min(number, len(earlier) - 1)]
            place[:] = one.view
            pose = self._pose @ one.now_from_then
            for name, of_step in (("cell", stride), ("voxel", 1)):
                into = Lookups(*(self._given[f"{name}_{part}"][number + 1] for part in Lookups._fields))
                write_lookups(into, bundle.grid, of_step, bundle.canonical, bundle.point_code, pose, self._pose)
            if number >= len(earlier):  # it is there already, and does not count twice
                for name in ("cell", "voxel"):
                    self._given[f"{name}_in_view"][number + 1] = 0.0
        for name in ("scale", "sensed"):
            self._given[name][0] = given.get(name, self._now[name])[0]
        self._given["scale"][1:] = self._given["scale"][0]
        return {**self._given, "earlier": self._views}


@dataclass(frozen=True, eq=False)
class _Kept:
    view: NDArray[np.float32]
    pose: RigidTransform


class ViewMemory:
    """Keeps what the pixels of some images said, of one camera; belongs to one thread.

    Args:
        measure: Lengths here over those of a street.
    """

    def __init__(self, measure: float = 1.0) -> None:
        self._measure = measure
        self._kept: deque[_Kept] = deque(maxlen=KEPT)
        self._last: tuple[RigidTransform, int] | None = None

    @classmethod
    def of(cls, bundle: StudentBundle) -> "ViewMemory":
        """That of a student."""
        return cls(measure_of(bundle.grid))

    def forget(self) -> None:
        """Nothing of the images so far is used any more."""
        self._kept.clear()
        self._last = None

    def chosen(self, pose: RigidTransform, stamp_ns: int, count: int) -> tuple[Earlier, ...]:
        """Up to so many earlier images that show the place before the camera from elsewhere, the newest first.

        `pose`: of the optical frame of now in the odometry frame. After a jump of the odometry nothing is kept.
        """
        if self._last is not None and odometry_jump(*self._last, pose, stamp_ns):
            self.forget()
        chosen: list[Earlier] = []
        last = RigidTransform.identity()
        for kept in reversed(self._kept):
            now_from_then = pose.inverse() @ kept.pose
            apart, way = (float(np.linalg.norm(now_from_then.translation - other)) for other in (last.translation, 0.0))
            if way > FARTHEST_M * self._measure or now_from_then.rotation[2, 2] < MOST_TURNED:
                continue
            if apart >= APART_M * self._measure and len(chosen) < count:
                chosen.append(Earlier(kept.view, now_from_then))
                last = now_from_then
        return tuple(chosen)

    def add(self, view: NDArray[np.float32], pose: RigidTransform, stamp_ns: int) -> None:
        """Remember an image, unless the last one that is kept was taken nearby."""
        self._last = pose, stamp_ns
        near = APART_M * self._measure / 4.0
        if not self._kept or np.linalg.norm((self._kept[-1].pose.inverse() @ pose).translation) >= near:
            self._kept.append(_Kept(view, pose))
