"""Engines found, built, compared and kept, and the encoder around them, on the stand-in of `host_cuda`.

What only a GPU can show is not shown here: that TensorRT runs them.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from scene_completion_ros.errors import GpuError, ImageError
from scene_completion_ros.inference import encoder
from scene_completion_ros.inference.encoder import make_encoder
from scene_completion_ros.inference.gpu import engine_provision
from scene_completion_ros.inference.gpu.device import PrimaryContext
from scene_completion_ros.inference.gpu.engine_provision import provide_engine
from scene_completion_ros.inference.gpu.options import EngineOptions
from tests.inference.gpu.conftest import GRID, SMALL
from tests.inference.gpu.host_cuda import HostCuda
from tests.inference.gpu.host_tensorrt import HostEngine
from tests.inference.gpu.small_gpu_bundle import GpuStudent, gpu_encoder


def provide(bundle: GpuStudent, options: EngineOptions) -> engine_provision.ProvidedEngine:
    context = PrimaryContext()
    try:
        with context:
            provided = provide_engine(bundle, options, context, lambda: make_encoder(bundle, encoder.cpu_engine()))
            provided.engine.close()
    finally:
        context.close()
    return provided


@pytest.fixture
def options(tmp_path: Path) -> EngineOptions:
    return EngineOptions(cache=tmp_path / "engines")


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_an_engine_is_built_compared_and_then_found(
    bundle: GpuStudent, cuda: HostCuda, tmp_path: Path, precision: str, caplog: pytest.LogCaptureFixture
) -> None:
    options = EngineOptions(precision=precision, batch=(1, 4), cache=tmp_path / "engines")
    first = provide(bundle, options)
    assert first.built
    assert first.path is not None
    assert sorted(set(HostEngine.opened[0].batches)) == [1, 4]
    parity = first.record["parity"]
    assert parity["images"] == 8
    assert 0.0 < parity["map_error"] < parity["limits"]["map_error"]
    assert "built after" in caplog.text and "map error" in caplog.text
    second = provide(bundle, options)
    assert not second.built
    assert second.record["parity"] == parity
    assert cuda.builds == [b""]  # type: ignore[attr-defined]
    assert cuda.popped_at_the_end == 2


def test_timings_of_one_build_help_the_next(bundle: GpuStudent, cuda: HostCuda, options: EngineOptions) -> None:
    for precision in ("fp32", "fp16"):
        assert provide(bundle, replace(options, precision=precision)).built
    assert cuda.builds == [b"", b"timings"]  # type: ignore[attr-defined]


def test_an_engine_that_misses_the_gate_is_refused_with_the_numbers_and_not_kept(
    bundle: GpuStudent, cuda: HostCuda, options: EngineOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(HostEngine, "offset", 1.0)
    with pytest.raises(GpuError, match=r"parity gate: .* map error is .* where 0.005 is allowed"):
        provide(bundle, options)
    assert not list((tmp_path / "engines").glob("*.engine"))
    monkeypatch.setattr(HostEngine, "offset", float("nan"))
    with pytest.raises(GpuError, match="not finite"):
        provide(bundle, options)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_an_engine_with_a_volume_is_compared_in_all_outputs(
    spatial_bundle: GpuStudent, cuda: HostCuda, tmp_path: Path, precision: str
) -> None:
    options = EngineOptions(precision=precision, batch=(1, 4), cache=tmp_path / "engines")
    first = provide(spatial_bundle, options)
    assert first.engine.key.volume == GRID.shape
    assert first.engine.key.depth == (SMALL.height, SMALL.width)
    records = [first.record[name] for name in ("parity", "volume_parity", "depth_parity")]
    assert [one["output"] for one in records] == ["features", "volume", "depth"]
    assert [one["images"] for one in records] == [8, 8, 8]
    of_volume = records[1]
    assert 0.0 <= records[2]["map_error"] < records[2]["limits"]["map_error"]
    assert of_volume["map_error"] < of_volume["limits"]["map_error"]
    assert (of_volume["map_error"] > 0.0) is (precision == "fp16")
    second = provide(spatial_bundle, options)
    assert not second.built and second.record["volume_parity"] == of_volume
    assert second.record["depth_parity"] == records[2]


def test_a_wrong_volume_misses_the_gate_though_the_features_are_right(
    spatial_bundle: GpuStudent, cuda: HostCuda, options: EngineOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(HostEngine, "volume_offset", 0.3)
    with pytest.raises(GpuError, match=r"parity gate: .*CPU computes: volume: map error is .* where 0.02 is allowed"):
        provide(spatial_bundle, options)
    assert not list((tmp_path / "engines").glob("*.engine"))
    monkeypatch.setattr(HostEngine, "volume_offset", float("nan"))
    with pytest.raises(GpuError, match="volume: .* values are not finite"):
        provide(spatial_bundle, options)


def test_a_wrong_depth_misses_the_gate_though_all_else_is_right(
    spatial_bundle: GpuStudent, cuda: HostCuda, options: EngineOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(HostEngine, "depth_factor", 1.02)
    with pytest.raises(GpuError, match=r"parity gate: .*CPU computes: depth: map error is 0.02 where 0.005 is allowed"):
        provide(spatial_bundle, options)
    assert not list((tmp_path / "engines").glob("*.engine"))
    monkeypatch.setattr(HostEngine, "depth_factor", float("nan"))
    with pytest.raises(GpuError, match="computes: depth: .* values are not finite"):
        provide(spatial_bundle, options)


def test_volume_and_depth_come_back_as_from_the_cpu(spatial_bundle: GpuStudent, cuda: HostCuda, tmp_path: Path) -> None:
    options = EngineOptions(precision="fp32", cache=tmp_path / "engines")
    image = np.random.default_rng(0).integers(0, 256, (SMALL.height, SMALL.width, 3), dtype=np.uint8)
    on_cpu = make_encoder(spatial_bundle, encoder.cpu_engine(), threads=1)
    on_gpu = make_encoder(spatial_bundle, "tensorrt", threads=1, gpu=options)
    for one in (image, image // 2):
        expected, found = on_cpu.encode(one).copy(), on_gpu.encode(one)
        assert expected.volume is not None and found.volume is not None
        assert found.volume.shape == GRID.shape and found.volume.dtype == np.float32
        np.testing.assert_allclose(found.volume, expected.volume, atol=1e-3)
        np.testing.assert_allclose(found.features, expected.features, atol=1e-3)
        np.testing.assert_array_equal(on_gpu(one), found.features)
        assert expected.depth is not None and found.depth is not None
        assert found.depth.shape == (SMALL.height, SMALL.width) and found.depth.dtype == np.float32
        np.testing.assert_allclose(found.depth, expected.depth, rtol=1e-5)
    assert np.abs(on_gpu.encode(image).volume - expected.volume).max() > 1e-2  # of the image before
    assert np.abs(on_gpu.encode(image).depth - expected.depth).max() > 1e-2


def test_a_plan_that_tensorrt_refuses_is_built_again(
    bundle: GpuStudent,
    cuda: HostCuda,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    options = EngineOptions(precision="fp32", cache=tmp_path / "engines")
    assert provide(bundle, options).built
    monkeypatch.setattr(HostEngine, "refused", {bundle.read_gpu_encoder("fp32")})

    def build_another(onnx: bytes, *_: Any, **__: Any) -> tuple[bytes, bytes]:
        hidden = bundle.head.label_hidden
        return gpu_encoder(
            "fp32", size=(SMALL.height, SMALL.width), label_hidden=hidden, producer="another builder"
        ), b""

    monkeypatch.setattr(engine_provision, "build_plan", build_another)
    assert provide(bundle, options).built
    assert "is not used: deserialising the engine failed; the node builds it again" in caplog.text
    assert not provide(bundle, options).built


def test_features_come_back_as_from_the_cpu(bundle: GpuStudent, cuda: HostCuda, tmp_path: Path) -> None:
    options = EngineOptions(precision="fp32", cache=tmp_path / "engines")
    image = np.random.default_rng(0).integers(0, 256, (SMALL.height, SMALL.width, 3), dtype=np.uint8)
    on_cpu = make_encoder(bundle, encoder.cpu_engine(), threads=1)
    on_gpu = make_encoder(bundle, "tensorrt", threads=1, gpu=options)
    assert on_gpu.name == "tensorrt_fp32"
    expected = on_cpu(image).copy()
    found = on_gpu(image)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-3)
    np.testing.assert_array_equal(on_gpu(image[:, ::-1][:, ::-1]), found)
    assert not np.array_equal(on_gpu(255 - image), expected)
    with pytest.raises(ImageError, match="canonical image"):
        on_gpu(image[:-1])
    assert cuda.stack == []  # nobody else's context is disturbed between images


def test_a_lost_device_is_said_and_the_context_left(bundle: GpuStudent, cuda: HostCuda, options: EngineOptions) -> None:
    on_gpu = make_encoder(bundle, "tensorrt", gpu=options)
    image = np.zeros((SMALL.height, SMALL.width, 3), np.uint8)
    cuda.broken = "cuStreamSynchronize failed: unspecified launch failure"
    with pytest.raises(GpuError, match="the device was lost while running the encoder.*Restart"):
        on_gpu(image)
    assert cuda.stack == []
    cuda.broken = ""
    on_gpu(image)


@pytest.mark.parametrize("engine", ["tensorrt", "auto"])
def test_too_little_memory(
    bundle: GpuStudent,
    cuda: HostCuda,
    options: EngineOptions,
    engine: str,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(encoder, "gpu_is_offered", lambda bundle: True)
    make_encoder(bundle, "tensorrt", gpu=options)
    cuda.free = 100_000
    if engine == "auto":
        assert make_encoder(bundle, "auto", gpu=options).name in ("openvino", "onnxruntime")
        assert "the encoder runs on the CPU, because TensorRT cannot: GPU: out of memory" in caplog.text
    else:
        with pytest.raises(GpuError, match="out of memory while allocating 0 MiB for features.*nvidia-smi"):
            make_encoder(bundle, engine, gpu=options)


def test_auto_takes_the_gpu_where_all_is_there(
    bundle: GpuStudent, cuda: HostCuda, options: EngineOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoder, "cuda_devices", lambda: SimpleNamespace(names=("Host",), error=0))
    assert make_encoder(bundle, "auto", gpu=options).name == "tensorrt_fp16"
    monkeypatch.setattr(encoder, "cuda_devices", lambda: SimpleNamespace(names=(), error=100))
    assert make_encoder(bundle, "auto", gpu=options).name in ("openvino", "onnxruntime")
