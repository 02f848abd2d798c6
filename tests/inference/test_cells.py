"""Students that complete cells: what their voxels follow from, and what is refused."""

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from scene_completion_ros.errors import BundleError
from scene_completion_ros.geometry import RigidTransform, VoxelGrid
from scene_completion_ros.geometry.grids import DEFAULT_GRID_FROM_CAMERA
from scene_completion_ros.geometry.road_plane import RoadPlane
from scene_completion_ros.geometry.transforms import rotation_of_angles
from scene_completion_ros.inference.bundle import StudentBundle
from scene_completion_ros.inference.cell_query import CellSampler, PredictedCells
from scene_completion_ros.inference.cells import ROAD, STRIDE, volume_pose
from scene_completion_ros.inference.completer import Completer
from scene_completion_ros.inference.encoder import make_networks
from scene_completion_ros.inference.evidence import Evidence
from scene_completion_ros.inference.head import PointCodeSpec
from scene_completion_ros.inference.query_kernel import sample_bilinear
from scene_completion_ros.inference.scene_query import predicted_depth
from scene_completion_ros.voxels.semantic_voxels import VoxelState
from tests.inference.known_mounting_bundle import (
    CAMERA,
    GRID,
    HEIGHT,
    SURE,
    VOLUME,
    make_known_mounting_bundle,
    wall_from,
)
from tests.inference.test_bundle import edit_manifest, refused

PREDICTED_DEPTH = 14.0
CELLS = math.prod(VOLUME.cells)


def test_points_beyond_the_volume_are_as_its_outer_cells() -> None:
    hidden, others = np.full((CELLS, 8), -1.0, np.float32), np.full((CELLS, VOLUME.of_cell), -1.0, np.float32)
    last = (VOLUME.cells[0] - 1) * VOLUME.cells[1] * VOLUME.cells[2]
    hidden[last:], others[last:] = 3.0, 3.0
    ground = np.tile(np.float32([-9.0, 0.1]), (VOLUME.cells[0] * VOLUME.cells[1], 1))
    surfaces = np.tile(np.float32([math.log(20.0), 0.05]), (96, 256, 1))
    points = DEFAULT_GRID_FROM_CAMERA.inverse().apply(np.array([[14.6, 0, 0.2], [40.0, 0, 0.2], [13.8, 0, 0.2]]))
    sampler, density = CellSampler(VOLUME, CAMERA, PointCodeSpec(), HEIGHT), np.empty(3, np.float32)
    samples = np.ascontiguousarray(points.T, np.float32), np.arange(3, dtype=np.int32)
    sampler.query(surfaces, PredictedCells(hidden, others, ground), sampler.place(None), *samples, density)
    np.testing.assert_allclose(density, np.log1p(np.exp([3.0, 3.0, -1.0])), atol=1e-3)


def upright_at(height: float, roll: float, pitch: float) -> RigidTransform:
    """A camera that looks ahead; degrees."""
    turn = rotation_of_angles(math.radians(roll), math.radians(pitch), 0.7)  # where to does not count
    return RigidTransform(turn @ DEFAULT_GRID_FROM_CAMERA.rotation, np.array([3.0, -2.0, height]))


# Level, tilted, and as no camera of a vehicle is: on its side, upside down, down at its feet, far below the ground.
PLACES = (1.7, 0.0, 0.0), (1.6, 4.0, -3.0), (1.7, 60.0, 0.0), (1.7, 180.0, 0.0), (1.7, 0.0, 90.0), (-1e9, 0.0, 0.0)


