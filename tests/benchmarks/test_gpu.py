"""The benchmark of GPUs, as far as it does not need one: what is measured and printed."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import gpu
from benchmarks.completion import naive_query
from benchmarks.gpu import torch_encoder, torch_outputs
from benchmarks.measuring import canonical_image
from scene_completion_ros.errors import GpuError
from scene_completion_ros.inference.bundle import StudentBundle
from scene_completion_ros.inference.encoder import make_encoder
from scene_completion_ros.inference.gpu.device import PrimaryContext
from scene_completion_ros.inference.gpu.kernel_device import EncodedOnDevice, KernelDevice
from scene_completion_ros.inference.gpu.kernels import KernelSizes
from scene_completion_ros.inference.gpu.voxel_pipeline import VoxelPipeline
from scene_completion_ros.inference.scene_query import PreparedScene, ray_camera
from tests.inference.gpu.host_cuda import HostCuda
from tests.inference.gpu.host_kernels import HostCompiler
from tests.inference.gpu.host_tensorrt import HostTensorRt
from tests.inference.gpu.small_gpu_bundle import GpuStudent
from tests.inference.small_bundle import PLAIN_STUDENT
from tests.training.small_students import CAMERA, make_spatial_student


@pytest.fixture
def prepared(bundle: GpuStudent) -> PreparedScene:
    return PreparedScene.of(bundle, bundle.grid, bundle.grid_from_camera, ray_camera(bundle.canonical))


def noise(bundle: StudentBundle) -> np.ndarray:
    return np.random.default_rng(0).normal(0.0, 1.0, (*bundle.feature_size, bundle.head.channels)).astype(np.float16)


def test_every_stage_of_every_frame_is_measured(
    bundle: GpuStudent,
    prepared: PreparedScene,
    compiler: HostCompiler,
    cuda: HostCuda,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(gpu, "WARM_UP_S", 0.0)
    context = PrimaryContext()
    with context:
        device = KernelDevice(context, compiler(KernelSizes.of(bundle.head, half_features=True), (8, 7)))
        pipeline = VoxelPipeline(device, prepared.query, prepared.march, prepared.classifier, prepared.labels)
        uploaded, asked, loaded = EncodedOnDevice(device.upload(noise(bundle))), [], []

        def encode() -> EncodedOnDevice:
            asked.append(1)
            return uploaded

        times, occupied = gpu.measure_kernels(
            device, pipeline, encode, 2, first="encode", load=lambda: loaded.append(1)
        )
        device.close()
    context.close()
    assert len(loaded) == len(asked) == 3 and occupied > 20
    assert set(times) == {"query", "host", "encode", "march", "assemble", "label", "copies"}
    assert all(len(values) == 2 and (values >= 0.0).all() for values in times.values())
    on_device = sum(values for name, values in times.items() if name != "host")
    assert (times["host"] >= on_device).all() and (times["query"] > 0.0).all()
    assert "image to voxels, by the GPU's clock" in gpu.way_table("none", times)
    printed = gpu.kernel_table(prepared, times, occupied, naive_ms=None)
    assert f"20x20x10 voxels, {len(prepared.query.samples.target)} in view, {occupied} occupied" in printed
    assert "not measured: torch sees no GPU" in printed


@pytest.mark.parametrize(("student", "precision"), [("bundle", "fp16"), ("bundle", "fp32"), ("spatial_bundle", "fp16")])
def test_the_whole_benchmark_prints_its_tables(
    request: pytest.FixtureRequest,
    student: str,
    tensorrt: HostTensorRt,
    compiler: HostCompiler,
    precision: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """All that `make test-gpu` cannot ask of a machine without a GPU: only the figures mean nothing here."""
    bundle: GpuStudent = request.getfixturevalue(student)
    image = np.random.default_rng(0).integers(
        0, 256, (bundle.canonical.height, bundle.canonical.width, 3), dtype=np.uint8
    )
    for name, value in {
        "WARM_UP_S": 0.0,
        "FILLER_BYTES": 2**10,
        "compile_kernels": compiler,
        "canonical_image": lambda _: image,
        "installed_flavour": lambda: "tensorrt",
        "missing_parts": lambda _: [],
    }.items():
        monkeypatch.setattr(gpu, name, value)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    context = PrimaryContext()
    with context:
        gpu.run(bundle, context, precision, frames=2)
    context.close()
    printed = capsys.readouterr().out
    assert "Host, compute capability 8.7, 16 multiprocessors" in printed
    assert re.search(r"\| alpha error +\| \d", printed) and re.search(r"\| sight difference +\| \d", printed)
    assert "20x20x10 voxels" in printed
    assert printed.count("image to voxels, by the host's clock") == 1
    assert f"encoder: tensorrt in {precision}" in printed


def test_the_naive_query_computes_the_same(bundle: GpuStudent, prepared: PreparedScene) -> None:
    features = noise(bundle).astype(np.float32)
    camera_from_grid = bundle.grid_from_camera.inverse()
    points = camera_from_grid.apply(bundle.grid.centres().reshape(-1, 3)).astype(np.float32)
    density = naive_query(bundle, points, threads=1, chunk=len(points))(features).numpy()
    alpha = -np.expm1(-density * bundle.grid.voxel_size)
    in_view = prepared.query.in_view.reshape(-1)
    np.testing.assert_allclose(alpha[in_view], prepared.query.opacity(features).reshape(-1)[in_view], atol=1e-4)


@pytest.mark.parametrize(("half", "allowed"), [(False, 1e-3), (True, 2e-2)], ids=["float32", "float16"])
def test_the_encoder_in_torch_is_that_of_the_bundle(half: bool, allowed: float) -> None:
    bundle = StudentBundle.load(PLAIN_STUDENT)
    image = canonical_image(bundle)
    (found,) = torch_outputs(bundle, "cpu", half=half)(torch.from_numpy(image[None]))
    assert found.dtype == (torch.float16 if half else torch.float32)
    assert tuple(found.shape) == (1, *bundle.feature_size, bundle.head.channels)
    assert found.is_contiguous()
    expected = make_encoder(bundle, "onnxruntime")(image)[..., : bundle.head.hidden]
    density = found[0, ..., : bundle.head.hidden].float().numpy()
    assert np.abs(density - expected).mean() < allowed * np.abs(expected).mean()
    assert not found[0, ..., bundle.head.hidden :].any()


def test_the_encoder_in_torch_gives_volume_and_depth(tmp_path: Path) -> None:
    student = make_spatial_student(tmp_path)
    image = np.random.default_rng(0).integers(0, 256, (CAMERA.height, CAMERA.width, 3), dtype=np.uint8)
    found = torch_outputs(student, "cpu", half=False)(torch.from_numpy(image[None]))
    expected = make_encoder(student, "onnxruntime").encode(image)
    assert expected.volume is not None and expected.depth is not None
    for given, wanted in zip(found, expected, strict=True):
        assert wanted is not None and given.is_contiguous() and given.shape == (1, *wanted.shape)
        assert np.abs(given[0].numpy() - wanted).mean() < 1e-3 * np.abs(wanted).mean()


@pytest.mark.skipif(torch.cuda.is_available(), reason="torch sees a GPU")
def test_without_a_gpu_torch_says_so() -> None:
    with pytest.raises(GpuError, match="torch sees no GPU"):
        torch_encoder(StudentBundle.load(PLAIN_STUDENT), None, "fp16")  # type: ignore[arg-type]
