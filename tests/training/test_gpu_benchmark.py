"""What of `python -m benchmarks.gpu` runs without a GPU: the encoder in torch, and the source that reads the cache."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from benchmarks.gpu import READ_AGAIN, canonical_image, torch_encoder, torch_features
from scene_completion_ros.errors import GpuError
from scene_completion_ros.inference.bundle import DEFAULT_BUNDLE, StudentBundle
from scene_completion_ros.inference.encoder import make_encoder
from scene_completion_ros.inference.gpu.kernels import find_nvrtc, nvrtc_cubin


@pytest.mark.parametrize(("half", "allowed"), [(False, 1e-3), (True, 2e-2)], ids=["float32", "float16"])
def test_the_encoder_in_torch_is_that_of_the_bundle(half: bool, allowed: float) -> None:
    bundle = StudentBundle.load(DEFAULT_BUNDLE)
    image = canonical_image(bundle)
    found = torch_features(bundle, "cpu", half=half)(torch.from_numpy(image[None]))
    assert found.dtype == (torch.float16 if half else torch.float32)
    assert tuple(found.shape) == (1, *bundle.feature_size, bundle.head.channels)
    assert found.is_contiguous()
    expected = make_encoder(bundle, "onnxruntime")(image)[..., : bundle.head.hidden]
    density = found[0, ..., : bundle.head.hidden].float().numpy()
    assert np.abs(density - expected).mean() < allowed * np.abs(expected).mean()
    assert not found[0, ..., bundle.head.hidden :].any()


@pytest.mark.skipif(torch.cuda.is_available(), reason="torch sees a GPU")
def test_without_a_gpu_torch_says_so() -> None:
    with pytest.raises(GpuError, match="torch sees no GPU"):
        torch_encoder(StudentBundle.load(DEFAULT_BUNDLE), None, "fp16")  # type: ignore[arg-type]


@pytest.mark.skipif(find_nvrtc() is None, reason="no NVRTC")
def test_what_reads_the_cache_compiles() -> None:
    library = find_nvrtc()
    assert library is not None
    cubin, _ = nvrtc_cubin(library, READ_AGAIN.encode(), "read_again.cu", (9, 0))
    assert cubin[:4] == b"\x7fELF" and b"read_again" in cubin
