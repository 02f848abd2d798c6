from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from scene_completion_training.clustering.named_voxels import NamedVoxels
from scene_completion_training.clustering.voxel_naming import VoxelNamer, label_units, write_named
from scene_completion_training.masked_scene.scenes import VoxelScene, feature_names

from scene_completion_ros.errors import ConfigurationError
from scene_completion_ros.inference.bundle import StudentBundle
from tests.inference.small_bundle import make_small_bundle
from tests.training.masked_scene.small_scenes import random_places, scene_of

NAMES = ("road", "kerb", "mail box")
COLOURS = ((1, 2, 3), (4, 5, 6), (7, 8, 9))


def scene(seed: int, units: int = 6, count: int = 400) -> tuple[VoxelScene, np.ndarray]:
    """Three classes, of which the first is frequent; their units lie apart, around a large common mean."""
    random = np.random.default_rng(seed)
    classes = random.choice(3, count, p=[0.9, 0.05, 0.05])
    values = 20.0 + 3.0 * np.eye(units)[classes] + 0.4 * random.normal(size=(count, units))
    bare = scene_of(random_places(count, (16, 16, 8), seed), (16, 16, 8))
    features = np.concatenate([bare.features, values], axis=1).astype(np.float32)
    return dataclasses.replace(bare, features=features, columns=feature_names(units)), classes


def named(scenes: dict[int, tuple[VoxelScene, np.ndarray]], each: int) -> NamedVoxels:
    """A few voxels of each class in each frame."""
    voxels = {
        ("drive", frame): {
            tuple(of.index[row].tolist()): number
            for number in range(3)
            for row in np.flatnonzero(classes == number)[:each]
        }
        for frame, (of, classes) in scenes.items()
    }
    return NamedVoxels(NAMES, COLOURS, voxels)


def test_a_few_names_become_classes_of_all_voxels() -> None:
    scenes = {frame: scene(frame) for frame in (0, 4)}
    namer = VoxelNamer(named(scenes, 4))
    for frame, (of, _) in scenes.items():
        namer.look("drive", frame, of)
    namer.look("drive", 2, scene(2)[0])  # nothing is named there, and it says how units spread
    found = namer.head()
    assert (found.voxels, found.agreement, found.found_again) == (24, 1.0, 1.0)
    other, classes = scene(9)
    assert (found.head.assign(label_units(other, np.arange(400))) == classes).mean() > 0.98


def test_a_network_names_many_voxels_and_the_head_learns_from_these() -> None:
    """Units do not tell the kerb and the mail box apart, features do: the head agrees but for about half of them."""
    scenes = {frame: scene(frame) for frame in (0, 1, 2)}
    blurred = {}
    for frame, (of, classes) in scenes.items():
        features = of.features.copy()
        features[:, 6:8] = features[:, 6:8].mean(axis=1, keepdims=True)
        blurred[frame] = dataclasses.replace(of, features=features), classes
    true = {of.name: classes for of, classes in scenes.values()}
    names = {id(of): frame for frame, (of, _) in blurred.items()}

    def features(of: VoxelScene, rows: np.ndarray) -> np.ndarray:
        return np.eye(3, dtype=np.float32)[scenes[names[id(of)]][1][rows]]

    namer = VoxelNamer(named(blurred, 3), features)
    for frame, (of, _) in blurred.items():
        namer.look("drive", frame, of)
    found = namer.head()
    assert found.found_again == 1.0 and 0.9 < found.agreement < 0.99 and true
    other, classes = scene(9)
    values = label_units(other, np.arange(400)).copy()
    values[:, 1:3] = values[:, 1:3].mean(axis=1, keepdims=True)
    assert ((found.head.assign(values) == 0) == (classes == 0)).mean() > 0.98


def test_names_that_do_not_follow_from_the_features_are_not_found_again() -> None:
    of, _ = scene(0)
    voxels = {tuple(of.index[row].tolist()): number % 3 for number, row in enumerate(range(60))}
    namer = VoxelNamer(NamedVoxels(NAMES, COLOURS, {("drive", 0): voxels}))
    namer.look("drive", 0, of)
    assert namer.head().found_again < 0.6


def test_frames_without_names_and_voxels_that_are_not_there_are_refused() -> None:
    scenes = {0: scene(0)}
    namer = VoxelNamer(named(scenes, 2))
    namer.look("drive", 3, scenes[0][0])
    with pytest.raises(ConfigurationError, match="0 named voxels of fewer than two classes"):
        namer.head()
    with pytest.raises(ConfigurationError, match="drive, frame 0 are not occupied"):
        namer.look("drive", 0, scene(5)[0])


def test_a_student_gets_the_classes_and_nothing_else(tmp_path: Path) -> None:
    before = make_small_bundle(tmp_path / "before", classes=4)
    units = before.head.label_hidden
    scenes = {0: scene(0, units)}
    names = named(scenes, 3)
    namer = VoxelNamer(names)
    namer.look("drive", 0, scenes[0][0])
    found = namer.head()
    after = write_named(before, found, names, tmp_path / "named_here", features="label units")
    again = StudentBundle.load(tmp_path / "named_here")
    assert (again.name, again.class_names, again.class_colours) == ("named_here", NAMES, COLOURS)
    assert np.array_equal(again.head.label_weight, found.head.weight)
    assert np.array_equal(again.head.label_bias, found.head.bias)
    assert np.array_equal(again.head.density_weight, before.head.density_weight)
    assert again.read_encoder() == before.read_encoder() and again.licence == before.licence == after.licence
    assert again.provenance["labels"]["named_voxels"] == 9
    with pytest.raises(ConfigurationError, match="is the student itself"):
        write_named(before, found, names, before.encoder_path.parent, features="label units")