def test_what_cells_look_up_follows_the_place_of_each_image_alone() -> None:
    """Whatever was looked up before. By hand: the first cell on the left in the middle of the volume."""
    made = CellSampler(VOLUME, CAMERA, PointCodeSpec(), HEIGHT)
    rng, size = np.random.default_rng(0), (CAMERA.height // 2, CAMERA.width // 2)
    surfaces = rng.uniform(0.5, 3.0, (*size, 2)).astype(np.float32)
    context = rng.uniform(0.5, 1.0, (*size, 1)).astype(np.float32)
    for place in (*PLACES, PLACES[0]):
        upright = upright_at(*place)
        again, alone = made, CellSampler(VOLUME, CAMERA, PointCodeSpec(), HEIGHT)
        found, expected = (one.look_up(surfaces, context, one.place(upright)) for one in (again, alone))
        for ours, theirs in zip(found, expected, strict=True):
            np.testing.assert_array_equal(ours, theirs)
            assert np.isfinite(ours).all()
        local, columns = found
        edge = GRID.voxel_size * STRIDE
        cells = VoxelGrid(GRID.origin, edge, VOLUME.cells, GRID.frame).centres().reshape(-1, 3).astype(np.float64)
        points = volume_pose(upright, HEIGHT).inverse().apply(cells)
        pixels, shown = CAMERA.resized(size[1], size[0]).project(points)
        np.testing.assert_array_equal(columns[:, : VOLUME.cells[2]].reshape(-1) > 0.0, shown)
        np.testing.assert_array_equal(local[:, 0] > 0.0, shown)
        if place == PLACES[1]:
            assert 0.2 < shown.mean() < 0.9
            at = sample_bilinear(context, (2.0 * pixels[shown] + 1.0) / size[::-1] - 1.0)[:, 0]
            np.testing.assert_allclose(local[shown, 0], at, atol=1e-4)


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> StudentBundle:
    """Its volume is free everywhere, but for a block from 10 to 12 m ahead, 0.8 to 2.8 m to the left."""
    volume = np.full(GRID.shape, -SURE, np.float32)
    volume[20:25, 12:17, 3:6] = SURE
    return make_known_mounting_bundle(tmp_path_factory.mktemp("student"), volume=volume, depth=PREDICTED_DEPTH)


def test_a_pose_of_an_image_is_as_one_of_the_completer(student: StudentBundle) -> None:
    """Poses take turns, also those of no camera on a vehicle; none of them is left for the next image."""
    completer, image = Completer(student, CAMERA, engine="onnxruntime", threads=1), wall_from(0.0)
    level = completer.complete(image)
    for place in PLACES:
        upright = upright_at(*place)
        found = completer.complete(image, evidence=Evidence(plane=RoadPlane.of_mounting(upright)))
        made = Completer(student, CAMERA, engine="onnxruntime", threads=1, upright_from_camera=upright)
        for expected in (made.complete(image), completer.mounted(upright).complete(image)):
            np.testing.assert_array_equal(found.alpha, expected.alpha)
            np.testing.assert_array_equal(found.voxels.label, expected.voxels.label)
            np.testing.assert_array_equal(found.voxels.index, expected.voxels.index)
            assert found.ground is not None and expected.ground is not None
            np.testing.assert_array_equal(found.ground.points, expected.ground.points)
        between = completer.complete(image)
        np.testing.assert_array_equal(between.alpha, level.alpha)
        np.testing.assert_array_equal(between.voxels.label, level.voxels.label)
    # 4 m to the left and 11 m ahead, a volume that rolls by 4° is 0.28 m higher or lower.
    rolled_by = upright_at(HEIGHT, 12.0, 0.0)
    rolled = completer.complete(image, evidence=Evidence(plane=RoadPlane.of_mounting(rolled_by)))
    top, rolled_top = (np.asarray([one.voxels.index[:, 2].mean()]) for one in (level, rolled))
    assert abs(rolled_top - top) > 0.5


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
    np.testing.assert_allclose(found.shown_depth, PREDICTED_DEPTH, rtol=1e-5)
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
    ("part", "changes", "wanted"),
    [
        ("volume", {"context": -1}, "no number of channels"),
        ("volume", {"level": -9.0}, "below the grid"),
        ("volume", {"level": 1e308}, "below the grid"),
        ("volume", {"ground": {**ROAD._asdict(), "name": "sea"}}, "none of the classes"),
        ("volume", {"ground": {**ROAD._asdict(), "scale_deviation": 0.0}}, "scale_deviation"),
        ("grid", {"shape": [32, 20, 2]}, "fewer than two cells"),
        ("canonical_camera", {"width": 3}, "width"),  # cells sample between pixels of a map half as fine
        ("canonical_camera", {"height": 3}, "height"),
    ],
)
def test_what_contradicts_itself_is_refused(tmp_path: Path, part: str, changes: dict[str, Any], wanted: str) -> None:
    make_known_mounting_bundle(tmp_path)
    edit_manifest(tmp_path, lambda m: m[part].update(changes))
    assert wanted in str(refused(tmp_path))


