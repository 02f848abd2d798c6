"""Recordings whose transforms or clocks cannot be, through the command: what is refused, left out, or warned of."""

import math
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from scene_completion_ros import cli
from scene_completion_ros.bags.reader import BagReader
from scene_completion_ros.errors import BagError
from scene_completion_ros.geometry.transforms import OPTICAL_FROM_FORWARD, RigidTransform, rotation_of_angles
from scene_completion_ros.sequences.from_bag import RecordedMotion
from scene_completion_ros.sequences.posed_sequence import PosedSequence
from tests.bags.recordings import HALL_CAMERA, SECOND, START, Drive, recorded, transform, turning

TOPIC = "/camera/image_raw/compressed"
BODY, OPTICAL = RigidTransform.identity(), OPTICAL_FROM_FORWARD.inverse()
Fill = Callable[[Drive], None]


def drive(
    *,
    frame: str = "camera_optical",  # of the images
    mounts: tuple[tuple[str, str, RigidTransform, float], ...] = (("base_link", "camera_optical", OPTICAL, 0.2),),
    place: Callable[[int], float] = lambda index: 0.8 * index,  # along x
    other: tuple[float, int] | None = None,  # another publisher of it: so far away, and so many nanoseconds later
    other_yaw: float = 0.0,  # and turned so far, radians
    scale: float = 1.0,  # of quaternions
    delay_ns: int = 0,  # of the clock of the camera
) -> Fill:
    def fill(made: Drive) -> None:
        for parent, child, turn, x in mounts:
            made.static(parent, child, x, turn=turn)
        made.info(0, frame=frame)
        for index in range(24):
            stamp = START + index * SECOND // 10
            made.writer.write("/tf", "tf2_msgs/msg/TFMessage", pose(place(index), 0.0, stamp, 0.0, scale), stamp)
            made.image(index, frame=frame, delay_ns=delay_ns)
            if other is not None:
                message = pose(place(index), other[0], stamp + other[1], other_yaw, 1.0)
                made.writer.write("/tf", "tf2_msgs/msg/TFMessage", message, stamp + other[1])

    return fill


def pose(x: float, y: float, stamp_ns: int, yaw: float, scale: float) -> Any:
    return transform("map", "base_link", (x, y, 0.0), stamp_ns, yaw, scale)


LINK = ("base_link", "camera_link", BODY, 0.2)
TURNED = RigidTransform(OPTICAL.rotation @ rotation_of_angles(0, 0, math.pi), np.zeros(3))
REFUSED = [
    (drive(frame="camera_link", mounts=(LINK,)), "'camera_link', which is the frame of a body .* no optical frame"),
    (
        drive(mounts=(("base_link", "camera_optical", OPTICAL, 0.2), ("base_link", "camera_optical", OPTICAL, 0.9))),
        r"/tf_static: the fixed transform base_link -> camera_optical has two values: \[0.2, .* and \[0.9, 0",
    ),
    (drive(other=(0.1, 40_000_000)), r"/tf: the transform map -> base_link goes to and fro between two tracks: \[0.0"),
    (drive(other=(5.0, 0)), r"two tracks: \[0.0, 0.0, 0.0\] m turned by .* at \d+ ns, \[0.0, 5.0, 0.0\] m"),
    (
        drive(other=(0.0, 30_000_000), other_yaw=math.radians(3.0)),
        r"two tracks: .* turned by \[0.0, 0.0, 0.0\]° .*, .* turned by \[0.0, 0.0, 3.0\]°",
    ),
    (drive(scale=0.5), "cannot be used are left out: /tf: map -> base_link: quaternion is not of unit length. Correct"),
    (drive(place=lambda index: 700.0 * index), r"base_link moves at 7000 m/s.*7 m/s if the poses are in millimetres"),
    (drive(mounts=(("base_link", "camera_optical", OPTICAL, 800.0),)), "camera_optical is 800 m from base_link"),
    (drive(frame="robot1/camera_optical"), "does not know the frame 'robot1/.*Probably 'camera_optical' is meant"),
]
DOUBTED = [
    (drive(delay_ns=-37 * SECOND), f"images of {TOPIC} have another clock than /tf, 37.000 s behind theirs .TAI"),
    (drive(mounts=(("base_link", "camera_optical", TURNED, 0.2),)), f"{TOPIC}: .*'camera_optical' hangs upside down"),
    (
        drive(place=lambda index: 400.0 if index == 9 else 0.8 * index),
        "1 of 24 poses.*that of 1700000000900000000 ns is",
    ),
    (
        drive(frame="camera_link", mounts=(LINK, ("camera_link", "camera_optical", OPTICAL, 0.0))),
        f"{TOPIC}: images name 'camera_link', .* its optical child 'camera_optical' is taken instead",
    ),
]


