"""A tiny student, and a GPU whose memory and processors are the host's."""

import gc
import logging
import os
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from scene_completion_ros.geometry.grids import VoxelGrid
from scene_completion_ros.inference.bundle import StudentBundle
from scene_completion_ros.inference.completer import Completer
from scene_completion_ros.inference.gpu import device, device_networks
from scene_completion_ros.inference.gpu.graph_engine import load_tensorrt
from tests.inference.gpu.host_cuda import HostCuda
from tests.inference.gpu.host_kernels import HostCompiler
from tests.inference.gpu.host_tensorrt import HostTensorRt
from tests.inference.small_bundle import CANONICAL, make_small_bundle

Build = Callable[..., Completer]

SMALL = CANONICAL.resized(96, 32)
GRID = VoxelGrid((2.0, -3.2, -1.6), 0.32, (20, 20, 10))


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> StudentBundle:
    """A field student."""
    return make_small_bundle(
        tmp_path_factory.mktemp("bundle"), canonical=SMALL, feature_size=(16, 48), grid=GRID, classes=5, threshold=0.1
    )


@pytest.fixture(scope="session")
def library_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where kernels lie that were compiled once, by whichever worker."""
    folder = tmp_path_factory.getbasetemp()
    shared = folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder
    (shared / "libraries").mkdir(exist_ok=True)
    return shared / "libraries"


@pytest.fixture
def compiler(library_folder: Path, monkeypatch: pytest.MonkeyPatch) -> HostCompiler:
    """What kernels are compiled with."""
    if shutil.which("g++") is None:
        pytest.skip("no g++")
    made = HostCompiler(library_folder)
    monkeypatch.setattr(device_networks, "compile_kernels", made)
    return made


@pytest.fixture
def cuda(
    compiler: HostCompiler, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> Iterator[HostCuda]:
    """The stand-in; whatever was allocated must have been freed, and every context popped."""
    caplog.set_level(logging.INFO, logger="scene_completion_ros")
    host = HostCuda()
    host.install(monkeypatch)
    yield host
    gc.collect()
    assert host.stack == []
    assert not host.events
    assert (host.allocated, host.pinned, host.retained) == (0, 0, 0)


@pytest.fixture
def tensorrt(cuda: HostCuda, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HostTensorRt]:
    """The stand-in, whose builder takes graphs for plans; all must have gone in the order that TensorRT wants."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    host = HostTensorRt(cuda)
    host.install(monkeypatch)
    monkeypatch.setattr(device, "installed_flavour", lambda: "tensorrt")  # whatever is installed here
    monkeypatch.setattr(device, "require", lambda flavour: None)

    def build_plan(onnx: bytes, ports: object, tensorrt: object) -> bytes:
        host.builds += 1
        return onnx

    monkeypatch.setattr(device_networks, "build_plan", build_plan)
    yield host
    gc.collect()
    assert host.live == []
    load_tensorrt.cache_clear()


def picture(seed: int = 0) -> np.ndarray:
    coarse = np.random.default_rng(seed).integers(0, 256, (SMALL.height // 8, SMALL.width // 8, 3), dtype=np.uint8)
    return np.ascontiguousarray(coarse.repeat(8, axis=0).repeat(8, axis=1))


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache that the first who builds fills for the tests after it."""
    return tmp_path_factory.mktemp("engines")


@pytest.fixture
def build(bundle: StudentBundle, tensorrt: HostTensorRt, engines: Path, monkeypatch: pytest.MonkeyPatch) -> Build:
    """Makes a completer on the GPU."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(engines))
    return partial(_built, bundle)


@pytest.fixture
def build_anew(bundle: StudentBundle, tensorrt: HostTensorRt, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Build:
    """Makes one whose cache, the test's own, is empty."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return partial(_built, bundle)


def _built(bundle: StudentBundle, engine: str = "tensorrt") -> Completer:
    return Completer(bundle, SMALL, engine=engine, threads=1)
