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
from scene_completion_ros.inference.bundle import CELLS as CELLS_FILE
from scene_completion_ros.inference.bundle import StudentBundle
from scene_completion_ros.inference.cell_query import CellLift, CellQuery, PredictedCells
from scene_completion_ros.inference.completer import Completer
from scene_completion_ros.inference.encoder import make_networks
from scene_completion_ros.inference.graphs import graphs_of
from scene_completion_ros.inference.head import PointCodeSpec
from scene_completion_ros.inference.scene_query import predicted_depth
from scene_completion_ros.voxels.semantic_voxels import VoxelState
from tests.inference import known_mounting_bundle
from tests.inference.known_mounting_bundle import CAMERA, GRID, SURE, VOLUME, make_known_mounting_bundle
from tests.inference.test_bundle import edit_manifest, refused

PREDICTED_DEPTH = 14.0
CELLS = math.prod(VOLUME.cells)
SPEC = PointCodeSpec()
FORWARD = DEFAULT_GRID_FROM_CAMERA.inverse()


def predicted(hidden: float, before: float, there: float, ground: tuple[float, float] = (-9.0, 0.1)) -> PredictedCells:
    others = np.zeros((CELLS, VOLUME.of_cell), np.float32)
    others[:, :8], others[:, 8] = before, there
    columns = VOLUME.cells[0] * VOLUME.cells[1]
    return PredictedCells(np.full((CELLS, 8), hidden, np.float32), others, np.tile(np.float32(ground), (columns, 1)))


def surfaces_at(depth: float, deviation: float) -> np.ndarray:
    return np.tile(np.float32([math.log(depth), deviation]), (96, 256, 1))


def opacity(points_forward: Any, surfaces: np.ndarray, cells: PredictedCells, length: float = 0.4) -> np.ndarray:
    """Of points ahead, to the left, up."""
    points = np.asarray(FORWARD.apply(np.asarray(points_forward, np.float64)))
    query, out = CellQuery(CellLift(VOLUME, CAMERA, SPEC, None)), np.empty(len(points), np.float32)
    query(surfaces, cells, query.prepare(points, np.arange(len(points), dtype=np.int32)), out, length)
    return out


def normal(value: float) -> float:
    return 0.5 * (1.0 + math.erf(value / math.sqrt(2.0)))


def test_a_point_is_what_its_pixel_sees_or_lies_before_or_behind_that() -> None:
    """A surface 8 m ahead, known to 5 %, and points at it, before it, behind it and aside of the image."""
    points = [[8.0, 0.0, 0.2], [4.0, 0.0, 0.2], [12.0, 0.0, 0.2], [4.0, -3.9, 0.2]]
    near, far = (normal(math.log((8.0 + off) / 8.0) / 0.05) for off in (-0.4, 0.4))
    cells = predicted(hidden=1.0, before=-1.0, there=2.0)
    of = {name: 1.0 / (1.0 + math.exp(-logit)) for name, logit in (("behind", 1.0), ("before", -1.0), ("there", 2.0))}
    at_it = of["before"] + (far - near) * (of["there"] - of["before"]) + near * (of["behind"] - of["before"])
    expected = np.array([at_it, of["before"], of["behind"], of["behind"]])
    found = opacity(points, surfaces_at(8.0, 0.05), cells)
    np.testing.assert_allclose(found, 1.0 - (1.0 - expected) ** 0.4, atol=1e-4)
    density = opacity(points, surfaces_at(8.0, 0.05), cells, length=0.0)
    np.testing.assert_allclose(density, -np.log(1.0 - expected), atol=1e-3)


