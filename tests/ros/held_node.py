"""The completion node with a model that waits while a file exists, and touches another one when it begins to wait."""

import os
import time
from pathlib import Path
from typing import Any

from scene_completion_ros.inference.completer import Completer, Completion
from scene_completion_ros.ros import inference_thread
from scene_completion_ros.ros.node import main

HELD_WHILE, REACHED = "HELD_WHILE", "HELD_REACHED"  # environment variables with their paths

_complete = Completer.complete


def held(self: Completer, *arguments: Any, **options: Any) -> Completion:
    while Path(os.environ[HELD_WHILE]).exists():
        Path(os.environ[REACHED]).touch()
        time.sleep(0.01)
    return _complete(self, *arguments, **options)


if __name__ == "__main__":
    inference_thread.CLOSE_TIMEOUT_S = 1.0
    Completer.complete = held  # type: ignore[method-assign]
    main()
