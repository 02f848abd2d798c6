"""Labels of occupied voxels: hidden units of their own, beside those of the density, and one small layer on them.

Only some of two million voxels are occupied, and which ones is known after the march; the units are computed for those
alone. They are read from the last channels of the feature map with the cells, shares and table rows that were prepared
for the density. `label_logits_reference` is the readable twin.

All of it is one kernel, without the matrix products of NumPy's BLAS. The measurement has 160 000 voxels of the shipped
student, random units (E = 64, K = 19), and one core with 512-bit vectors. The kernel takes 10 ms. Computing the units
of 8192 voxels at a time and leaving product, argmax and softmax to NumPy takes 21 ms. BLAS also has a number of threads
of its own. The kernel takes voxels in the order of the feature map's cells. With the caches that the stages before
leave behind, grid order takes a third longer. Units that are 0 at all of 64 voxels side by side are left out of the
layer. Of trained ones (those of the shipped density) 64 voxels use four of ten between them, which saves a sixth of the
time.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from scene_completion_ros.geometry.cameras import Camera
from scene_completion_ros.inference.field_kernels import TILE, label_kernel, order_kernel
from scene_completion_ros.inference.head import HeadWeights
from scene_completion_ros.inference.point_code import PointCodeSpec
from scene_completion_ros.inference.query_kernel import FieldKernel, FieldSamples, hidden_reference


class LabelQuery:
    """The labels of a student at some of the points that were prepared for its field.

    Args:
        field: The field; its head has labels.
        samples: Prepared points, those of `VoxelQuery` for a grid.
        size: Number of targets, X * Y * Z for a grid: each is at most that of one sample.

    Attributes:
        tables: Positional tables of the units.
        weight, bias: float32 [R, E] and [R], rows of zeros behind those of the classes up to a multiple of `TILE`.
        sample_of: int32 [size], the sample of each target; -1 where it has none.

    Raises:
        ValueError: The head has no labels.
    """

    def __init__(self, field: FieldKernel, samples: FieldSamples, size: int) -> None:
        positional_weight, hidden_bias, weight, bias = field.head.label_layers()
        self.field = field
        self.tables = field.positional_tables(positional_weight, hidden_bias)
        self.samples = samples
        # 8 MB for the default grid. Filtering all samples by whether they are occupied would take 3 ms a frame.
        self.sample_of = np.full(size, -1, dtype=np.int32)
        self.sample_of[samples.target] = np.arange(len(samples.target), dtype=np.int32)
        self.weight, self.bias = padded(weight), padded(bias)
        self.classes = field.head.classes
        self._order = order_kernel()
        self._kernel = label_kernel(field.head.hidden, field.head.label_hidden, self.classes)

    def __call__(
        self, features: NDArray[np.float32], targets: NDArray[np.integer]
    ) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
        """Label, uint8 [N], and confidence, float32 [N] in 0..1: the largest logit, and its softmax probability.

        Args:
            features: float32 [h, w, C + E], the encoder's output.
            targets: [N], flat indices of voxels that have a sample.

        Raises:
            ValueError: A voxel has no sample: it is out of view.
        """
        return self._run(features, targets, np.empty((0, self.classes), dtype=np.float32))

    def logits(self, features: NDArray[np.float32], targets: NDArray[np.integer]) -> NDArray[np.float32]:
        """Logits of all classes, float32 [N, K]; arguments and errors as those of a call."""
        logits = np.empty((len(targets), self.classes), dtype=np.float32)
        self._run(features, targets, logits)
        return logits

    def ordered(self, targets: NDArray[np.integer]) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """Samples of voxels [N] in the order of the feature map's cells, and the place of each among the voxels.

        Raises:
            ValueError: A voxel has no sample: it is out of view.
        """
        chosen = self.sample_of[targets]
        if (chosen < 0).any():
            raise ValueError(f"{np.count_nonzero(chosen < 0)} of {len(targets)} voxels are out of view")
        samples, place = np.empty_like(chosen), np.empty_like(chosen)
        self._order(chosen, samples, place)  # samples are ordered by cell
        return samples, place

    def _run(
        self, features: NDArray[np.float32], targets: NDArray[np.integer], logits: NDArray[np.float32]
    ) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
        chosen, place = self.ordered(targets)
        label, confidence = np.empty(len(chosen), dtype=np.uint8), np.empty(len(chosen), dtype=np.float32)
        self._kernel(
            self.field.flat_features(features),
            self.field.feature_size[1],
            self.tables.x,
            self.tables.y,
            self.tables.z,
            self.weight,
            self.bias,
            chosen,
            place,
            self.samples.cell,
            self.samples.share,
            self.samples.rows,
            label,
            confidence,
            logits,
        )
        return label, confidence


def padded(weights: NDArray[np.float32]) -> NDArray[np.float32]:
    """Contiguous weights [K] or [K, E], with rows of zeros up to a multiple of TILE."""
    missing = [(0, -len(weights) % TILE)] + [(0, 0)] * (weights.ndim - 1)
    return np.ascontiguousarray(np.pad(weights, missing), dtype=np.float32)


def label_logits_reference(
    features: NDArray[np.float32],
    points_camera: NDArray[np.floating],
    head: HeadWeights,
    code: PointCodeSpec,
    canonical: Camera,
) -> NDArray[np.float64]:
    """Logits V . ReLU(F_l(u, v) + W_l gamma(c) + b_l) + v of all classes.

    Args:
        features: float32 [h, w, C + E], the encoder's output; F_l are the last E channels.
        points_camera: [N, 3], optical frame, metres; anywhere, also outside the view.
        head: Weights of the head, labels among them.

    Returns:
        float64 [N, K].

    Raises:
        ValueError: The head has no labels.
    """
    positional_weight, hidden_bias, weight, bias = head.label_layers()
    map_of_labels = features[..., head.hidden :]
    hidden = hidden_reference(map_of_labels, points_camera, positional_weight, hidden_bias, code, canonical)  # [N, E]
    return np.asarray(hidden @ weight.T + bias, dtype=np.float64)


def most_likely(logits: NDArray[np.floating]) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    """Label, uint8 [N], and confidence, float64 [N], of logits [N, K]: the argmax, and its softmax probability."""
    shifted = logits - logits.max(axis=1, keepdims=True)
    return logits.argmax(axis=1).astype(np.uint8), 1.0 / np.exp(shifted).sum(axis=1)
