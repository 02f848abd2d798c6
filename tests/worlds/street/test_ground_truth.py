import numpy as np
import pytest

from scene_completion_ros.geometry.grids import DEFAULT_GRID_FROM_CAMERA, VoxelGrid
from scene_completion_ros.sequences.opening import voxel_truth as known_voxels
from scene_completion_worlds.street.camera_rig import CAMERA_HEIGHT_M, LEFT, VARIED_HEIGHTS_M, make_rig, mounted
from scene_completion_worlds.street.drive import StreetDrive
from scene_completion_worlds.street.ground_truth import SAMPLES_PER_VOXEL, most_surface, voxel_truth
from scene_completion_worlds.street.parts import box
from scene_completion_worlds.street.scene import trace_view
from scene_completion_worlds.street.street_line import StreetClass
from scene_completion_worlds.street.town import TownPlan
from tests.worlds.street.conftest import alone

GRID = VoxelGrid((0.0, -12.8, -2.2), 0.2, (128, 128, 32))


def test_surfaces_seen_by_the_camera_are_occupied_and_visible(drive: StreetDrive) -> None:
    camera = drive.rig.cameras[LEFT]
    truth = voxel_truth(drive.scene_at(0), camera, drive.poses[0] @ drive.rig.rig_from_camera[LEFT], GRID)
    view = drive.view(0)
    seen = np.isfinite(view.depth)
    v, u = np.nonzero(seen)
    points = camera.unproject(np.stack([u, v], axis=-1).astype(float)) * view.depth[seen][:, None]
    index, inside = GRID.index_of(DEFAULT_GRID_FROM_CAMERA.apply(points))
    cells = tuple(index[inside].T)
    assert inside.sum() > 1000
    assert (truth.label[cells] > 0).mean() > 0.99
    assert (truth.label[cells] == view.label[seen][inside]).mean() > 0.95
    assert truth.visible[cells][truth.in_view[cells]].mean() > 0.99


