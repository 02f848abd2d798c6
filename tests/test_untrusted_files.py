"""Files of others: whatever is wrong with them ends in a sentence that names the file; no such picture is decoded."""

import os
import re
import struct
import zipfile
from collections.abc import Callable
from functools import partial
from io import BytesIO
from pathlib import Path

import cv2
import numpy as np
import pytest

from scene_completion_ros import picture_files, untrusted_files
from scene_completion_ros.commands.complete import read_image
from scene_completion_ros.errors import CameraError, ImageError
from scene_completion_ros.geometry.camera_files import read_camera
from scene_completion_ros.messages.images import decode_image
from scene_completion_ros.picture_files import bits_in_use, read_picture, read_rgb, read_size
from scene_completion_ros.sequences.posed_sequence import read_source
from scene_completion_ros.untrusted_files import (
    DEEPEST,
    parse_json,
    parse_yaml,
    read_array,
    read_arrays,
    read_json,
    read_tensors,
    read_text,
    read_yaml,
    tensor_header,
)
from tests.bags.recordings import jpeg, picture
from tests.messages.test_images import compressed, jpeg_of_size, of_size, png_chunk, png_of_size


def laughs(first: str, opening: str, closing: str) -> str:
    """Each name stands for sixty of the one before."""
    lines = (
        f"{new}: &{new} {opening}{', '.join([f'*{old}'] * 60)}{closing}\n"
        for old, new in zip("abcdef", "bcdefg", strict=True)
    )
    return f"a: &a {first}\n{''.join(lines)}"


@pytest.mark.parametrize("depth", [DEEPEST + 1, 1_000, 100_000])
@pytest.mark.parametrize(("opening", "closing"), [("[", "]"), ('{"a":', "}")])
def test_what_is_nested_too_deep_is_refused(opening: str, closing: str, depth: int) -> None:
    for parse in (parse_json, parse_yaml) if depth <= 1_000 else (parse_json,):  # PyYAML takes minutes for the rest
        with pytest.raises(CameraError, match=r"here: is nested deeper than 64 levels\. Mend it"):
            parse(opening * depth + "1" + closing * depth, CameraError, where="here", cure="Mend it")


def test_what_is_nested_just_so_is_read() -> None:
    text = "[" * DEEPEST + "1" + "]" * DEEPEST
    assert parse_json(text, CameraError, where="", cure="") == parse_yaml(text, CameraError, where="", cure="")


ADVERSARIES = [
    (read_yaml, laughs("[1, 2]", "[", "]"), "holds more than 2,000,000 values"),
    (read_yaml, laughs("{k: 1}", "{<<: [", "]}"), r"is not valid YAML \(what it merges is more than 2,000,000 values"),
    (read_yaml, f"a: 0x{'f' * 500}", r"holds a whole number of 2000 bits"),
    (read_yaml, f"a: 1{':59' * 200_000}", r"is not valid YAML \(a whole number of 600001 characters"),
    (read_yaml, f"a: 1{':59' * 300}.5", "is not valid YAML"),
    (read_yaml, 'a: "\\ud800"', r"holds '\\ud800', which is half a character"),
    (read_yaml, "a: &a [*a]", "is nested deeper than 64 levels"),
    (read_yaml, "a: [", "is not valid YAML"),
    (read_yaml, "a: {b: 1, c: 2, b: 3}", r"is not valid YAML \(the name 'b' stands twice"),
    (read_yaml, "a: !!python/object/apply:os.system [false]", "is not valid YAML"),
    (read_yaml, "!!timestamp 2026-99-99", "is not valid YAML"),
    (read_yaml, "? [a]\n: 1\n? {b: 1}\n: 2", "is not valid YAML"),
    (read_json, "{", "is not valid JSON"),
    (read_json, '{"a": 1, "a": 2}', ".*the name 'a' stands twice"),
    (read_json, "1" * 5_000, "is not valid JSON"),
    (read_json, "1" * 400, ".*whole number of 1326 bits"),
    (partial(read_text, most_bytes=100), "a" * 101, "is larger than 0.0001 MB"),
    (read_text, "\udcff\udcfe", "is no text in UTF-8"),
]


