"""Picture files of others: whatever is wrong with them ends in a sentence that names the file, and is not decoded."""

import random
import resource
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from scene_completion_ros import picture_files
from scene_completion_ros.commands.complete import read_image
from scene_completion_ros.errors import ImageError
from scene_completion_ros.geometry.camera_files import read_camera
from scene_completion_ros.picture_files import bits_in_use, read_picture, read_rgb, read_size
from scene_completion_ros.sequences.posed_sequence import read_source
from tests.bags.recordings import HEIGHT, WIDTH, jpeg, picture
from tests.messages.test_images import jpeg_of_size, png_of_size

PNG = cv2.imencode(".png", picture())[1].tobytes()


def first_image(path: Path) -> object:
    """What a KITTI calibration asks of the first image beside it."""
    folder = path.parent / "drive"
    (folder / "image_2").mkdir(parents=True)
    (folder / "image_2" / path.name).write_bytes(path.read_bytes())
    (folder / "calib.txt").write_text("P2: 40 0 31.5 0 0 40 23.5 0 0 0 1 0\n")
    return read_camera(f"{folder / 'calib.txt'}:P2")


@pytest.mark.parametrize("door", [read_size, read_picture, read_rgb, read_source, read_image, first_image])
@pytest.mark.parametrize(
    ("content", "what"),
    [
        (png_of_size(20_000, 20_000), "20000x20000 is more than 134 million pixels"),
        (png_of_size(2**31 - 1, 2**31 - 1), "million pixels"),
        (jpeg_of_size(65_535, 65_535), "65535x65535 is more than 134 million pixels"),
        (png_of_size(0, 5), "cannot be decoded"),
        (PNG[:-30], "end early"),
        (jpeg()[:-300], "end early"),
        (b"BM" + bytes(100), "neither JPEG nor PNG.*begins with 42 4d"),
        (b"", "neither JPEG nor PNG.*begins with nothing"),
    ],
)
def test_no_door_decodes_what_its_header_rules_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, door: Callable[[Path], object], content: bytes, what: str
) -> None:
    monkeypatch.setattr(cv2, "imdecode", lambda *_: pytest.fail("it was decoded"))
    path = tmp_path / "picture.png"
    path.write_bytes(content)
    with pytest.raises(ImageError, match=rf"picture\.png: .*{what}.*\. \w"):
        door(path)


@pytest.mark.parametrize("door", [read_size, read_rgb])
def test_files_that_cannot_be_read_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, door: Callable[[Path], object]
) -> None:
    with pytest.raises(ImageError, match=r"missing\.png: cannot be read: No such file"):
        door(tmp_path / "missing.png")
    with pytest.raises(ImageError, match="Is a directory"):
        door(tmp_path)
    monkeypatch.setattr(picture_files, "LARGEST_FILE", len(PNG) - 1)
    (tmp_path / "large.png").write_bytes(PNG)
    with pytest.raises(ImageError, match=r"large\.png: is larger than"):
        door(tmp_path / "large.png")


def test_sizes_and_bytes_drawn_at_random_give_a_picture_or_a_reason(tmp_path: Path) -> None:
    draw = random.Random(4)
    sides = (0, 1, 2, WIDTH, HEIGHT, 255, 4096, 11_585, 11_586, 65_535, 2**20, 2**20 + 1, 2**31 - 1, 2**32 - 1)
    path, decoded = tmp_path / "drawn", 0
    refused: list[ImageError] = []
    before_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(400):
        width, height = draw.choice(sides), draw.choice(sides)
        if width * height > 2**24 and width * height <= picture_files.LARGEST_IMAGE:
            continue  # allowed, and slow
        content = bytearray(
            draw.choice((png_of_size(width, height), jpeg_of_size(width % 65_536, height % 65_536), PNG, jpeg()))
        )
        for _ in range(draw.choice((0, 0, 1, 5))):
            content[draw.randrange(draw.choice((30, 200, len(content))))] = draw.randrange(256)
        path.write_bytes(content[: draw.choice((len(content), len(content), draw.randrange(len(content))))])
        try:
            size = read_size(path)
            pixels = read_rgb(path)
        except ImageError as error:
            refused.append(error)
        else:
            decoded += 1
            assert pixels.shape == (size[1], size[0], 3)
    assert min(len(refused), decoded) > 50, (len(refused), decoded)
    assert all(error.where == str(path) and error.what and error.cure for error in refused)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kb < 300_000


def test_bits_are_judged_by_the_largest_value() -> None:
    largest = {1: 8, 255: 8, 256: 10, 1023: 10, 1024: 12, 4095: 12, 4096: 14, 16_383: 14, 16_384: 16, 65_535: 16, 0: 16}
    assert {value: bits_in_use(np.array([[0, value]], np.uint16)) for value in largest} == largest
    assert bits_in_use(np.array([[3]], np.uint8)) == 16
