"""Posed RGB-D becomes points, and what is wrong with it a sentence."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from scene_completion_ros.errors import ConfigurationError, SequenceError
from scene_completion_ros.geometry import RigidTransform
from scene_completion_ros.geometry.depth_images import surface_normals
from scene_completion_training.points.opening import fused_scene, open_scenes
from scene_completion_training.points.voxels import SHIFT
from tests import room_layouts as layouts

WALK = layouts.walk()
HALF = np.array([layouts.ROOM[0], layouts.ROOM[1]])
FIRST = RigidTransform(WALK[0].rotation.T, np.zeros(3))  # to the world of the first camera, which looks down a little
INVERTED = "100% of its depth agrees between views if poses are inverted.*world_from_camera"


def fused(poses: Sequence[RigidTransform] = WALK, **changes: Any) -> Any:
    options = {name: changes.pop(name) for name in ("classes", "voxel", "up", "every") if name in changes}
    told = {name: changes.pop(name) for name in ("provenance", "metric_scale") if name in changes}
    sequence = layouts.room_sequence(poses, **changes)
    for name, value in told.items():
        setattr(sequence, name, value)
    return fused_scene(sequence, **{"voxel": 0.05, **options})


def test_normals_are_those_of_the_surface_towards_the_camera() -> None:
    depth, label = layouts.seen(layouts.pose(0.0))  # ahead the wall, at x = 2 m
    positions = layouts.CAMERA.unproject(layouts.CAMERA.pixel_centres()) * depth[..., None]
    normals = surface_normals(positions)
    np.testing.assert_allclose(normals[30, 40], [0, 0, -1], atol=1e-9)
    np.testing.assert_allclose(normals[57, 40] if label[57, 40] == 0 else [0, -1, 0], [0, -1, 0], atol=1e-9)
    assert not normals[0].any() and not normals[:, -1].any()
    positions[30, 41] = np.nan
    assert not surface_normals(positions)[30, 40].any()
    near = np.where(np.arange(80)[None, :, None] < 40, 0.5, 1.0) * positions  # a step between two surfaces
    assert not surface_normals(near)[20, 39:41].any() and surface_normals(near)[20, 30].any()


def test_a_room_has_its_walls_colours_normals_classes_and_things() -> None:
    scene = fused()
    distance = np.stack([*(HALF - np.abs(scene.points[:, :2])).T, scene.points[:, 2], 2.4 - scene.points[:, 2]])
    assert len(scene) > 3000 and np.abs(np.abs(distance).min(axis=0)).max() < 0.03
    inside = np.sort(np.abs(distance), axis=0)[1] > 0.1  # in no corner
    names = np.array(layouts.CLASSES)[scene.label[inside]]
    assert (
        names == np.where(distance[2] < 0.05, "floor", np.where(distance[3] < 0.05, "ceiling", "wall"))[inside]
    ).all()
    assert (scene.instance == scene.label + 1).all()
    floor = inside & (scene.label == 0)
    np.testing.assert_allclose(
        scene.colours[floor], np.tile([200 / 255, 100 / 255, 50 / 255], (floor.sum(), 1)), atol=2e-3
    )
    known = np.linalg.norm(scene.normals, axis=1) > 0
    assert known[inside].mean() > 0.9
    np.testing.assert_allclose(scene.normals[floor & known][:, 2], 1.0, atol=1e-3)
    assert len(scene.views) == 8 and len(fused(every=3).views) == 3
    cells = np.floor(scene.points.astype(np.float64) / 0.05 + SHIFT)
    assert len(np.unique(cells, axis=0)) >= 0.999 * len(scene)  # one point a voxel, but for rounding


def test_unknown_labels_and_frames_without_them_stay_unlabelled() -> None:
    label = np.full((60, 80), 255, np.uint8)
    scene, bare = fused(label=label, instance=np.zeros((60, 80), np.uint16)), fused(label=None, instance=None)
    assert (scene.label == -1).all() and (scene.instance == -1).all()
    assert bare.label is None and bare.instance is None and bare.classes == ()


def test_label_images_of_half_the_size_fit_and_classes_are_found_by_name_in_another_list() -> None:
    scene = fused(label=np.zeros((30, 40), np.uint8), classes=("thing", "floor"))
    assert scene.classes == ("thing", "floor") and (scene.label == 1).all()
    assert (scene.views[0].label() == 1).all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scale": 1000.0}, r"median of its depth is 1\d\d\d m.*millimetres, it seems"),
        ({"scale": 0.001}, "median of its depth is 0.001.* m.*divided twice"),
        ({"scale": np.nan}, "hold no depth"),
        ({"depth": np.ones((60, 60), np.float32)}, "is 60x60, its image 80x60: other proportions.*registered"),
        ({"depth": np.ones(5, np.float32)}, "is 5, its image 80x60"),
        ({"depth": np.array([["far"]])}, "depth is <U3. Give z-depth in metres"),
        ({"depth": None}, "no frame has depth"),
        ({"label": np.zeros((60, 80))}, r"room, label of view 0: is float64 of shape \[60, 80\]"),
        ({"provenance": {}}, "its labels have no names"),
        ({"provenance": {"classes": ["floor", "wall"]}}, "has labels 2, but its list ends at 1"),
        ({"metric_scale": False}, "not in metres"),
        ({"given": RigidTransform.inverse}, INVERTED),
        ({"given": RigidTransform.inverse, "poses": layouts.walk(24)}, INVERTED),
        ({"given": lambda pose: FIRST @ pose}, "z is not up in its cameras.*'-y'.*'cameras'"),
        ({"up": "up"}, "nothing says where 'up' is"),
    ],
)
def test_what_does_not_fit_is_refused_in_a_sentence(changes: dict[str, Any], message: str) -> None:
    with pytest.raises((ConfigurationError, SequenceError), match=message):
        fused(**changes)


def test_another_axis_than_z_may_be_up_when_it_is_named() -> None:
    level = RigidTransform(layouts.pose(0.0).rotation.T, np.zeros(3))
    for up, world in (("-y", level), ("cameras", FIRST)):
        scene = fused(up=up, given=lambda pose, world=world: world @ pose)
        floor = scene.points[scene.label == 0]
        assert np.ptp(floor[:, 2]) < 0.12 and floor[:, 2].mean() < scene.points[:, 2].mean() - 0.5
        np.testing.assert_allclose(scene.normals[scene.label == 0][:, 2].max(), 1.0, atol=0.01)
        camera = scene.views[0].world_from_camera.translation
        assert np.abs(scene.points - camera).max() < 5.0


def test_recordings_are_scenes_by_the_names_of_their_folders(tmp_path: Path) -> None:
    for name in ("a", "b"):
        layouts.room_sequence(WALK[:3]).save(tmp_path / name)
    scenes = open_scenes(tmp_path, voxel=0.1)
    assert (scenes.source, list(scenes), scenes.classes) == ("recordings", ["a", "b"], ())
    assert scenes["b"].classes == layouts.CLASSES and len(scenes["b"]) > 200
    assert list(open_scenes(tmp_path / "a")) == ["a"]
    assert open_scenes(tmp_path, labels="scannet20", voxel=0.1)["a"].classes[0] == "wall"
