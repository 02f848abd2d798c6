"""Voxels: the clouds that hold them, their colours, and what words match them."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from scene_completion_ros.errors import SceneCompletionError
from scene_completion_ros.geometry.transforms import RigidTransform
from scene_completion_ros.voxels.cloud import (
    VOXEL_CLOUD_DTYPE,
    VOXEL_CLOUD_FIELDS,
    cloud_array_from_message,
    cloud_array_to_voxels,
    match_array_from_message,
)
from scene_completion_ros.voxels.cloud_kernel import cloud_of, write_cloud
from scene_completion_ros.voxels.colours import depth_colours, height_colours, voxel_colours
from scene_completion_ros.voxels.semantic_voxels import (
    OTHER,
    PhraseMatches,
    SemanticVoxels,
    VoxelState,
    as_classes,
    matches_of_points,
)
from tests.voxels.samples import COLOURS, GRID, STREET, some_voxels, street, voxels_of, voxels_to_cloud_array


def turned(voxels: SemanticVoxels) -> RigidTransform:
    return RigidTransform.from_quaternion((0.5, -0.5, 0.1, 0.7), (1.0, -2.0, 0.5)) @ voxels.grid_from_camera.inverse()


@pytest.mark.parametrize("classes", [1, 5])
@pytest.mark.parametrize("count", [0, 1, 3000])
@pytest.mark.parametrize("pose", ["as the camera", "another"])
def test_the_compiled_twin_writes_the_same_points(classes: int, count: int, pose: str) -> None:
    voxels = some_voxels(count, classes=classes)
    frame_from_grid = None if pose == "as the camera" else turned(voxels)
    expected = voxels_to_cloud_array(voxels, frame_from_grid)
    written = np.full(24 * count, 255, np.uint8)
    write_cloud(voxels, written, frame_from_grid, threads=1)
    points = written.view(VOXEL_CLOUD_DTYPE)
    for name in expected.dtype.names or ():
        if name in "xyz" and pose == "another":  # sums of three products
            np.testing.assert_allclose(points[name], expected[name], rtol=0, atol=1e-5)
        else:
            np.testing.assert_array_equal(points[name], expected[name])
    assert not written[23::24].any()  # the padding, too
    if pose == "as the camera":
        np.testing.assert_array_equal(cloud_of(voxels), points)
    assert count < 2 or len(np.unique(points["rgb"])) > 1


def test_voxels_come_back_from_the_cloud() -> None:
    voxels = street(stamp_ns=42)
    cloud = voxels_to_cloud_array(voxels)[::-1]
    found = cloud_array_to_voxels(
        cloud, GRID, voxels.grid_from_camera, stamp_ns=42, class_names=STREET, class_colours=COLOURS
    )
    assert np.array_equal(found.index[::-1], voxels.index)
    assert np.array_equal(found.label[::-1], voxels.label)
    assert np.array_equal(found.probability[::-1], voxels.probability)
    assert found.confidence == pytest.approx(0.5, abs=0.003)
    occupied = voxels.state >= 3
    assert np.array_equal(found.state, np.where(occupied, voxels.state, 0))
    outside = cloud[:3].copy()
    outside["z"][1] = 1000.0
    assert len(cloud_array_to_voxels(outside, GRID, voxels.grid_from_camera)) == 2


def message(cloud: np.ndarray, **changes: object) -> SimpleNamespace:
    fields = [SimpleNamespace(name=n, offset=o, datatype=d, count=c) for n, o, d, c in VOXEL_CLOUD_FIELDS]
    values = {
        "fields": fields,
        "point_step": 24,
        "is_bigendian": False,
        "data": np.frombuffer(cloud.tobytes(), np.uint8),
    }
    return SimpleNamespace(**{**values, **changes})


def test_messages_are_read_and_foreign_ones_refused() -> None:
    cloud = voxels_to_cloud_array(street())
    assert np.array_equal(cloud_array_from_message(message(cloud)), cloud)
    with pytest.raises(SceneCompletionError, match="16 bytes a point"):
        cloud_array_from_message(message(cloud, point_step=16))
    with pytest.raises(SceneCompletionError, match="voxel layout"):
        cloud_array_from_message(message(cloud, fields=message(cloud).fields[:4]))
    with pytest.raises(SceneCompletionError, match="24 bytes a point and the fields .*'label'"):
        match_array_from_message(message(cloud))


def test_near_is_bright_far_is_dark_and_unknown_is_light_grey() -> None:
    brightness = depth_colours(np.array([3.0, 6.0, 12.0, 24.0, 48.0, 79.0])).astype(int).sum(axis=-1)
    assert np.all(np.diff(brightness) < 0)
    ends = depth_colours(np.array([3.0, 1.0, 80.0, 200.0]))  # beyond the range it takes the colours of the ends
    assert np.array_equal(ends[0], ends[1])
    assert np.array_equal(ends[2], ends[3])
    colours = depth_colours(np.array([[np.nan, np.inf], [0.0, -1.0]]))
    assert colours.shape == (2, 2, 3)
    assert np.all(colours == 225)


def test_voxels_take_the_colour_of_their_class_or_of_their_height() -> None:
    label, height = np.array([1, 0], dtype=np.uint8), np.array([0.0, 2.0], dtype=np.float32)
    assert voxel_colours(label, height, [(1, 2, 3), (4, 5, 6)]).tolist() == [[4, 5, 6], [1, 2, 3]]
    assert np.array_equal(voxel_colours(label, height, [(1, 2, 3)]), height_colours(height))


def test_points_in_the_optical_frame() -> None:
    # Forward 0.25, left -1.75, up -0.75 is right 1.75, down 0.75, ahead 0.25.
    scene = voxels_of(np.full((4, 8, 4), VoxelState.SURFACE), (0.0, -2.0, -1.0), 0.5)
    np.testing.assert_allclose(scene.points_camera()[0], [1.75, 0.75, 0.25], atol=1e-6)
    pose = RigidTransform.from_quaternion((0.1, -0.2, 0.3, 0.9273618495495703), (1.0, 2.0, 3.0))
    scene = replace(scene, grid_from_camera=pose)
    np.testing.assert_allclose(pose.apply(scene.points_camera().astype(float)), scene.points_grid(), atol=1e-5)


WORDS = ("car", "tree")


def test_points_find_their_voxels_and_others_are_left_out() -> None:
    voxels = street()
    centres = voxels.points_grid()
    points = np.stack([centres[7], centres[3], [1000.0, 0.0, 0.0], [2.1, 0.1, 1.9], centres[5], [np.nan] * 3])
    assert not (np.abs(centres - points[3]) < 0.05).all(axis=1).any()  # a free voxel
    car, tree = matches_of_points(
        WORDS,
        voxels,
        np.concatenate([points, centres[[2, 7]]]),
        phrase=np.array([1, 0, 0, 0, 2, 0, 0, 0], dtype=np.uint8),  # the fifth is of no phrase
        score=np.array([0.3, 0.2, 0.9, 0.9, 0.9, 0.9, 0.1, 0.4]),
        probability=np.array([0.8, 0.6, 0.9, 0.9, 0.9, 0.9, 0.7, 0.5], dtype=np.float32),
    )
    assert (car.phrase, car.voxels.tolist()) == ("car", [2, 3, 7])
    assert car.score == pytest.approx([0.1, 0.2, 0.4]) and car.probability == pytest.approx([0.7, 0.6, 0.5])
    assert (tree.phrase, tree.voxels.tolist()) == ("tree", [7])
    assert tree.score == pytest.approx([0.3]) and tree.probability == pytest.approx([0.8])
    assert car.voxels.dtype == np.int32 and car.probability.dtype == np.float32
    none = np.empty(0, dtype=np.float32)
    found = matches_of_points(WORDS, street(), none.reshape(0, 3), none.astype(np.uint8), none, none)
    assert [(matches.phrase, matches.voxels.size) for matches in found] == [("car", 0), ("tree", 0)]


def test_the_most_likely_phrase_becomes_the_class() -> None:
    voxels = street()
    car = np.array([0.5, 0.6, 0.49, 0.8], dtype=np.float32)
    tree = np.array([0.4, 0.9, 0.3, 0.7], dtype=np.float32)
    places = np.arange(4, dtype=np.int32)
    classes = as_classes(voxels, [PhraseMatches("car", places, car, car), PhraseMatches("tree", places, tree, tree)])
    assert classes.label[:5].tolist() == [1, 2, 0, 1, 0]
    assert classes.confidence[:2] == pytest.approx([0.5, 0.9])
    assert classes.class_names == (OTHER, *WORDS)
    assert len(set(classes.class_colours)) == 3
    assert np.array_equal(classes.index, voxels.index)
