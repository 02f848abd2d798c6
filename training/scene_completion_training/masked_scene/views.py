"""Two views of one scene, turned, mirrored, recoloured, partly without features; and what of a view is hidden."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scene_completion_ros.errors import ConfigurationError
from scene_completion_training.masked_scene.scenes import FEATURES, VoxelScene

COLOURS = slice(FEATURES.index("red"), FEATURES.index("blue") + 1)
SEEN = FEATURES.index("seen")
RANGES_M = (0.0, 16.0, 32.0, 80.0)
"""Distances from the camera between which a sample lies, metres. Voxels that a student predicts are denser and blurrier
with range: a network that sees all ranges at once would learn range."""


@dataclass
class SceneViewSettings:
    """What a view changes of a scene, and which part of it a sample shows.

    Attributes:
        jitter: Largest change of brightness and contrast of each colour, as a share.
        dropped: Share of the voxels whose features become zero.
        voxels: Most voxels of a sample.
    """

    jitter: float = 0.3
    dropped: float = 0.2
    voxels: int = 24_000

    def check(self) -> None:
        """Refuses what is no view.

        Raises:
            ConfigurationError: A number that cannot be.
        """
        if not (0.0 <= self.jitter < 1.0 and 0.0 <= self.dropped < 1.0 and self.voxels > 0):
            raise ConfigurationError(f"{self}", where="views", cure="Take shares below 1, and at least one voxel")


def sample_rows(scene: VoxelScene, settings: SceneViewSettings, generator: np.random.Generator) -> NDArray[np.int64]:
    """Rows of a scene that one sample shows: those of one range, and of these at most so many around one of them.

    Both views of the sample show these voxels, and so the same range.

    Returns:
        int64 [n], ascending. All rows of a scene that lies beyond all ranges.
    """
    bin_of = np.digitize(scene.range_m, RANGES_M) - 1
    filled = np.flatnonzero(np.bincount(bin_of[bin_of < len(RANGES_M) - 1]))
    rows = np.arange(len(scene)) if not len(filled) else np.flatnonzero(bin_of == generator.choice(filled))
    if len(rows) <= settings.voxels:
        return rows
    flat = scene.index[rows, :2].astype(np.int32)
    away = np.abs(flat - flat[generator.integers(len(flat))]).max(axis=1)
    return np.sort(rows[np.argsort(away, kind="stable")[: settings.voxels]])


def view(
    index: NDArray[np.integer],
    features: NDArray[np.float32],
    edge: int,
    settings: SceneViewSettings,
    generator: np.random.Generator,
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """One view of voxels, row by row those that were given: turned by quarter turns, half of the time mirrored.

    Args:
        index: [N, 3], within [0, edge) along x and y.
        features: [N, F], the first of them `FEATURES`.
        edge: Voxels along x and along y of the square that is turned.

    Returns:
        int64 [N, 3], float32 [N, F].
    """
    x, y, z = index.astype(np.int64).T
    for _ in range(generator.integers(4)):
        x, y = y, edge - 1 - x
    if generator.random() < 0.5:
        y = edge - 1 - y
    place = np.stack([x, y, z], axis=1)
    changed = features.copy()
    contrast, brightness = 1.0 + settings.jitter * generator.uniform(-1.0, 1.0, (2, 3))
    colours = (changed[:, COLOURS] - 0.5) * contrast + 0.5 * brightness
    changed[:, COLOURS] = np.clip(colours, 0.0, 1.0) * changed[:, SEEN : SEEN + 1]
    changed[generator.random(len(changed)) < settings.dropped] = 0.0
    return place, changed


def masked_voxels(
    index: NDArray[np.integer], edge: int, ratio: float, generator: np.random.Generator
) -> NDArray[np.bool_]:
    """Voxels of one scene that are hidden, bool [N]: all those of a random share of the patches that hold any (MSM).

    Patches stand on a raster of the grid, as the voxels of coarser levels do.

    Args:
        index: Voxels [N, 3].
        edge: Voxels along the edge of a patch.
        ratio: Share of the patches; their number is rounded.
    """
    _, patch = np.unique(index.astype(np.int64) // edge, axis=0, return_inverse=True)
    patch = patch.reshape(-1)
    count = int(patch.max(initial=-1)) + 1
    hidden = np.zeros(count, np.bool_)
    hidden[generator.permutation(count)[: round(ratio * count)]] = True
    return hidden[patch]
