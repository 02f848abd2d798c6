"""Whether frames are asked for one launch after the other or as one CUDA graph: the faster one on this GPU is taken."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import astuple, dataclass

import numpy as np

from scene_completion_ros.errors import GpuError
from scene_completion_ros.inference.gpu.kernel_device import KernelDevice
from scene_completion_ros.inference.gpu.voxel_pipeline import DeviceVoxels

ROUNDS = (5, 50)  # at least, at most
LONG_ENOUGH_S = 0.5

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrialFrame:
    """How frames of a scene are asked for.

    Attributes:
        show: Gives the encoder one of two different images, by number.
        ask: Asks for a frame of it, always with the same memory; see `KernelDevice.captured`.
        wait: Waits for it.
    """

    show: Callable[[int], None]
    ask: Callable[[], None]
    wait: Callable[[], DeviceVoxels]

    def voxels(self, number: int, ask: Callable[[], None]) -> list[bytes]:
        """All that a frame of an image brings, asked for in one way or another."""
        self.show(number)
        ask()
        return [np.asarray(part).tobytes() for part in astuple(self.wait())]


class GraphTrial:
    """Compares both ways on the first scene, and takes the faster one for those that follow.

    Args:
        wanted: False takes no graphs.
    """

    def __init__(self, *, wanted: bool = True) -> None:
        self._helps: bool | None = None if wanted else False

    def faster(self, device: KernelDevice, frame: TrialFrame) -> Callable[[], None]:
        """What to ask for a frame of a scene with: `TrialFrame.ask`, or a graph of it.

        A graph that cannot be made or launched, or gives other voxels, is not taken, and the log says why.

        Args:
            device: What it is asked of.
            frame: The frame.

        Raises:
            GpuError: The frame fails without a graph, too.
        """
        if self._helps is False:
            return frame.ask
        # One after the other: a graph that does nothing would leave the voxels of the image before.
        expected = [frame.voxels(number, frame.ask) for number in (1, 0)]
        if expected[0] == expected[1]:
            return frame.ask  # nothing is in view: there is nothing to tell a graph by, nor to gain
        try:
            graph = device.captured(frame.ask)
            if [frame.voxels(number, graph) for number in (1, 0)] != expected:
                return self._without(frame, expected[1], "it gives other voxels than what it was captured from")
            if self._helps is None:
                plain_ms, graph_ms = _medians_ms(frame.wait, frame.ask, graph)
                self._helps = graph_ms < plain_ms
                taken = "taken" if self._helps else "not taken"
                _log.info(
                    "a frame takes %.2f ms as a CUDA graph and %.2f ms without: it is %s", graph_ms, plain_ms, taken
                )
        except GpuError as error:
            return self._without(frame, expected[1], str(error))
        return graph if self._helps else frame.ask

    def _without(self, frame: TrialFrame, expected: list[bytes], why: str) -> Callable[[], None]:
        self._helps = False
        try:
            found = frame.voxels(0, frame.ask)
        except GpuError:  # of the capture, perhaps, which the next caller is told of; a lost device fails again
            found = frame.voxels(0, frame.ask)
        if found != expected:
            raise GpuError(
                f"a frame differs after a CUDA graph was tried ({why})",
                where="GPU",
                cure="Take no graphs (gpu_graphs: false).",
            )
        _log.warning("frames are asked for without a CUDA graph: %s", why)
        return frame.ask


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
