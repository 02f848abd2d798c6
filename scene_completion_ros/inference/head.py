"""The head of a field student: the code of a point, and the weights, checked when they are loaded.

The 39-d code of a point: where it projects and how deep it lies, with sines and cosines of both. One definition for
NumPy and torch (array API), so that training and the robot cannot drift apart.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import array_api_compat
import numpy as np

from scene_completion_ros.arrays import Floats
from scene_completion_ros.errors import BundleError
from scene_completion_ros.geometry.cameras import Camera
from scene_completion_ros.untrusted_files import CURE, read_tensors


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
        waves = (wave(frequency * coordinates) for frequency in self.frequencies for wave in (xp.sin, xp.cos))
        return xp.concat([coordinates, *waves], axis=-1)

    def encode_axis(self, values: Any) -> Any:
        """One coordinate's share of the code, for values [N]: [N, 13]. Its columns in the code are ``axis::3``."""
        xp = array_api_compat.array_namespace(values)
        waves = (wave(frequency * values) for frequency in self.frequencies for wave in (xp.sin, xp.cos))
        return xp.stack([values, *waves], axis=-1)


LARGEST_WEIGHT = 1e12  # products of larger ones leave float32


@dataclass(frozen=True, eq=False)
class HeadWeights:
    """sigma = softplus(w . h + d) with h = ReLU(F(u, v) + W_gamma gamma(c) + b), the feature weights folded into F.

    Where the student has classes, it has hidden units for them besides those of the density: logits = V . h_l + v with
    h_l = ReLU(F_l(u, v) + W_l gamma(c) + b_l). The encoder gives F and F_l as one map, the channels of F first.
    """

    positional_weight: Floats  # W_gamma, float32 [C, 39]
    hidden_bias: Floats  # b, float32 [C]
    density_weight: Floats  # w, float32 [C]
    density_bias: Floats  # d, float32 [1]
    # W_l, float32 [E, 39]; all four of the labels, or none.
    label_positional_weight: Floats | None = None
    label_hidden_bias: Floats | None = None  # b_l, float32 [E]
    label_weight: Floats | None = None  # V, float32 [K, E]
    label_bias: Floats | None = None  # v, float32 [K]

    @property
    def hidden(self) -> int:
        """Hidden units C of the density, which is the number of channels of F."""
        return int(self.hidden_bias.shape[0])

    @property
    def label_hidden(self) -> int:
        """Hidden units E of the labels; 0 without labels."""
        return 0 if self.label_hidden_bias is None else int(self.label_hidden_bias.shape[0])

    @property
    def channels(self) -> int:
        """Channels C + E of the encoder's output: first those of the density, then those of the labels."""
        return self.hidden + self.label_hidden

    @property
    def classes(self) -> int:
        """Number K of classes; 1 without labels, the only one there is."""
        return 1 if self.label_bias is None else int(self.label_bias.shape[0])

    def label_layers(self) -> tuple[Floats, Floats, Floats, Floats]:
        """W_l [E, 39], b_l [E], V [K, E], v [K]. Raises ValueError where the head has no labels."""
        positional_weight, hidden_bias = self.label_positional_weight, self.label_hidden_bias
        weight, bias = self.label_weight, self.label_bias
        if positional_weight is None or hidden_bias is None or weight is None or bias is None:
            raise ValueError("the head has no labels")
        return positional_weight, hidden_bias, weight, bias

    def tensors(self) -> dict[str, Floats]:
        """All tensors by name; those of labels where there are any."""
        tensors = {name: getattr(self, name) for name in expected_shapes(1, 1, 1)}
        return {name: tensor for name, tensor in tensors.items() if tensor is not None}

    @classmethod
    def load(cls, file: Path, hidden: int, code_size: int, label_hidden: int = 0, classes: int = 1) -> "HeadWeights":
        """Reads ``head.safetensors``.

        `hidden`: C; `code_size`: length of the point code; `label_hidden`: E, 0 where the student has no classes;
        `classes`: K. Raises BundleError where the file is no safetensors, or `check_tensors` does.
        """
        tensors = read_tensors(file, BundleError, cure=CURE)
        check_tensors(tensors, expected_shapes(hidden, code_size, label_hidden, classes), str(file))
        return cls(**tensors)


def expected_shapes(hidden: int, code_size: int, label_hidden: int = 0, classes: int = 1) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor of the head; those of labels where sizes are given."""
    shapes: dict[str, tuple[int, ...]] = {"positional_weight": (hidden, code_size), "hidden_bias": (hidden,)}
    shapes |= {"density_weight": (hidden,), "density_bias": (1,)}
    if label_hidden:
        shapes |= {"label_positional_weight": (label_hidden, code_size), "label_hidden_bias": (label_hidden,)}
        shapes |= {"label_weight": (classes, label_hidden), "label_bias": (classes,)}
    return shapes


def check_tensors(tensors: Mapping[str, Floats], expected: Mapping[str, tuple[int, ...]], where: str) -> None:
    """Raises BundleError where a tensor is missing or too many, not float32, of another shape, not finite or huge."""
    for name in sorted(tensors.keys() - expected.keys()):
        raise BundleError("is none of this head", where=f"{where}: tensor {name}", cure=CURE)
    for name, shape in expected.items():
        if name not in tensors:
            raise BundleError("is missing", where=f"{where}: tensor {name}", cure=CURE)
        tensor = tensors[name]
        if tensor.dtype != np.float32 or tensor.shape != shape:
            what = f"is {tensor.dtype} {tensor.shape} where float32 {shape} is needed"
            raise BundleError(what, where=f"{where}: tensor {name}", cure=CURE)
        if not np.all(np.abs(tensor) <= LARGEST_WEIGHT):
            what = f"holds NaN, or values beyond {LARGEST_WEIGHT:g}"
            raise BundleError(what, where=f"{where}: tensor {name}", cure="The training diverged: export again.")
