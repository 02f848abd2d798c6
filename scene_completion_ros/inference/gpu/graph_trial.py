"""Whether frames are asked for one launch after the other or as one CUDA graph: the faster one on this GPU is taken."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import astuple

import numpy as np

from scene_completion_ros.errors import GpuError
from scene_completion_ros.inference.gpu.failures import GpuFailureError
from scene_completion_ros.inference.gpu.kernel_device import KernelDevice
from scene_completion_ros.inference.gpu.voxel_pipeline import DeviceVoxels

ROUNDS = (5, 50)  # at least, at most
LONG_ENOUGH_S = 0.5

_log = logging.getLogger(__name__)


class GraphTrial:
    """Compares both ways on the first scene, and takes the faster one for those that follow.

    Args:
        wanted: False takes no graphs.
    """

    def __init__(self, *, wanted: bool = True) -> None:
        self._helps: bool | None = None if wanted else False

    def faster(
        self, device: KernelDevice, ask: Callable[[], None], wait: Callable[[], DeviceVoxels]
    ) -> Callable[[], None]:
        """What to ask for a frame of a scene with: `ask`, or a graph of it.

        A graph that cannot be made, or gives other voxels, is not taken, and the log says why.

        Args:
            device: What it is asked of.
            ask: Asks for a frame, always with the same memory; see `KernelDevice.captured`.
            wait: Waits for it.

        Raises:
            GpuError: The frame fails without a graph, too, or the device was lost.
        """
        if self._helps is False:
            return ask
        ask()  # loads what is loaded with the first frame
        expected = _content(wait())
        try:
            ask_again = device.captured(ask)
            ask_again()
            found = _content(wait())
        except GpuError as error:
            if isinstance(error, GpuFailureError) and error.kind == "lost":
                raise
            return self._without(ask, str(error))
        if found != expected:
            return self._without(ask, "it gives other voxels than what it was captured from")
        if self._helps is None:
            plain_ms, graph_ms = _medians_ms(wait, ask, ask_again)
            self._helps = graph_ms < plain_ms
            _log.info(
                "a frame takes %.2f ms as a CUDA graph and %.2f ms without: it is %s",
                graph_ms,
                plain_ms,
                "taken" if self._helps else "not taken",
            )
        return ask_again if self._helps else ask

    def _without(self, ask: Callable[[], None], why: str) -> Callable[[], None]:
        self._helps = False
        _log.warning("frames are asked for without a CUDA graph: %s", why)
        return ask


def _content(voxels: DeviceVoxels) -> list[bytes]:
    return [np.asarray(part).tobytes() for part in astuple(voxels)]


def _medians_ms(wait: Callable[[], object], *ways: Callable[[], None]) -> tuple[float, ...]:
    """Milliseconds of a frame by each way, one after the other in turn, until they are known well enough."""
    times: list[list[float]] = [[] for _ in ways]
    began_s = time.perf_counter()
    for done in range(ROUNDS[1]):
        if done >= ROUNDS[0] and time.perf_counter() - began_s > LONG_ENOUGH_S:
            break
        for way, taken in zip(ways, times, strict=True):
            started_s = time.perf_counter()
            way()
            wait()
            taken.append(1e3 * (time.perf_counter() - started_s))
    return tuple(float(np.median(taken)) for taken in times)
