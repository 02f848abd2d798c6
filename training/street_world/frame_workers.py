"""Frames of a drive computed by several processes, handed out in their order."""

from __future__ import annotations

import multiprocessing
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from typing import Any

from scene_completion_training.street_world.drive import FrameContent, StreetDrive

_BLOCK = 8  # frames in a row that one process computes: neighbours share a built town

_drive: StreetDrive | None = None  # of a worker process


def _start(arguments: dict[str, Any]) -> None:
    global _drive
    import cv2

    cv2.setNumThreads(1)
    _drive = StreetDrive(**arguments)


def _compute(indices: range, options: dict[str, Any]) -> list[FrameContent]:
    assert _drive is not None  # _start has run in this process
    return [_drive.content(index, **options) for index in indices]


@contextmanager
def frames_computed_by(
    workers: int, arguments: dict[str, Any], options: dict[str, Any]
) -> Iterator[Callable[[int], FrameContent]]:
    """Start processes for a drive and yield a function that returns a frame's content.

    Frames have to be asked for in ascending order, each as often as wished. What is computed ahead is bounded, and
    every frame is the same whatever the number of workers: all randomness is seeded by town and frame.

    Args:
        workers: Number of processes; they are spawned, because embree and numba do not survive a fork.
        arguments: Of `StreetDrive`.
        options: Of `StreetDrive.content`.
    """
    frames = int(arguments["frames"])
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_start, initargs=(arguments,)) as pool:
        ahead: deque[tuple[range, Future[list[FrameContent]]]] = deque()
        blocks = iter([range(a, min(a + _BLOCK, frames)) for a in range(0, frames, _BLOCK)])

        def submit() -> None:
            if (block := next(blocks, None)) is not None:
                ahead.append((block, pool.submit(_compute, block, options)))

        for _ in range(workers + 1):
            submit()

        def content_of(index: int) -> FrameContent:
            while index >= ahead[0][0].stop:
                ahead.popleft()
                submit()
            block, future = ahead[0]
            return future.result()[index - block.start]

        try:
            yield content_of
        finally:
            for _, future in ahead:
                future.cancel()
