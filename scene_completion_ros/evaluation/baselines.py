"""What knows no image: the prior grid and the mean depth of the training data. A model has to beat both."""

from typing import Any

import numpy as np
from numpy.typing import NDArray


class PriorGrid:
    """Mean occupancy of each voxel over the training data.

    Unknown voxels count neither as free nor as occupied. The counts are smoothed before they are divided, so a voxel
    that was seldom known takes after its neighbours.
    """

    def __init__(self, shape: tuple[int, int, int]) -> None:
        self.occupied = np.zeros(shape, dtype=np.float32)  # float32 [X, Y, Z], how often a voxel was occupied
        self.known = np.zeros(shape, dtype=np.float32)  # float32 [X, Y, Z], how often its content was known

    def update(self, occupied: NDArray[np.bool_], known: NDArray[np.bool_]) -> None:
        """Count one grid: truth and where it is known, bool [X, Y, Z] each."""
        self.occupied += occupied & known
        self.known += known

    def compute(self, sigma: tuple[float, float, float] = (0.0, 0.0, 0.0)) -> NDArray[np.float32]:
        """Smoothed mean, float32 [X, Y, Z], 0 if nothing is near; `sigma`: of the Gaussian along x, y, z, voxels."""
        from scipy.ndimage import gaussian_filter  # training and tests have SciPy, a robot need not

        known = gaussian_filter(self.known, sigma)
        near = known > 1e-6
        mean = np.where(near, gaussian_filter(self.occupied, sigma) / np.where(near, known, 1.0), 0.0)
        return np.clip(mean, 0.0, 1.0).astype(np.float32)


class MeanDepth:
    """Mean LiDAR depth of each pixel over the training data.

    Images of different sizes are brought together on a grid of normalised image coordinates. A measurement counts in
    the cell that its pixel's centre falls into. Cells without any take the value of the nearest cell that has one.
    """

    def __init__(self, height: int = 192, width: int = 640) -> None:
        self.sums = np.zeros((height, width))  # float64 [height, width], metres
        self.counts = np.zeros((height, width))  # float64 [height, width]

    def update(self, depth: NDArray[np.floating[Any]]) -> None:
        """Count one sparse depth image [H, W], metres, 0 where nothing was measured."""
        height, width = self.counts.shape
        row, column = np.nonzero(depth > 0.0)
        cell = (
            ((row + 0.5) * height / depth.shape[0]).astype(np.int64),
            ((column + 0.5) * width / depth.shape[1]).astype(np.int64),
        )
        np.add.at(self.sums, cell, depth[row, column])
        np.add.at(self.counts, cell, 1.0)

    def compute(self) -> NDArray[np.float32]:
        """Mean depth float32 [height, width], metres, of at least one measurement."""
        from scipy.ndimage import distance_transform_edt  # training and tests have SciPy, a robot need not

        empty = self.counts == 0.0
        mean = (self.sums / np.maximum(self.counts, 1.0)).astype(np.float32)
        nearest = distance_transform_edt(empty, return_distances=False, return_indices=True)
        return np.asarray(mean[tuple(nearest)])
