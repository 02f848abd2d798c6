"""Probes of many methods on the labelled scenes of recordings, all on the same voxels."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from scene_completion_ros.errors import ConfigurationError
from scene_completion_ros.evaluation.semantic_classes import COMMON_CLASSES, EMPTY, INVALID
from scene_completion_ros.sequences.opening import holds_voxels
from scene_completion_ros.sequences.posed_sequence import PosedSequence
from scene_completion_ros.sequences.sequence_folder import holds_exact_voxels
from scene_completion_training.evaluation.voxel_features import SceneFrame, VoxelFeatures
from scene_completion_training.evaluation.voxel_probe import (
    LabelledFeatures,
    ProbeScores,
    ProbeSettings,
    fit_probes,
    score_probes,
)
from scene_completion_training.masked_scene.scenes import SceneMaker, VoxelScene, keep_scenes

NAMES = COMMON_CLASSES[1:]
"""Classes that are told apart: the 15 of S4C."""
_TEST_SEED = 0


@dataclass(frozen=True)
class LabelledScene:
    """A labelled scene on disk, and the frame that it is of."""

    sequence: PosedSequence
    index: int
    file: Path

    def frame(self) -> SceneFrame:
        """Reads it."""
        return SceneFrame(self.sequence, self.index, VoxelScene.load(self.file))


@dataclass(frozen=True, eq=False)
class Method:
    """What is probed, under one name.

    Attributes:
        runs: Models, and for each the seeds of its probes. Every seed of every model is a result.
    """

    name: str
    runs: Sequence[tuple[VoxelFeatures, Sequence[int]]]


@dataclass(frozen=True, eq=False)
class MethodScores:
    """What a method scores on the recordings of a group.

    Attributes:
        group: What they are, for tables.
        runs: The scores of all variants, for each model and seed.
    """

    group: str
    method: str
    runs: Sequence[Sequence[ProbeScores]]


def is_town(sequence: PosedSequence) -> bool:
    """Whether a recording is a rendered town, all of whose frames have exact voxels."""
    return holds_exact_voxels(sequence)


def labelled_scenes(maker: SceneMaker, cache: Path, every: int) -> list[LabelledScene]:
    """Scenes of the frames that have ground truth: of a town every N-th, of a KITTI window the first.

    Raises:
        ConfigurationError: No frame has ground truth.
        SequenceError: None of them has an occupied voxel.
    """
    sequence = maker.sequence
    frames = range(0, len(sequence), every) if is_town(sequence) else range(1)
    frames_with = [index for index in frames if holds_voxels(sequence, index)]
    if not frames_with:
        raise ConfigurationError(
            "no frame has ground truth voxels", where=sequence.name, cure="Name towns or KITTI windows with labels"
        )
    files = keep_scenes(maker, cache, frames_with)
    return [LabelledScene(sequence, int(file.stem), file) for file in files]


def labelled_features(
    model: VoxelFeatures, frame: SceneFrame, most: int, seeds: Sequence[int]
) -> list[LabelledFeatures]:
    """Features of labelled voxels of a scene, drawn at random for each seed; the same ones for every model.

    Args:
        most: Voxels that are drawn, at most.

    Returns:
        For each seed; nothing where no voxel is labelled.
    """
    label = frame.scene.label
    labelled = np.flatnonzero((label != EMPTY) & (label != INVALID)) if label is not None else np.zeros(0, np.int64)
    if label is None or not len(labelled):
        return []
    place = zlib.crc32(frame.scene.name.encode())
    drawn = [np.random.default_rng([seed, place]).permutation(labelled)[:most] for seed in seeds]
    levels = model.features(frame, np.concatenate(drawn))
    starts = np.cumsum([0, *map(len, drawn)])
    return [
        LabelledFeatures(tuple(level[start : start + len(rows)] for level in levels), label[rows].astype(np.int64) - 1)
        for start, rows in zip(starts, drawn, strict=False)
    ]


def probe_method(
    method: Method,
    train: Sequence[LabelledScene],
    test: Mapping[str, Sequence[LabelledScene]],
    settings: ProbeSettings,
    *,
    train_voxels: int,
    test_voxels: int,
) -> list[MethodScores]:
    """Fits and scores the probes of a method.

    Args:
        train: Scenes that probes are fitted to.
        test: Group of recordings -> scenes that they are scored on.
        train_voxels, test_voxels: Labelled voxels of a scene, at most.

    Raises:
        ConfigurationError: Too little is labelled.
    """
    runs: dict[str, list[list[ProbeScores]]] = {group: [] for group in test}
    for model, seeds in method.runs:
        seen = [labelled_features(model, scene.frame(), train_voxels, seeds) for scene in train]
        probes = [
            fit_probes(
                [of_scene[number] for of_scene in seen if of_scene], model.levels, len(NAMES), settings, seed=seed
            )
            for number, seed in enumerate(seeds)
        ]
        for group, scenes in test.items():
            asked = [
                features
                for scene in scenes
                for features in labelled_features(model, scene.frame(), test_voxels, [_TEST_SEED])
            ]
            runs[group] += [score_probes(of_seed, asked, NAMES) for of_seed in probes]
    return [MethodScores(group, method.name, scores) for group, scores in runs.items()]
