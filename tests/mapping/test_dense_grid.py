import dataclasses
import json

import numpy as np
import pytest

from scene_completion_ros.errors import GridError
from scene_completion_ros.mapping.ground_map import dense_grid_json, voxels_to_bytes
from tests.mapping.small_voxels import (
    COMPLETED,
    FREE,
    INFERRED,
    SURFACE,
    UNOBSERVED,
    bytes_to_state_and_label,
    voxels_of,
)
from tests.ros.voxel_samples import some_voxels

STATE = np.array([[[UNOBSERVED, FREE, INFERRED], [SURFACE, COMPLETED, SURFACE]]])
LABELS = {(0, 1, 0): 0, (0, 1, 1): 1, (0, 1, 2): 2}


def test_a_byte_holds_state_and_class() -> None:
    dense = voxels_to_bytes(voxels_of(STATE, labels=LABELS))
    assert dense.dtype == np.uint8
    np.testing.assert_array_equal(dense, [[[0, 1, 2], [3, 4 + 2, 3 + 4]]])


def test_state_and_class_come_back_and_more_classes_than_fit_are_refused() -> None:
    voxels = some_voxels(500, classes=126)
    state, label = bytes_to_state_and_label(voxels_to_bytes(voxels))
    assert voxels.label.max() == 125
    np.testing.assert_array_equal(state, voxels.state)
    np.testing.assert_array_equal(label[tuple(voxels.index.T)], voxels.label)
    assert label[voxels.state < SURFACE].max() == 0
    voxels = some_voxels(10, classes=127)
    with pytest.raises(GridError, match=r"127 classes where .* at most 126"):
        voxels_to_bytes(voxels)


def test_the_description_places_every_voxel() -> None:
    voxels = dataclasses.replace(voxels_of(STATE, (2.0, -1.0, -0.5), 0.5, labels=LABELS), stamp_ns=1)
    info = json.loads(dense_grid_json(voxels.grid, voxels.grid_from_camera))
    assert (info["shape"], info["voxel_size"], info["origin"]) == ([1, 2, 3], 0.5, [2.0, -1.0, -0.5])
    assert np.reshape(info["grid_from_camera"], (4, 4)).tolist() == voxels.grid_from_camera.matrix.tolist()
    # The centre (2.25, -0.75, -0.25) of the grid is 0.75 m to the right, 0.25 m below and 2.25 m ahead.
    assert info["first_centre"] == pytest.approx([0.75, 0.25, 2.25])
    assert info["steps"] == [[0.0, 0.0, 0.5], [-0.5, 0.0, 0.0], [0.0, -0.5, 0.0]]
    centres = np.asarray(info["first_centre"]) + voxels.index @ np.asarray(info["steps"])
    np.testing.assert_allclose(centres, voxels.points_camera(), atol=1e-6)
    assert info["layout"] == "data[(x * shape[1] + y) * shape[2] + z]"
    data = voxels_to_bytes(voxels).tobytes()
    for (x, y, z), state in np.ndenumerate(voxels.state):
        byte = np.array([data[(x * 2 + y) * 3 + z]], dtype=np.uint8)
        assert bytes_to_state_and_label(byte)[0] == state
