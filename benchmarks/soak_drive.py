"""The bundled drive in a loop before a running node, and what goes wrong on the way: cameras, poses, words, bundles.

Importing it imports rclpy: choose the profile of the middleware before.
"""

from __future__ import annotations

import random
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from nav_msgs.msg import Odometry
from rcl_interfaces.srv import SetParametersAtomically
from rclpy.parameter import Parameter
from rclpy.qos import qos_profile_sensor_data
from sensor_msgs.msg import CompressedImage, Image, PointCloud2
from std_msgs.msg import String
from std_srvs.srv import Trigger

from benchmarks.completion import demo_drive
from benchmarks.running_node import FRAME, RunningNode
from scene_completion_ros.geometry.transforms import OPTICAL_FROM_FORWARD
from scene_completion_ros.inference.bundle import StudentBundle
from scene_completion_ros.ros import messages, topics
from scene_completion_ros.ros.messages import stamp_message

SPEED = 8.0  # metres a second
CAMERA_HEIGHT = 1.65
BACK_NS = 100_000_000  # less than a second: more is a recording that begins anew
JUMP = 500.0  # metres; `fusion_largest_speed` allows 60 a second
ODOMETRY = "odometry"
BLACK = cv2.imencode(".jpg", np.zeros((375, 1242, 3), np.uint8))[1].tobytes()  # of the size of the drive's images
SWAP_BUNDLE = "swap_bundle"
LONGEST_DISCOVERY_S = 60.0


