"""Indices along the axes, against NumPy's."""

from __future__ import annotations

import numpy as np
import pytest

from scene_completion_ros.inference.voxel_index import axis_indices


@pytest.mark.parametrize("shape", [(7, 5, 3), (1, 1, 1), (4, 1, 9), (3, 8, 1), (256, 256, 32)])
@pytest.mark.parametrize("share", [0.0, 0.02, 0.6, 1.0])
@pytest.mark.parametrize("kind", [np.int64, np.int32])
def test_they_are_those_of_numpy(shape: tuple[int, int, int], share: float, kind: type[np.integer]) -> None:
    chosen = np.random.default_rng(0).random(int(np.prod(shape))) < share
    flat = np.flatnonzero(chosen).astype(kind)
    found = axis_indices(flat, shape)
    assert found.dtype == np.int32
    np.testing.assert_array_equal(found, np.stack(np.unravel_index(flat, shape), axis=-1))