@pytest.mark.parametrize(("fill", "words"), REFUSED + DOUBTED[:1])
def test_what_cannot_be_is_not_extracted(
    tmp_path: Path, fill: Fill, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    bag = recorded(tmp_path / "bag", fill)
    assert cli.main(["extract", str(bag), "--output", str(tmp_path / "out")]) == 1
    assert re.search(words, capsys.readouterr().out)


@pytest.mark.parametrize(("fill", "words"), DOUBTED[1:])
def test_what_can_be_put_right_is_extracted_with_a_warning(tmp_path: Path, fill: Fill, words: str) -> None:
    bag = recorded(tmp_path / "bag", fill)
    assert cli.main(["extract", str(bag), "--output", str(tmp_path / "out")]) == 0
    sequence = PosedSequence.load(tmp_path / "out" / "bag" / "00")
    (warning,) = sequence.provenance["warnings"]
    assert re.search(words, warning)
    places = [frame.world_from_rig.translation[0] for frame in sequence.frames]
    np.testing.assert_allclose(places, 0.2 + 0.8 * np.arange(24))
    ahead = sequence.world_from_camera(0, "camera").rotation[:, 2]
    np.testing.assert_allclose(ahead, [1, 0, 0], atol=1e-6)  # it looks where it goes


@pytest.mark.parametrize(("fill", "words"), REFUSED + DOUBTED)
def test_a_replay_says_the_same(tmp_path: Path, fill: Fill, words: str) -> None:
    with BagReader(recorded(tmp_path / "bag", fill)) as reader:
        try:
            said = RecordedMotion(reader, TOPIC).warnings
        except BagError as error:
            said = [str(error)]
    assert any(re.search(words, one) for one in said), said


HANGS = f"{TOPIC}: by tf the camera of frame 'camera_optical' hangs upside down"
READINGS = "Either the driver turns the images by 180°, or the roll of the camera in tf is wrong by that"


@pytest.mark.parametrize(
    ("name", "mount", "turned", "words"),
    [
        ("upright", OPTICAL, False, []),
        ("images", OPTICAL, True, [f"images of {TOPIC} are turned by 180° against tf: of .*{READINGS}"]),
        ("tf", TURNED, False, [HANGS, f"{TOPIC} are upright, while the camera hangs upside down by tf: .*{READINGS}"]),
        ("both", TURNED, True, [HANGS]),
    ],
)
def test_images_are_compared_with_the_roll_of_their_camera(
    tmp_path: Path, name: str, mount: RigidTransform, turned: bool, words: list[str]
) -> None:
    # Each bag has a path of its own: a process keeps those open that it read images of.
    bag = recorded(tmp_path / name, partial(turning, mount=mount, turned=turned))
    assert cli.main(["extract", str(bag), "--output", str(tmp_path / "out")]) == 0
    warnings = PosedSequence.load(tmp_path / "out" / name / "00").provenance["warnings"]
    assert len(warnings) == len(words) and all(map(re.search, words, warnings)), warnings
    with BagReader(bag) as reader:
        motion = RecordedMotion(reader, TOPIC)
    assert [*motion.warnings, *filter(None, [motion.turned_doubt(HALL_CAMERA)])] == warnings


@pytest.mark.parametrize(
    "fill",
    [
        drive(mounts=(("base_link", "camera_optical", OPTICAL, 0.2),) * 2),  # published again
        drive(mounts=(("base_link", "camera_optical", OPTICAL, 0.2), ("base_link", "camera_optical", OPTICAL, 0.2004))),
        drive(other=(0.0, 0)),
        drive(delay_ns=40_000_000),  # computers of one network
        drive(place=lambda index: 0.8 * index + 20.0 * (index > 11)),  # a loop was closed
        drive(place=lambda index: 0.8 * (index - index % 4)),  # stops, and goes on
        drive(place=lambda index: 0.8 * index + 0.05 * math.sin(3.0 * index)),
    ],
)
def test_what_can_be_is_extracted_without_a_word(tmp_path: Path, fill: Fill) -> None:
    bag = recorded(tmp_path / "bag", fill)
    assert cli.main(["extract", str(bag), "--output", str(tmp_path / "out")]) == 0
    assert PosedSequence.load(tmp_path / "out" / "bag" / "00").provenance["warnings"] == []
