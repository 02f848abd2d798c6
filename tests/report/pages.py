"""What stands in the page of a report."""

import base64
import html
import json
import re
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scene_completion_ros.report.writer import LIDAR_RESOLUTION


def embedded_frames(page: Path) -> list[dict[str, Any]]:
    """The frames that the page carries."""
    scripts = re.findall(r'<script type="application/json" id="frame-\d+">(.*?)</script>', page.read_text("utf-8"))
    return [json.loads(script) for script in scripts]


def matches_of(frame: dict[str, Any], words: int) -> NDArray[np.uint8]:
    """Whether the words match the voxels of a frame, [words, voxels]."""
    planes = np.frombuffer(zlib.decompress(base64.b64decode(frame["matches"])), np.uint8).reshape(-1, frame["count"])
    return np.unpackbits(planes, axis=0, bitorder="little")[:words]


def lidar_of(frame: dict[str, Any]) -> NDArray[np.float64]:
    """The LiDAR points of a frame in its grid's frame, metres [N, 3]."""
    planes = np.frombuffer(zlib.decompress(base64.b64decode(frame["lidar"])), np.uint8).reshape(3, 2, -1).astype(int)
    points = (planes[:, 0] + 256 * planes[:, 1] + 0.5) * LIDAR_RESOLUTION
    return np.asarray(points.T + frame["grid"]["origin"])


def word_buttons(page: Path) -> dict[str, str]:
    """Texts of the buttons that have a word and a swatch, but no other element, by their attribute data-word."""
    button = r'<button[^>]*\sdata-word="([^"]*)"[^>]*><span><i[^>]*></i>([^<]*)</span></button>'
    return {number: html.unescape(text) for number, text in re.findall(button, page.read_text("utf-8"))}
