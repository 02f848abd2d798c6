"""The encoder of `python -m benchmarks.gpu` where there is no TensorRT: the student's network in torch."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from benchmarks.gpu import canonical_image, torch_encoder, torch_features
from scene_completion_ros.errors import GpuError
from scene_completion_ros.inference.bundle import DEFAULT_BUNDLE, StudentBundle
from scene_completion_ros.inference.encoder import make_encoder


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
