"""The benchmark of GPUs, as far as it does not need one: graphs in torch, what is measured and what is printed."""

import re
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

from benchmarks import gpu
from benchmarks.torch_graph import TorchGraph
from scene_completion_ros.inference.bundle import StudentBundle, open_student, shipped_students
from scene_completion_ros.inference.encoder import cpu_networks
from scene_completion_ros.inference.gpu.device import PrimaryContext
from scene_completion_ros.inference.gpu.half_precision import device_ports, to_half
from scene_completion_ros.inference.graphs import graphs_of
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
        with gpu.student_on(bundle, context, "tensorrt", reference) as student:
            gpu.run(bundle, student, reference, frames=2)
        del student
    context.close()
    printed = capsys.readouterr().out
    assert re.search(r"\| occupied_iou +\| (0\.9|1\.0)", printed)
    assert "20x20x10 voxels" in printed
    for stage in (*gpu.STAGES, "image to voxels"):
        assert re.search(rf"\| {stage} +\| \d", printed), stage


@pytest.mark.parametrize("name", shipped_students())
def test_graphs_in_torch_give_what_onnx_runtime_makes_of_them(name: str) -> None:
    for step in graphs_of(open_student(name)):
        graph, rng = to_half(step), np.random.default_rng(0)
        given = {
            port: rng.integers(0, 256, shape).astype(kind)
            if kind is np.uint8
            else rng.normal(0.0, 0.3, shape).astype(kind)
            for port, (shape, kind) in device_ports(step).given.items()
        }
        session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
        with torch.no_grad():
            found = TorchGraph(graph, torch.device("cpu"))({port: torch.from_numpy(one) for port, one in given.items()})
        assert list(found) == [port.name for port in session.get_outputs()]
        for (port, one), right in zip(found.items(), session.run(None, given), strict=True):
            assert one.numpy().dtype == right.dtype
            off = np.abs(one.float().numpy() - right.astype(np.float32)).mean()
            assert off < 0.01 * np.abs(right.astype(np.float32)).mean(), (step.path.name, port)
