"""What a query with phrases says of the occupied voxels of one frame: from a completer, or from a node's cloud."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scene_completion_ros.errors import GridError
from scene_completion_ros.voxels.colours import spread_colour
from scene_completion_ros.voxels.semantic_voxels import SemanticVoxels

LEAST_PROBABILITY = 0.5  # from here on a voxel matches a phrase
OTHER, OTHER_COLOUR = "other", (196, 196, 204)


@dataclass(frozen=True, eq=False)
class PhraseMatches:
    """Where a phrase of a query was found. Raises GridError: shapes contradict each other."""

    phrase: str  # the phrase, or the name of a class of phrases
    voxels: NDArray[np.int32]  # int32 [M], which of the N occupied voxels, each another
    score: NDArray[np.float32]  # float32 [M], contrast: the cosine with the phrase less that with phrases in general
    probability: NDArray[np.float32]  # float32 [M] in 0..1

    def __post_init__(self) -> None:
        shapes = [array.shape for array in (self.voxels, self.score, self.probability)]
        if shapes != [(self.voxels.size,)] * 3:
            raise GridError(f"shapes {shapes} where three times [M] is needed", where=f"PhraseMatches {self.phrase!r}")


def matches_of_points(
    phrases: Sequence[str],
    voxels: SemanticVoxels,  # the frame, with N occupied voxels
    points_grid: NDArray[np.floating],  # centres of matching voxels in the grid frame, metres [M, 3]
    phrase: NDArray[np.integer],  # of each, a place in ``phrases`` [M]
    score: NDArray[np.floating],  # of each [M]
    probability: NDArray[np.floating],  # of each [M]
) -> tuple[PhraseMatches, ...]:
    """Put matches that arrived as points onto the voxels of their frame.

    Returns one for each of the phrases. Points outside of occupied voxels, and of no phrase, are left out.
    """
    row = np.full(voxels.grid.shape, -1, dtype=np.int32)
    row[tuple(voxels.index.T)] = np.arange(len(voxels))
    index, inside = voxels.grid.index_of(np.asarray(points_grid, dtype=np.float64).reshape(-1, 3))
    place = np.full(len(phrase), -1, dtype=np.int32)
    place[np.asarray(inside)] = row[tuple(np.asarray(index)[np.asarray(inside)].T)]
    found = []
    for number, name in enumerate(phrases):
        own, first = np.unique(np.where(phrase == number, place, -1), return_index=True)
        first, own = first[own >= 0], own[own >= 0]
        values = (np.asarray(value[first], dtype=np.float32) for value in (score, probability))
        found.append(PhraseMatches(name, own, *values))
    return tuple(found)


def as_classes(voxels: SemanticVoxels, matches: Sequence[PhraseMatches]) -> SemanticVoxels:
    """The voxels with their most likely phrase as their class, for pictures; ``other`` where none matches.

    `voxels`: the frame that was asked about; `matches`: its answer, at most 255 phrases.
    """
    label, confidence = np.zeros(len(voxels), dtype=np.uint8), np.zeros(len(voxels), dtype=np.float32)
    for number, found in enumerate(matches, start=1):
        better = found.probability > np.maximum(confidence[found.voxels], np.nextafter(LEAST_PROBABILITY, 0.0))
        label[found.voxels[better]], confidence[found.voxels[better]] = number, found.probability[better]
    return dataclasses.replace(
        voxels,
        label=label,
        confidence=confidence,
        class_names=(OTHER, *(found.phrase for found in matches)),
        class_colours=(OTHER_COLOUR, *phrase_colours(len(matches))),
    )


def phrase_colours(count: int) -> tuple[tuple[int, int, int], ...]:
    """An RGB colour (0..255) for each of so many phrases."""
    return tuple(spread_colour(number) for number in range(count))
