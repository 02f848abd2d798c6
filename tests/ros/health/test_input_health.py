"""Diagnostics of images and calibration, case by case: each has a cure."""

from collections.abc import Mapping
from typing import Any

import pytest
from builtin_interfaces.msg import Time
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import Header

from scene_completion_ros.geometry.cameras import Camera
from scene_completion_ros.messages.drop_reasons import DropReason
from scene_completion_ros.ros.health.diagnostics import (
    BUSY,
    CameraFacts,
    InputRecord,
    Publishers,
    calibration_status,
    input_status,
)
from scene_completion_ros.ros.health.judgement import Drops, Level, Status

CAMERA = Camera(900.0, 900.0, 639.5, 359.5, 1280, 720)
RAW, COMPRESSED = "sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage"
ONE = Publishers((RAW,), 1)
ONE_RELIABLE = Publishers((RAW,), 0)
INFO = Publishers(("sensor_msgs/msg/CameraInfo",), 0)


def header(stamp_s: int) -> Any:
    return Header(frame_id="front", stamp=Time(sec=stamp_s))


def record() -> InputRecord:
    return InputRecord("/image", RAW, "/camera_info", reliable=False, since_s=100.0)


def judged(
    record: InputRecord,
    now_s: float = 110.0,
    images: Publishers = ONE,
    middleware: str = "rmw_fastrtps_cpp",
    dropped: Mapping[DropReason, int] | None = None,
) -> tuple[Status, Status]:
    facts, drops = CameraFacts(record, images, INFO, now_s, middleware), Drops(dropped or {}, dropped or {}, 10.0)
    return input_status(facts, record.images.count, drops), calibration_status(facts, drops, ())


def working(times_s: tuple[float, ...] = (109.0, 109.5)) -> InputRecord:
    made = record()
    for time_s in times_s:
        made.image_arrived(Image(header=header(7), width=1280, height=720, encoding="rgb8"), time_s)
        made.camera_info_arrived(CameraInfo(header=header(7)), time_s)
    made.camera = CAMERA
    return made


@pytest.mark.parametrize(
    ("images", "middleware", "present", "absent"),
    [
        (Publishers((COMPRESSED,), 0), "rmw_fastrtps_cpp", [COMPRESSED, "set image.transport:=compressed"], ["rmem"]),
        (Publishers(("std_msgs/msg/String",), 0), "rmw_fastrtps_cpp", ["remap another topic"], ["compressed"]),
        (ONE, "rmw_fastrtps_cpp", ["fastdds_shm.xml", "2.8 MB", "transport:=compressed"], ["image.qos"]),
        (ONE_RELIABLE, "rmw_fastrtps_cpp", ["fastdds_shm.xml", "set image.qos:=reliable", "rmem_max"], []),
        (Publishers((RAW, RAW), 0), "rmw_cyclonedds_cpp", ["2 publishers exist", "rmem_max"], ["Fast DDS"]),
    ],
)
def test_no_image_has_a_reason_and_a_cure(
    images: Publishers, middleware: str, present: list[str], absent: list[str]
) -> None:
    silent = record()
    silent.camera = CAMERA  # known from its CameraInfo
    status, _ = judged(silent, images=images, middleware=middleware)
    assert status.level == Level.ERROR
    assert status.message.startswith("no image for 10.0 s: ")
    assert all(words in status.message for words in present), status.message
    assert not any(words in status.message for words in absent), status.message


def test_incompatible_qos_matters_only_while_nothing_arrives() -> None:
    silent = record()
    silent.incompatible = "RELIABILITY"
    status, _ = judged(silent)
    assert status.level == Level.ERROR
    assert status.message.endswith("subscription (RELIABILITY): set image.qos:=sensor_data")
    assert "no publisher" in judged(silent, images=Publishers())[0].message
    other_publisher = working()
    other_publisher.incompatible = "RELIABILITY"
    assert judged(other_publisher)[0].level == Level.OK


@pytest.mark.parametrize(
    ("frame", "stamps_s", "words"),
    [
        ("front", (0, 0, 0), ""),  # one or two may be sent twice
        ("front", (0, 0, 0, 0), "stamps stand still: the last 4 images all have 0 ns. Transforms need stamps"),
        ("front", (5, 5, 5, 5, 6), ""),
        ("", (1, 2), "header.frame_id of the images is empty, so that tf cannot place them: set it in the driver"),
    ],
)
def test_headers_without_time_or_frame_are_warned_of(frame: str, stamps_s: tuple[int, ...], words: str) -> None:
    made = record()
    for stamp_s in stamps_s:
        head = Header(frame_id=frame, stamp=Time(sec=stamp_s))
        made.image_arrived(Image(header=head, width=1280, height=720, encoding="rgb8"), 109.0)
    status, _ = judged(made)
    assert status.level == (Level.WARN if words else Level.OK)
    assert words in status.message