@pytest.mark.parametrize(("read", "text", "what"), ADVERSARIES, ids=[what for _, _, what in ADVERSARIES])
def test_files_of_an_adversary_are_refused(tmp_path: Path, read: Callable[..., object], text: str, what: str) -> None:
    (tmp_path / "file").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(CameraError, match=f"file: {what}"):
        read(tmp_path / "file", CameraError, cure="")


def test_what_is_merged_may_be_named_again() -> None:
    text = "a: &a {x: 1, y: 2}\nb: &b {<<: *a, x: 3}\nc: {<<: *b, x: 4}"
    assert parse_yaml(text, CameraError, where="", cure="")["c"] == {"x": 4, "y": 2}


def archive(file: Path, shape: tuple[int, ...], content: bytes = bytes(64)) -> None:
    """An archive with one array, whose header says a shape."""
    member = BytesIO()
    np.lib.format.write_array_header_1_0(member, {"descr": "|u1", "fortran_order": False, "shape": shape})
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as made:
        made.writestr("data.npy", member.getvalue() + content)


def test_arrays_that_promise_more_than_there_is_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "a.npz"
    archive(file, (64,))
    assert read_arrays(file, CameraError, cure="")["data"].shape == (64,)
    with pytest.raises(CameraError, match="it has no array depth"):
        read_arrays(file, CameraError, cure="", needed=("data", "depth"))
    for shape in ((10**13,), (10**6,), (10**30,), (-1,)):
        archive(file, shape)
        with pytest.raises(CameraError, match=r"a\.npz: cannot be read as arrays of NumPy \(.*Mend it"):
            read_arrays(file, CameraError, cure="Mend it")
    archive(file, (10**6,), bytes(10**6))
    monkeypatch.setattr(untrusted_files, "MOST_ARRAY_BYTES", 10**5)
    with pytest.raises(CameraError, match="it unpacks to more than"):
        read_arrays(file, CameraError, cure="")
    np.save(tmp_path / "b.npy", np.zeros(3))
    with pytest.raises(CameraError, match="it is no archive"):
        read_arrays(tmp_path / "b.npy", CameraError, cure="")


