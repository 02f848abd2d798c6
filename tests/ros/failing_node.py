"""The completion node with faults: messages of `FAULTY` raise an error, voxels of `ENDLESS_NS` are not finite."""

from typing import Any

import numpy as np

from scene_completion_ros.inference.completer import Completer
from scene_completion_ros.inference.scene_query import SceneAnswer
from scene_completion_ros.ros.health.diagnostics import InputRecord
from scene_completion_ros.ros.node import main

FAULTY = "faulty"  # frame of such messages
ENDLESS_NS = 30_000_000_000  # stamp of such an image


def made_faulty(method: Any) -> Any:
    def arrived(self: InputRecord, message: Any, now_s: float) -> None:
        if message.header.frame_id == FAULTY:
            raise ZeroDivisionError("nobody thought of it")
        method(self, message, now_s)

    return arrived


def made_endless(method: Any) -> Any:
    def complete(self: Completer, image: Any, stamp_ns: int = 0, **options: Any) -> Any:
        query = self._query

        def endless(*given: Any) -> SceneAnswer:
            answer = query(*given)
            answer.transmittance[0] = np.nan
            return answer

        self._query = endless if stamp_ns == ENDLESS_NS else query
        try:
            return method(self, image, stamp_ns, **options)
        finally:
            self._query = query

    return complete


if __name__ == "__main__":
    Completer.complete = made_endless(Completer.complete)  # type: ignore[method-assign]
    InputRecord.image_arrived = made_faulty(InputRecord.image_arrived)  # type: ignore[method-assign]
    InputRecord.camera_info_arrived = made_faulty(InputRecord.camera_info_arrived)  # type: ignore[method-assign]
    main()
