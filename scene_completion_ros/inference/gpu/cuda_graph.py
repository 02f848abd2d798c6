"""A CUDA graph: what is asked of a stream, captured once, and asked for again as one.

pycuda has no functions for these; they are called in the driver that it uses. No GPU has run this yet.
"""

from __future__ import annotations

import ctypes
import functools
import gc
from collections.abc import Callable
from typing import Any

from scene_completion_ros.inference.gpu.device import explain_failure

_THREAD_LOCAL = 1  # CU_STREAM_CAPTURE_MODE_THREAD_LOCAL: other threads may go on as they like


class CudaGraph:
    """A graph that is ready to be launched; made, launched and closed with the context current, in one thread.

    Args:
        stream: Handle of the stream whose work is captured.
        ask: Asks for the work. What it does for the first time, such as loading a kernel, may not be captured: it has
            to have run before.

    Raises:
        GpuError: The work cannot be captured. The stream is as it was before.
    """

    def __init__(self, stream: int, ask: Callable[[], None]) -> None:
        self._graph: int | None = None
        captured, made = ctypes.c_void_p(), ctypes.c_void_p()
        _call("cuStreamBeginCapture_v2", ctypes.c_void_p(stream), ctypes.c_int(_THREAD_LOCAL))
        collecting = gc.isenabled()
        gc.disable()  # memory of the GPU that is found unused and freed would end the capture
        try:
            ask()
        except BaseException:
            _driver().cuStreamEndCapture(ctypes.c_void_p(stream), ctypes.byref(captured))
            _destroy("cuGraphDestroy", captured.value)
            raise
        finally:
            if collecting:
                gc.enable()
        _call("cuStreamEndCapture", ctypes.c_void_p(stream), ctypes.byref(captured))
        try:
            _call("cuGraphInstantiateWithFlags", ctypes.byref(made), captured, ctypes.c_ulonglong(0))
        finally:
            _destroy("cuGraphDestroy", captured.value)
        self._graph = made.value

    def launch(self, stream: int) -> None:
        """Ask for all of it, in the order of a stream.

        Raises:
            GpuError: The GPU failed.
        """
        _call("cuGraphLaunch", ctypes.c_void_p(self._graph), ctypes.c_void_p(stream))

    def close(self) -> None:
        """Release it."""
        graph, self._graph = self._graph, None
        _destroy("cuGraphExecDestroy", graph)


@functools.cache
def _driver() -> Any:
    return ctypes.CDLL("libcuda.so.1")


def _destroy(function: str, graph: int | None) -> None:
    if graph is not None:
        getattr(_driver(), function)(ctypes.c_void_p(graph))


def _call(function: str, *arguments: Any) -> None:
    driver = _driver()
    result = int(getattr(driver, function)(*arguments))
    if result:
        text = ctypes.c_char_p()
        driver.cuGetErrorString(ctypes.c_int(result), ctypes.byref(text))
        said = (text.value or b"the driver has no words for it").decode(errors="replace")
        # Not "failed": with this function's name that would read like the words for a lost device.
        raise explain_failure(f"{function}: {said} ({result})", "running a CUDA graph")
