from __future__ import annotations

import importlib
import sys
from pathlib import Path

import numba
import numpy as np
import pytest

from scene_completion_ros import jit
from scene_completion_ros.inference.encoder import make_encoder
from scene_completion_ros.inference.point_code import PointCodeSpec
from scene_completion_ros.inference.positional_tables import PositionalTables
from scene_completion_ros.jit import CACHE_LINE, aligned_empty
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


def test_kernels_compile_where_no_cache_can_be_written(monkeypatch: pytest.MonkeyPatch) -> None:
    real = numba.njit

    def njit(*functions: object, cache: bool = False, **options: object) -> object:
        def decorate(function: object) -> object:
            if cache:
                raise RuntimeError("cannot cache function: no locator available for file")
            return real(cache=cache, **options)(function)

        return real(*functions) if functions else decorate  # numba compiles parts of its own with it

    monkeypatch.setattr(numba, "njit", njit)

    @jit.kernel(parallel=False)
    def double(x: float) -> float:
        return 2.0 * x

    assert double(4.0) == 8.0


def test_a_cached_kernel_is_old_when_a_function_of_another_file_in_it_has_changed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "caller_of_changing.py").write_text(
        "import changing\n"
        "from changing import changed\n"
        "from scene_completion_ros.jit import kernel\n"
        "def make():\n"
        "    @kernel(parallel=False, inlines=changing)\n"
        "    def called(x):\n"
        "        return changed(x)\n"
        "    return called\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # its stamps are whole seconds
    for factor in (2.0, 3.0, 2.0):
        (tmp_path / "changing.py").write_text(
            f"from scene_completion_ros.jit import inlined\n@inlined\ndef changed(x):\n    return {factor} * x\n"
        )
        for name in ("changing", "caller_of_changing"):
            monkeypatch.delitem(sys.modules, name, raising=False)
        importlib.invalidate_caches()
        assert importlib.import_module("caller_of_changing").make()(4.0) == factor * 4.0
