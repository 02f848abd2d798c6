"""The completion node with faults that a test asks for.

While the file `HELD_WHILE` exists, its model waits, and touches `REACHED` when it begins to; messages of `FAULTY` raise
an error, voxels of `ENDLESS_NS` are not finite.
"""

import os
import time
from pathlib import Path
from typing import Any

import numpy as np

from scene_completion_ros.inference.completer import Completer, Completion
from scene_completion_ros.inference.scene_query import SceneAnswer
from scene_completion_ros.ros import inference_thread
from scene_completion_ros.ros.health.diagnostics import InputRecord
from scene_completion_ros.ros.node import main

HELD_WHILE, REACHED = "HELD_WHILE", "HELD_REACHED"  # environment variables with their paths
FAULTY = "faulty"  # frame of such messages
ENDLESS_NS = 30_000_000_000  # stamp of such an image

_complete = Completer.complete


def complete(self: Completer, image: Any, stamp_ns: int = 0, **options: Any) -> Completion:
    while HELD_WHILE in os.environ and Path(os.environ[HELD_WHILE]).exists():
        Path(os.environ[REACHED]).touch()
        time.sleep(0.01)
    query = self._query

    def endless(*given: Any) -> SceneAnswer:
        answer = query(*given)
        answer.transmittance[0] = np.nan
        return answer

    self._query = endless if stamp_ns == ENDLESS_NS else query
    try:
        return _complete(self, image, stamp_ns, **options)
    finally:
        self._query = query


def made_faulty(method: Any) -> Any:
    def arrived(self: InputRecord, message: Any, now_s: float) -> None:
        if message.header.frame_id == FAULTY:
            raise ZeroDivisionError("unforeseen")
        method(self, message, now_s)

    return arrived


if __name__ == "__main__":
    if HELD_WHILE in os.environ:
        inference_thread.CLOSE_TIMEOUT_S = 1.0
    Completer.complete = complete  # type: ignore[method-assign]
    InputRecord.image_arrived = made_faulty(InputRecord.image_arrived)  # type: ignore[method-assign]
    InputRecord.camera_info_arrived = made_faulty(InputRecord.camera_info_arrived)  # type: ignore[method-assign]
    main()
