"""Reading intact and damaged recordings, and writing them."""

import math
import struct
import zlib
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zstandard
from rosbags.rosbag2 import CompressionMode, StoragePlugin

from scene_completion_ros.bags.reader import BagMessage, BagReader
from scene_completion_ros.bags.writer import IMAGE_TOPIC, STREET, BagWriter, write_transforms
from scene_completion_ros.errors import BagError
from scene_completion_ros.geometry.plausible_cameras import Doubt
from scene_completion_ros.ros import topics
from tests.bags.recordings import (
    HEIGHT,
    SECOND,
    START,
    WIDTH,
    Drive,
    PackedWriter,
    camera_info,
    compressed,
    image,
    record,
    recorded,
    string,
)

IMAGES = "/camera/image_raw/compressed"


def test_topics_counts_and_times(tmp_path: Path) -> None:
    with BagReader(record(tmp_path / "bag", 5)) as reader:
        assert reader.topics[IMAGES] == "sensor_msgs/msg/CompressedImage"
        assert reader.counts == {"/tf_static": 1, "/tf": 5, IMAGES: 5, "/camera/camera_info": 5}
        assert (reader.start_ns, reader.end_ns) == (START, START + 4 * SECOND // 10)
        assert reader.losses == []
        assert [m.stamp_ns for m in reader.messages([IMAGES])] == [START + i * SECOND // 10 for i in range(5)]
        part = reader.messages([IMAGES], start_ns=START + 1, stop_ns=START + 3 * SECOND // 10)
        assert [m.stamp_ns for m in part] == [START + SECOND // 10, START + 2 * SECOND // 10]
        assert len(list(reader.messages())) == 16
        assert list(reader.messages(["/nothing"])) == []


def test_images_are_decoded_with_stamp_and_frame(tmp_path: Path) -> None:
    def fill(drive: Drive) -> None:
        for index in range(3):
            drive.image(index, delay_ns=-5)
        drive.image(3, stamp_ns=0)  # falls back to the time of the bag

    path = recorded(tmp_path / "bag", fill)
    with BagReader(path) as reader:
        frames = list(reader.images(IMAGES))
    recorded_ns = [START + i * SECOND // 10 for i in range(4)]
    assert [f.stamp_ns for f in frames] == [*(stamp_ns - 5 for stamp_ns in recorded_ns[:3]), recorded_ns[3]]
    assert [f.recorded.stamp_ns for f in frames] == recorded_ns
    assert frames[0].frame_id == "camera_optical"
    assert frames[0].image_rgb.shape == (HEIGHT, WIDTH, 3)


def test_undecodable_images_are_skipped_and_counted(tmp_path: Path) -> None:
    path = tmp_path / "bag"
    with BagWriter(path) as writer:
        good = image(np.zeros((HEIGHT, WIDTH * 3), np.uint8), "rgb8")
        foreign = image(np.zeros((HEIGHT, WIDTH * 3), np.uint8), "hsv8")
        for index, message in enumerate([good, foreign, good, foreign]):
            writer.write("/image", "sensor_msgs/msg/Image", message, START + index)
        writer.write("/image", "sensor_msgs/msg/Image", b"\x00\x01\x00\x00\x07", START + 9)
        good.header.stamp.nanosec = 10**9  # in the last second that there is, it could not be written again
        writer.write("/image", "sensor_msgs/msg/Image", good, START + 10)
    with BagReader(path) as reader:
        assert len(list(reader.images("/image"))) == 2
        assert reader.skipped["/image: unknown encoding 'hsv8'"] == 2
        assert reader.skipped["/image: damaged message"] == 2


def test_image_topic_has_to_be_clear(tmp_path: Path) -> None:
    def two(drive: Drive) -> None:
        drive.image(0, camera="left")
        drive.image(0, camera="right")
        drive.writer.write(
            "/depth/compressedDepth",
            "sensor_msgs/msg/CompressedImage",
            compressed(b"", "16UC1; compressedDepth"),
            START,
        )

    with BagReader(recorded(tmp_path / "two", two)) as reader:
        assert reader.image_topics() == ["/left/image_raw/compressed", "/right/image_raw/compressed"]
        assert reader.choose_image_topic("/left/image_raw/compressed") == "/left/image_raw/compressed"
        with pytest.raises(BagError, match=r"2 image topics and none named.*/left/image_raw/compressed, /right"):
            reader.choose_image_topic()
        with pytest.raises(BagError, match=r"no image topic '/front'.*/left"):
            reader.choose_image_topic("/front")
    none = recorded(tmp_path / "none", lambda drive: drive.pose(0))
    with BagReader(none) as reader, pytest.raises(BagError, match=r"no image topic.*/tf \(tf2_msgs/msg/TFMessage\)"):
        reader.choose_image_topic()
    with BagReader(record(tmp_path / "one")) as reader:
        assert reader.choose_image_topic() == IMAGES


@pytest.mark.parametrize(
    ("fill", "words"),
    [
        (lambda drive: [drive.image(0)], "no CameraInfo"),
        (lambda drive: [drive.image(0), drive.info(0), drive.info(1, f=41.0)], "field k changes"),
        (lambda drive: [drive.image(0), drive.info(0, width=128)], "images of .* are 64x48, fields width"),
        (lambda drive: [drive.image(0), drive.info(0, f=0.0)], "camera_info, CameraInfo, [kp]: focal length"),
        (lambda drive: [drive.image(0), drive.info(0, f=math.nan)], "camera_info, CameraInfo, [kp]: "),
        (lambda drive: [drive.image(0), drive.info(0, f=0.0), drive.info(1), drive.info(2, f=41.0)], "field k changes"),
        (
            lambda drive: [drive.image(0), *(drive.info(i, f=40.0 + 0.3 * i) for i in range(9))],
            "half of them by 0.6 pix",
        ),
        (lambda drive: [drive.image(0), drive.info(0), drive.info(1, width=128)], "width changes from 64 to 128"),
        (lambda drive: [drive.image(0), drive.info(0, centre=(1e5, 20.0))], "outside the image .* of 64x48"),
        (lambda drive: [drive.image(0), drive.info(0, f=1e-3)], "field of view of 180°; perhaps it is in metres"),
        (lambda drive: [drive.image(0), drive.info(0, frame="a", camera="b")] + [drive.image(0, camera="c")], "no Cam"),
    ],
)
def test_missing_and_contradicting_camera_info(tmp_path: Path, fill: Callable[[Drive], Any], words: str) -> None:
    with BagReader(recorded(tmp_path / "bag", fill)) as reader, pytest.raises(BagError, match=words) as caught:
        reader.camera_for(IMAGES)
    assert "/camera" in str(caught.value)
    assert caught.value.cure


@pytest.mark.parametrize("ending", ["", "/compressed"])
@pytest.mark.parametrize(
    ("info", "frame"),
    [
        ("robot/front/color/camera_info", "any"),  # below the name of the image, as AirSim and Webots have it
        ("robot/front/camera_info", "any"),
        ("camera_info", "any"),
        ("calibration/camera_info", "/camera_optical"),
        ("calibration/camera_info", ""),
    ],
)
def test_camera_info_is_found_by_its_topic_or_by_its_frame(tmp_path: Path, info: str, frame: str, ending: str) -> None:
    def fill(drive: Drive) -> None:
        drive.image(0, topic=f"/robot/front/color{ending}")
        drive.writer.write(f"/{info}", "sensor_msgs/msg/CameraInfo", camera_info(frame_id=frame), START)

    with BagReader(recorded(tmp_path / "bag", fill)) as reader:
        assert reader.camera_for(f"/robot/front/color{ending}").fx == 40.0


def test_the_median_of_a_calibration_that_jitters_is_used_and_said(tmp_path: Path) -> None:
    lengths = [40.0, 40.6, 39.4, 40.1, 40.1, 39.9, 40.0]
    path = recorded(
        tmp_path / "bag", lambda drive: [drive.image(0), *(drive.info(i, f=f) for i, f in enumerate(lengths))]
    )
    doubts: list[Doubt] = []
    with BagReader(path) as reader:
        camera = reader.camera_for(IMAGES, doubts)
        message = reader.camera_info(IMAGES)
    assert message is not None and (camera.fx, message.k[0], message.p[0], message.k[2]) == (40.0, 40.0, 40.0, 31.5)
    (doubt,) = doubts
    # The corner is (32, 24) pixels from the middle: 0.6 / 40 of that is 0.6 pixels.
    words = (
        "/camera/camera_info: field k changes from message to message, by up to 0.6 pixels in the image (fx from 39.4 "
    )
    assert f"{words}to 40.6): their median is used (fx 40.0)" in str(doubt)
    assert doubt.unusual


@pytest.mark.parametrize(
    ("name", "given", "rectified"),
    [
        ("/camera/rect/image", None, True),
        ("/camera/image_raw", None, False),
        ("/camera/image_raw", True, True),
        ("/camera/image_rect", False, False),
    ],
)
def test_rectified_images_have_p(tmp_path: Path, name: str, given: bool | None, rectified: bool) -> None:
    def fill(drive: Drive) -> None:
        drive.image(0, topic=name)
        message = camera_info()
        message.d[:2], message.p[[0, 5]] = (-0.3, 0.1), 36.0
        drive.writer.write("/camera/camera_info", "sensor_msgs/msg/CameraInfo", message, START)

    with BagReader(recorded(tmp_path / "bag", fill), rectified=given) as reader:
        camera = reader.camera_for(name)
    assert (camera.fx, camera.distortion_model) == ((36.0, "none") if rectified else (40.0, "plumb_bob"))


def test_the_calibration_of_an_autofocus_is_that_of_its_first_image(tmp_path: Path) -> None:
    path = recorded(
        tmp_path / "bag", lambda drive: [(drive.image(at), drive.info(at, f=40.0 + at / 1e4)) for at in range(5)]
    )
    with BagReader(path) as reader:
        assert reader.camera_for(IMAGES).fx == 40.0


def in_disorder(writer: BagWriter, *further: str) -> None:
    """Five messages on /a, and on further topics; their order is not that of their times."""
    with writer:
        for stamp in (5, 1, 3, 2, 4):
            for topic in ("/a", *further):
                writer.write(topic, "std_msgs/msg/String", string(str(stamp)), stamp)


def in_order(path: Path) -> None:
    with BagReader(path) as reader:
        assert [m.message.data for m in reader.messages()] == ["1", "2", "3", "4", "5"]
        assert reader.losses == []


@pytest.mark.parametrize("plugin", [StoragePlugin.MCAP, StoragePlugin.SQLITE3])
@pytest.mark.parametrize("mode", [CompressionMode.NONE, CompressionMode.FILE, CompressionMode.MESSAGE])
def test_messages_come_in_bag_time_with_and_without_metadata_and_folder(
    tmp_path: Path, plugin: StoragePlugin, mode: CompressionMode, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, copies = tmp_path / "bag", tmp_path / "copies"
    in_disorder(PackedWriter(path, plugin, mode))
    copies.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(copies))
    (path / "metadata.yaml").rename(tmp_path / "metadata.yaml")
    (file,) = path.iterdir()
    for target in (path, file):
        in_order(target)
    (tmp_path / "metadata.yaml").rename(path / "metadata.yaml")
    with BagReader(path):
        in_order(path)
        assert len(list(copies.iterdir())) == (mode == CompressionMode.FILE)  # one for both
    assert not list(copies.iterdir())


@pytest.mark.parametrize(
    "spoil",
    [
        "relative_file_paths: 5",
        f"relative_file_paths: [{'a' * 9000}]",
        "message_count: [9]",
        "files: " + "[" * 5000,
        "a: [",
        ": :",
    ],
    ids=range(6),
)
def test_messages_come_whatever_the_metadata_says(tmp_path: Path, spoil: str) -> None:
    in_disorder(BagWriter(tmp_path / "bag"))
    (tmp_path / "bag" / "metadata.yaml").write_text(f"rosbag2_bagfile_information:\n  {spoil}\n")
    with BagReader(tmp_path / "bag") as reader:
        assert [m.message.data for m in reader.messages()] == ["1", "2", "3", "4", "5"]
        assert max(map(len, reader.losses), default=0) < 500


def test_what_is_no_bag(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    for name in ("text.mcap", "text.db3", "text.bag", "film.avi", "text.mcap.zstd"):
        (tmp_path / name).write_text("This is not a recording, whatever its name may be.")
    (tmp_path / "empty.mcap").touch()
    (tmp_path / "killed.bag.active").write_bytes(b"#ROSBAG V2.0")
    (tmp_path / "bomb.mcap.zstd").write_bytes(zstandard.compress(bytes(100_000_000)))
    with BagWriter(tmp_path / "nothing"):
        pass
    (file,) = record(tmp_path / "killed").glob("*.mcap")
    cut(file, file, 0.97)
    of_other_programs(tmp_path / "nothing of ROS 2", "json", "", images=0)
    for name, words in {
        "missing": "no such file",
        "folder": r"no \.mcap, \.db3 or \.bag",
        "empty.mcap": "0 bytes",
        "text.mcap": "is damaged .*magic.*`mcap recover`",
        "text.db3": "`.recover` of sqlite3",
        "text.bag": "rosbag reindex",
        "film.avi": "unknown kind of file",
        "nothing": "no message",
        "killed.bag.active": "Run `rosbag reindex killed.bag.active`, and name it killed.bag",
        "text.mcap.zstd": "cannot be decompressed beyond 0 bytes .*Copy it from the robot again",
        "bomb.mcap.zstd": "has more than 0.0 GB, for which there is no room. Set TMPDIR",
        "killed": "is damaged .*`mcap recover`",
        "nothing of ROS 2": "its messages are json, and none of ROS 2. .* of ROS 1, name the .bag",
    }.items():
        with pytest.raises(BagError, match=words) as caught:
            BagReader(tmp_path / name).open()
        assert name in caught.value.where
        assert caught.value.cure


# ---- recordings of other programs


def of_other_programs(
    path: Path, serialised: str, language: str, *, profile: str = "", definition: str = "string text", images: int = 3
) -> Path:
    """A drive, and a topic /web of another serialisation whose type is defined in another language; any profile."""
    with PackedWriter(path) as bag:
        for index in range(images):
            Drive(bag).moment(index)
        words = {"msgdef": definition, "rihs01": "RIHS01_0", "serialization_format": serialised}
        web = bag._writer.add_connection("/web", "web_msgs/msg/Page", **words)  # type: ignore[arg-type]
        bag._writer.write(web, START, b"{}")
    (file,) = path.glob("*.mcap")
    content = file.read_bytes()

    def named(*texts: str) -> bytes:
        return b"".join(len(text).to_bytes(4, "little") + text.encode() for text in texts)

    # Of the same length: what one text lacks, its neighbour has.
    library = named("ros2", f"rosbags-{version('rosbags')}")
    other = named(profile, "x" * (len(library) - 8 - len(profile.encode())))
    schema = named("ros2msg", definition)
    assert content.count(library) == 1 and content.count(schema) == 2
    foreign = named(language, (definition + 7 * " ")[: len(schema) - 8 - len(language)])
    file.write_bytes(content.replace(library, other).replace(schema, foreign))
    return path


@pytest.mark.parametrize(
    ("serialised", "language", "profile"),
    [("json", "jsonschema", ""), ("protobuf", "protobuf", "ros2"), ("ros1", "ros1msg", "ros1"), ("cbor", "", "x" * 9)],
)
def test_channels_of_other_programs_are_ignored(tmp_path: Path, serialised: str, language: str, profile: str) -> None:
    path = of_other_programs(tmp_path / "bag", serialised, language, profile=profile)
    (file,) = path.glob("*.mcap")
    for recording in (path, file):
        with BagReader(recording) as reader:
            assert reader.counts == {"/tf": 3, IMAGES: 3, "/camera/camera_info": 3}
            assert reader.choose_image_topic() == IMAGES
            assert len(list(reader.images(IMAGES))) == 3 and not reader.skipped
            words = f"the messages of /web are {serialised}, and not of ROS 2 .cdr.. Name one of .*: {IMAGES}"
            with pytest.raises(BagError, match=words):
                reader.choose_image_topic("/web")


# ---- damaged recordings


def cut(source: Path, target: Path, share: float) -> Path:
    """Copy the beginning of a file."""
    content = source.read_bytes()
    target.write_bytes(content[: int(len(content) * share)])
    return target


SQLITE = partial(PackedWriter, plugin=StoragePlugin.SQLITE3)


@pytest.mark.parametrize("definition", ["", "string<= ][ text"])
def test_a_type_without_a_definition_is_that_of_ros2(tmp_path: Path, definition: str) -> None:
    path = tmp_path / "bag"
    with PackedWriter(path) as bag:
        words = {"msgdef": definition, "rihs01": "RIHS01_0"}
        kind = "sensor_msgs/msg/CompressedImage"
        bag._connections[IMAGES] = bag._writer.add_connection(IMAGES, kind, **words)  # type: ignore[arg-type]
        Drive(bag).moment(0)
    with BagReader(path) as reader:
        assert [frame.image_rgb.shape for frame in reader.images(IMAGES)] == [(HEIGHT, WIDTH, 3)]


def chunks(content: bytes) -> list[tuple[int, int, int]]:
    """Of each chunk of an MCAP: its checksum, where the data begin that it is of, and how long they are."""
    found, place = [], 8
    while place < len(content) - 8:
        length = int.from_bytes(content[place + 1 : place + 9], "little")
        if content[place] == 6:
            size, checksum, compression = struct.unpack_from("<QII", content, place + 25)
            assert compression == 0
            found.append((checksum, place + 49, size))
        place += 9 + length
    return found


def test_each_chunk_has_its_checksum_and_a_changed_byte_is_found_by_it(tmp_path: Path) -> None:
    with BagWriter(tmp_path / "bag") as bag:
        for index in range(30):
            message = compressed(bytes(100_000), "jpeg")
            bag.write("/image", "sensor_msgs/msg/CompressedImage", message, START + index * SECOND)
    (file,) = (tmp_path / "bag").glob("*.mcap")
    content = file.read_bytes()
    found = chunks(content)
    assert len(found) == 3
    assert [checksum for checksum, _, _ in found] == [zlib.crc32(content[at : at + size]) for _, at, size in found]
    _, at, size = found[1]
    changed = at + size // 2  # a pixel: nothing else would show it
    file.write_bytes(content[:changed] + b"\x01" + content[changed + 1 :])
    with BagReader(file) as reader:
        read: list[BagMessage] = []
        with pytest.raises(BagError, match=r"damaged \(at 10.0 s of it, .*checksum mismatch.*`mcap recover`"):
            read.extend(reader.messages())
        assert [message.stamp_ns for message in read] == [START + index * SECOND for index in range(11)]
    file.write_bytes(content[: at - 16] + bytes(4) + file.read_bytes()[at - 12 :])  # without: nobody says there is one
    with BagReader(file) as reader:
        assert len(list(reader.messages())) == 30


def spoil_the_middle(file: Path) -> None:
    content = bytearray(file.read_bytes())
    middle = content.index(b"\x05", len(content) // 2)  # where a message begins
    content[middle : middle + 40] = b"\xff" * 40
    file.write_bytes(content)


@pytest.mark.parametrize(
    ("writer", "spoil", "words"),
    [
        (SQLITE, lambda file: cut(file, file, 0.6), "is damaged .*`.recover` of sqlite3"),
        (SQLITE, lambda file: Path(f"{file}-wal").write_bytes(b"x"), "bag.db3-wal holds a part.*`.recover`"),
        (BagWriter, spoil_the_middle, r"is damaged \(.*`mcap recover`"),
    ],
)
def test_a_damaged_recording_with_an_index_is_refused_with_its_repair(
    tmp_path: Path, writer: Callable[[Path], BagWriter], spoil: Callable[[Path], Any], words: str
) -> None:
    with writer(tmp_path / "bag") as bag:
        for index in range(30):
            bag.write("/image", "sensor_msgs/msg/CompressedImage", compressed(bytes(5000), "jpeg"), START + index)
    spoil(next((tmp_path / "bag").glob("bag.*")))
    with pytest.raises(BagError, match=words), BagReader(tmp_path / "bag") as reader:
        list(reader.messages())


def test_ros1_messages_have_the_shape_of_ros2_and_a_cut_bag_is_refused(shared_data: Path, tmp_path: Path) -> None:
    source = shared_data / "ros1_real_bag_tiny" / "aruco_images.bag"
    with pytest.raises(BagError, match="rosbag reindex"):
        BagReader(cut(source, tmp_path / "half.bag", 0.6)).open()
    with BagReader(source) as reader:
        info = reader.camera_info("/raspicam_node/image/compressed")
        assert info.k.shape == (9,)
        assert info.d.any()
        recorded = next(reader.messages(["/raspicam_node/camera_info"]))
        assert recorded.type == "sensor_msgs/msg/CameraInfo"
        assert recorded.cdr[:4] == b"\x00\x01\x00\x00"
        camera = reader.camera_for("/raspicam_node/image/compressed")
        assert (camera.width, camera.height, camera.distortion_model) == (1280, 960, "plumb_bob")


# ---- writing


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    with BagWriter(tmp_path / "bag") as writer:
        writer.write("/text", "std_msgs/msg/String", string("kept"), START)
    with pytest.raises(BagError, match=r"exists already.*new folder"):
        BagWriter(tmp_path / "bag").open()
    with BagReader(tmp_path / "bag") as reader:
        assert next(reader.messages()).message.data == "kept"


def test_all_frames_of_the_recording_and_the_street_are_connected(tmp_path: Path) -> None:
    def fill(drive: Drive) -> None:
        drive.static()
        drive.static(child="lidar")
        drive.pose(0, x=3.0)
        drive.image(0)

    path, output, camera = recorded(tmp_path / "drive", fill), tmp_path / "out", "camera_optical"
    with BagReader(path) as reader, BagWriter(output) as writer:
        write_transforms(reader, "/camera/image_raw/compressed", writer)
    with BagReader(output) as reader:
        (latched,) = reader.messages(["/tf_static"])
        buffer = reader.tf_buffer()
    assert len(latched.message.transforms) == 3  # in one message: late readers of a latched topic get no other
    assert buffer.lookup("map", camera, START).translation == pytest.approx([3.2, 0.0, 1.0])
    ahead = buffer.lookup(STREET, camera, START).apply(np.array([[0.0, 0.0, 10.0]]))
    np.testing.assert_allclose(ahead, [[10.0, 0.0, 1.65]], atol=1e-12)
    buffer.lookup(STREET, "lidar", START)


def test_images_have_the_name_that_the_node_has_for_them() -> None:
    assert topics.default_name(topics.IMAGE) == IMAGE_TOPIC