class Drive(RunningNode):
    """A running node that gets the images of the bundled drive, with poses, again and again.

    Args:
        bundle: Folder of the student, which this may write to.

    Attributes:
        playing: Images are published while this listens.
        posing: Poses are published with them.
        poses_late_ns: By how much the stamps of poses are behind those of images.
        jumped: Metres that the robot has jumped forward.
        chance: Chooses values.
        on_turn: Called whenever this listens.
        damage: What is done to the bytes of every image.
    """

    def __init__(self, bundle: Path, rate_hz: float, parameters: dict[str, object], chance: random.Random) -> None:
        camera, pictures = demo_drive()
        given = {
            "bundle": str(bundle),
            "image_qos": "reliable",
            "temporal_fusion": True,
            "transform_source": "topics",
            "odometry_topics": ODOMETRY,
            **parameters,
        }
        self.playing, self.posing, self.poses_late_ns, self.jumped = False, True, 0, 0.0
        self.chance, self._bundle, self._period_s = chance, bundle, 1.0 / rate_hz
        self.on_turn: Callable[[], None] = lambda: None
        self.damage: Callable[[Any], Any] | None = None
        self._next_s, self._start_s, self._number = 0.0, time.monotonic(), 0
        super().__init__(camera, pictures[0], compressed=True, parameters=given, reliable=True)
        self._frames = [messages.compressed_image_message(picture, 0, FRAME) for picture in pictures]
        self._odometry = self.node.create_publisher(Odometry, ODOMETRY, 100)
        own = self._process.full_name
        self._words = self.node.create_publisher(String, topics.VOCABULARY.replace("~", own), 10)
        self._further: list[tuple[Callable[[Any], object], Any]] = []

    def turn(self) -> None:
        """Publish what is due; called whenever this listens."""
        self.on_turn()
        now_s = time.monotonic()
        if self.playing and now_s >= self._next_s:
            self._next_s = max(self._next_s + self._period_s, now_s)
            self.play_one()

    def play_one(self) -> None:
        """Publish the next image, with its pose and now and then the calibration."""
        if self._number % 10 == 0:
            self.send_camera_info()
        self.image = self._frames[self._number % len(self._frames)]
        if self.damage is not None:
            self.image = CompressedImage(header=self.image.header, format=self.image.format, data=self.image.data)
            self.image.data = self.damage(self.image.data)
        self._number += 1
        self.send()

    def send(self) -> None:
        """Publish an image with the time of now, and the pose of that time."""
        if self.posing:
            now_ns = time.monotonic_ns()
            self._odometry.publish(self.pose(now_ns - self.poses_late_ns))
        super().send()
        if self.posing:  # between the two lies the image
            self._odometry.publish(self.pose(time.monotonic_ns() - self.poses_late_ns))

    def pose(self, stamp_ns: int) -> Odometry:
        """Where the camera is."""
        message = Odometry(child_frame_id=FRAME)
        message.header.frame_id, message.header.stamp = "odom", stamp_message(stamp_ns)
        place, turned = message.pose.pose.position, message.pose.pose.orientation
        place.x, place.z = self.jumped + SPEED * (time.monotonic() - self._start_s), CAMERA_HEIGHT
        turned.x, turned.y, turned.z, turned.w = OPTICAL_FROM_FORWARD.inverse().quaternion.tolist()
        return message

    def rest(self) -> None:
        """Stop playing, and wait until the node has accounted for all that it got."""
        self.playing = False
        self.settle()

    # What can go wrong.

    def leave(self) -> None:
        """The camera's publisher goes."""
        self.rest()
        self.node.destroy_publisher(self._images)

    def return_(self) -> None:
        """Another publisher takes its place."""
        self.make_image_publisher()
        self.await_discovery()
        self.playing = True

    def await_discovery(self) -> None:
        """Wait until node and camera have found each other."""
        self.until(
            lambda: self._images.get_subscription_count() > 0 and self.values("input").get("publishers") == "1",
            LONGEST_DISCOVERY_S,
        )

    def jump(self) -> None:
        """The robot is somewhere else at once."""
        self.jumped += JUMP

    def other_camera(self) -> None:
        """A camera in another namespace publishes for a moment."""
        other = self.node.create_publisher(CompressedImage, "other/image/compressed", qos_profile_sensor_data)
        for _ in range(10):
            other.publish(self.image)
            self.spin(0.1)
        self.node.destroy_publisher(other)

    def set_parameters(self, **values: Any) -> bool:
        """Change parameters of the node, all or none; whether it took them."""
        request = SetParametersAtomically.Request(
            parameters=[Parameter(name, value=value).to_parameter_msg() for name, value in values.items()]
        )
        return bool(self.call(SetParametersAtomically, "set_parameters_atomically", request).result.successful)

    def change_parameters(self) -> None:
        """Change some that may change."""
        low = self.chance.uniform(0.1, 1.0)
        self.set_parameters(
            obstacle_min_height=low,
            obstacle_max_height=low + 1.5,
            fusion_half_life=self.chance.uniform(0.5, 4.0),
            clearing_blind_zone=self.chance.uniform(0.0, 4.0),
            image_timeout=self.chance.uniform(2.0, 3.0),
        )

    def say(self, words: str) -> None:
        """Ask for a vocabulary."""
        self._words.publish(String(data=words))

    def turn_back(self) -> None:
        """Publish an image whose stamp is a little before the last one."""
        last_ns = messages.stamp_nanoseconds(self.image.header.stamp)
        self.image.header.stamp = stamp_message(last_ns - BACK_NS)
        self._images.publish(self.image)
        self.sent += 1

    def bad_calibration(self) -> None:
        """Publish a calibration that is none."""
        message = messages.camera_info_message(self._camera, time.monotonic_ns(), FRAME)
        message.k[0] = float("nan")
        self._infos.publish(message)

    def change_bundle(self) -> None:
        """Change the student on the disk, and have the node load it anew."""
        self.rest()
        student = StudentBundle.load(self._bundle)
        other = replace(student, threshold=0.5 if student.threshold != 0.5 else 0.6)
        other.save(self._bundle, student.read_encoder())
        for transition in (Transition.TRANSITION_DEACTIVATE, Transition.TRANSITION_CLEANUP):
            self.change_state(transition)

    def swap(self) -> None:
        """The other student takes the place of the deployed one."""
        self.call(Trigger, SWAP_BUNDLE, Trigger.Request())

    def deployed(self) -> int:
        """A number of its own for each student."""
        return zlib.crc32(self.values("inference").get("student", "").encode())

    def configured(self) -> None:
        """Lead the node back to work."""
        if self.values("lifecycle").get("state") == "unconfigured":
            for transition in (Transition.TRANSITION_CONFIGURE, Transition.TRANSITION_ACTIVATE):
                self.change_state(transition)
        self.await_discovery()
        self.playing = True

    def at_work(self) -> bool:
        """Whether the node is active and has begun its map: a pose that jumps before that is its first one."""
        return self.values("lifecycle").get("state") == "active" and self.number("fusion", "map voxels") > 0

    def change_state(self, transition: int) -> None:
        """Ask for a transition."""
        self.call(ChangeState, "change_state", ChangeState.Request(transition=Transition(id=transition)))

    def watch(self) -> None:
        """A viewer joins."""
        own = self._process.full_name
        for topic, kind in ((topics.OBSTACLES, PointCloud2), (topics.DEPTH, Image), (topics.CLEARING, PointCloud2)):
            reader = self.node.create_subscription(kind, topic.replace("~", own), lambda _: None, 1)
            self._further.append((self.node.destroy_subscription, reader))

    def look_away(self) -> None:
        """It leaves."""
        while self._further:
            destroy, entity = self._further.pop()
            destroy(entity)

    def nobody_reads(self) -> None:
        """The reader of the voxels leaves."""
        self.node.destroy_subscription(self.reader)

    # What the node says of it.

    def says(self, part: str, words: str) -> bool:
        """Whether a part of the diagnostics is not well, for a reason in these words."""
        status = self.statuses.get(part)
        return status is not None and status.level != b"\0" and words in status.message

    def number(self, part: str, name: str) -> int:
        """A number of a part; 0 where it is not told."""
        return int(self.values(part).get(name, "0"))

    def readers(self, topic: str) -> int:
        """How many the node says read one of its topics; -1 where it does not say."""
        name = topic.replace("~", self._process.full_name)
        return int(self.values("outputs").get(f"subscribers of {name}", "-1"))


