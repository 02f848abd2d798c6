"""Two views of one scene: the same voxels in the same order, turned, mirrored, recoloured, partly without features."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scene_completion_ros.errors import ConfigurationError
from scene_completion_training.masked_scene.scenes import FEATURES, VoxelScene

COLOURS = slice(FEATURES.index("red"), FEATURES.index("blue") + 1)
SEEN = FEATURES.index("seen")


@dataclass
class SceneViewSettings:
    """What a view changes of a scene, and which part of it a sample shows.

    Attributes:
        turn: Turn by any number of quarter turns about the vertical, and mirror every second time.
        jitter: Largest change of brightness and contrast of each colour, as a share.
        dropped: Share of the voxels whose features become zero.
        range_bins: Distances from the camera, metres, between which a sample lies. Voxels that a student predicts are
            denser and blurrier with range: a network that sees all ranges at once would learn range.
        voxels: Most voxels of a sample.
    """

    turn: bool = True
    jitter: float = 0.3
    dropped: float = 0.2
    range_bins: tuple[float, ...] = (0.0, 16.0, 32.0, 80.0)
    voxels: int = 24_000

    def check(self) -> None:
        """Refuses what is no view.

        Raises:
            ConfigurationError: A number that cannot be.
        """
        bins = self.range_bins
        rising = len(bins) > 1 and all(low < high for low, high in itertools.pairwise(bins))
        if not (0.0 <= self.jitter < 1.0 and 0.0 <= self.dropped < 1.0 and self.voxels > 0 and rising):
            raise ConfigurationError(
                f"{self}", where="views", cure="Take shares below 1, rising distances, and at least one voxel"
            )


def sample_rows(
    scene: VoxelScene,
    settings: SceneViewSettings,
    generator: np.random.Generator,
    centres: NDArray[np.bool_] | None = None,
) -> NDArray[np.int64]:
    """Rows of a scene that one sample shows: those of one range, and of these at most so many around one of them.

    Both views of the sample show these voxels, and so the same range.

    Args:
        centres: Voxels [N] that a sample may lie around; any where it is None, or where there are none in all ranges.

    Returns:
        int64 [n], ascending. All rows of a scene that lies beyond all ranges.
    """
    bin_of = np.digitize(scene.range_m, settings.range_bins) - 1
    within = (bin_of >= 0) & (bin_of < len(settings.range_bins) - 1)
    if centres is None or not (within & centres).any():
        centres = np.ones(len(scene), np.bool_)
    filled = np.flatnonzero(np.bincount(bin_of[within & centres]))
    rows = np.arange(len(scene)) if not len(filled) else np.flatnonzero(bin_of == generator.choice(filled))
    if len(rows) <= settings.voxels:
        return rows
    flat = scene.index[rows, :2].astype(np.int32)
    possible = flat[centres[rows]]
    away = np.abs(flat - possible[generator.integers(len(possible))]).max(axis=1)
    return np.sort(rows[np.argsort(away, kind="stable")[: settings.voxels]])


def view(
    index: NDArray[np.integer],
    features: NDArray[np.float32],
    edge: int,
    settings: SceneViewSettings,
    generator: np.random.Generator,
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """One view of voxels: their places and features, row by row those that were given.

    Args:
        index: [N, 3], within [0, edge) along x and y.
        features: [N, F], the first of them `FEATURES`.
        edge: Voxels along x and along y of the square that is turned.

    Returns:
        int64 [N, 3], float32 [N, F].
    """
    place = index.astype(np.int64)
    if settings.turn:
        x, y = place[:, 0], place[:, 1]
        for _ in range(generator.integers(4)):
            x, y = y, edge - 1 - x
        if generator.random() < 0.5:
            y = edge - 1 - y
        place = np.stack([x, y, place[:, 2]], axis=1)
    changed = features.copy()
    contrast, brightness = 1.0 + settings.jitter * generator.uniform(-1.0, 1.0, (2, 3))
    colours = (changed[:, COLOURS] - 0.5) * contrast + 0.5 * brightness
    changed[:, COLOURS] = np.clip(colours, 0.0, 1.0) * changed[:, SEEN : SEEN + 1]
    changed[generator.random(len(changed)) < settings.dropped] = 0.0
    return place, changed
