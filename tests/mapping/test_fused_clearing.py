"""What is remembered clears nothing, and keeps nothing that is seen from being cleared."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest

from scene_completion_ros.errors import GridError
from scene_completion_ros.geometry.cameras import Camera
from scene_completion_ros.geometry.grids import VoxelGrid
from scene_completion_ros.mapping.clearing_kernel import ClearingRays
from scene_completion_ros.mapping.fused_clearing import clearing_voxels
from scene_completion_ros.voxels.semantic_voxels import VoxelState
from tests.mapping.small_voxels import COMPLETED, FREE, INFERRED, SURFACE, UNOBSERVED, voxels_of


def test_every_pair_of_states() -> None:
    pairs = np.array(list(itertools.product(VoxelState, VoxelState)), dtype=np.uint8).reshape(5, 5, 2)
    fused, now = voxels_of(pairs[..., 0][None]), voxels_of(pairs[..., 1][None])
    found = clearing_voxels(fused, now)
    rows = {
        UNOBSERVED: [UNOBSERVED] * 5,
        FREE: [UNOBSERVED, FREE, INFERRED, INFERRED, INFERRED],
        INFERRED: [UNOBSERVED, INFERRED, INFERRED, INFERRED, INFERRED],
        SURFACE: [SURFACE] * 5,
        COMPLETED: [COMPLETED] * 5,
    }
    np.testing.assert_array_equal(found.state[0], [rows[state] for state in VoxelState])
    np.testing.assert_array_equal(found.index, fused.index)
    np.testing.assert_array_equal(fused.state[0], pairs[..., 0])  # what was given stays as it was


def test_memory_before_the_camera_neither_ends_rays_nor_lengthens_them() -> None:
    """Ten voxels in a row; the image sees the third to the sixth free, an obstacle may be remembered behind."""
    along = [UNOBSERVED] * 2 + [FREE] * 4 + [INFERRED] * 4
    now = voxels_of(np.array(along)[:, None, None], origin=(0.0, -0.5, -0.5))
    rays = ClearingRays(now.grid, now.grid_from_camera, Camera(1.0, 1.0, 0.0, 0.0, 1, 1), blind_zone=2.0, threads=1)
    ahead = np.array([[0.0, 0.0, 5.5]], np.float32)
    np.testing.assert_allclose(rays(now), ahead)

    def remembered(**states: int) -> np.ndarray:
        state = now.state.copy()
        for place, kind in states.items():
            state[int(place[1:])] = kind
        return rays(clearing_voxels(voxels_of(state, origin=(0.0, -0.5, -0.5)), now))

    np.testing.assert_allclose(remembered(_0=INFERRED, _1=INFERRED), ahead)  # free in memory, out of view
    np.testing.assert_allclose(remembered(_6=FREE, _7=FREE), ahead)  # was seen free, is hidden now
    np.testing.assert_allclose(remembered(_4=SURFACE), [[0.0, 0.0, 3.5]])
    assert len(remembered(_1=COMPLETED)) == 0  # an obstacle that is remembered is not cleared through


def test_another_grid_is_refused() -> None:
    now = voxels_of(np.zeros((2, 2, 2)))
    with pytest.raises(GridError, match="another grid"):
        clearing_voxels(replace(now, grid=VoxelGrid((1.0, 0.0, 0.0), 1.0, (2, 2, 2))), now)
