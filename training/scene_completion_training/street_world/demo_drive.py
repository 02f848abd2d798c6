"""Makes the bundled drive: `python -m scene_completion_training.street_world.demo_drive FOLDER`."""

import sys
from pathlib import Path

from scene_completion_training.street_world.camera_rig import LidarModel, make_rig
from scene_completion_training.street_world.drive import StreetDrive
from scene_completion_training.street_world.drive_bag import write_drive_bag
from scene_completion_training.street_world.town import SEEDS_OF_ROLE

SEED = SEEDS_OF_ROLE["demo"][0]
FRAMES = 40
QUALITY = 80
LIDAR = LidarModel(beams=32, columns=600)
LIDAR_EVERY = 4


def make_demo_drive(folder: Path) -> None:
    """Render the demo town and write its bag into a new folder."""
    drive = StreetDrive(SEED, FRAMES, make_rig(lidar=LIDAR))
    write_drive_bag(
        drive.sequence(("lidar",), QUALITY),
        folder,
        lidar_every=LIDAR_EVERY,
        on_frame=lambda index: print(f"frame {index + 1} of {FRAMES}", file=sys.stderr),
    )


if __name__ == "__main__":
    make_demo_drive(Path(sys.argv[1]))
