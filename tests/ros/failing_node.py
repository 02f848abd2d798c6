"""The completion node with faults in what hears of messages: CameraInfo of `FAULTY` and images of it raise an error."""

from __future__ import annotations

from typing import Any

from scene_completion_ros.ros.health.input_health import InputRecord
from scene_completion_ros.ros.node import main

FAULTY = "faulty"  # frame of such messages


def made_faulty(method: Any) -> Any:
    def arrived(self: InputRecord, message: Any, now_s: float) -> None:
        if message.header.frame_id == FAULTY:
            raise ZeroDivisionError("nobody thought of it")
        method(self, message, now_s)

    return arrived


if __name__ == "__main__":
    InputRecord.image_arrived = made_faulty(InputRecord.image_arrived)  # type: ignore[method-assign]
    InputRecord.camera_info_arrived = made_faulty(InputRecord.camera_info_arrived)  # type: ignore[method-assign]
    main()