@dataclass(frozen=True)
class Fault:
    """Something that goes wrong or changes.

    Attributes:
        begin: Brings it about.
        told: Whether the diagnostics name it; called with what `before` gave.
        end: Puts it right.
        over: Whether the diagnostics have forgotten it.
        before: A number that tells whether something has happened.
        expected: What is looked for in the diagnostics, in words.
        students: How many are loaded afterwards; 0 where this does not change.
    """

    begin: Callable[[Drive], object]
    told: Callable[[Drive, int], bool]
    over: Callable[[Drive], bool]
    expected: str
    end: Callable[[Drive], object] = lambda _: None
    before: Callable[[Drive], int] = lambda _: 0
    students: int = 0


def named(
    begin: Callable[[Drive], object], part: str, words: str, end: Callable[[Drive], object] | None = None
) -> Fault:
    """A fault that a part of the diagnostics names while it lasts, and some seconds after."""
    return Fault(
        begin,
        lambda drive, _: drive.says(part, words),
        lambda drive: part in drive.statuses and not drive.says(part, words),
        f"{part}: {words}",
        end or (lambda _: None),
    )


def counted(begin: Callable[[Drive], object], part: str, name: str) -> Fault:
    """A change after which a number of a part of the diagnostics is larger."""
    return Fault(
        begin,
        lambda drive, before: drive.number(part, name) > before,
        lambda _: True,
        f"{part}: {name} grows",
        before=lambda drive: drive.number(part, name),
    )


def _set(**values: Any) -> Callable[[Drive], None]:
    def change(drive: Drive) -> None:
        vars(drive).update(values)

    return change


FAULTS: dict[str, Fault] = {
    "the camera pauses": named(_set(playing=False), "input", "but nothing arrives", _set(playing=True)),
    "the camera leaves and returns": named(Drive.leave, "input", "nobody publishes", Drive.return_),
    "another camera comes and goes": counted(Drive.other_camera, "inference", "images completed"),
    "the pose jumps": counted(Drive.jump, "fusion", "times started anew"),
    "the time of poses goes back": named(
        _set(poses_late_ns=30_000_000_000), "fusion", "without those of earlier ones", _set(poses_late_ns=0)
    ),
    "poses are missing": named(_set(posing=False), "fusion", "without those of earlier ones", _set(posing=True)),
    "parameters change": counted(Drive.change_parameters, "inference", "images completed"),
    "the vocabulary cannot be read": named(lambda drive: drive.say('{"classes": 5}'), "vocabulary", "refused"),
    "the bundle changes": Fault(
        Drive.change_bundle,
        lambda drive, _: drive.values("lifecycle").get("state") == "unconfigured",
        Drive.at_work,
        "lifecycle: unconfigured",
        Drive.configured,
        students=1,
    ),
    "two students change places": Fault(
        Drive.swap,
        lambda drive, before: drive.deployed() != before,
        lambda _: True,
        "inference: another student",
        before=Drive.deployed,
        students=2,
    ),
    "a viewer joins and leaves": Fault(
        Drive.watch,
        lambda drive, _: drive.readers(topics.OBSTACLES) == 1,
        lambda drive: drive.readers(topics.OBSTACLES) == 0,
        f"outputs: subscribers of {topics.OBSTACLES}",
        Drive.look_away,
    ),
    "nobody reads": Fault(
        Drive.nobody_reads,
        lambda drive, before: drive.number("inference", "images that nobody subscribed to") > before,
        lambda drive: drive.readers(topics.VOXELS) == 1,
        "inference: images that nobody subscribed to grow",
        Drive.make_reader,
        lambda drive: drive.number("inference", "images that nobody subscribed to"),
    ),
    "JPEGs are cut off": named(
        _set(damage=lambda data: data[: len(data) // 2]), "input", "bad image", _set(damage=None)
    ),
    "images are no images": named(_set(damage=lambda data: data[1:50]), "input", "bad image", _set(damage=None)),
    "images are black": replace(
        counted(_set(damage=lambda _: BLACK), "inference", "images completed"), end=_set(damage=None)
    ),
    "a stamp goes back": named(Drive.turn_back, "input", "stamp went back"),
    "a calibration is none": named(Drive.bad_calibration, "calibration", "bad CameraInfo"),
}
"""By name."""

VOCABULARY = Fault(
    lambda drive: drive.say("car, tree"),
    lambda drive, _: drive.values("vocabulary").get("classes", "").startswith("car, tree"),
    lambda drive: drive.values("vocabulary").get("classes") == "those of the bundle",
    "vocabulary: its classes",
    lambda drive: drive.say(""),
)
"""Only where the student has a text bank."""
