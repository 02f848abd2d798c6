"""The benchmark of GPUs, as far as it does not need one: what is measured and printed."""

import re
from pathlib import Path

import numpy as np
import pytest

from benchmarks import gpu
from scene_completion_ros.inference.bundle import StudentBundle
from scene_completion_ros.inference.gpu.device import PrimaryContext
from tests.inference.gpu.host_kernels import HostCompiler
from tests.inference.gpu.host_tensorrt import HostTensorRt


def test_the_whole_benchmark_prints_its_tables(
    bundle: StudentBundle,
    tensorrt: HostTensorRt,
    compiler: HostCompiler,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """All but real figures of the benchmark, without a GPU."""
    image = np.random.default_rng(0).integers(
        0, 256, (bundle.canonical.height, bundle.canonical.width, 3), dtype=np.uint8
    )
    for name, value in {
        "WARM_UP_S": 0.0,
        "FILLER_BYTES": 2**10,
        "compile_kernels": compiler,
        "canonical_image": lambda _: image,
        "installed_flavour": lambda: "tensorrt",
        "require": lambda _: None,
    }.items():
        monkeypatch.setattr(gpu, name, value)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    context = PrimaryContext()
    with context:
        gpu.run(bundle, context, frames=2)
    context.close()
    printed = capsys.readouterr().out
    assert "Host, compute capability 8.7, 16 multiprocessors" in printed
    assert re.search(r"\| alpha error +\| \d", printed) and re.search(r"\| sight difference +\| \d", printed)
    assert "20x20x10 voxels" in printed
    assert printed.count("image to voxels, by the host's clock") == 1
    assert "tensorrt in fp16" in printed
