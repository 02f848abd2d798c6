"""Classes of features by their nearest labelled ones: what features hold without anything being fitted to them.

Neighbours are those of the largest cosine. Masked scene modelling reports such a probe, but neither its k nor its
distance is known. Here the nearest one decides (k = 1), or the 20 nearest vote with weights `exp(cosine / 0.07)`, as in
DINO. The vote is that of Wu et al., "Unsupervised Feature Learning via Non-Parametric Instance Discrimination" (CVPR
2018, section 3.4).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from scene_completion_ros.errors import ConfigurationError
from scene_completion_ros.evaluation.zero_shot import unit_vectors

NEIGHBOURS = 20
TEMPERATURE = 0.07
_CHUNK = 4096  # queries compared at a time


@dataclass(frozen=True, eq=False)
class FeatureBank:
    """Labelled features.

    Attributes:
        rows: Of length one, float32 [B, D].
        classes: int64 [B], in 0 .. count - 1.
        count: Number of classes K.
    """

    rows: NDArray[np.float32]
    classes: NDArray[np.int64]
    count: int

    @staticmethod
    def balanced(
        values: NDArray[np.float32],
        classes: NDArray[np.int64],
        count: int,
        *,
        most: int,
        seed: int = 0,
    ) -> FeatureBank:
        """Draws at most so many features of each class, so that frequent classes do not outvote rare ones.

        Args:
            values: Features [N, D]; those of zeros are none, and left out.
            classes: Their classes [N] of `count`.
            most: Features of a class.

        Raises:
            ConfigurationError: No feature is labelled.
        """
        there = np.flatnonzero(values.any(axis=1))
        order = np.random.default_rng(seed).permutation(there)
        chosen = [order[classes[order] == number][:most] for number in range(count)]
        kept = np.concatenate(chosen)
        if not len(kept):
            raise ConfigurationError(
                "no feature is labelled", where="bank of neighbours", cure="Name recordings with ground truth voxels"
            )
        return FeatureBank(unit_vectors(values[kept]), classes[kept], count)

    def labels(self, values: NDArray[np.float32]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The class of the nearest row, and the one that the nearest rows vote for; see `labels_reference`.

        Args:
            values: Features [N, D].

        Returns:
            Two times int64 [N]; K where there is no feature.
        """
        rows, of_row = torch.from_numpy(self.rows), torch.from_numpy(self.classes)
        neighbours = min(NEIGHBOURS, len(rows))
        nearest, voted = np.empty(len(values), np.int64), np.empty(len(values), np.int64)
        for start in range(0, len(values), _CHUNK):
            chunk = slice(start, start + _CHUNK)
            cosine, place = (torch.from_numpy(unit_vectors(values[chunk])) @ rows.T).topk(neighbours, dim=1)
            votes = torch.zeros(len(cosine), self.count)
            votes.scatter_add_(1, of_row[place], torch.exp((cosine - cosine[:, :1]) / TEMPERATURE))
            nearest[chunk], voted[chunk] = of_row[place[:, 0]].numpy(), votes.argmax(dim=1).numpy()
        unknown = ~values.any(axis=1)
        nearest[unknown] = voted[unknown] = self.count
        return nearest, voted

    def labels_reference(self, values: NDArray[np.float32]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The readable twin of `labels`."""
        nearest, voted = [], []
        for value in values.astype(np.float64):
            if not value.any():
                nearest.append(self.count)
                voted.append(self.count)
                continue
            cosine = self.rows.astype(np.float64) @ value / np.linalg.norm(value)
            best = np.argsort(-cosine)[:NEIGHBOURS]
            votes = np.zeros(self.count)
            for row in best:
                votes[self.classes[row]] += np.exp(cosine[row] / TEMPERATURE)
            nearest.append(int(self.classes[best[0]]))
            voted.append(int(votes.argmax()))
        return np.array(nearest, np.int64), np.array(voted, np.int64)
