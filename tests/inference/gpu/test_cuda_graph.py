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
from tests.inference.gpu.conftest import Build, picture
from tests.inference.gpu.host_cuda import HostCuda

UNSUPPORTED = 801


def same(first: Completer, second: Completer) -> None:
    found, expected = (one.complete(picture(3)) for one in (first, second))
    np.testing.assert_array_equal(found.voxels.state, expected.voxels.state)
    np.testing.assert_array_equal(found.voxels.label, expected.voxels.label)


@pytest.mark.parametrize(
    ("fault", "function"), [("no_graphs", "cuGraphInstantiateWithFlags"), ("no_launches", "cuGraphLaunch")]
)
def test_a_driver_without_graphs_does_without(
    build: Build,
    cuda: HostCuda,
    caplog: pytest.LogCaptureFixture,
    fault: str,
    function: str,
) -> None:
    setattr(cuda, fault, UNSUPPORTED)
    completer = build()
    assert "without a CUDA graph" in caplog.text
    assert f"{function}: operation not supported (801)" in caplog.text
    setattr(cuda, fault, 0)
    same(completer, build(graphs=False))
    assert cuda.graphs == 0


def test_what_is_slower_as_a_graph_is_not_one_and_not_tried_again(
    build: Build,
    cuda: HostCuda,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(graph_trial, "_medians_ms", lambda *_: (1.0, 2.0))
    completer = build()
    assert "a frame takes 2.00 ms as a CUDA graph and 1.00 ms without: it is not taken" in caplog.text
    tried = cuda.graphs
    assert tried == 2  # once with each of two images
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
    with pytest.raises(GpuError, match=r"lost .* cuStreamBeginCapture_v2: an illegal memory access .* \(700\)"):
        CudaGraph(1, lambda: None)
    driver.cuGetErrorString = lambda error, text: UNSUPPORTED  # older than the error
    with pytest.raises(GpuError, match=r"cuStreamBeginCapture_v2: the driver has no words for it \(700\)"):
        CudaGraph(1, lambda: None)
    assert ctypes.sizeof(ctypes.c_void_p) == 8


class Frames:
    """Gives frames whose voxels all have the number of an image; what `captured` gives can be wrong.

    Args:
        captured: What a graph does: given the number of the image, the one it makes of it; or raises.
        failing: How many frames fail after something was captured.
    """

    def __init__(self, captured: Callable[[int], int], failing: int = 0) -> None:
        self.shown = self.made = 0
        self._captured, self._failing = captured, failing
        self.frame = graph_trial.TrialFrame(self.show, self.ask, self.wait)
        self._tried = False

    def show(self, number: int) -> None:
        self.shown = number

    def ask(self) -> None:
        if self._tried and self._failing:
            self._failing -= 1
            raise GpuError("an error of the capture")
        self.made = self.shown

    def wait(self) -> DeviceVoxels:
        def part(dtype: type) -> Any:
            return np.full(3, self.made, dtype)

        return DeviceVoxels(
            part(np.int32), part(np.float32), part(np.uint8), part(np.float32), part(np.uint8), part(np.float32),
            part(np.float32),
        )  # fmt: skip

    def captured(self, ask: Callable[[], None]) -> Callable[[], None]:
        self._tried = True

        def graph() -> None:
            self.made = self._captured(self.shown)

        return graph


def refused(number: int) -> int:
    raise explain_failure("operation not supported", "running or timing frames")


def ask_of(frames: Any) -> Callable[[], None]:
    return GraphTrial().faster(frames, frames.frame)


def test_a_graph_that_gives_something_else_is_not_taken(caplog: pytest.LogCaptureFixture) -> None:
    frames = Frames(lambda number: 1 - number)
    assert ask_of(frames) == frames.ask
    assert "without a CUDA graph: it gives other voxels" in caplog.text


def test_a_graph_that_does_nothing_is_not_taken(caplog: pytest.LogCaptureFixture) -> None:
    frames = Frames(lambda number: frames.made)
    assert ask_of(frames) == frames.ask
    assert "without a CUDA graph: it gives other voxels" in caplog.text


def test_where_all_images_give_the_same_there_is_no_graph() -> None:
    frames = Frames(lambda number: 0)
    frames.frame = graph_trial.TrialFrame(lambda number: None, frames.ask, frames.wait)
    assert ask_of(frames) == frames.ask


def test_an_error_that_the_capture_left_is_got_over(caplog: pytest.LogCaptureFixture) -> None:
    frames = Frames(refused, failing=1)
    assert ask_of(frames) == frames.ask
    assert "without a CUDA graph: GPU: running or timing frames failed: operation not supported" in caplog.text


def test_a_device_that_fails_without_the_graph_too_is_told_of() -> None:
    with pytest.raises(GpuError, match="an error of the capture"):
        ask_of(Frames(refused, failing=2))


def test_frames_that_are_others_after_the_trial_are_refused() -> None:
    frames = Frames(refused)
    ask = frames.ask

    def ask_wrong() -> None:
        ask()
        frames.made += 5 * frames._tried

    frames.frame = graph_trial.TrialFrame(frames.show, ask_wrong, frames.wait)
    with pytest.raises(GpuError, match="a frame differs after a CUDA graph was tried .*gpu_graphs: false"):
        ask_of(frames)


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
