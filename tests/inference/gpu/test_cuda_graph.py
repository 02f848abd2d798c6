"""Frames as CUDA graphs: when they are taken, and when not; on the stand-in of `host_cuda`."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from scene_completion_ros.errors import GpuError
from scene_completion_ros.inference.completer import Completer
from scene_completion_ros.inference.gpu import cuda_graph, tensorrt_encoder
from scene_completion_ros.inference.gpu.cuda_graph import CudaGraph
from scene_completion_ros.inference.gpu.device import PrimaryContext, explain_failure
from scene_completion_ros.inference.gpu.kernel_device import KernelDevice
from tests.inference.gpu.conftest import Build, picture
from tests.inference.gpu.host_cuda import HostCuda
from tests.inference.gpu.host_tensorrt import HostEngine

UNSUPPORTED = 801


def same(first: Completer, second: Completer) -> None:
    found, expected = (one.complete(picture(3)) for one in (first, second))
    np.testing.assert_array_equal(found.voxels.state, expected.voxels.state)
    np.testing.assert_array_equal(found.voxels.label, expected.voxels.label)


@pytest.mark.parametrize(
    ("fault", "function"), [("no_graphs", "cuGraphInstantiateWithFlags"), ("no_launches", "cuGraphLaunch")]
)
def test_a_driver_without_graphs_does_without(
    build: Build, cuda: HostCuda, caplog: pytest.LogCaptureFixture, fault: str, function: str
) -> None:
    setattr(cuda, fault, UNSUPPORTED)
    completer = build(graphs=True)
    assert "without a CUDA graph" in caplog.text
    assert f"{function}: operation not supported (801)" in caplog.text
    setattr(cuda, fault, 0)
    same(completer, build())
    assert cuda.graphs == 0


def test_what_may_not_be_captured_leaves_the_stream_as_it_was(cuda: HostCuda) -> None:
    context = PrimaryContext()
    with context:
        capture_this_and_that(context)
    context.close()


def capture_this_and_that(context: PrimaryContext) -> None:
    stream = context.stream()
    memory, pinned = context.allocate(4, "a number"), context.pinned((1,), np.int32)

    def allocate() -> None:
        context.copy_to_device(int(memory), pinned, stream)
        context.allocate(4, "nothing")

    def wait() -> None:
        context.copy_to_device(int(memory), pinned, stream)
        stream.synchronize()

    for forbidden in (allocate, wait):
        with pytest.raises(Exception, match="not permitted when stream is capturing"):
            CudaGraph(stream.handle, forbidden)

    def stop() -> None:
        context.copy_to_device(int(memory), pinned, stream)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        CudaGraph(stream.handle, stop)
    pinned[0] = 7
    graph = CudaGraph(stream.handle, lambda: context.copy_to_device(int(memory), pinned, stream))
    pinned[0] = 8  # a graph copies what lies there when it runs
    graph.launch(stream.handle)
    found = context.pinned((1,), np.int32)
    context.copy_to_host(found, int(memory), stream)
    stream.synchronize()
    assert found[0] == 8
    graph.close()
    for array in (found, pinned):
        context.free_pinned(array)
    memory.free()


def test_an_error_of_the_driver_is_told_in_its_words(monkeypatch: pytest.MonkeyPatch) -> None:
    def explain(error: Any, text: Any) -> int:
        text._obj.value = b"an illegal memory access was encountered"
        return 0

    driver = SimpleNamespace(cuStreamBeginCapture_v2=lambda *_: 700, cuGetErrorString=explain)
    monkeypatch.setattr(cuda_graph, "_driver", lambda: driver)
    with pytest.raises(GpuError, match=r"lost .* cuStreamBeginCapture_v2: an illegal memory access .* \(700\)"):
        CudaGraph(1, lambda: None)
    driver.cuGetErrorString = lambda error, text: UNSUPPORTED  # older than the error
    with pytest.raises(GpuError, match=r"cuStreamBeginCapture_v2: the driver has no words for it \(700\)"):
        CudaGraph(1, lambda: None)


def test_a_graph_that_does_nothing_is_not_taken(
    build: Build, cuda: HostCuda, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(KernelDevice, "captured", lambda device, ask: lambda: None)
    completer = build(graphs=True)
    assert "without a CUDA graph: it gives other voxels" in caplog.text
    same(completer, build())


def test_where_all_images_give_the_same_there_is_no_graph(
    build: Build, cuda: HostCuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tensorrt_encoder, "gate_images", lambda height, width: 2 * [picture(0)])
    build(graphs=True)
    assert cuda.graphs == 0


def test_frames_that_are_others_after_the_trial_are_refused(
    build: Build, cuda: HostCuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    def captured(device: KernelDevice, ask: Callable[[], None]) -> Callable[[], None]:
        monkeypatch.setattr(HostEngine, "offset", 1.0)
        raise explain_failure("operation not supported", "running a CUDA graph")

    monkeypatch.setattr(KernelDevice, "captured", captured)
    with pytest.raises(GpuError, match="a frame differs after a CUDA graph was tried .*gpu_graphs: false"):
        build(graphs=True)
