"""Completed semantic occupancy of one image: what crosses the wall between inference, mapping, reports and ROS."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from itertools import product

import numpy as np
from numpy.typing import NDArray

from scene_completion_ros.arrays import Bytes, Floats, Integers, Reals
from scene_completion_ros.errors import GridError
from scene_completion_ros.geometry.grids import VoxelGrid
from scene_completion_ros.geometry.transforms import RigidTransform
from scene_completion_ros.voxels.colours import spread_colour


class VoxelState(IntEnum):
    """What is known of a voxel, from T, the transmittance between the camera and the voxel through the predicted grid.

    A voxel is occupied if its calibrated probability is at or above its threshold. Such a voxel is opaque, whatever the
    network's opacity of it: behind it, T is 0. Free voxels take from T the little opacity they have. Only ``FREE_SEEN``
    may clear a costmap: ``FREE_INFERRED`` lies behind something and is a prediction.
    """

    UNOBSERVED = 0  # outside the camera's view: nothing is known about it
    FREE_SEEN = 1  # not occupied, T >= 0.5
    FREE_INFERRED = 2  # not occupied, T < 0.5
    SURFACE = 3  # occupied, T >= 0.5
    COMPLETED = 4  # occupied, T < 0.5: completed behind an obstacle


@dataclass(frozen=True, eq=False)
class SemanticVoxels:
    """A dense state grid, and sparse arrays over the occupied voxels. Raises GridError where shapes contradict."""

    grid: VoxelGrid  # where the voxels lie; axes x forward, y left, z up
    grid_from_camera: RigidTransform  # pose of the optical frame (x right, y down, z forward) in the grid frame
    stamp_ns: int  # time of the image, nanoseconds
    state: Bytes  # uint8 [X, Y, Z], values of :class:`VoxelState`
    index: NDArray[np.int32]  # int32 [N, 3], the occupied voxels (``SURFACE`` or ``COMPLETED``)
    probability: Floats  # float32 [N], calibrated probability of being occupied
    label: Bytes  # uint8 [N], index into ``class_names``
    confidence: Floats  # float32 [N] in 0..1, confidence in the label
    class_names: tuple[str, ...] = ("unlabelled",)
    class_colours: tuple[tuple[int, int, int], ...] = ((128, 128, 128),)  # one RGB colour (0..255) a class

    def __post_init__(self) -> None:
        count = self.index.shape[0]
        expected: dict[str, tuple[int, ...]] = {"state": self.grid.shape, "index": (count, 3)}
        for name, shape in (expected | dict.fromkeys(("probability", "label", "confidence"), (count,))).items():
            found = getattr(self, name).shape
            if found != shape:
                raise GridError(f"shape {found} where {shape} is needed", where=f"SemanticVoxels.{name}")
        if len(self.class_names) != len(self.class_colours):
            what = f"{len(self.class_names)} class names but {len(self.class_colours)} colours"
            raise GridError(what, where="SemanticVoxels")

    @classmethod
    def nothing(cls, grid: VoxelGrid) -> "SemanticVoxels":
        """Voxels of which nothing is known, for kernels that are to be compiled before there is an image."""
        state, index, none = np.zeros(grid.shape, np.uint8), np.zeros((0, 3), np.int32), np.zeros(0, np.float32)
        return cls(grid, RigidTransform.identity(), 0, state, index, none, none.astype(np.uint8), none)

    def __len__(self) -> int:
        """Number of occupied voxels N."""
        return int(self.index.shape[0])

    def points_grid(self) -> Floats:
        """Centres of the occupied voxels in the grid frame (x forward, y left, z up), metres, float32 [N, 3]."""
        origin = np.asarray(self.grid.origin, dtype=np.float64)
        return (origin + (self.index + 0.5) * self.grid.voxel_size).astype(np.float32)

    def points_camera(self) -> Floats:
        """Centres of the occupied voxels in the camera's optical frame, metres, float32 [N, 3]."""
        return self.points_in(self.grid_from_camera.inverse())

    def points_in(self, frame_from_grid: RigidTransform) -> Floats:
        """Centres of the occupied voxels in a frame in which the grid has a pose, metres, float32 [N, 3]."""
        rotation = frame_from_grid.rotation.astype(np.float32)
        points: Floats = self.points_grid() @ rotation.T + frame_from_grid.translation.astype(np.float32)
        return points


