"""The completion node that waits before it writes what is to be saved, as long as a file exists."""

from __future__ import annotations

import os
import time
from pathlib import Path

from scene_completion_ros.ros import services
from scene_completion_ros.ros.node import main
from scene_completion_ros.ros.publish.saving import save_result
from scene_completion_ros.voxels.files import SavedVoxels
from tests.ros.held_node import HELD_WHILE, REACHED


def held(folder: Path, result: SavedVoxels) -> list[Path]:
    while Path(os.environ[HELD_WHILE]).exists():
        Path(os.environ[REACHED]).touch()
        time.sleep(0.01)
    return save_result(folder, result)


if __name__ == "__main__":
    services.CLOSE_TIMEOUT_S = 1.0
    services.save_result = held
    main()
