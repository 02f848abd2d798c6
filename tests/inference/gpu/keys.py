"""Keys of engines that were never built, for tests of what is decided before anything is deserialised."""

from __future__ import annotations

from typing import Any

from scene_completion_ros.inference.gpu.engine_cache import EngineKey


def some_key(**fields: Any) -> EngineKey:
    """A key of an Orin; ``fields`` replace its own."""
    values: dict[str, Any] = {
        "onnx_sha256": "0123456789abcdef" * 4,
        "flavour": "tensorrt",
        "tensorrt_version": "10.3.0",
        "machine": "aarch64",
        "gpu_name": "Orin",
        "compute_capability": "8.7",
        "multiprocessors": 16,
        "precision": "fp16",
        "batch": (1, 1),
        "image": (192, 640),
        "features": (96, 320, 64),
        "workspace_mib": 1024,
    }
    return EngineKey(**{**values, **fields})