def test_a_calibration_that_cannot_be_used_is_an_error() -> None:
    made = working()
    made.camera = None
    images, calibration = judged(made)
    assert (images.level, calibration.level) == (Level.OK, Level.ERROR)
    assert "no message on /camera_info was usable" in calibration.message and "calibrate" in calibration.message


def test_a_calibration_that_is_missing_or_of_other_images_is_an_error() -> None:
    missing = record()
    missing.image_arrived(Image(header=header(7), width=1280, height=720), 109.0)
    _, calibration = judged(missing)
    assert calibration.level == Level.ERROR
    assert "CameraInfo is missing for 10.0 s" in calibration.message and "must be latched" in calibration.message
    other = working()
    other.image_arrived(Image(header=header(8), width=640, height=200), 109.8)
    _, calibration = judged(other)
    assert calibration.level == Level.ERROR
    assert "images are 640x200, but /camera_info is for 1280x720" in calibration.message


def test_what_was_dropped_lately_is_warned_about() -> None:
    images, calibration = judged(working(), dropped={DropReason.BAD_IMAGE: 2, DropReason.BAD_CAMERA_INFO: 1})
    assert images.level == calibration.level == Level.WARN
    assert "images dropped in the last 10 s: 2 bad image" in images.message
    assert "1 bad CameraInfo" in calibration.message and "the last usable CameraInfo stays" in calibration.message


def test_a_camera_info_that_stops_is_warned_about_and_a_latched_one_is_not() -> None:
    made = working((109.0, 109.5))
    made.image_arrived(Image(header=header(12), width=1280, height=720), 113.0)
    _, calibration = judged(made, now_s=113.5)
    assert calibration.level == Level.WARN
    assert "CameraInfo stopped 4.0 s ago, images go on" in calibration.message
    latched = working((101.0,))
    latched.image_arrived(Image(header=header(12), width=1280, height=720), 113.0)
    assert judged(latched, now_s=113.5)[1].level == Level.OK


def test_the_network_is_not_blamed_for_what_the_node_does_itself() -> None:
    """While a model is built, and when something held the executor up, until images had time to come again."""
    made = working((100.5, 101.0))
    for now_s in (101.0, 102.0, 103.0, 104.0):
        made.own_work.look(now_s, 0, building=now_s > 101.0)
    status, calibration = judged(made, now_s=104.4)
    assert (status.level, status.message) == (Level.OK, f"no image for 3.4 s: {BUSY}")
    assert calibration.level == Level.OK
    nobody, _ = judged(made, now_s=104.4, images=Publishers())
    assert nobody.level == Level.ERROR and "no publisher on /image" in nobody.message  # which is so, busy or not

    made.lost = 7  # the middleware tells of it once the executor runs again
    made.own_work.look(105.0, made.lost, building=False)
    made.image_arrived(Image(header=header(9), width=1280, height=720), 105.2)
    status, _ = judged(made, now_s=105.4)
    assert status.level == Level.OK and "lost" not in status.message
    assert status.values["images lost by the node"] == "7, while it built its model or was held up (3.0 s)"

    for now_s in (106.0, 107.0, 108.0):
        made.own_work.look(now_s, made.lost, building=False)
    silent, _ = judged(made, now_s=108.1)
    assert silent.level == Level.ERROR and "Fast DDS loses best-effort messages" in silent.message
    made.image_arrived(Image(header=header(10), width=1280, height=720), 108.2)
    made.lost = 9
    made.own_work.look(109.0, made.lost, building=False)
    status, _ = judged(made, now_s=109.1)
    assert status.level == Level.WARN and "the middleware lost 2 images" in status.message

    made.own_work.look(114.0, made.lost, building=False)  # some seconds after it should
    assert judged(made, now_s=114.0)[0].cause == BUSY


def test_doubts_about_transforms_are_reported() -> None:
    made = working()
    made.placement_doubts = lambda: ["by tf the camera hangs upside down"]
    status, _ = judged(made)
    assert status.level == Level.WARN and "by tf the camera hangs upside down" in status.message
