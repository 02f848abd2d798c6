"""Cosine clusters of points, fitted and on disk, with the points that a label head is fitted to."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray

from scene_completion_ros.errors import ConfigurationError

CLUSTER_FILE = "clusters.safetensors"


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


def write_clusters(file: Path, clusters: Clusters, codes: NDArray[np.float32], units: NDArray[np.float16]) -> None:
    """Writes the centres, and the units [N, E] of points with the clusters of their codes [N, C], in random order."""
    order = np.random.default_rng(0).permutation(len(codes))
    arrays: dict[str, NDArray[Any]] = {
        "centres": clusters.centres,
        "units": np.ascontiguousarray(units[order]),
        "cluster": clusters.assign(codes[order]).astype(np.uint8),
    }
    part = file.with_suffix(".part")
    safetensors.numpy.save_file(arrays, part)
    part.replace(file)


def read_clusters(file: Path) -> tuple[Clusters, NDArray[np.float16], NDArray[np.int64]]:
    """Reads centres, units [N, E] and clusters [N].

    Raises:
        ConfigurationError: The file is missing or damaged.
    """
    try:
        arrays = safetensors.numpy.load_file(file)
        return Clusters(arrays["centres"]), arrays["units"], arrays["cluster"].astype(np.int64)
    except (OSError, ValueError, LookupError, safetensors.SafetensorError) as error:
        raise ConfigurationError(
            f"cannot be read ({error})", where=str(file), cure="Make it with `scene-completion classes`"
        ) from error
