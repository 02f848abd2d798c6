"""The benchmark of GPUs, as far as it does not need one: what is measured and what is printed."""

import re
from pathlib import Path

import numpy as np
import pytest

from benchmarks import gpu
from scene_completion_ros.inference.bundle import StudentBundle
from scene_completion_ros.inference.encoder import cpu_networks
from scene_completion_ros.inference.gpu.device import PrimaryContext
from tests.inference.gpu.host_tensorrt import HostTensorRt


def test_the_whole_benchmark_prints_its_tables(
    bundle: StudentBundle,
    tensorrt: HostTensorRt,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """All but real figures of the benchmark, without a GPU."""
    shape = (bundle.canonical.height, bundle.canonical.width, 3)
    image = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    monkeypatch.setattr(gpu, "WARM_UP_S", 0.0)
    monkeypatch.setattr(gpu, "canonical_image", lambda _: image)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    context, reference = PrimaryContext(), cpu_networks(bundle, "onnxruntime", threads=1)
    with context:
        gpu.run(bundle, context, reference, frames=2)
    context.close()
    printed = capsys.readouterr().out
    assert re.search(r"\| occupied_iou +\| (0\.9|1\.0)", printed)
    assert "20x20x10 voxels" in printed
    for stage in (*gpu.STAGES, "image to voxels"):
        assert re.search(rf"\| {stage} +\| \d", printed), stage