@pytest.mark.parametrize(("part", "changes"), [("grid", {"shape": [32, 20, 5]}), ("volume", {"context": 2})])
def test_other_sizes_than_the_graphs_have_are_refused(tmp_path: Path, part: str, changes: dict[str, Any]) -> None:
    make_known_mounting_bundle(tmp_path)
    edit_manifest(tmp_path, lambda m: m[part].update(changes))
    with pytest.raises(BundleError, match=r"(in|out)put is"):
        make_networks(StudentBundle.load(tmp_path), "onnxruntime")


def test_a_graph_that_gives_another_shape_than_it_declares_is_refused(tmp_path: Path) -> None:
    """Kernels read what was declared, without looking at bounds."""
    bundle = make_known_mounting_bundle(tmp_path)
    model = onnx.load_from_string(bundle.read_cells())
    (last,) = (node for node in model.graph.node if node.output[0] == "hidden")
    last.output[0] = "whole"
    nothing = numpy_helper.from_array(np.array([0, 1], np.int64), "two rows")
    model.graph.initializer.append(nothing)
    model.graph.node.append(helper.make_node("Gather", ["whole", "two rows"], ["hidden"]))
    made = bundle.save(
        tmp_path / "made", bundle.read_encoder(), decoder=(bundle.read_decoder(), model.SerializeToString())
    )
    with pytest.raises(BundleError, match="output is|cannot run it"):
        make_networks(made, "onnxruntime")


@pytest.mark.parametrize("of_pixels", [True, False])
def test_numbers_that_are_none_are_refused(of_pixels: bool, tmp_path: Path) -> None:
    """Of depths, or of one layer of cells: kernels limit what they read, so voxels alone do not show them."""
    volume = np.full(GRID.shape, -SURE, np.float32)
    volume[..., 5] = np.nan
    faulty = {"depth": math.nan} if of_pixels else {"volume": volume}
    with pytest.raises(BundleError, match="no finite numbers"):
        Completer(make_known_mounting_bundle(tmp_path, **faulty), CAMERA, threads=1)  # type: ignore[arg-type]


def test_its_wall_is_a_wall(tmp_path: Path) -> None:
    """Voxels of the student without a volume lie where its pixels see the wall."""
    voxels = Completer(make_known_mounting_bundle(tmp_path), CAMERA, threads=1).complete(wall_from(0.0)).voxels
    ahead = GRID.origin[0] + (voxels.index[:, 0] + 0.5) * GRID.voxel_size
    assert len(voxels) > 50 and np.abs(np.median(ahead) - 10.0) < 0.5 and np.abs(ahead - 10.0).max() < 1.5


def test_depth_at_pixels_is_that_of_the_map_whatever_its_size() -> None:
    """A map that rises from left to right by a metre a pixel: half the image's columns, and the same columns."""
    canonical, lens = CAMERA.resized(256, 96), CAMERA.resized(512, 192)  # the rays of its march are its own pixels
    assert canonical.fx < 180.0
    pixels = np.array([[100.5, 90.0], [255.5, 20.0], [400.5, 150.0]])
    for width in (128, 256):
        depth = np.tile(20.0 + np.arange(width, dtype=np.float32), (48, 1))
        found = predicted_depth(depth, canonical, lens, pixels)
        np.testing.assert_allclose(found, 20.0 + (pixels[:, 0] + 0.5) * width / 512 - 0.5, rtol=1e-3)
