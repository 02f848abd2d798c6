from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from scene_completion_ros.errors import ConfigurationError
from scene_completion_ros.evaluation.semantic_classes import COMMON_CLASSES
from scene_completion_training.evaluation.voxel_features import SceneColumns, SceneFrame
from scene_completion_training.evaluation.voxel_probe import READINGS, ProbeSettings
from scene_completion_training.evaluation.voxel_probe_run import (
    LabelledScene,
    Method,
    labelled_features,
    labelled_scenes,
    probe_method,
)
from scene_completion_training.masked_scene.scenes import SceneMaker, VoxelScene
from tests.training.evaluation.one_wall import make_street
from tests.training.masked_scene.small_scenes import random_places, scene_of

QUICK = ProbeSettings(steps=60, bank=30, shares=(), voxels=(), each_level=False)
ROAD, CAR = (COMMON_CLASSES.index(name) for name in ("road", "car"))


def coloured(name: str, label: np.ndarray | None) -> VoxelScene:
    """A scene whose red is its label."""
    bare = scene_of(random_places(100, (8, 8, 4)), name=name, label=label)
    features = bare.features.copy()
    features[:, 1] = np.zeros(100) if label is None else label == CAR
    return dataclasses.replace(bare, features=features)


def mixed(seed: int = 0) -> np.ndarray:
    """Half road, half car, but for a few that are free or unknown in truth."""
    label = np.where(np.random.default_rng(seed).uniform(size=100) < 0.5, ROAD, CAR).astype(np.uint8)
    label[::10], label[5::10] = 255, 0
    return label


def saved(folder: Path, scene: VoxelScene) -> LabelledScene:
    file = folder / f"{scene.name}.safetensors"
    scene.save(file)
    return LabelledScene(make_street(()), 0, file)


def test_only_labelled_voxels_are_drawn_the_same_ones_for_every_model() -> None:
    scene = coloured("here", mixed())
    frame = SceneFrame(make_street(()), 0, scene)
    first, second = (labelled_features(SceneColumns(name), frame, 30, [0, 1]) for name in ("a", "b"))
    assert [len(found.classes) for found in first] == [30, 30]
    for found, other in zip(first, second, strict=True):
        assert np.array_equal(found.classes, other.classes) and np.array_equal(found.levels[0], other.levels[0])
        assert set(found.classes.tolist()) == {ROAD - 1, CAR - 1}
        assert np.array_equal(found.levels[0][:, 1] == 1, found.classes == CAR - 1)
    assert not np.array_equal(first[0].classes, first[1].classes)
    elsewhere = SceneFrame(frame.sequence, 0, dataclasses.replace(scene, name="there"))
    assert not np.array_equal(labelled_features(SceneColumns("a"), elsewhere, 30, [0])[0].classes, first[0].classes)
    assert len(labelled_features(SceneColumns("a"), frame, 1000, [0])[0].classes) == 80
    for label in (None, np.full(100, 255, np.uint8), np.zeros(100, np.uint8)):
        bare = SceneFrame(frame.sequence, 0, dataclasses.replace(scene, label=label))
        assert labelled_features(SceneColumns("a"), bare, 30, [0]) == []


def test_every_seed_of_every_model_is_a_run(tmp_path: Path) -> None:
    train = [saved(tmp_path, coloured(f"train{seed}", mixed(seed))) for seed in range(3)]
    train.append(saved(tmp_path, coloured("bare", np.zeros(100, np.uint8))))
    test = {"towns": [saved(tmp_path, coloured("test", mixed(9)))], "windows": train[:1]}
    model = SceneColumns("inputs")
    method = Method("inputs", [(model, [0, 1]), (model, [5])])
    results = probe_method(method, train, test, QUICK, train_voxels=50, test_voxels=60)
    assert [(one.group, one.method, len(one.runs)) for one in results] == [
        ("towns", "inputs", 3),
        ("windows", "inputs", 3),
    ]
    for result in results:
        for (scores,) in result.runs:
            assert (scores.scenes, scores.voxels) == (3, 150)
            for reading in READINGS:
                found = scores.readings[reading]
                assert found.mean_iou == 1.0 and found.voxels == 60
                assert found.mean_iou_of_all == pytest.approx(2 / 15)


def test_scenes_of_frames_with_truth(tmp_path: Path) -> None:
    street = make_street()
    (found,) = labelled_scenes(SceneMaker(street, "exact"), tmp_path, 1)  # its first frame alone has some
    assert found.index == 0 and found.sequence is street
    assert (found.frame().scene.label == CAR).all()
    with pytest.raises(ConfigurationError, match="no frame has ground truth voxels"):
        labelled_scenes(SceneMaker(make_street(("lidar",)), "lidar"), tmp_path, 1)
