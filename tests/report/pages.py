"""What stands in the page of a report."""

import base64
import json
import re
import zlib
from html.parser import HTMLParser
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


class WordButtons(HTMLParser):
    """The buttons of a page that have a word.

    Attributes:
        words: Text of each by its attribute data-word.
        tags: All kinds of elements of the page.
    """

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.words: dict[str, str] = {}
        self.tags: set[str] = set()
        self._inside: str | None = None
        self.feed(page.read_text("utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        if tag == "button":
            self._inside = dict(attrs).get("data-word")
            if self._inside is not None:
                self.words[self._inside] = ""

    def handle_endtag(self, tag: str) -> None:
        if tag == "button":
            self._inside = None

    def handle_data(self, data: str) -> None:
        if self._inside is not None:
            self.words[self._inside] += data
