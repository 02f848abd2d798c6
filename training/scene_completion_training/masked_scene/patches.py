"""Masks of patches of voxels (MSM: a share of the voxels is hidden in patches)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from scene_completion_ros.errors import ConfigurationError


def check_edge(edge: int, levels: int) -> None:
    """Refuses patches that hide nothing at the coarsest level, where a voxel has 2^(levels - 1) fine ones an edge.

    Raises:
        ConfigurationError: The edge is no multiple of that.
    """
    coarsest = 2 ** (levels - 1)
    if edge < 1 or edge % coarsest:
        raise ConfigurationError(
            f"patches of {edge} voxels share the coarsest of {levels} levels with their neighbours, which tell what is "
            "in them",
            where="patch",
            cure=f"Take a multiple of {coarsest}",
        )


def masked_voxels(
    index: NDArray[np.integer], edge: int, ratio: float, generator: np.random.Generator
) -> NDArray[np.bool_]:
    """Voxels of one scene that are hidden, bool [N]: all those of a random share of the patches that hold any.

    Patches stand on a raster of the grid, as the voxels of coarser levels do.

    Args:
        index: Voxels [N, 3].
        edge: Voxels along the edge of a patch.
        ratio: Share of the patches; their number is rounded.

    Raises:
        ConfigurationError: The ratio is no share.
    """
    if not 0.0 <= ratio <= 1.0:
        raise ConfigurationError(f"{ratio}", where="ratio", cure="Take a share from 0 to 1")
    _, patch = np.unique(index.astype(np.int64) // edge, axis=0, return_inverse=True)
    patch = patch.reshape(-1)
    count = int(patch.max(initial=-1)) + 1
    hidden = np.zeros(count, np.bool_)
    hidden[generator.permutation(count)[: round(ratio * count)]] = True
    return hidden[patch]
