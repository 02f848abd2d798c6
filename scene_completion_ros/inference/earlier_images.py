"""What the images of a camera say of its next one: the same in the node, in a replay without it, and in scores."""

import functools
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scene_completion_ros.geometry.transforms import RigidTransform
from scene_completion_ros.inference.completer import Completer, Completion
from scene_completion_ros.inference.evidence import NO_EVIDENCE, CornerDepths, Evidence, Sources
from scene_completion_ros.inference.motion_scale import MotionScale


class EarlierImages:
    """What is remembered of the images of one camera, to be used for its next one; belongs to one thread.

    `motion`: what measures the scale; `corners`: whether single corners get a depth by motion, too.
    """

    def __init__(self, motion: MotionScale, *, corners: bool = False) -> None:
        self._motion, self._corners = motion, corners

    def evidence(self, pose: RigidTransform | str, stamp_ns: int) -> Evidence:
        """What is known beside the next image; arguments as those of `add`."""
        corners: CornerDepths | None = None
        if self._corners and not isinstance(pose, str):
            corners = functools.partial(self._motion.depths, pose=pose, stamp_ns=stamp_ns)
        return Evidence(self._motion.scale, corner_depths=corners)

    def add(
        self, image_rgb: NDArray[np.uint8], own_depth: NDArray[np.float32], pose: RigidTransform | str, stamp_ns: int
    ) -> None:
        """Remember an image.

        Args:
            image_rgb: The canonical image, uint8 [H, W, 3].
            own_depth: `Completion.own_depth`, metres [H / 2, W / 2].
            pose: Of the camera's optical frame in the odometry frame; or why nobody knows it, which ends what was
                remembered.
            stamp_ns: Its stamp.
        """
        if isinstance(pose, str):
            self._motion.forget(f"no odometry: {pose}")
        else:
            self._motion.add(image_rgb, own_depth, pose, stamp_ns)


class InOrder:
    """Completes the images of one camera one after the other, each with what those before it say.

    Of a student that takes no evidence, and where no scale is wanted, each image is completed by itself.
    """

    def __init__(self, completer: Completer, sources: Sources) -> None:
        self._completer = completer
        self._earlier: EarlierImages | None = None
        if sources.scale != "off" and completer.bundle.takes_evidence:
            self._earlier = EarlierImages(completer.motion_scale(), corners=sources.scale == "corners")

    def complete(
        self, image_rgb: NDArray[np.uint8], stamp_ns: int, pose: RigidTransform | str, **options: Any
    ) -> Completion:
        """Completes the next image; see `Completer.complete`, which gets the options, and `EarlierImages.add`."""
        evidence = NO_EVIDENCE if self._earlier is None else self._earlier.evidence(pose, stamp_ns)
        completion = self._completer.complete(image_rgb, stamp_ns, evidence=evidence, **options)
        if self._earlier is not None and completion.own_depth is not None:
            self._earlier.add(completion.image, completion.own_depth, pose, stamp_ns)
        return completion
