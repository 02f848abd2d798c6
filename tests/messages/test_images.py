"""Decoding of images and clouds; images against rosbags-image, and by hand where that is wrong or does not decode."""

import struct
import zlib
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
from rosbags.image import message_to_cvimage

from scene_completion_ros.bags.writer import header_fields
from scene_completion_ros.errors import BagError, ImageError
from scene_completion_ros.messages.images import (
    ENCODINGS,
    announced_size,
    check_image,
    decode_depth,
    decode_image,
    decode_published_depth,
    read_xyz,
)
from scene_completion_ros.sequences.from_bag import BagImage
from tests.bags.recordings import HEIGHT, START, WIDTH, compressed, image, jpeg, make, picture

BYTES_PER_PIXEL = {
    name: encoding.channels * np.dtype(encoding.dtype).itemsize
    for name, encoding in ENCODINGS.items()
    if name not in ("nv12", "nv21")
}


DAMAGED = "bytes of format 'png' cannot be decoded"


def png_chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def of_size(content: bytes, width: int, height: int) -> bytes:
    """A PNG or JPEG that claims another size; what is neither stays as it is."""
    if content.startswith(b"\x89PNG") and len(content) > 33:
        return content[:8] + png_chunk(b"IHDR", struct.pack(">II", width, height) + content[24:29]) + content[33:]
    start = next((place for mark in (b"\xff\xc0", b"\xff\xc2") if (place := content.find(mark)) >= 0), -1)
    if start < 0 or len(content) < start + 9:
        return content
    return content[: start + 5] + struct.pack(">HH", height % 65536, width % 65536) + content[start + 9 :]


def jpeg_of_size(width: int, height: int) -> bytes:
    return of_size(jpeg(), width, height)


def png_of_size(width: int, height: int) -> bytes:
    return of_size(cv2.imencode(".png", picture())[1].tobytes(), width, height)


