from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from scene_completion_ros.errors import BundleError, GpuError, GridError, SceneCompletionError
from scene_completion_ros.geometry.grids import VoxelGrid
from scene_completion_ros.inference.bundle import StudentBundle
from scene_completion_ros.inference.gpu.options import EngineOptions, check_limits, gpu_bundle
from scene_completion_ros.inference.head import VolumeReading
from tests.inference.gpu.small_gpu_bundle import make_gpu_bundle
from tests.inference.small_bundle import make_small_bundle


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> StudentBundle:
    return make_gpu_bundle(tmp_path_factory.mktemp("bundle"), ("fp16", "fp32"))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"precision": "fp8"}, "fp8.*fp32, fp16, int8"),
        ({"batch": (0, 1)}, "0 to 1"),
        ({"batch": (4, 1)}, "4 to 1"),
        ({"batch": (1, 17)}, "1 to 17"),
        ({"workspace_mib": 1}, "1 MiB"),
        ({"workspace_mib": 10**6}, "1000000 MiB"),
        ({"dla_core": 2}, "no core 2"),
        ({"dla_core": -1}, "no core -1"),
        ({"dla_core": 0, "precision": "fp32"}, "fp16 and int8 only"),
        ({"dla_core": 0, "batch": (1, 4)}, "one fixed batch size"),
        ({"dla_core": 0, "flavour": "tensorrt_rtx"}, "TensorRT-RTX cannot"),
    ],
)
def test_options_out_of_their_limits_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(GpuError, match=message) as caught:
        EngineOptions(**values)
    assert caught.value.cure


def test_a_bundle_offers_what_it_has(bundle: StudentBundle, tmp_path: Path) -> None:
    assert gpu_bundle(bundle, "fp16") is bundle
    with pytest.raises(BundleError, match="in fp16, fp32 only, not in int8"):
        gpu_bundle(bundle, "int8")
    with pytest.raises(BundleError, match="has no encoder for GPUs.*export"):
        gpu_bundle(make_small_bundle(tmp_path), "fp16")


def test_a_volume_may_be_as_large_as_a_feature_map(bundle: StudentBundle) -> None:
    def with_knots(*knots: int) -> StudentBundle:
        reading = VolumeReading(np.ones(1, np.float32), np.ones((2, 3), np.float32), knots)  # type: ignore[arg-type]
        return dataclasses.replace(bundle, head=dataclasses.replace(bundle.head, volume=reading))

    assert gpu_bundle(with_knots(256, 256, 32), "fp16").head.volume is not None
    check_limits(with_knots(256, 256, 32), EngineOptions(batch=(1, 16)))
    check_limits(with_knots(1024, 1024, 256), EngineOptions())
    with pytest.raises(BundleError, match="2 volumes of 1024x1024x256 knots take more than 1024 MiB") as caught:
        check_limits(with_knots(1024, 1024, 256), EngineOptions(batch=(1, 2)))
    assert caught.value.cure


@pytest.mark.parametrize(
    ("fields", "batch", "grid", "error", "message"),
    [
        ({"width": 5000}, 1, None, BundleError, "5000x192 pixels"),
        ({"height": 4097}, 1, None, BundleError, "640x4097 pixels"),
        ({}, 16, None, BundleError, "16 feature maps of 1280x1024"),
        ({}, 1, (1024, 1024, 256), GridError, "1024x1024x256 are 268435456 voxels"),
    ],
)
def test_sizes_beyond_the_limits_are_refused(
    bundle: StudentBundle,
    fields: dict[str, int],
    batch: int,
    grid: tuple[int, int, int] | None,
    error: type[SceneCompletionError],
    message: str,
) -> None:
    size = (1024, 1280) if batch > 1 else bundle.feature_size
    large: Any = dataclasses.replace(
        bundle, canonical=dataclasses.replace(bundle.canonical, **fields), feature_size=size
    )
    options = EngineOptions(batch=(1, batch))
    voxels = VoxelGrid(origin=(0.0, 0.0, 0.0), voxel_size=0.1, shape=grid, frame="camera") if grid else None
    with pytest.raises(error, match=message) as caught:
        check_limits(large, options, voxels)
    assert caught.value.cure
    check_limits(bundle, EngineOptions(batch=(1, 4)), bundle.grid)
