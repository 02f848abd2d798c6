"""What `cv_bridge` and `sensor_msgs_py` make of images and clouds, which is what our own conversions make.

`cv_bridge` is that of the sourced distribution, or of Debian (`apt install python3-cv-bridge`). `sensor_msgs_py` is
that of the distribution, or a checkout of common_interfaces in PYTHONPATH.
"""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import array_api_compat
import numpy as np
import pytest
import safetensors

pytest.importorskip("sensor_msgs")
from sensor_msgs.msg import Image

from scene_completion_ros.messages.images import decode_image
from scene_completion_ros.ros import conversions, messages
from tests.checkout import with_this_checkout

CHILD = Path(__file__).with_name("convert_with_packages.py")
HEIGHT, WIDTH = 48, 64


def raw_image(encoding: str, channels: int, cut: int = 0) -> Any:
    """An image of noise; its rows are padded by the bytes of the columns that are cut off."""
    rows = np.random.default_rng(7).integers(0, 256, (HEIGHT, WIDTH * channels), dtype=np.uint8)
    message = Image(height=HEIGHT, width=WIDTH - cut, encoding=encoding, step=rows.shape[1])
    return conversions.with_data(message, rows)


@pytest.fixture(scope="module")
def has_cv_bridge(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, str]]:
    """An interpreter with the real `cv_bridge`, and the environment in which it also finds this package."""
    site = tmp_path_factory.mktemp("site")  # what the interpreter of Debian has no package of
    for package in (safetensors, array_api_compat):
        (site / package.__name__).symlink_to(Path(package.__file__).parent)
    for interpreter in (sys.executable, "/usr/bin/python3"):
        given = with_this_checkout()
        if interpreter != sys.executable:
            given["PYTHONPATH"] = os.pathsep.join((str(CHILD.parents[2]), str(site)))
        tried = subprocess.run([interpreter, "-c", "import cv_bridge"], env=given, capture_output=True)
        if tried.returncode == 0:
            return interpreter, given
    pytest.skip("no interpreter has cv_bridge: source a distribution, or install python3-cv-bridge")


def test_cv_bridge_converts_as_our_own_code_does(has_cv_bridge: tuple[str, dict[str, str]], tmp_path: Path) -> None:
    cases = {f"{name}:{size}:{WIDTH}": raw_image(name, size) for name, size in conversions.BY_CV_BRIDGE.items()}
    cases[f"bgr8:3:{WIDTH - 1}"] = raw_image("bgr8", 3, cut=1)  # padded rows: ours, whatever CvBridge makes of them
    rows = {name: np.frombuffer(image.data, np.uint8).reshape(HEIGHT, -1) for name, image in cases.items()}
    np.savez(tmp_path / "raw.npz", **rows)  # type: ignore[arg-type]
    interpreter, environment = has_cv_bridge
    subprocess.run([interpreter, str(CHILD), str(tmp_path)], env=environment, check=True, timeout=300)
    with np.load(tmp_path / "done.npz") as done:
        for name, image in cases.items():
            np.testing.assert_array_equal(done[f"{name}:rgb"], decode_image(image), name)
        encoded = {name: done[f"{name}:message"] for name in rows if f"{name}:message" in done}
    assert len(encoded) == 2
    for name, again in encoded.items():
        np.testing.assert_array_equal(again, rows[name].reshape(-1))


class Bridge:
    """Stands in for a `CvBridge`, and counts."""

    def __init__(self) -> None:
        self.decoded: list[str] = []

    def imgmsg_to_cv2(self, message: Any, encoding: str) -> np.ndarray:
        assert encoding == "rgb8"
        self.decoded.append(message.encoding)
        return np.zeros((message.height, message.width, 3), np.uint8)


def test_cv_bridge_is_given_only_what_it_decodes_right(monkeypatch: pytest.MonkeyPatch) -> None:
    bridge = Bridge()
    monkeypatch.setattr(conversions, "cv_bridge", lambda: bridge)
    assert not conversions.to_rgb(raw_image("bgr8", 3)).any()
    for ours in (raw_image("bgr8", 3, cut=1), raw_image("yuv422", 2), raw_image("mono16", 2)):
        np.testing.assert_array_equal(conversions.to_rgb(ours), decode_image(ours))
    compressed = messages.compressed_image_message(decode_image(raw_image("rgb8", 3)), 0, "camera")
    assert conversions.to_rgb(compressed, 2).shape == (HEIGHT // 2, WIDTH // 2, 3)
    assert bridge.decoded == ["bgr8"]