def pixels_for(name: str) -> np.ndarray:
    """Bytes of a smooth image [H, W * bytes per pixel], so that interpolating conversions stay comparable."""
    size = BYTES_PER_PIXEL[name]
    if ENCODINGS[name].dtype == "u2":
        wide = cv2.resize(picture(3), (WIDTH * size // 2, HEIGHT))[..., 0].astype(np.uint16) * 200 + 77
        return np.ascontiguousarray(wide.astype("<u2")).view(np.uint8)
    return np.ascontiguousarray(cv2.resize(picture(3), (WIDTH * size, HEIGHT))[..., 0])


@pytest.mark.parametrize("name", sorted(set(BYTES_PER_PIXEL) - {"8uc1", "8uc3", "8uc4"}))
def test_encoding_agrees_with_rosbags_image(name: str) -> None:
    message = image(pixels_for(name), name)
    expected = cv2.cvtColor(message_to_cvimage(message, "bgr8"), cv2.COLOR_BGR2RGB)
    decoded = decode_image(message)
    assert decoded.shape == (HEIGHT, WIDTH, 3)
    assert decoded.dtype == np.uint8
    tolerance = 1 if ENCODINGS[name].dtype == "u2" else 0  # rosbags-image truncates products of floats
    assert np.abs(decoded.astype(int) - expected).max() <= tolerance
    assert np.ptp(decoded) > 50


@pytest.mark.parametrize("name", sorted(BYTES_PER_PIXEL))
@pytest.mark.parametrize("padding", [2, 7, 64])
def test_padding_at_the_end_of_rows_is_skipped(name: str, padding: int) -> None:
    data = pixels_for(name)
    padded = np.concatenate([data, np.full((HEIGHT, padding), 0xAB, np.uint8)], axis=1)
    ros_name = name.upper() if name.startswith("8uc") else name
    np.testing.assert_array_equal(
        decode_image(image(padded, ros_name, step=padded.shape[1])), decode_image(image(data, ros_name))
    )


def test_last_row_may_lack_its_padding_and_step_zero_means_none() -> None:
    data = pixels_for("rgb8")
    padded = np.concatenate([data, np.zeros((HEIGHT, 5), np.uint8)], axis=1).reshape(-1)[:-5]
    for message in (image(padded, "rgb8", step=WIDTH * 3 + 5), image(data, "rgb8", step=0)):
        np.testing.assert_array_equal(decode_image(message), data.reshape(HEIGHT, WIDTH, 3))


@pytest.mark.parametrize("name", ["mono16", "rgb16", "bayer_rggb16"])
def test_big_endian_pictures(name: str) -> None:
    little = pixels_for(name)
    big = little.view("<u2").astype(">u2").view(np.uint8)
    np.testing.assert_array_equal(decode_image(image(big, name, big_endian=True)), decode_image(image(little, name)))


def test_grey_is_replicated_and_16_bits_are_scaled() -> None:
    values = np.array([[0, 257, 65535, 128 * 257]], np.uint16)
    decoded = decode_image(image(values, "mono16", width=4, height=1))
    np.testing.assert_array_equal(decoded[0, :, 0], [0, 1, 255, 128])
    np.testing.assert_array_equal(decoded[..., 0], decoded[..., 2])


@pytest.mark.parametrize(("name", "code"), [("nv12", cv2.COLOR_YUV2RGB_NV12), ("nv21", cv2.COLOR_YUV2RGB_NV21)])
@pytest.mark.parametrize("counts_chroma", [False, True])
@pytest.mark.parametrize("padding", [0, 10])
def test_nv12_and_nv21(name: str, code: int, counts_chroma: bool, padding: int) -> None:
    planes = np.ascontiguousarray(cv2.resize(picture(5), (WIDTH, HEIGHT * 3 // 2))[..., 0])
    sent = np.concatenate([planes, np.zeros((len(planes), padding), np.uint8)], axis=1)
    height = HEIGHT * 3 // 2 if counts_chroma else HEIGHT
    message = image(sent, name, height=height, step=WIDTH + padding)
    np.testing.assert_array_equal(decode_image(message), cv2.cvtColor(planes, code))
    assert announced_size(message) == (WIDTH, HEIGHT)


@pytest.mark.parametrize("form", ["bayer_{}8; png compressed ", "bayer_{}16; png compressed", "BAYER_{}8"])
@pytest.mark.parametrize("pattern", ["rggb", "bggr", "gbrg", "grbg"])
def test_a_compressed_mosaic_is_debayered_at_full_size(form: str, pattern: str) -> None:
    form = form.format(pattern)
    name = form.partition(";")[0].lower()
    mosaic = pixels_for(name).view(f"<{ENCODINGS[name].dtype}")
    message = compressed(cv2.imencode(".png", mosaic)[1].tobytes(), form)
    np.testing.assert_array_equal(decode_image(message, 2), decode_image(image(mosaic, name)))
    assert BagImage(SimpleNamespace(message=lambda: message)).encoded() is None  # the file itself shows it grey
    colour = compressed(jpeg(1), f"bayer_{pattern}8; jpeg compressed bgr8")
    np.testing.assert_array_equal(decode_image(colour), decode_image(compressed(jpeg(1), "jpeg")))


@pytest.mark.parametrize(
    "padding",
    [bytes(5000), bytes(300_000), b"\xff" * 5000, b"trailer" + bytes(5000), bytes(5000) + b"1234", 5000 * b"\xaaU"],
    ids=["zeros", "many zeros", "ones", "trailer and zeros", "zeros and trailer", "long trailer"],
)
def test_a_picture_in_a_buffer_of_fixed_size_is_whole(padding: bytes) -> None:
    for content, form in ((jpeg(1), "jpeg"), (png_of_size(WIDTH, HEIGHT), "png")):
        message, padded = compressed(content, form), compressed(content + padding, form)
        assert announced_size(padded) == (WIDTH, HEIGHT)
        np.testing.assert_array_equal(decode_image(padded), decode_image(message))
        with pytest.raises(ImageError, match="end early"):
            check_image(compressed(content[: len(content) // 2] + padding, form))


def test_png_is_exact_with_colour_grey_alpha_and_16_bits() -> None:
    rgb = picture(2)
    for sent, expected in (
        (cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR), rgb),
        (rgb[..., 0], np.repeat(rgb[..., :1], 3, axis=-1)),
        (cv2.cvtColor(rgb, cv2.COLOR_RGB2BGRA), rgb),
        (rgb[..., 0].astype(np.uint16) * 257, np.repeat(rgb[..., :1], 3, axis=-1)),
    ):
        message = compressed(cv2.imencode(".png", sent)[1].tobytes(), "png")
        np.testing.assert_array_equal(decode_image(message), expected)


def segment(marker: int, content: bytes) -> bytes:
    return bytes([0xFF, marker]) + struct.pack(">H", len(content) + 2) + content


TURNED = segment(
    0xE1, b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"
)  # is to be shown turned


def jpegs() -> list[bytes]:
    """JPEGs in the forms that encoders write, with comments, thumbnails and padding before the size."""
    rgb = picture(2)
    plain, grey = jpeg(2), cv2.imencode(".jpg", rgb[..., 0])[1].tobytes()
    as_progressive = [cv2.IMWRITE_JPEG_PROGRESSIVE, 1, cv2.IMWRITE_JPEG_RST_INTERVAL, 4]
    progressive = cv2.imencode(".jpg", rgb, as_progressive)[1].tobytes()
    inserts = [b"", segment(0xFE, b"\xff\xc0\0\x11\x08\0\x01\0\x01"), segment(0xE1, plain), TURNED, b"\xff" * 3]
    return [file[:2] + insert + file[2:] for file in (plain, grey, progressive) for insert in inserts]


@pytest.mark.parametrize("content", jpegs())
def test_jpegs_of_any_form_have_the_size_and_the_pixels_that_opencv_finds(content: bytes) -> None:
    message = compressed(content, "jpeg")
    expected = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
    assert expected.shape[:2] == (HEIGHT, WIDTH)
    assert announced_size(message) == (WIDTH, HEIGHT)
    code = cv2.COLOR_GRAY2RGB if expected.ndim == 2 else cv2.COLOR_BGR2RGB
    np.testing.assert_array_equal(decode_image(message), cv2.cvtColor(expected, code))


@pytest.mark.parametrize("content", jpegs())
def test_a_jpeg_ends_at_its_own_end_marker(content: bytes) -> None:
    whole = decode_image(compressed(content, "jpeg"))
    for behind in (jpeg(3)[300:] + 3000 * b"\xaaU", content, b"\xff\xe1"):  # as of an older frame in the same buffer
        np.testing.assert_array_equal(decode_image(compressed(content + behind, "jpeg")), whole)
    for cut in (content[:-40], content[:-2]):  # also with the thumbnail's end marker in what is left
        for behind in (b"", 3000 * b"\xaaU"):
            with pytest.raises(ImageError, match="end early" if behind else "end early|are damaged"):
                check_image(compressed(cut + behind, "jpeg"))


@pytest.mark.parametrize("shrink", [2, 4, 8])
@pytest.mark.parametrize("content", jpegs())
def test_a_jpeg_that_comes_smaller_is_the_mean_of_its_pixels_at_their_place(content: bytes, shrink: int) -> None:
    message = compressed(content, "jpeg")
    whole, shrunk = decode_image(message), decode_image(message, shrink)
    size = (WIDTH // shrink, HEIGHT // shrink)
    assert shrunk.shape == (size[1], size[0], 3)
    mean = cv2.resize(whole, size, interpolation=cv2.INTER_AREA).astype(float)
    error = np.abs(shrunk - mean).mean()
    assert error < 6.0
    for rows, columns in ((0, 1), (1, 0)):  # a mistake of one pixel would be seen
        assert error < 0.5 * np.abs(shrunk - np.roll(mean, (rows, columns), axis=(0, 1))).mean()


@pytest.mark.parametrize("big_endian", [False, True])
@pytest.mark.parametrize("padding", [0, 6])
def test_depth_of_the_node_keeps_what_is_too_far_or_unknown(big_endian: bool, padding: int) -> None:
    metres = np.linspace(0.5, 80, HEIGHT * WIDTH, dtype=np.float32).reshape(HEIGHT, WIDTH)
    metres[0, :2] = np.nan, np.inf
    stored = np.ascontiguousarray(metres.astype(">f4" if big_endian else "<f4")).view(np.uint8)
    sent = np.concatenate([stored, np.full((HEIGHT, padding), 0xCD, np.uint8)], axis=1)
    message = image(sent, "32FC1", step=sent.shape[1], big_endian=big_endian)
    np.testing.assert_array_equal(decode_published_depth(message), metres)
    if padding == 0:
        np.testing.assert_array_equal(message_to_cvimage(message), metres)  # the oracle reads the same numbers


def test_what_is_no_depth_is_refused() -> None:
    with pytest.raises(ImageError, match="encoding 'mono16' is no depth. Name a topic of 16UC1 or 32FC1"):
        decode_depth(image(np.zeros((HEIGHT, WIDTH * 2), np.uint8), "mono16"))


@pytest.mark.parametrize(
    ("message", "words"),
    [
        (image(np.zeros((HEIGHT, WIDTH * 2), np.uint8), "yuv411"), "yuv411"),
        (image(np.zeros((HEIGHT, WIDTH * 2), np.uint8), "16UC1"), "depth"),
        (image(np.zeros((HEIGHT, WIDTH * 3 - 1), np.uint8), "rgb8"), "step"),
        (image(np.zeros((HEIGHT // 2, WIDTH * 3), np.uint8), "rgb8", step=WIDTH * 3), "bytes of data"),
        (image(np.zeros((HEIGHT - 1, WIDTH), np.uint8), "nv12", step=WIDTH), "nv12"),
        (image(np.zeros((HEIGHT, 126), np.uint8), "uyvy", width=63), "63 pixels in a row"),
        (image(np.zeros(0, np.uint8), "rgb8", width=0, step=0), "it is empty: 0x"),
        (compressed(jpeg()[:-300], "jpeg"), "end early"),
        (compressed(b"", "jpeg"), "neither JPEG nor PNG"),
        (compressed(b"\0\0\0\1\x67", "h264"), "'h264' is video, of which no image can be decoded alone"),
        (compressed(b"\0\0\1\x40", ""), "format '' is video"),
        (compressed(b"\x12\0", "bgr8; av1"), "format 'bgr8; av1' is video"),
        (compressed(b"\xff\xd8" + bytes(200) + b"\xff\xd9", "jpeg"), "cannot be decoded"),
        (compressed(jpeg_of_size(0, 64), "jpeg"), "cannot be decoded"),
        (compressed(jpeg_of_size(65535, 65535), "jpeg"), "65535x65535 is more than 134 million pixels"),
        (compressed(png_of_size(100_000, 2000), "png"), "100000x2000 is more than 75 million pixels"),
        (compressed(png_of_size(3, 3)[:16] + b"IEND", "png"), "cannot be decoded"),
        (compressed(png_of_size(WIDTH, HEIGHT)[:200] + b"IEND", "png"), DAMAGED),
        (compressed(bytes(12) + b"\x89PNG", "16UC1; compressedDepth png"), "depth"),
    ],
)
def test_images_that_cannot_be_decoded_are_refused(message: object, words: str) -> None:
    with pytest.raises(ImageError, match=words):
        decode_image(message)
    if words != DAMAGED:  # what is only found by decoding
        with pytest.raises(ImageError, match=words):
            check_image(message)


# Coordinates of PointCloud2 messages in several layouts.


def cloud(xyz: np.ndarray, *, kind: str = "<f4", point_step: int = 24, height: int = 1, row_padding: int = 0) -> Any:
    """PointCloud2 with z, y, x in this odd order, beginning at byte 0."""
    size = np.dtype(kind).itemsize
    points = np.zeros(len(xyz), {"names": list("zyx"), "formats": [kind] * 3, "itemsize": point_step})
    points["x"], points["y"], points["z"] = xyz.T
    data = np.pad(points.view(np.uint8).reshape(height, -1), ((0, 0), (0, row_padding)))
    fields = [
        {"name": axis, "offset": offset, "datatype": 7 if size == 4 else 8, "count": 1}
        for axis, offset in (("z", 0), ("y", size), ("x", 2 * size))
    ]
    return make(
        "sensor_msgs/PointCloud2",
        header=header_fields(START, "lidar"),
        height=height,
        width=len(xyz) // height,
        fields=fields,
        is_bigendian=kind.startswith(">"),
        point_step=point_step,
        row_step=data.shape[1],
        data=data.reshape(-1),
        is_dense=False,
    )


POINTS = np.random.default_rng(1).normal(size=(12, 3)).astype(np.float32)


@pytest.mark.parametrize("kind", ["<f4", ">f4", "<f8", ">f8"])
@pytest.mark.parametrize(("height", "row_padding"), [(1, 0), (3, 0), (3, 5)])
def test_layouts(kind: str, height: int, row_padding: int) -> None:
    message = cloud(POINTS, kind=kind, point_step=26, height=height, row_padding=row_padding)
    np.testing.assert_array_equal(read_xyz(message), POINTS)


def test_points_that_are_not_finite_are_left_out() -> None:
    points = POINTS.copy()
    points[2, 1] = np.nan
    points[5, 0] = np.inf
    np.testing.assert_array_equal(read_xyz(cloud(points)), np.delete(POINTS, [2, 5], axis=0))
    assert read_xyz(cloud(POINTS[:0])).shape == (0, 3)


@pytest.mark.parametrize(
    ("changes", "field", "words"),
    [
        ({"fields": cloud(POINTS).fields[1:]}, {}, "'z' is missing"),
        ({"data": cloud(POINTS).data[:-30]}, {}, "too little data"),
        ({"row_step": 1, "height": 1000}, {}, "too little data"),  # rows in each other: more points than memory
        ({}, {"offset": 22}, "offsets"),
        ({}, {"datatype": 4}, "datatype 4"),
    ],
)
def test_defects_are_named(changes: dict[str, Any], field: dict[str, int], words: str) -> None:
    message = cloud(POINTS, height=3)
    for part, values in ((message, changes), (message.fields[0], field)):
        for name, value in values.items():
            setattr(part, name, value)
    with pytest.raises(BagError, match=words):
        read_xyz(message)
