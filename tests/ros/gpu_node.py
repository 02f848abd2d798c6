"""The completion node with a GPU that fails.

The failing GPU is an engine for the CPU that raises, once a file exists, what a lost device makes TensorRT raise.
"""

import os
import threading
from pathlib import Path
from typing import Any

from scene_completion_ros.inference import encoder
from scene_completion_ros.inference.bundle import StudentBundle
from scene_completion_ros.inference.gpu import device_networks
from scene_completion_ros.inference.gpu.device import explain_failure
from scene_completion_ros.inference.scene_query import PreparedScene, SceneAnswer, SceneImage, SceneQuery
from scene_completion_ros.ros import completion_node
from scene_completion_ros.ros.node import main

FAILS = "GPU_FAILS"  # environment variable: the node believes that it has a GPU, which fails once this file exists


class FailingNetworks:
    """Runs on the CPU, until it fails."""

    name = "tensorrt_fp16"

    def __init__(self, bundle: StudentBundle, *_: Any) -> None:
        print(f"engine of {bundle.name} made in {threading.current_thread().name}", flush=True)
        self._networks = encoder.cpu_networks(bundle, encoder.cpu_engine(), threads=1)

    def scene(self, prepared: PreparedScene) -> "FailingScene":
        return FailingScene(self._networks.scene(prepared))


class FailingScene:
    def __init__(self, scene: SceneQuery) -> None:
        self._scene, self.see = scene, scene.see

    def __call__(self, given: SceneImage) -> SceneAnswer:
        if Path(os.environ[FAILS]).exists():
            raise explain_failure("cuStreamSynchronize failed: GPU is lost", "completing an image")
        return self._scene(given)


if __name__ == "__main__":
    device_networks.DeviceNetworks = FailingNetworks  # type: ignore[misc, assignment]
    encoder.gpu_is_there = lambda: True
    completion_node.check_engine = lambda *_: None
    main()
