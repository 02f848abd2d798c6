"""Feature spaces: how the features of a foundation model follow from a student's label units, and cosines in them.

A feature has hundreds of numbers, the label units E = 64. Since it is linear in the units, its cosine with a text
embedding can be computed from the units alone: exactly, see `FeatureSpace.folded`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scene_completion_ros.errors import BundleError
from scene_completion_ros.inference.json_object import CURE
from scene_completion_ros.inference.text_bank import LARGEST_DIMENSION

_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")


@dataclass(frozen=True, eq=False)
class FoldedRows:
    """Text embeddings t and the norm of a feature, folded into label units h: cos = (weight h + bias) / |root [h; 1]|.

    Attributes:
        weight: float64 [R, E].
        bias: float64 [R].
        root: float64 [E + 1, E + 1], upper triangular.
    """

    weight: NDArray[np.float64]
    bias: NDArray[np.float64]
    root: NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class FeatureSpace:
    """f(x) = A h(x) + b: the features of one teacher, in its own space, of label units h.

    Attributes:
        name: Name of the teacher: letters, digits, ``_`` and ``-``.
        weight: A, float32 [D, E].
        bias: b, float32 [D].
        text_encoder, text_encoder_sha256: Id and hash of the encoder whose texts lie in the same space; empty where
            there is none.
        temperature: Of the softmax over cosines that gives a confidence.

    Raises:
        BundleError: A name or number that cannot be, or tensors of other shapes or types, or not finite.
    """

    name: str
    weight: NDArray[np.float32]
    bias: NDArray[np.float32]
    text_encoder: str = ""
    text_encoder_sha256: str = ""
    temperature: float = 0.07

    def __post_init__(self) -> None:
        where = f"feature space {self.name[:80]!r}"
        if not _NAME.fullmatch(self.name):
            raise BundleError("a name has 1 to 64 letters, digits, _ or -", where=where, cure=CURE)
        if not 1e-4 <= self.temperature <= 1e4:
            raise BundleError(f"temperature {self.temperature} is not in 0.0001..10000", where=where, cure=CURE)
        weight, bias = self.weight, self.bias
        if weight.ndim != 2 or not 1 <= len(weight) <= LARGEST_DIMENSION or bias.shape != weight.shape[:1]:
            raise BundleError(f"weight {weight.shape} and bias {bias.shape} do not fit", where=where, cure=CURE)
        for name, tensor in (("weight", weight), ("bias", bias)):
            if tensor.dtype != np.float32 or not np.isfinite(tensor).all():
                raise BundleError(f"is {tensor.dtype} or not finite", where=f"{where}: {name}", cure=CURE)

    @property
    def dimension(self) -> int:
        """D, of the teacher's features."""
        return int(self.weight.shape[0])

    def features(self, hidden: NDArray[np.floating]) -> NDArray[np.float64]:
        """Features [N, D] of label units [N, E], float64."""
        return np.asarray(hidden @ self.weight.T.astype(np.float64) + self.bias, dtype=np.float64)

    def folded(self, rows: NDArray[np.floating]) -> FoldedRows:
        """Folds unit rows t, [R, D], into the label units.

        With A' = [A b] and h' = [h; 1], f = A' h', t . f = (t A') h', and |f| = |Q root h'| = |root h'|, where
        A' = Q root is a QR decomposition. ``root`` is the Cholesky factor of A'^T A' up to signs, but exists whatever
        the rank of A' is, and is not squared into less precision.
        """
        extended = np.column_stack([self.weight, self.bias]).astype(np.float64)
        extended /= np.abs(extended).max() or 1.0  # a cosine does not change, and squares cannot overflow
        root = np.zeros((extended.shape[1], extended.shape[1]))
        root[: min(extended.shape)] = np.linalg.qr(extended, mode="r")
        products = np.asarray(rows, dtype=np.float64) @ extended
        return FoldedRows(weight=products[:, :-1].copy(), bias=products[:, -1].copy(), root=root)
