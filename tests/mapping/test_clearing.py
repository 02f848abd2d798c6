import numpy as np
import pytest
from numpy.typing import NDArray

from scene_completion_ros.mapping.clearing import (
    MARGIN,
    TOUCH,
    ClearingRays,
    free_distances,
    obstacle_points,
    seen_free_cubes,
)
from tests.voxels.samples import CAMERA, COMPLETED, FREE, GRID, INFERRED, SURFACE, UNOBSERVED, street, voxels_of


def voxels_along(origin, direction, shape) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """The voxels of a grid that a ray passes, in order.

    `origin`: where the ray begins [3], voxel edges; `direction`: unit vector [3]; `shape`: number of voxels along x, y,
    z. Returns where the ray enters and leaves each voxel [N, 2], in voxel edges from its origin, and their indices [N,
    3].
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        crossings = [(np.arange(size + 1) - o) / d for size, o, d in zip(shape, origin, direction, strict=True)]
    moving = [along for along, d in zip(crossings, direction, strict=True) if d != 0.0]
    misses = any(d == 0.0 and not 0.0 <= o < size for size, o, d in zip(shape, origin, direction, strict=True))
    enter = max(0.0, *(along.min() for along in moving))
    leave = min(along.max() for along in moving)
    if misses or leave <= enter:
        return np.zeros((0, 2)), np.zeros((0, 3), dtype=np.int64)
    inner = np.concatenate(moving)
    borders = np.unique(np.concatenate([[enter, leave], inner[(enter < inner) & (inner < leave)]]))
    ways = np.stack([borders[:-1], borders[1:]], axis=1)
    ways = ways[ways[:, 1] - ways[:, 0] > TOUCH]
    return ways, np.floor(origin + ways.mean(axis=1)[:, None] * direction).astype(np.int64)


def free_distances_reference(state, origin, direction, blind) -> NDArray[np.float64]:
    """See `clearing.free_distances`."""
    distances = np.zeros(len(direction))
    for ray in range(len(direction)):
        ways, index = voxels_along(origin, direction[ray], state.shape)  # type: ignore[arg-type]  # three axes
        met = state[tuple(index.T)]
        free = met == FREE
        passed = free | ((met == UNOBSERVED) & (ways[:, 0] <= blind))
        followed = int(np.argmin(np.append(passed, False)))
        if free[:followed].any() and ways[0, 0] <= blind:
            stop = ways[:followed, 1][free[:followed]][-1] - MARGIN
            distances[ray] = stop if stop > ways[0, 0] else 0.0
    return distances


TWINS = pytest.mark.parametrize("twin", [free_distances_reference, free_distances])
LETTERS = {"u": UNOBSERVED, "f": FREE, "i": INFERRED, "s": SURFACE, "c": COMPLETED}


@TWINS
@pytest.mark.parametrize(
    ("states", "blind", "expected"),
    [
        ("ffffff", 0.0, 5.5),  # half an edge before the grid ends
        ("fffsff", 0.0, 2.5),
        ("fffcff", 0.0, 2.5),
        ("fffiff", 0.0, 2.5),  # inferred free space is not cleared, nor is what lies behind it
        ("fffuff", 1.0, 2.5),
        ("uuffis", 1.0, 3.5),  # the second voxel begins at 1
        ("uufffs", 0.5, 0.0),
        ("fuffsf", 1.0, 3.5),
        ("fuuffs", 1.0, 0.5),  # unobserved voxels at the end are not cleared
        ("usffff", 9.0, 0.0),
        ("sfffff", 9.0, 0.0),
        ("uuuuuu", 9.0, 0.0),
    ],
)
def test_along_a_corridor(twin, states: str, blind: float, expected: float) -> None:
    corridor = np.array([LETTERS[letter] for letter in states], dtype=np.uint8).reshape(-1, 1, 1)
    found = twin(corridor, np.array([0.0, 0.5, 0.5]), np.array([[1.0, 0.0, 0.0]]), blind)
    assert found.tolist() == [expected]


@pytest.mark.parametrize("seed", range(20))
def test_twins_agree(seed: int) -> None:
    rng = np.random.default_rng(seed)
    free = rng.uniform(0.6, 0.98)
    shares = [free if state == FREE else (1.0 - free) / 4 for state in LETTERS.values()]
    state = rng.choice([*LETTERS.values()], (12, 9, 7), p=shares).astype(np.uint8)
    origin = rng.uniform(-3.0, 14.0, 3) if seed % 2 else rng.integers(0, 7, 3).astype(float)
    # Rays all around, some along axes and diagonals.
    rays = np.concatenate([rng.normal(size=(200, 3)), rng.integers(-1, 2, size=(50, 3)).astype(float)])
    rays = rays[np.any(rays != 0.0, axis=1)]
    rays, blind = rays / np.linalg.norm(rays, axis=1, keepdims=True), rng.uniform(0.0, 6.0)
    expected = free_distances_reference(state, origin, rays, blind)
    np.testing.assert_allclose(free_distances(state, origin, rays, blind), expected, atol=1e-9)


def test_clearing_points_of_a_street() -> None:
    voxels = street()
    points = ClearingRays(GRID, voxels.grid_from_camera, CAMERA, threads=None)(voxels)
    assert points.dtype == np.float32
    assert 1000 < len(points) <= CAMERA.width * CAMERA.height
    origin = (voxels.grid_from_camera.translation - np.asarray(GRID.origin)) / GRID.voxel_size
    for point in points[::7]:
        line = voxels.grid_from_camera.apply(point.astype(np.float64)) / GRID.voxel_size
        length = np.linalg.norm(line)
        ways, index = voxels_along(origin, line / length, GRID.shape)
        passed = (ways[:, 0] < length) & (ways[:, 1] - ways[:, 0] > 1e-4)  # the point is rounded to float32
        met = voxels.state[tuple(index[passed].T)]
        assert met[-1] == FREE
        assert set(met[ways[passed, 0] > 10.0]) <= {FREE}  # the blind zone
        assert set(met) <= {FREE, UNOBSERVED}
    forward, left = points[:, 2], -points[:, 0]
    to_the_wall = (left / forward > 0.3) & (left / forward < 0.6) & (np.abs(points[:, 1] / forward) < 0.3)
    assert to_the_wall.sum() > 100
    assert 3.7 < forward[to_the_wall].max() < 4.0
    assert forward[left / forward < -0.1].max() > 11.0


def test_obstacles_are_occupied_voxels_of_other_classes() -> None:
    state = np.array([[[SURFACE, FREE]], [[COMPLETED, SURFACE]]])
    labels = {(0, 0, 0): 0, (1, 0, 0): 1, (1, 0, 1): 2}
    voxels = voxels_of(state, (1.0, -0.5, -1.0), labels=labels)
    np.testing.assert_array_equal(obstacle_points(voxels), voxels.points_camera())
    np.testing.assert_allclose(obstacle_points(voxels, ignored=[0]), [[0.0, 0.5, 2.5], [0.0, -0.5, 2.5]], atol=1e-6)
    assert obstacle_points(voxels, ignored=[0, 1, 2]).shape == (0, 3)


def test_a_cube_is_free_only_throughout() -> None:
    state = np.full((5, 4, 2), FREE)  # the fifth slice makes no cube of two
    state[1, 3, 0] = INFERRED
    points = seen_free_cubes(voxels_of(state, (0.0, -2.0, -1.0), 1.0), 2)
    # Of the cubes centred at x 1 and 3, y -1 and 1, z 0, that at (1, 1, 0) is not free.
    np.testing.assert_allclose(points, [[1.0, 0.0, 1.0], [1.0, 0.0, 3.0], [-1.0, 0.0, 3.0]], atol=1e-6)
    assert seen_free_cubes(voxels_of(np.full((2, 2, 2), INFERRED)), 2).shape == (0, 3)
    assert seen_free_cubes(voxels_of(np.full((2, 2, 2), FREE)), 3).shape == (0, 3)
