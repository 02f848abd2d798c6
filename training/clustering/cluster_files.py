"""Clusters on disk, with the points that a label head is fitted to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray

from scene_completion_ros.errors import ConfigurationError
from scene_completion_training.clustering.clusters import Clusters

CLUSTER_FILE, CLASS_FILE = "clusters.safetensors", "classes.json"


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
