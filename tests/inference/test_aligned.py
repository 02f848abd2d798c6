from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from scene_completion_ros.inference.aligned import CACHE_LINE, aligned_empty
from scene_completion_ros.inference.encoder import make_encoder
from scene_completion_ros.inference.point_code import PointCodeSpec
from scene_completion_ros.inference.positional_tables import PositionalTables
from tests.inference.small_bundle import make_small_bundle, random_head


@pytest.mark.parametrize("shape", [(1,), (3, 5), (2, 7, 11), (4097, 128)])
def test_arrays_start_at_a_cache_line(shape: tuple[int, ...]) -> None:
    arrays = [aligned_empty(*shape) for _ in range(5)]
    for number, array in enumerate(arrays):
        assert (array.shape, array.dtype, array.ctypes.data % CACHE_LINE) == (shape, np.float32, 0)
        assert array.flags.c_contiguous
        array[:] = number
    assert all(np.all(array == number) for number, array in enumerate(arrays))


def test_what_the_kernels_read_most_does(tmp_path: Path) -> None:
    head = random_head()
    limits = np.array([-1.0, -1.0, -1.0]), np.array([1.0, 1.0, 2.0])
    tables = PositionalTables.build(head.positional_weight, head.hidden_bias, PointCodeSpec(), *limits)
    for table in (tables.x, tables.y, tables.z):
        assert table.ctypes.data % CACHE_LINE == 0
    encoder = make_encoder(make_small_bundle(tmp_path, classes=3), "openvino", threads=1)
    image = np.random.default_rng(0).integers(0, 256, (192, 640, 3), dtype=np.uint8)
    features = encoder(image)
    assert features.ctypes.data % CACHE_LINE == 0
    kept = features.copy()
    np.testing.assert_array_equal(encoder(image), kept)
