"""Two views of one scene, turned, mirrored, recoloured, partly without features; and what of a view is hidden."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from scene_completion_ros.errors import ConfigurationError
from scene_completion_training.masked_scene.scenes import FEATURES, VoxelScene

COLOURS = slice(FEATURES.index("red"), FEATURES.index("blue") + 1)
SEEN = FEATURES.index("seen")
# Distances from the camera between which a sample lies, metres. Voxels that a student predicts are denser and blurrier
# with range: a network that sees all ranges at once would learn range.
RANGES_M = (0.0, 16.0, 32.0, 80.0)


@dataclass
class SceneViewSettings:
    """What a view changes of a scene, and which part of it a sample shows."""

    jitter: float = 0.3  # largest change of brightness and contrast of each colour, as a share
    dropped: float = 0.2  # share of the voxels whose features become zero
    voxels: int = 24_000  # most voxels of a sample
    points: int = 240_000  # most points of a sample, of scenes of points
    scale: float = 0.1  # largest change of the size of a scene of points, as a share
    # Share of the views of points that lose all colours, and of those that lose all normals: for clouds that have none.
    blind: float = 0.0

    def check(self) -> None:
        """Refuses what is no view. Raises ConfigurationError where a number that cannot be."""
        shares = (self.jitter, self.dropped, self.scale, self.blind)
        if not (all(0.0 <= share < 1.0 for share in shares) and min(self.voxels, self.points) > 0):
            raise ConfigurationError(f"{self}", where="views", cure="Take shares below 1, and at least one voxel")


@dataclass(frozen=True, eq=False)
class View:
    """The voxels of one view, and places in it that another view of the sample has in the same order."""

    index: NDArray[np.int64]  # [N, 3]
    features: NDArray[np.float32]  # [N, F]
    points: NDArray[np.float32]  # [P, 3], in edges of voxels: voxel i spans i to i + 1
    voxel: NDArray[np.int64]  # [P], row of the voxel that each point lies in


def voxel_views(
    file: Path, generator: np.random.Generator, settings: SceneViewSettings, edge: int
) -> tuple[View, View]:
    """Two views of the `VoxelScene` of a file, whose points are the centres of its voxels; arguments as of `view`."""
    scene = VoxelScene.load(file)
    rows = sample_rows(scene, settings, generator)
    index, features = scene.index[rows], scene.features[rows]
    return view(index, features, edge, settings, generator), view(index, features, edge, settings, generator)


def sample_rows(scene: VoxelScene, settings: SceneViewSettings, generator: np.random.Generator) -> NDArray[np.int64]:
    """Rows of a scene that one sample shows: those of one range, and of these at most so many around one of them.

    Both views of the sample show these voxels, and so the same range. Returns int64 [n], ascending. All rows of a scene
    that lies beyond all ranges.
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
    index: NDArray[np.integer],  # [N, 3], within [0, edge) along x and y
    features: NDArray[np.float32],  # [N, F], the first of them `FEATURES`
    edge: int,  # voxels along x and along y of the square that is turned
    settings: SceneViewSettings,
    generator: np.random.Generator,
) -> View:
    """One view of voxels, row by row those that were given: turned by quarter turns, half of the time mirrored."""
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
    return View(place, changed, (place + 0.5).astype(np.float32), np.arange(len(place)))


def masked_voxels(
    index: NDArray[np.integer], edge: int, ratio: float, generator: np.random.Generator
) -> NDArray[np.bool_]:
    """Voxels of one scene that are hidden, bool [N]: all those of a random share of the patches that hold any (MSM).

    Patches stand on a raster of the grid, as the voxels of coarser levels do.

    `index`: voxels [N, 3]; `edge`: voxels along the edge of a patch; `ratio`: share of the patches; their number is
    rounded.
    """
    patch = distinct(index.astype(np.int64) // edge)[1]
    count = int(patch.max(initial=-1)) + 1
    hidden = np.zeros(count, np.bool_)
    hidden[generator.permutation(count)[: round(ratio * count)]] = True
    return hidden[patch]


def distinct(cells: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Where each of cells [N, 3], none below 0, comes first [M], by x, y, z, and which of these every cell is [N]."""
    keys = np.ravel_multi_index(tuple(cells.T), tuple(cells.max(axis=0, initial=0) + 1))
    _, first, number = np.unique(keys, return_index=True, return_inverse=True)
    return first, number.reshape(-1)
