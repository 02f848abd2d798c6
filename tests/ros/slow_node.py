"""The completion node with a model that takes its time."""

from __future__ import annotations

import time
from typing import Any

from scene_completion_ros.inference.completer import Completer, Completion
from scene_completion_ros.ros.node import main

SLOW_S = 0.25

_complete = Completer.complete


def slowly(self: Completer, *arguments: Any) -> Completion:
    time.sleep(SLOW_S)
    return _complete(self, *arguments)


if __name__ == "__main__":
    Completer.complete = slowly  # type: ignore[method-assign]
    main()
