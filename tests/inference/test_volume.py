"""Students with a decoder in space: the volume alone gives the density, and cells of it the labels."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from scene_completion_ros.errors import BundleError
from scene_completion_ros.geometry import RigidTransform, VoxelGrid
from scene_completion_ros.geometry.grids import DEFAULT_GRID_FROM_CAMERA
from scene_completion_ros.inference.bundle import StudentBundle
from scene_completion_ros.inference.completer import Completer
from scene_completion_ros.inference.encoder import make_encoder
from scene_completion_ros.inference.head import HeadWeights, PointCodeSpec, VolumeReading
from scene_completion_ros.inference.label_query import LabelQuery
from scene_completion_ros.inference.query_kernel import VoxelQuery
from scene_completion_ros.voxels.semantic_voxels import VoxelState
from tests.inference import known_mounting_bundle
from tests.inference.known_mounting_bundle import CAMERA, make_known_mounting_bundle
from tests.inference.small_bundle import CANONICAL, volume_reading
from tests.inference.test_bundle import edit_manifest, refused
from tests.inference.twins import density_reference, trilinear

GRID = VoxelGrid((0.0, -6.4, -2.0), 0.4, (32, 32, 10), "forward")
FORWARD = DEFAULT_GRID_FROM_CAMERA.inverse()
SHIFTED = FORWARD @ RigidTransform(np.eye(3), np.array([0.37, -0.81, 0.1]))
CODE, CLASSES = PointCodeSpec(), 5
HEAD = HeadWeights.in_space(volume_reading(GRID, gain=0.7), 3, CODE.size, np.eye(CLASSES, dtype=np.float32))
"""Cells of 3 knots: 11 x 11 x 4 of them, the last ones with fewer."""
PREDICTED_DEPTH = 14.0


def random_volume() -> np.ndarray:
    return np.random.default_rng(3).normal(0.0, 2.0, GRID.shape).astype(np.float32)


def test_a_lattice_is_linear_between_knots_and_constant_beyond() -> None:
    """Knots at x = 1, 3 and 5 m ahead; the optical frame looks along z."""
    lattice = VolumeReading(np.ones(1, np.float32), np.array([[1, 0, 0], [2, 1, 1]], np.float32), (3, 2, 2))
    values = np.zeros((3, 2, 2), np.float32)
    values[:, 0, 0] = 10.0, 20.0, 40.0
    values[:, 1, 0] = 50.0  # one metre to the left
    points = np.array([[0.0, 0.0, 1.0], [0.0, 0.0, 2.0], [0.0, 0.0, 4.5], [0.0, 0.0, 9.0], [-0.5, 0.0, 3.0]])
    np.testing.assert_allclose(trilinear(lattice, values, points), [10.0, 15.0, 35.0, 40.0, 35.0])


@pytest.mark.parametrize("bias", [0.0, -1.5])
@pytest.mark.parametrize(("pose", "at_knots"), [(FORWARD, True), (SHIFTED, False)])
def test_kernel_agrees_with_the_reference(pose: RigidTransform, at_knots: bool, bias: float) -> None:
    head, features = dataclasses.replace(HEAD, density_bias=np.float32([bias])), np.zeros((44, 11, CLASSES), np.float32)
    query, volume = VoxelQuery(head, CODE, CANONICAL, (44, 11), GRID, pose), random_volume()
    assert (query.samples.between.size == 0) == at_knots
    centres = np.stack(np.meshgrid(*GRID.axis_centres(), indexing="ij"), axis=-1).reshape(-1, 3)
    points = np.asarray(pose.apply(centres))
    expected = density_reference(features, points, head, CODE, CANONICAL, volume=volume).reshape(GRID.shape)
    found = query.density(features, volume)
    np.testing.assert_allclose(found, np.where(query.in_view, expected, 0.0), atol=2e-4, rtol=1e-4)


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> StudentBundle:
    """Its volume is free everywhere, but for a block from 10 to 12 m ahead, 0.8 to 2.8 m to the left."""
    volume = np.full(known_mounting_bundle.GRID.shape, -30.0, np.float32)
    volume[20:25, 12:17, 3:6] = 60.0
    return make_known_mounting_bundle(tmp_path_factory.mktemp("student"), volume=volume, depth=PREDICTED_DEPTH)


@pytest.mark.parametrize("shift", [0.0, 0.14])
def test_occupied_voxels_lie_where_the_volume_has_them(student: StudentBundle, shift: float) -> None:
    pose = DEFAULT_GRID_FROM_CAMERA @ RigidTransform(np.eye(3), np.array([shift, 0.0, 0.0]))
    completer = Completer(student, CAMERA, grid_from_camera=pose, threads=1)
    voxels = completer.complete(np.full((192, 512, 3), 127, np.uint8)).voxels
    centres = np.asarray(student.grid.origin) + (voxels.index + 0.5) * student.grid.voxel_size
    low, high = centres.min(axis=0), centres.max(axis=0)
    np.testing.assert_allclose(low, [10.2, 1.0, -0.2], atol=0.41)
    np.testing.assert_allclose(high, [11.8, 2.6, 0.6], atol=0.41)
    assert len(centres) > 50


def test_predicted_depth_is_shown_and_ends_what_is_seen(student: StudentBundle) -> None:
    """14 m everywhere; the block of the volume stands in front of it and ends the view there."""
    completer = Completer(student, CAMERA, threads=1)
    chequered = np.where(np.indices((192, 512)).sum(axis=0)[..., None] % 2, 100, 154)  # of grey, nothing counts as seen
    found = completer.complete(chequered.repeat(3, axis=2).astype(np.uint8))
    np.testing.assert_allclose(found.shown_depth, PREDICTED_DEPTH)
    assert not found.transmittance.any()
    centres = np.stack(np.meshgrid(*student.grid.axis_centres(), indexing="ij"), axis=-1)
    state, ahead, left = found.voxels.state, centres[..., 0], centres[..., 1]
    straight = completer.in_view & (np.abs(centres[..., 2] - 0.2) < 0.1)
    before, behind = straight & (ahead < 13.0), straight & (ahead > 14.4)
    aside = before & (np.abs(left / ahead + 0.1) < 0.05)  # to the right, where nothing stands
    assert aside.sum() > 10 and (state[aside] == VoxelState.FREE_SEEN).all()
    assert behind.any() and (state[behind] == VoxelState.FREE_INFERRED).all()
    hidden = before & (ahead > 12.3) & (np.abs(left / ahead - 0.17) < 0.03)
    assert hidden.any() and (state[hidden] == VoxelState.FREE_INFERRED).all()
    far = dataclasses.replace(student, depth_range=(3.0, 13.0)).save(student.folder / "far", student.read_encoder())
    shown = Completer(far, CAMERA, threads=1).complete(np.full((192, 512, 3), 127, np.uint8)).shown_depth
    assert np.isposinf(shown).all()


@pytest.mark.parametrize(
    ("sizes", "wanted"),
    [
        ({"volume_knots": [32, 20, 1]}, "no number of knots"),
        ({"volume_knots": [32, 20, 9]}, "are needed for 16 x 10 x 5 cells"),
        ({"unit_stride": 0}, "no number of knots"),
        ({"unit_stride": 3}, "are needed for 11 x 7 x 3 cells"),
    ],
)
def test_what_contradicts_itself_is_refused(tmp_path: Path, sizes: dict[str, Any], wanted: str) -> None:
    make_known_mounting_bundle(tmp_path)
    edit_manifest(tmp_path, lambda m: m["head"].update(sizes))
    assert wanted in refused(tmp_path).what


def test_another_volume_than_the_graph_has_is_refused(tmp_path: Path) -> None:
    make_known_mounting_bundle(tmp_path)
    edit_manifest(tmp_path, lambda m: m["head"].update(volume_knots=[32, 20, 7]))
    with pytest.raises(BundleError, match="output is"):
        make_encoder(StudentBundle.load(tmp_path), "onnxruntime")


@pytest.mark.parametrize("pose", [FORWARD, SHIFTED])
def test_labels_of_cells_are_those_of_the_cell_that_a_voxel_lies_in(pose: RigidTransform) -> None:
    units = np.random.default_rng(5).random((11, 11, 4, CLASSES)).astype(np.float32)
    features = np.ascontiguousarray(units.transpose(2, 0, 1, 3)).reshape(44, 11, CLASSES)
    query = VoxelQuery(HEAD, CODE, CANONICAL, (44, 11), GRID, pose)
    targets = np.flatnonzero(query.in_view)
    found = LabelQuery(query.field, query.samples, query.in_view.size)(features, targets)
    assert len(targets) > 2000
    places = DEFAULT_GRID_FROM_CAMERA.apply(pose.apply(GRID.centres().reshape(-1, 3)[targets]))
    knot = (places - GRID.origin) / GRID.voxel_size - 0.5
    nearest = np.clip(np.rint(knot), 0, np.array(GRID.shape) - 1).astype(int)
    clear = (np.abs(knot - np.floor(knot) - 0.5) > 1e-3).all(axis=1)  # of the border between two knots
    expected = units[tuple((nearest // 3).T)]
    np.testing.assert_array_equal(found.label[clear], expected.argmax(axis=1)[clear])
    confidence = 1.0 / np.exp(expected - expected.max(axis=1, keepdims=True)).sum(axis=1)
    np.testing.assert_allclose(found.confidence[clear], confidence[clear], atol=1e-5)
