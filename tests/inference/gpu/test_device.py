from __future__ import annotations

import pytest

from scene_completion_ros.inference.gpu.device import explain_failure

# As CUDA, pycuda and TensorRT say it.
SAID = [
    ("cuMemAlloc failed: out of memory", "memory", "lower gpu_workspace"),
    ("Error Code 2: OutOfMemory (Requested size was 1073741824 bytes.) out of memory", "memory", "nvidia-smi"),
    ("[defaultAllocator.cpp::allocate::57] Error Code 2: OutOfMemory (no further information)", "memory", "nvidia-smi"),
    ("CUDA initialization failure with error: 2. Please check your CUDA installation", "memory", "nvidia-smi"),
    ("cuStreamSynchronize failed: an illegal memory access was encountered", "lost", "Xid"),
    ("cuStreamSynchronize failed: unspecified launch failure", "lost", "Restart the node"),
    ("cuCtxPushCurrent failed: GPU is lost", "lost", "Restart the node"),
    ("Cuda failure: uncorrectable ECC error encountered", "lost", "Restart the node"),
    ("cuModuleLoadDataEx failed: device kernel image is invalid", "unknown", "doctor"),
]


@pytest.mark.parametrize(("text", "kind", "cure"), SAID)
def test_what_to_do_follows_from_what_cuda_says(text: str, kind: str, cure: str) -> None:
    error = explain_failure(text, "running the encoder")
    assert error.kind == kind
    assert text in error.what
    assert "running the encoder" in error.what
    assert cure in error.cure


def test_free_memory_is_said_where_it_is_known() -> None:
    error = explain_failure("cuMemAlloc failed: out of memory", "allocating", (3 * 2**20, 2**30))
    assert "3 of 1024 MiB are free" in str(error)
