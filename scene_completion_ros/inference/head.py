"""The weights of the student's head, checked when they are loaded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import safetensors
import safetensors.numpy
from numpy.typing import NDArray

from scene_completion_ros.errors import BundleError
from scene_completion_ros.inference.fields import CURE


@dataclass(frozen=True, eq=False)
class HeadWeights:
    """sigma = softplus(w . ReLU(F(u, v) + W_gamma gamma(c) + b) + d), with the feature weights folded into F.

    Attributes:
        positional_weight: W_gamma, float32 [C, 39].
        hidden_bias: b, float32 [C].
        density_weight: w, float32 [C].
        density_bias: d, float32 [1].
    """

    positional_weight: NDArray[np.float32]
    hidden_bias: NDArray[np.float32]
    density_weight: NDArray[np.float32]
    density_bias: NDArray[np.float32]

    @property
    def hidden(self) -> int:
        """Width C of the hidden layer, which is the number of channels of F."""
        return int(self.hidden_bias.shape[0])

    def tensors(self) -> dict[str, NDArray[np.float32]]:
        """All tensors by name, contiguous."""
        return {name: np.ascontiguousarray(getattr(self, name)) for name in expected_shapes(1, 1)}

    def check(self, hidden: int, code_size: int, where: str) -> None:
        """Raises BundleError where a tensor is not float32, not finite or of another shape."""
        _check(self.tensors(), expected_shapes(hidden, code_size), where)

    @classmethod
    def load(cls, file: Path, hidden: int, code_size: int) -> HeadWeights:
        """Reads ``head.safetensors``.

        Raises:
            BundleError: A tensor is missing, not float32, of another shape or not finite; the file is no safetensors.
        """
        try:
            tensors = safetensors.numpy.load_file(file)
        except OSError as error:
            raise BundleError(f"cannot be read ({error})", where=str(file), cure=CURE) from error
        except (safetensors.SafetensorError, ValueError, KeyError) as error:
            raise BundleError(f"is not a valid safetensors file ({error})", where=str(file), cure=CURE) from error
        expected = expected_shapes(hidden, code_size)
        _check(tensors, expected, str(file))
        return cls(**{name: tensors[name] for name in expected})


def expected_shapes(hidden: int, code_size: int) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor of the head."""
    return {
        "positional_weight": (hidden, code_size),
        "hidden_bias": (hidden,),
        "density_weight": (hidden,),
        "density_bias": (1,),
    }


def _check(tensors: Mapping[str, NDArray[np.float32]], expected: Mapping[str, tuple[int, ...]], where: str) -> None:
    for name, shape in expected.items():
        if name not in tensors:
            raise BundleError("is missing", where=f"{where}: tensor {name}", cure=CURE)
        tensor = tensors[name]
        if tensor.dtype != np.float32 or tensor.shape != shape:
            raise BundleError(
                f"is {tensor.dtype} {tensor.shape} where float32 {shape} is needed",
                where=f"{where}: tensor {name}",
                cure=CURE,
            )
        if not np.all(np.isfinite(tensor)):
            raise BundleError(
                "holds NaN or infinite values",
                where=f"{where}: tensor {name}",
                cure="The training diverged: export again.",
            )