def test_the_ground_fills_its_voxel_and_empties_what_lies_below() -> None:
    """At -0.7 m with 0.1 m of doubt: Φ(3) − Φ(−1) of the voxel from -0.8 to -0.4 m."""
    points, ground = [[6.0, 0.2, up] for up in (-1.4, -0.6, 0.6)], (-0.7, 0.1)
    full, empty = (opacity(points, surfaces_at(40.0, 0.05), predicted(0.0, b, 0.0, ground)) for b in (SURE, -SURE))
    on_ground = normal(3.0) - normal(-1.0)
    assert 1.0 - (1.0 - empty[1]) ** 2.5 == pytest.approx(on_ground, abs=1e-3)
    assert empty[0] < 1e-3 and empty[2] < 1e-3 and full[0] < 1e-3 and full[2] > 0.97


def test_points_beyond_the_volume_are_as_its_outer_cells() -> None:
    cells = predicted(hidden=-1.0, before=-1.0, there=-1.0)
    last = (VOLUME.cells[0] - 1) * VOLUME.cells[1] * VOLUME.cells[2]
    cells.hidden[last:], cells.others[last:, :9] = 3.0, 3.0
    found = opacity([[14.6, 0.0, 0.2], [40.0, 0.0, 0.2], [13.8, 0.0, 0.2]], surfaces_at(20.0, 0.05), cells)
    assert found[0] == pytest.approx(found[1], abs=1e-5) and found[2] < 0.5 * found[0]


def test_cells_look_up_the_pixels_that_they_project_to() -> None:
    """Of a map that rises from left to right and from top to bottom, cells know where they looked."""
    lift = CellLift(VOLUME, CAMERA, SPEC, None)
    rows, columns = np.indices((96, 256), dtype=np.float32)
    context = (columns + 1000.0 * rows)[..., None]
    local, of_columns = lift(surfaces_at(8.0, 0.1), context)
    points = FORWARD.apply(VoxelGrid(GRID.origin, 0.8, VOLUME.cells, "cells").centres().reshape(-1, 3))
    pixels, inside = CAMERA.project(points)
    half = (pixels + 0.5) / 2.0 - 0.5
    inner = inside & (half >= 0.0).all(axis=1) & (half <= (255, 95)).all(axis=1)
    assert inner.sum() > 500 and not inside.all()
    np.testing.assert_allclose(local[inner, 0], half[inner, 0] + 1000.0 * half[inner, 1], rtol=1e-5, atol=0.05)
    assert not local[~inside].any()
    np.testing.assert_array_equal(of_columns[:, : VOLUME.cells[2]].reshape(-1) > 0, inside)
    behind = points[inner, 2] - 8.0
    expected = np.stack([np.tanh(behind / d) for d in (0.5, 2.0, 8.0)], axis=-1)
    np.testing.assert_allclose(local[inner][:, 4::2], expected, atol=1e-4)
    np.testing.assert_allclose(local[inner][:, 5::2], np.exp(-((behind[:, None] / (0.5, 2.0, 8.0)) ** 2)), atol=1e-4)
    off = np.log(points[inner, 2] / 8.0) / 0.1
    expected = np.stack([1.0 / (1.0 + np.exp(-1.7 * off)), np.exp(-0.5 * off**2), np.full(len(off), 0.4)], axis=-1)
    np.testing.assert_allclose(local[inner][:, 1:4], expected, atol=1e-4)


