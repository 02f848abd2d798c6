"""Run by an interpreter that has the real `cv_bridge`: converts what the test has written, and writes what came out."""

import sys
from pathlib import Path

import numpy as np
from sensor_msgs.msg import Image
from std_msgs.msg import Header

from scene_completion_ros.ros import conversions


def main(folder: Path) -> None:
    """Decode every image of `folder/raw.npz` with `to_rgb`, and encode them anew, into `folder/done.npz`."""
    assert conversions.cv_bridge() is not None
    done: dict[str, np.ndarray] = {}
    with np.load(folder / "raw.npz") as raw:
        for name, rows in raw.items():
            encoding, channels, width = name.split(":")
            image = Image(height=len(rows), width=int(width), encoding=encoding, step=rows.shape[1])
            image.data = rows.tobytes()
            done[f"{name}:rgb"] = conversions.to_rgb(image)
            if encoding in ("rgb8", "mono8"):
                pixels = rows.reshape(len(rows), int(width), int(channels)).squeeze()
                again = conversions.image_message(pixels, encoding, Header())
                assert (again.encoding, again.step) == (encoding, image.step)
                done[f"{name}:message"] = np.frombuffer(bytes(again.data), np.uint8)
    np.savez(folder / "done.npz", **done)  # type: ignore[arg-type]


if __name__ == "__main__":
    main(Path(sys.argv[1]))
