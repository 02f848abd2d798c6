"""Label units of a student, as its own encoder gives them."""

from collections.abc import Callable
from functools import lru_cache

import numpy as np

from scene_completion_ros.geometry import Camera, Resampler
from scene_completion_ros.inference.bundle import StudentBundle
from scene_completion_ros.inference.encoder import make_encoder
from scene_completion_ros.inference.query_kernel import hidden_reference
from scene_completion_training.arrays import Bytes, Floats


class DeployedUnits:
    """Label units of a student that has some, at any points: of its own encoder, by arithmetic that can be read."""

    def __init__(self, bundle: StudentBundle) -> None:
        self._bundle = bundle
        self._weight, self._bias, _, _ = bundle.head.label_layers()
        self._encoder = make_encoder(bundle)
        self._resampler = lru_cache(maxsize=4)(lambda camera: Resampler(camera, bundle.canonical))

    def observe(self, image: Bytes, camera: Camera) -> Callable[[Floats], Floats]:
        """What gives the units [N, E] of points [N, 3], metres, optical frame, in an image [H, W, 3] of a camera."""
        bundle = self._bundle
        maps = self._encoder.encode(self._resampler(camera)(image)).features[..., bundle.head.hidden :].copy()

        def units(points: Floats) -> Floats:
            hidden = hidden_reference(maps, points, self._weight, self._bias, bundle.point_code, bundle.canonical)
            return hidden.astype(np.float32)

        return units
