"""The completion node with a bundle that has encoders for GPUs, and, where asked for, a GPU that fails.

The failing GPU is an engine for the CPU that raises, once a file exists, what a lost device makes TensorRT raise.
"""

import os
import threading
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scene_completion_ros.inference import encoder
from scene_completion_ros.inference.bundle import GpuEncoder, StudentBundle
from scene_completion_ros.inference.gpu import tensorrt_engine
from scene_completion_ros.inference.gpu.device import explain_failure
from scene_completion_ros.ros import completion_node
from scene_completion_ros.ros.node import main
from tests.inference.small_bundle import gpu_encoder

FAILS = "GPU_FAILS"  # environment variable: the node believes that it has a GPU, which fails once this file exists


class FailingEncoder:
    """Runs on the CPU, until it fails."""

    name = "tensorrt_fp16"

    def __init__(self, bundle: StudentBundle, *_: Any) -> None:
        print(f"engine of {bundle.name} made in {threading.current_thread().name}", flush=True)
        self._encoder = encoder.field_encoder(bundle, encoder.cpu_engine(), threads=1)

    def __call__(self, image_rgb: NDArray[np.uint8]) -> NDArray[np.float32]:
        if Path(os.environ[FAILS]).exists():
            raise explain_failure("cuStreamSynchronize failed: GPU is lost", "running the encoder")
        return self._encoder(image_rgb)


if __name__ == "__main__":
    # A property, since instances have a field of this name.
    StudentBundle.gpu_encoder = property(lambda self: GpuEncoder("", {}, {}, ""), lambda self, value: None)  # type: ignore[misc, assignment]
    StudentBundle.read_gpu_encoder = lambda self: gpu_encoder()  # type: ignore[method-assign]
    if os.environ.get(FAILS):
        tensorrt_engine.TensorRtEncoder = FailingEncoder  # type: ignore[misc, assignment]
        encoder.gpu_is_offered = lambda bundle: True
        completion_node.check_engine = lambda *_: None
    main()
