"""The node where TensorRT is asked for: refused when configured, or not used, or lost while it works."""

import shutil
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from lifecycle_msgs.msg import Transition

from scene_completion_ros.inference.gpu.device import cuda_devices
from scene_completion_ros.ros import topics
from tests.checkout import make_cuda_driver
from tests.ros import gpu_node
from tests.ros.camera_to_voxels import ERROR, FRAME, OK, SECOND_NS, some_image, values

needs_compiler = pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")
no_driver = pytest.mark.skipif(cuda_devices().names is not None, reason="there is an NVIDIA driver here")
CONFIGURE = Transition.TRANSITION_CONFIGURE
GPU_NODE = gpu_node.__file__

Start = Callable[..., Any]


@no_driver
def test_without_a_driver_configuring_is_refused_with_what_is_missing(start: Start) -> None:
    running = start("-p", "engine:=tensorrt", "-p", "autostart:=false")
    assert not running.graph.change_state(topics.NODE_NAME, CONFIGURE), running.node.log
    assert running.graph.state(topics.NODE_NAME) == "unconfigured"
    (line,) = [line for line in running.node.log.splitlines() if "cannot configure: " in line]
    assert "the NVIDIA driver is missing" in line
    absent = {package for package in ("pycuda", "tensorrt", "tensorrt_rtx") if find_spec(package) is None}
    assert ("To get pycuda: pip install" in line) == ("pycuda" in absent)
    assert ("To get tensorrt: pip install" in line) == (absent >= {"tensorrt", "tensorrt_rtx"})  # one of them will do
    running.diagnosed.until("lifecycle", ERROR, "the NVIDIA driver is missing")
    assert "Traceback" not in running.node.log


@needs_compiler
@no_driver
def test_with_auto_the_log_has_the_reason_why_a_gpu_is_not_used(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A driver library sees a GPU, on which nothing can be run."""
    monkeypatch.setenv("LD_LIBRARY_PATH", make_cuda_driver(tmp_path, 1))
    running = start()
    running.start()
    (line,) = [line for line in running.node.log.splitlines() if "the CPU runs the student" in line]
    assert "WARN" in line
    assert "because TensorRT cannot: engine tensorrt" in line
    assert "pip install pycuda" in line
    running.answer(running.make_image(some_image(1), SECOND_NS, FRAME))


def test_a_lost_gpu_is_replaced_by_the_cpu(start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lost = tmp_path / "lost"
    monkeypatch.setenv(gpu_node.FAILS, str(lost))  # the node believes that it has a GPU, until this file is there
    running = start("-p", "image.qos:=reliable", script=GPU_NODE)
    diagnosed = running.diagnosed
    running.start()
    lost.touch()
    image = running.make_image(some_image(1), SECOND_NS, FRAME)
    running.until_logged("from now on the CPU runs the student", lambda: running.images.publish(image))
    assert "the device was lost while completing an image" in running.node.log
    assert "Xid" in running.node.log
    running.answer(running.make_image(some_image(2), 2 * SECOND_NS, FRAME))

    def on_cpu() -> bool:
        return values(diagnosed.newest["inference"])["engine"] in ("openvino", "onnxruntime")

    diagnosed.until("inference", OK, "ready", meanwhile=lambda: running.images.publish(image))
    assert running.graph.until(on_cpu), running.node.log  # the first "ready" may still be that of the GPU
    assert running.node.log.count("ready for 320x96") == 2
    assert "Traceback" not in running.node.log
