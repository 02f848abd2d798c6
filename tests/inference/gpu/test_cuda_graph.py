"""Frames as CUDA graphs: when they are taken, and when not; on the stand-ins of `host_cuda` and `driver_cuda`."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from scene_completion_ros.errors import GpuError
from scene_completion_ros.inference.completer import Completer
from scene_completion_ros.inference.gpu import cuda_graph, graph_trial
from scene_completion_ros.inference.gpu.cuda_graph import CudaGraph
from scene_completion_ros.inference.gpu.device import PrimaryContext
from scene_completion_ros.inference.gpu.failures import explain_failure
from scene_completion_ros.inference.gpu.graph_trial import GraphTrial
from scene_completion_ros.inference.gpu.voxel_pipeline import DeviceVoxels
from tests.inference.gpu.host_cuda import HostCuda
from tests.inference.gpu.test_device_scene_query import Build, build, picture  # noqa: F401  # a fixture

UNSUPPORTED = 801


def same(first: Completer, second: Completer) -> None:
    found, expected = (one.complete(picture(3)) for one in (first, second))
    np.testing.assert_array_equal(found.voxels.state, expected.voxels.state)
    np.testing.assert_array_equal(found.voxels.label, expected.voxels.label)


def test_a_driver_without_graphs_does_without(
    build: Build,  # noqa: F811
    cuda: HostCuda,
    caplog: pytest.LogCaptureFixture,
) -> None:
    cuda.no_graphs = UNSUPPORTED
    completer = build()
    assert "without a CUDA graph" in caplog.text
    assert "cuGraphInstantiateWithFlags failed: operation not supported (801)" in caplog.text
    cuda.no_graphs = 0
    same(completer, build(graphs=False))
    assert cuda.graphs == 0


def test_what_is_slower_as_a_graph_is_not_one_and_not_tried_again(
    build: Build,  # noqa: F811
    cuda: HostCuda,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(graph_trial, "_medians_ms", lambda *_: (1.0, 2.0))
    completer = build()
    assert "a frame takes 2.00 ms as a CUDA graph and 1.00 ms without: it is not taken" in caplog.text
    tried = cuda.graphs
    assert tried == 1
    completer.complete(picture(0))
    assert cuda.graphs == tried


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
    with pytest.raises(GpuError, match=r"lost .* cuStreamBeginCapture_v2 failed: an illegal memory access .* \(700\)"):
        CudaGraph(1, lambda: None)
    driver.cuGetErrorString = lambda error, text: UNSUPPORTED  # older than the error
    with pytest.raises(GpuError, match=r"failed: an unknown error \(700\)"):
        CudaGraph(1, lambda: None)
    assert ctypes.sizeof(ctypes.c_void_p) == 8


class Frames:
    """Gives frames of a number, which `captured` may change."""

    def __init__(self, error: GpuError | None = None) -> None:
        self.number, self.error = 1, error

    def ask(self) -> None:
        self.number = 1

    def wait(self) -> DeviceVoxels:
        def part(dtype: type) -> Any:
            return np.full(3, self.number, dtype)

        return DeviceVoxels(
            part(np.int32), part(np.float32), part(np.uint8), part(np.float32), part(np.uint8), part(np.float32),
            part(np.float32),
        )  # fmt: skip

    def captured(self, ask: Callable[[], None]) -> Callable[[], None]:
        if self.error is not None:
            raise self.error

        def wrong() -> None:
            self.number = 2

        return wrong


def test_a_graph_that_gives_something_else_is_not_taken(caplog: pytest.LogCaptureFixture) -> None:
    frames: Any = Frames()
    assert GraphTrial().faster(frames, frames.ask, frames.wait) == frames.ask
    assert "without a CUDA graph: it gives other voxels" in caplog.text


def test_a_lost_device_ends_the_trial() -> None:
    frames: Any = Frames(explain_failure("unspecified launch failure", "running a CUDA graph"))
    with pytest.raises(GpuError, match="lost"):
        GraphTrial().faster(frames, frames.ask, frames.wait)


def test_both_ways_are_measured_in_turn_and_the_middle_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(10_000))
    asked: list[str] = []
    now = 0.0

    def tick() -> float:
        next(clock)
        return now

    monkeypatch.setattr(graph_trial.time, "perf_counter", tick)

    def way(name: str, *seconds: float) -> Callable[[], None]:
        left = list(seconds)

        def ask() -> None:
            nonlocal now
            asked.append(name)
            now += left.pop(0) if left else seconds[-1]

        return ask

    found = graph_trial._medians_ms(lambda: None, way("plain", 3.0, 0.02), way("graph", 0.01))
    assert found == pytest.approx((20.0, 10.0))
    assert asked[:4] == ["plain", "graph", "plain", "graph"]
    assert len(asked) == 2 * graph_trial.ROUNDS[0]  # the first frame took more time than there is