LEAST_PROBABILITY = 0.5  # from here on a voxel matches a phrase
OTHER, OTHER_COLOUR = "other", (196, 196, 204)


@dataclass(frozen=True, eq=False)
class PhraseMatches:
    """Where a phrase of a query was found. Raises GridError: shapes contradict each other."""

    phrase: str  # the phrase, or the name of a class of phrases
    voxels: NDArray[np.int32]  # int32 [M], which of the N occupied voxels, each another
    score: Floats  # float32 [M], contrast: the cosine with the phrase less that with phrases in general
    probability: Floats  # float32 [M] in 0..1

    def __post_init__(self) -> None:
        shapes = [array.shape for array in (self.voxels, self.score, self.probability)]
        if shapes != [(self.voxels.size,)] * 3:
            raise GridError(f"shapes {shapes} where three times [M] is needed", where=f"PhraseMatches {self.phrase!r}")

    @property
    def sure(self) -> NDArray[np.int32]:
        """The voxels that match with `LEAST_PROBABILITY`."""
        return self.voxels[self.probability >= LEAST_PROBABILITY]


def matches_of_points(
    phrases: Sequence[str],
    voxels: SemanticVoxels,  # the frame, with N occupied voxels
    points_grid: Reals,  # centres of matching voxels in the grid frame, metres [M, 3]
    phrase: Integers,  # of each, a place in ``phrases`` [M]
    score: Reals,  # of each [M]
    probability: Reals,  # of each [M]
) -> tuple[PhraseMatches, ...]:
    """Matches of each phrase, arrived as points, on their frame's occupied voxels; others are left out."""
    row = np.full(voxels.grid.shape, -1, dtype=np.int32)
    row[tuple(voxels.index.T)] = np.arange(len(voxels))
    index, inside = voxels.grid.index_of(np.asarray(points_grid, dtype=np.float64).reshape(-1, 3))
    place = np.full(len(phrase), -1, dtype=np.int32)
    place[np.asarray(inside)] = row[tuple(np.asarray(index)[np.asarray(inside)].T)]
    found = []
    for number, name in enumerate(phrases):
        there = np.flatnonzero((phrase == number) & (place >= 0))
        own, first = np.unique(place[there], return_index=True)
        values = (np.asarray(value[there[first]], dtype=np.float32) for value in (score, probability))
        found.append(PhraseMatches(name, own, *values))
    return tuple(found)


def as_classes(voxels: SemanticVoxels, matches: Sequence[PhraseMatches]) -> SemanticVoxels:
    """The `voxels` with their likeliest phrase (of at most 255 `matches`) as class, ``other`` if none; for pictures."""
    label, confidence = np.zeros(len(voxels), dtype=np.uint8), np.zeros(len(voxels), dtype=np.float32)
    for number, found in enumerate(matches, start=1):
        better = found.probability > np.maximum(confidence[found.voxels], np.nextafter(LEAST_PROBABILITY, 0.0))
        label[found.voxels[better]], confidence[found.voxels[better]] = number, found.probability[better]
    return dataclasses.replace(
        voxels,
        label=label,
        confidence=confidence,
        class_names=(OTHER, *(found.phrase for found in matches)),
        class_colours=(OTHER_COLOUR, *phrase_colours(len(matches), voxels.class_colours)),
    )


def phrase_colours(count: int, class_colours: Sequence[tuple[int, int, int]] = ()) -> tuple[tuple[int, int, int], ...]:
    """An RGB colour (0..255) for each of so many phrases, as far from the classes and from each other as there are."""
    free = [colour for colour in product((0, 64, 128, 192, 255), repeat=3) if max(colour) - min(colour) > 100]
    free += [spread_colour(number) for number in range(count)]
    taken: list[tuple[int, ...]] = [OTHER_COLOUR, *class_colours]
    found: list[tuple[int, int, int]] = []
    for _ in range(count):
        away = np.linalg.norm(np.array(free)[:, None] - np.array(taken, dtype=np.float64), axis=2).min(axis=1)
        red, green, blue = free.pop(int(away.argmax()))
        found.append((red, green, blue))
        taken.append(found[-1])
    return tuple(found)
