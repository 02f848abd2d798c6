"""What a query with phrases says of the occupied voxels of one frame: from a completer, or from a node's cloud."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scene_completion_ros.errors import GridError
from scene_completion_ros.voxels.colours import spread_colour
from scene_completion_ros.voxels.semantic_voxels import SemanticVoxels

LEAST_PROBABILITY = 0.5
"""From here on a voxel matches a phrase: the phrase is more likely than the background."""
OTHER, OTHER_COLOUR = "other", (222, 222, 226)


@dataclass(frozen=True, eq=False)
class PhraseMatches:
    """How well each of P phrases fits each of the N occupied voxels of a frame.

    Attributes:
        phrases: As they were asked, P of them, each another.
        score: float32 [P, N], cosine of the voxel's feature with the phrase; 0 where nothing is known.
        probability: float32 [P, N] in 0..1, of the phrase against the background; 0 where nothing is known.

    Raises:
        GridError: Shapes contradict each other.
    """

    phrases: tuple[str, ...]
    score: NDArray[np.float32]
    probability: NDArray[np.float32]

    def __post_init__(self) -> None:
        expected = (len(self.phrases), *self.score.shape[1:2])
        for name in ("score", "probability"):
            if (found := getattr(self, name).shape) != expected or len(expected) != 2:
                raise GridError(f"shape {found} where [phrases, voxels] is needed", where=f"PhraseMatches.{name}")

    def __len__(self) -> int:
        """Number of voxels N."""
        return int(self.probability.shape[1])

    @classmethod
    def of_points(
        cls,
        phrases: Sequence[str],
        voxels: SemanticVoxels,
        points_grid: NDArray[np.floating],
        phrase: NDArray[np.integer],
        score: NDArray[np.floating],
        probability: NDArray[np.floating],
    ) -> PhraseMatches:
        """Put matches that arrived as points onto the voxels of their frame.

        Args:
            voxels: The frame, with N occupied voxels.
            points_grid: Centres of matching voxels in the grid frame, metres [M, 3].
            phrase: Of each, a place in ``phrases`` [M].
            score: Of each [M].
            probability: Of each [M].

        Returns:
            Zeros but for the points. Points outside of occupied voxels, and of no phrase, are left out.
        """
        row = np.full(voxels.grid.shape, -1, dtype=np.int64)
        row[tuple(voxels.index.T)] = np.arange(len(voxels))
        index, inside = voxels.grid.index_of(np.asarray(points_grid, dtype=np.float64).reshape(-1, 3))
        kept = np.asarray(inside) & (phrase >= 0) & (phrase < len(phrases))
        place = row[tuple(np.asarray(index)[kept].T)]
        values = [np.zeros((len(phrases), len(voxels)), dtype=np.float32) for _ in range(2)]
        for value, given in zip(values, (score, probability), strict=True):
            value[phrase[kept][place >= 0], place[place >= 0]] = given[kept][place >= 0]
        return cls(tuple(phrases), *values)

    def as_classes(self, voxels: SemanticVoxels) -> SemanticVoxels:
        """The voxels with their most likely phrase as their class, for pictures; ``other`` where none matches.

        Args:
            voxels: The frame that was asked about.
        """
        best = self.probability.argmax(axis=0)
        probability = self.probability[best, np.arange(len(voxels))]
        return dataclasses.replace(
            voxels,
            label=np.where(probability >= LEAST_PROBABILITY, best + 1, 0).astype(np.uint8),
            confidence=probability,
            class_names=(OTHER, *self.phrases),
            class_colours=(OTHER_COLOUR, *phrase_colours(len(self.phrases))),
        )


def phrase_colours(count: int) -> tuple[tuple[int, int, int], ...]:
    """An RGB colour (0..255) for each of so many phrases."""
    return tuple(spread_colour(number) for number in range(count))
