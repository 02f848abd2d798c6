"""The 39-d code of a point: where it projects and how deep it lies, with sines and cosines of both.

One definition for NumPy and torch (array API), so that training and the robot cannot drift apart.
"""

from dataclasses import dataclass
from typing import Any

import array_api_compat

from scene_completion_ros.geometry.cameras import Camera


@dataclass(frozen=True)
class PointCodeSpec:
    """How a point in the camera's optical frame becomes the code the head was trained with.

    The code input is c = (x~, y~, z~). x~, y~ are normalised pixel coordinates (-1..1 inside the image) clamped to
    ``xy_limit``. z~ is the inverse depth, scaled so that ``near`` gives 1 and ``far`` gives -1. The code is
    gamma(c) = [c, sin(f0 c), cos(f0 c), sin(f1 c), cos(f1 c), ...] (Behind the Scenes, section 3.1).
    """

    near: float = 3.0  # depth at which z~ = 1, metres
    far: float = 80.0  # depth at which z~ = -1, metres
    minimum_depth: float = 1.0  # depths below are raised to it, which keeps points behind the camera finite, metres
    frequencies: tuple[float, ...] = (1.5, 3.0, 6.0, 12.0, 24.0, 48.0)  # angular frequencies f of the sines and cosines
    xy_limit: float = 8.0  # clamp of x~ and y~

    @property
    def size(self) -> int:
        """Length of the code: 3 coordinates, and a sine and a cosine of each at every frequency."""
        return 3 * (1 + 2 * len(self.frequencies))

    @property
    def depth_code_range(self) -> tuple[float, float]:
        """Smallest z~ (infinite depth) and largest z~ (``minimum_depth``)."""
        return self.depth_code_of_inverse(0.0), self.depth_code_of_inverse(1.0 / self.minimum_depth)

    def inverse_depth(self, code: Any) -> Any:
        """Inverse depth, per metre, of z~ [...]: what `depth_code_of_inverse` undoes."""
        inverse_far = 1.0 / self.far
        return (code + 1.0) / 2.0 * (1.0 / self.near - inverse_far) + inverse_far

    def depth_code_of_inverse(self, inverse_depth: Any) -> Any:
        """z~ of an inverse depth [...], per metre; not limited to `depth_code_range`."""
        inverse_far = 1.0 / self.far
        return 2.0 * (inverse_depth - inverse_far) / (1.0 / self.near - inverse_far) - 1.0

    def depth_code(self, depth: Any) -> Any:
        """z~ of a z-depth [...] in metres; depths below ``minimum_depth`` are raised to it."""
        xp = array_api_compat.array_namespace(depth)
        return self.depth_code_of_inverse(1.0 / xp.clip(depth, min=self.minimum_depth))

    def image_coordinates(self, points_camera: Any, camera: Camera) -> Any:
        """Normalised, unclamped pixel coordinates of points: where the feature map is sampled.

        Returns [..., 2], x and y = 2 (u + 0.5) / W - 1: -1 and 1 are the outer edges of the image. `points_camera`:
        [..., 3], optical frame of the canonical camera, metres; `camera`: the canonical camera, without distortion.
        """
        xp = array_api_compat.array_namespace(points_camera)
        depth = xp.clip(points_camera[..., 2], min=self.minimum_depth)
        u = camera.fx * points_camera[..., 0] / depth + camera.cx
        v = camera.fy * points_camera[..., 1] / depth + camera.cy
        return xp.stack([2.0 * (u + 0.5) / camera.width - 1.0, 2.0 * (v + 0.5) / camera.height - 1.0], axis=-1)

    def coordinates(self, points_camera: Any, camera: Camera) -> Any:
        """Code input c = (x~, y~, z~) of points [..., 3] (optical frame, metres): [..., 3]."""
        xp = array_api_compat.array_namespace(points_camera)
        xy = xp.clip(self.image_coordinates(points_camera, camera), min=-self.xy_limit, max=self.xy_limit)
        return xp.concat([xy, self.depth_code(points_camera[..., 2])[..., None]], axis=-1)

    def encode(self, coordinates: Any) -> Any:
        """gamma(c) of code inputs [..., 3]: [..., 39]. Blocks of three: c, sin(f0 c), cos(f0 c), sin(f1 c), ..."""
        xp = array_api_compat.array_namespace(coordinates)
        blocks = [coordinates]
        for frequency in self.frequencies:
            blocks += [xp.sin(frequency * coordinates), xp.cos(frequency * coordinates)]
        return xp.concat(blocks, axis=-1)

    def encode_axis(self, values: Any) -> Any:
        """One coordinate's share of the code, for values [N]: [N, 13]. Its columns in the code are ``axis::3``."""
        xp = array_api_compat.array_namespace(values)
        columns = [values]
        for frequency in self.frequencies:
            columns += [xp.sin(frequency * values), xp.cos(frequency * values)]
        return xp.stack(columns, axis=-1)
