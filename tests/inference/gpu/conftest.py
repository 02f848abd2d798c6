"""A tiny student with encoders for GPUs, and a GPU whose memory and processors are the host's."""

from __future__ import annotations

import gc
import logging
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from scene_completion_ros.geometry.grids import VoxelGrid
from scene_completion_ros.inference import encoder
from scene_completion_ros.inference.completer import Completer
from scene_completion_ros.inference.gpu import engine_provision, graph_trial, kernel_provision, tensorrt_encoder
from scene_completion_ros.inference.gpu.kernels import CompiledKernels, KernelSizes
from scene_completion_ros.inference.gpu.options import EngineOptions
from tests.inference.cuda_cpu_device import compiled_library
from tests.inference.gpu.driver_cuda import ON_DRIVER, DriverCuda
from tests.inference.gpu.host_cuda import HostCuda, HostEngine
from tests.inference.gpu.small_gpu_bundle import GpuStudent, make_gpu_bundle
from tests.inference.small_bundle import CANONICAL

Build = Callable[..., Completer]

SMALL = CANONICAL.resized(160, 48)
GRID = VoxelGrid((2.0, -3.2, -1.6), 0.32, (20, 20, 10))


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> GpuStudent:
    """A student whose encoder for the CPU and encoders for GPUs compute the same."""
    return make_gpu_bundle(
        tmp_path_factory.mktemp("bundle"), canonical=SMALL, feature_size=(24, 80), grid=GRID, classes=5, threshold=0.1
    )


@dataclass
class HostCompiler:
    """Stands in for NVRTC: compiles the kernels for the CPU.

    Attributes:
        changed: Parts of the source, and what to compile in their place.
        compiled: Sizes of what was compiled so far.
    """

    folder: Path
    changed: tuple[tuple[str, str], ...]
    compiled: list[KernelSizes]

    def __call__(
        self,
        sizes: KernelSizes,
        compute_capability: tuple[int, int],
        *,
        check: Callable[[CompiledKernels], None],
    ) -> CompiledKernels:
        assert compute_capability == (8, 7)
        self.compiled.append(sizes)
        library = compiled_library(sizes, self.folder, *self.changed)
        made = CompiledKernels(str(library).encode(), sizes.kernels, {}, "g++")
        check(made)
        return made


@pytest.fixture(scope="session")
def library_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where kernels lie that were compiled once."""
    return tmp_path_factory.mktemp("libraries")


@pytest.fixture
def compiler(library_folder: Path, monkeypatch: pytest.MonkeyPatch) -> HostCompiler:
    """What kernels are compiled with."""
    if shutil.which("g++") is None:
        pytest.skip("no g++")
    made = HostCompiler(library_folder, (), [])
    monkeypatch.setattr(kernel_provision, "compile_kernels", made)
    return made


@pytest.fixture
def cuda(
    compiler: HostCompiler, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> Iterator[HostCuda]:
    """The stand-in; whatever was allocated must have been freed, and every context popped."""
    caplog.set_level(logging.INFO, logger="scene_completion_ros")
    host: Any = DriverCuda() if ON_DRIVER else HostCuda()
    host.install(monkeypatch)
    tensorrt = SimpleNamespace(flavour="tensorrt", version="10.3.0")
    monkeypatch.setattr(engine_provision, "load_tensorrt", lambda flavour: tensorrt)
    monkeypatch.setattr(engine_provision, "TensorRtEngine", HostEngine)
    monkeypatch.setattr(tensorrt_encoder, "require", lambda flavour: None)
    for module in (engine_provision, tensorrt_encoder, encoder):  # whatever is installed here
        monkeypatch.setattr(module, "installed_flavour", lambda: "tensorrt")
    # What is faster on a stand-in says nothing; the tests say it.
    monkeypatch.setattr(graph_trial, "_medians_ms", lambda *_: (2.0, 1.0))
    monkeypatch.setattr(HostEngine, "cuda", host, raising=False)
    monkeypatch.setattr(HostEngine, "offset", 0.0)
    monkeypatch.setattr(HostEngine, "refused", set())
    monkeypatch.setattr(HostEngine, "opened", [])
    builds: list[bytes] = []

    def build_plan(onnx: bytes, key: Any, tensorrt: Any, *, timings: bytes, say: Any) -> tuple[bytes, bytes]:
        builds.append(timings)
        return onnx, b"timings"

    monkeypatch.setattr(engine_provision, "build_plan", build_plan)
    host.builds = builds  # type: ignore[attr-defined]
    yield host
    gc.collect()
    assert host.stack == []
    assert not host.live_graphs and not host.events
    assert (host.allocated, host.pinned, host.retained) == (0, 0, 0)
    assert all(engine.closed for engine in HostEngine.opened)


def picture(seed: int = 0) -> np.ndarray:
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 20, 3), dtype=np.uint8)
    return np.ascontiguousarray(coarse.repeat(8, axis=0).repeat(8, axis=1))


@pytest.fixture
def build(bundle: GpuStudent, cuda: HostCuda, tmp_path: Path) -> Build:
    """Makes a completer on the GPU."""

    def made(precision: str = "fp16", engine: str = "tensorrt", *, graphs: bool = True) -> Completer:
        gpu = EngineOptions(precision=precision, cache=tmp_path / "engines", graphs=graphs)
        return Completer(bundle, SMALL, engine=engine, threads=1, gpu=gpu)

    return made
