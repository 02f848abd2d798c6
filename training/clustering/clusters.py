"""Cosine clusters of points."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scene_completion_ros.errors import ConfigurationError


@dataclass(frozen=True, eq=False)
class Clusters:
    """Cosine clusters.

    Attributes:
        centres: Of length one, float32 [K, C].
    """

    centres: NDArray[np.float32]

    def assign(self, codes: NDArray[np.float32]) -> NDArray[np.int64]:
        """The cluster [N] of each code [N, C]: that of the largest cosine."""
        return np.asarray((codes @ self.centres.T).argmax(axis=1), dtype=np.int64)


def fit_clusters(codes: NDArray[np.float32], count: int, *, seed: int = 0) -> Clusters:
    """K-means of codes of length one [N, C], with centres of length one.

    On the sphere the squared Euclidean distance is two minus twice the cosine, so that ordinary k-means with centres
    brought back to length one is cosine k-means but for the centres' steps in between.

    Args:
        codes: What is clustered.
        count: Clusters K.
        seed: Seed of the starts; the best of several is taken.

    Raises:
        ConfigurationError: There are fewer codes than clusters.
    """
    from sklearn.cluster import KMeans

    if len(codes) < count:
        raise ConfigurationError(
            f"{len(codes)} points for {count} clusters", where="clusters", cure="Take more frames or fewer clusters"
        )
    found = KMeans(count, n_init=4, random_state=seed).fit(codes).cluster_centers_
    return Clusters((found / np.linalg.norm(found, axis=1, keepdims=True).clip(1e-9)).astype(np.float32))