class Bomb:
    """Executed where it is unpickled."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return Path.touch, (Path("exploded"),)  # type: ignore[return-value]


def test_pickles_are_refused_and_never_executed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    bomb = np.array(None, dtype=object)
    bomb[()] = Bomb()
    np.savez("bomb.npz", data=bomb)
    with pytest.raises(CameraError, match="cannot be read as arrays of NumPy"):
        read_arrays("bomb.npz", CameraError, cure="")
    assert not Path("exploded").exists()


@pytest.mark.parametrize(
    ("header", "length", "what"),
    [
        (b"{}", 1 << 43, "cannot have a header of 8796093022208 bytes"),
        (b"[" * 5000, 5000, "is nested deeper"),
        (b'{"a": {"dtype": "U8", "shape": [9000000000000], "data_offsets": [0, 9000000000000]}}', 0, ""),
    ],
)
def test_tensors_that_promise_too_much_are_refused(tmp_path: Path, header: bytes, length: int, what: str) -> None:
    content = (length or len(header)).to_bytes(8, "little") + header
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(CameraError, match="file: is not a valid safetensors file"):
        read_tensors(tmp_path / "file", CameraError, cure="")
    if length:
        with pytest.raises(CameraError, match=what):
            tensor_header(memoryview(content), CameraError, where="", cure="")


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("missing", "No such file"),
        (".", "Is a directory"),
        ("a\0b", "null byte"),
        ("a" * 300, "too long"),
        ("pipe", "a pipe"),
    ],
)
@pytest.mark.parametrize("read", [read_text, read_array, read_arrays])
def test_files_that_cannot_be_read_are_named(tmp_path: Path, name: str, what: str, read: Callable[..., object]) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(CameraError, match=what):
        read(tmp_path / name, CameraError, cure="")


PNG = cv2.imencode(".png", picture())[1].tobytes()
SIDE = 2000  # of pictures whose memory is measured: an allocation of its own for each copy


def png(pixels: np.ndarray) -> bytes:
    return cv2.imencode(".png", pixels, [cv2.IMWRITE_PNG_COMPRESSION, 1])[1].tobytes()


def animated(content: bytes) -> bytes:
    """A PNG as the first frame of two; the other one has no data."""
    frames = [png_chunk(b"fcTL", struct.pack(">5I2H2B", number, SIDE, SIDE, 0, 0, 1, 10, 0, 0)) for number in (0, 1)]
    start, end = content.find(b"IDAT") - 4, content.rfind(b"IEND") - 4
    frames[0] = png_chunk(b"acTL", struct.pack(">II", 2, 0)) + frames[0]
    return content[:start] + frames[0] + content[start:end] + frames[1] + content[end:]


def kilobytes(name: str) -> int:
    return int(re.search(rf"{name}:\s+(\d+)", Path("/proc/self/status").read_text())[1])


def first_image(path: Path) -> object:
    """The camera of a KITTI calibration, whose size is that of its first image."""
    folder = path.parent / "drive"
    (folder / "image_2").mkdir(parents=True)
    (folder / "image_2" / path.name).write_bytes(path.read_bytes())
    (folder / "calib.txt").write_text("P2: 40 0 31.5 0 0 40 23.5 0 0 0 1 0\n")
    return read_camera(f"{folder / 'calib.txt'}:P2")


@pytest.mark.parametrize("door", [read_size, read_picture, read_rgb, read_source, read_image, first_image])
@pytest.mark.parametrize(
    ("content", "what"),
    [
        (png_of_size(20_000, 20_000), "20000x20000 is more than 75 million pixels"),
        (of_size(png(np.zeros((9, 9, 4), np.uint16)), 6_200, 6_200), "6200x6200 is more than 38 million pixels"),
        (png_of_size(2**31 - 1, 2**31 - 1), "million pixels"),
        (jpeg_of_size(65_535, 65_535), "65535x65535 is more than 134 million pixels"),
        (png_of_size(0, 5), "cannot be decoded"),
        (PNG.replace(PNG[33:41], b"\x91\0\0\0IDAT"), "cannot be decoded"),  # 2.4 GB of pixels, as it says
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


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="tells the peak of memory, on Linux")
@pytest.mark.parametrize(("channels", "dtype"), [(4, np.uint16), (3, np.uint8)])
def test_an_animated_png_takes_no_more_memory_than_is_allowed(
    monkeypatch: pytest.MonkeyPatch, channels: int, dtype: type
) -> None:
    message = compressed(animated(png(np.zeros((SIDE, SIDE, channels), dtype))), "png")
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = kilobytes("VmRSS")
    assert decode_image(message).shape == (SIDE, SIDE, 3)
    taken = 1024 * (kilobytes("VmHWM") - before)
    monkeypatch.setattr(picture_files, "LARGEST_MEMORY", int(0.9 * taken))
    with pytest.raises(ImageError, match=rf"{SIDE}x{SIDE} is more than \d+ million pixels"):
        decode_image(message)


@pytest.mark.parametrize("door", [read_size, read_rgb])
def test_pictures_that_cannot_be_read_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, door: Callable[[Path], object]
) -> None:
    with pytest.raises(ImageError, match=r"missing\.png: cannot be read: No such file"):
        door(tmp_path / "missing.png")
    monkeypatch.setattr(picture_files, "LARGEST_FILE", len(PNG) - 1)
    (tmp_path / "large.png").write_bytes(PNG)
    with pytest.raises(ImageError, match=r"large\.png: is larger than"):
        door(tmp_path / "large.png")


def test_bits_are_judged_by_the_largest_value() -> None:
    largest = {1: 8, 255: 8, 256: 10, 1023: 10, 1024: 12, 4095: 12, 4096: 14, 16_383: 14, 16_384: 16, 65_535: 16, 0: 16}
    assert {value: bits_in_use(np.array([[0, value]], np.uint16)) for value in largest} == largest
    assert bits_in_use(np.array([[3]], np.uint8)) == 16