def most_surface_reference(corners: np.ndarray, classes: np.ndarray, grid: VoxelGrid) -> np.ndarray:
    """The readable twin of the compiled votes: of points on triangles [F, 3, 3], at most `spacing` metres apart."""
    spacing = grid.voxel_size / SAMPLES_PER_VOXEL
    edges = np.linalg.norm(corners - np.roll(corners, 1, axis=1), axis=-1).max(axis=-1)
    # Powers of two leave few groups of equal lattices to loop over.
    count = 2 ** np.ceil(np.log2(np.maximum(edges / spacing, 1.0))).astype(np.int64)
    points, owners = [np.zeros((0, 3))], [np.zeros(0, np.int64)]
    for steps in np.unique(count):
        rows = np.flatnonzero(count == steps)
        i, j = np.meshgrid(np.arange(steps + 1), np.arange(steps + 1), indexing="ij")
        keep = i + j <= steps
        weights = np.stack([steps - i[keep] - j[keep], i[keep], j[keep]], axis=-1) / steps  # [K, 3]
        points.append((weights @ corners[rows]).reshape(-1, 3))
        owners.append(np.repeat(rows, len(weights)))
    owner = np.concatenate(owners)
    index, inside = grid.index_of(np.concatenate(points))
    flat = np.ravel_multi_index(tuple(np.asarray(index)[np.asarray(inside)].T), grid.shape)
    votes, counts = np.unique(flat * 32 + classes[owner][np.asarray(inside)], return_counts=True)
    order = np.argsort(counts, kind="stable")  # later entries overwrite earlier ones: the largest count stays
    label = np.zeros(int(np.prod(grid.shape)), np.uint8)
    label[votes[order] // 32] = votes[order] % 32
    return label.reshape(grid.shape)


def test_compiled_votes_are_those_of_the_readable_twin() -> None:
    rng = np.random.default_rng(0)
    grid = VoxelGrid((0.0, -2.0, -1.0), 0.2, (20, 20, 10))
    corners = rng.uniform((-1, -2.5, -1.5), (4.5, 2.5, 1.5), (60, 1, 3)) + rng.uniform(-0.8, 0.8, (60, 3, 3))
    classes = rng.integers(1, 20, 60).astype(np.uint8)
    label = most_surface(corners, classes, grid)
    assert (label > 0).sum() > 300
    assert (label == most_surface_reference(corners, classes, grid)).mean() > 0.9999


def test_a_known_box(drive: StreetDrive) -> None:
    """2.0 x 1.6 x 1.2 m, faces on voxel faces, standing 1.0 m below the camera, 8 m ahead."""
    rig = make_rig(416, 128)
    camera_pose = rig.rig_from_camera[LEFT]
    middle = camera_pose.translation + (9.0 + 1e-3, 1e-3, -0.4 + 1e-3)
    body = box((2.0, 1.6, 1.2), (middle[0], middle[1], middle[2]), "facade_0", StreetClass.CAR)
    scene = alone(drive, body)
    truth = voxel_truth(scene, rig.cameras[LEFT], camera_pose, GRID)
    car = truth.label == StreetClass.CAR
    assert (car & truth.interior).sum() >= 8 * 6 * 4
    filled = np.zeros(GRID.shape, bool)
    filled[40:50, 60:68, 6:12] = True
    assert car[filled].all()
    grown = np.zeros(GRID.shape, bool)
    grown[39:52, 59:70, 5:14] = True
    assert not car[~grown].any()
    assert truth.visible[40, 64, 9]  # its front
    hidden = truth.in_view & ~truth.visible
    assert hidden[45, 64, 9] and truth.interior[45, 64, 9]  # its inside
    assert hidden[55, 64, 9] and not truth.interior[55, 64, 9]  # behind it
    assert truth.label[55, 64, 9] == 0
    assert truth.visible[30, 64, 9]  # before it
    view = trace_view(scene, rig.cameras[LEFT], camera_pose)
    assert view.depth[view.label == StreetClass.CAR].min() == pytest.approx(8.0, abs=0.01)


def test_a_rig_of_its_own_height_sees_a_level_truth_with_the_ground_to_the_centimetre() -> None:
    """The grid stands upright on the ground below the camera; the ground lies where pixels see it."""
    drive = StreetDrive(6, 1, make_rig(256, 96, kind="varied"), supersampling=1)
    (camera,) = drive.rig.cameras.values()
    upright = drive.rig.rig_from_camera[LEFT]
    assert VARIED_HEIGHTS_M[0] <= upright.translation[2] <= VARIED_HEIGHTS_M[1]
    found, view = drive.truth(0), drive.view(0)
    np.testing.assert_allclose(found.grid_from_camera.translation[2], upright.translation[2] - CAMERA_HEIGHT_M)
    np.testing.assert_allclose(found.grid_from_camera.rotation, upright.rotation)
    road = (view.label == StreetClass.ROAD) & (view.depth < 15.0)
    v, u = np.nonzero(road)
    rays = camera.unproject(np.stack([u, v], axis=-1).astype(float))
    places = found.grid_from_camera.apply(rays * view.depth[road][:, None])
    index, inside = found.grid.index_of(places)
    assert inside.sum() > 500
    off = found.ground[tuple(index[inside, :2].T)] - places[inside, 2]
    assert np.median(np.abs(off)) < 0.01
    stored = drive.sequence(assets=("voxels",))
    again = known_voxels(stored, 0)
    np.testing.assert_array_equal(again.ground, found.ground)
    np.testing.assert_allclose(again.grid_from_camera.matrix, found.grid_from_camera.matrix, atol=1e-12)


def test_rigs_differ_from_town_to_town_and_hills_come_with_them() -> None:
    rigs = [mounted(make_rig(256, 96, kind="varied"), seed) for seed in range(12)]
    heights = [rig.rig_from_camera[LEFT].translation[2] for rig in rigs]
    assert min(heights) < 1.2 and max(heights) > 1.7
    assert len({rig.cameras[LEFT].fx for rig in rigs}) > 4
    level, hilly = (TownPlan(6, 100.0, hilly=hills).line for hills in (False, True))
    steepest = [np.abs(np.diff(line.height)).max() for line in (level, hilly)]
    assert steepest[1] > steepest[0]
    np.testing.assert_array_equal(level.position, hilly.position)