def test_classes_of_cells_trust_their_pixels_by_a_predicted_weight() -> None:
    lift = CellLift(VOLUME, CAMERA, SPEC, None)
    others = np.zeros((CELLS, VOLUME.of_cell), np.float32)
    others[:, 9:12] = 0.0, 1.0, 0.5
    of_pixels = np.tile(np.float32([0.7, 0.1, 0.2, 0.0]), (96, 256, 1))
    chosen = np.array([lift.cell[0], np.flatnonzero(lift.lifted < 0)[0]], np.int32)
    query = CellQuery(lift)
    _, silent, _ = query.classes(others, of_pixels, chosen)
    others[:, 12] = 2.0
    units, label, confidence = query.classes(others, of_pixels, chosen)
    assert silent.tolist() == [1, 1] and label.tolist() == [0, 1]  # out of view there is no pixel to trust
    logits = np.array([0.0, 1.0, 0.5]) + 2.0 * np.log([0.7, 0.1, 0.2])
    np.testing.assert_allclose(units[0], np.exp(logits) / np.exp(logits).sum(), atol=1e-5)
    assert confidence[0] == pytest.approx(units[0, 0])


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> StudentBundle:
    """Its volume is free everywhere, but for a block from 10 to 12 m ahead, 0.8 to 2.8 m to the left."""
    volume = np.full(GRID.shape, -SURE, np.float32)
    volume[20:25, 12:17, 3:6] = SURE
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
    ("changes", "wanted"),
    [
        ({"context": -1}, "no number of channels"),
        ({"level": -9.0}, "below the grid"),
        ({"level": 1e308}, "below the grid"),
        ({"ground": {"name": "sea", "nearest": 2.0, "farthest": 9.0, "scale_deviation": 0.1}}, "none of the classes"),
        ({"ground": {"name": "road", "nearest": 2.0, "farthest": 9.0, "scale_deviation": 0.0}}, "scale_deviation"),
    ],
)
def test_what_contradicts_itself_is_refused(tmp_path: Path, changes: dict[str, Any], wanted: str) -> None:
    make_known_mounting_bundle(tmp_path)
    edit_manifest(tmp_path, lambda m: m["volume"].update(changes))
    assert wanted in str(refused(tmp_path))


def test_a_grid_of_single_cells_is_refused(tmp_path: Path) -> None:
    make_known_mounting_bundle(tmp_path)
    edit_manifest(tmp_path, lambda m: m["grid"].update(shape=[32, 20, 2]))
    assert "fewer than two cells" in refused(tmp_path).what


@pytest.mark.parametrize("changes", [{"grid": {"shape": [32, 20, 7]}}, {"volume": {"context": 2}}])
def test_other_sizes_than_the_graphs_have_are_refused(tmp_path: Path, changes: dict[str, dict[str, Any]]) -> None:
    """Seven voxels of height are as many cells as eight: only what is looked up is another then."""
    make_known_mounting_bundle(tmp_path)
    changes = {"grid": {"shape": [32, 20, 5]}} if "grid" in changes else changes
    edit_manifest(tmp_path, lambda m: [m[part].update(values) for part, values in changes.items()])
    with pytest.raises(BundleError, match=r"(in|out)put is"):
        make_networks(StudentBundle.load(tmp_path), "onnxruntime")


@pytest.mark.parametrize("side", ["width", "height"])
def test_an_image_of_three_pixels_is_refused(side: str, tmp_path: Path) -> None:
    """Cells sample between pixels of a map half as fine."""
    make_known_mounting_bundle(tmp_path)
    edit_manifest(tmp_path, lambda m: m["canonical_camera"].update({side: 3}))
    assert side in str(refused(tmp_path))


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


def test_a_student_of_an_earlier_version_is_loaded_but_not_run(tmp_path: Path) -> None:
    """It can be exported once more; what its graphs give is not what kernels read."""
    made = make_known_mounting_bundle(tmp_path)

    def earlier(manifest: dict[str, Any]) -> None:
        del manifest["volume"]["around"], manifest["sha256"][CELLS_FILE]
        manifest["schema_version"] = 7

    edit_manifest(tmp_path, earlier)
    again = StudentBundle.load(tmp_path)
    assert again.volume is not None and again.volume.level == made.volume.level and again.volume.ground.name == "road"
    with pytest.raises(BundleError, match="Export the bundle again"):
        make_networks(again, "onnxruntime")
    with pytest.raises(BundleError, match=r"cells.onnx: is missing.*Export the bundle again"):
        list(graphs_of(again))
    edit_manifest(tmp_path, lambda manifest: manifest.update(head={"volume_knots": list(GRID.shape)}))
    with pytest.raises(BundleError, match="Export its checkpoint again"):
        StudentBundle.load(tmp_path)


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
    voxels = (
        Completer(make_known_mounting_bundle(tmp_path), CAMERA, threads=1)
        .complete(known_mounting_bundle.wall_from(0.0))
        .voxels
    )
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
