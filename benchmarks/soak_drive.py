"""The bundled drive in a loop before a running node, and what goes wrong on the way: cameras, poses, words, bundles."""

import random
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from nav_msgs.msg import Odometry
from rcl_interfaces.srv import SetParametersAtomically
from rclpy.parameter import Parameter
from sensor_msgs.msg import CompressedImage, Image, PointCloud2
from std_msgs.msg import String

from benchmarks.measuring import demo_drive
from benchmarks.running_node import FRAME, RunningNode
from scene_completion_ros.geometry.transforms import OPTICAL_FROM_FORWARD
from scene_completion_ros.inference.bundle import StudentBundle
from scene_completion_ros.ros import messages, topics

SPEED = 8.0  # metres a second
CAMERA_HEIGHT = 1.65
BACK_NS = 100_000_000  # less than a second: more is a recording that begins anew
LATE_NS = 30_000_000_000
JUMP = 500.0  # metres; fusion allows 60 a second
ODOMETRY = "odometry"
LONGEST_DISCOVERY_S = 60.0


class Drive(RunningNode):
    """A running node that gets the images of the bundled drive, with poses, again and again.

    `bundle`: folder of the student, which this may write to.

    Attributes:
        posing: Poses are published with them.
        poses_late_ns: By how much the stamps of poses are behind those of images.
        jumped: Metres that the robot has jumped forward.
    """

    def __init__(self, bundle: Path, rate_hz: float, parameters: dict[str, object]) -> None:
        camera, pictures = demo_drive()
        given = {
            "bundle": str(bundle),
            "image.qos": "reliable",
            "fusion.enabled": True,
            "transform.source": "topics",
            "odometry.topics": ODOMETRY,
            **parameters,
        }
        self.posing, self.poses_late_ns, self.jumped = True, 0, 0.0
        self._bundle, self._start_s = bundle, time.monotonic()
        self.damage: Callable[[Any], Any] | None = None  # what is done to the bytes of every image
        super().__init__(camera, pictures[0], compressed=True, parameters=given, reliable=True)
        self.rate_hz = rate_hz
        self._frames = [messages.compressed_image_message(picture, 0, FRAME) for picture in pictures]
        self._odometry = self.node.create_publisher(Odometry, ODOMETRY, 100)
        self._words = self.node.create_publisher(String, self.full_name(topics.VOCABULARY), 10)
        self._viewer: list[Any] = []

    def play_one(self) -> None:
        """Publish the next image, damaged or not."""
        self.image = self._frames[self.sent % len(self._frames)]
        if self.damage is not None:
            self.image = CompressedImage(format=self.image.format, data=self.damage(self.image.data))
            self.image.header.frame_id = FRAME
        super().play_one()

    def send(self) -> None:
        """Publish an image with the time of now, between poses of that time."""
        self.send_pose()
        super().send()
        self.send_pose()

    def send_pose(self) -> None:
        """Publish where the camera is, unless poses are missing."""
        if not self.posing:
            return
        message = Odometry(child_frame_id=FRAME)
        message.header.frame_id = "odom"
        message.header.stamp = messages.stamp_message(time.monotonic_ns() - self.poses_late_ns)
        place, turned = message.pose.pose.position, message.pose.pose.orientation
        place.x, place.z = self.jumped + SPEED * (time.monotonic() - self._start_s), CAMERA_HEIGHT
        turned.x, turned.y, turned.z, turned.w = OPTICAL_FROM_FORWARD.inverse().quaternion.tolist()
        self._odometry.publish(message)

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
        self.play_on()

    def play_on(self) -> None:
        """Go on playing once node and camera have found each other."""
        self.until(
            lambda: self._images.get_subscription_count() > 0 and self.values("input").get("publishers") == "1",
            LONGEST_DISCOVERY_S,
        )
        self.playing = True

    def jump(self) -> None:
        """The robot is somewhere else at once."""
        self.jumped += JUMP

    def change_parameters(self) -> None:
        """Change some that may change."""
        values = {
            "obstacle.max_height": random.uniform(1.0, 3.0),
            "fusion.forget_after": random.uniform(3.0, 6.0),
            "image.timeout": random.uniform(2.0, 3.0),
        }
        parameters = [Parameter(name, value=value).to_parameter_msg() for name, value in values.items()]
        request = SetParametersAtomically.Request(parameters=parameters)
        self.call(SetParametersAtomically, "set_parameters_atomically", request)

    def ask_for(self, words: str) -> None:
        """Ask for a vocabulary."""
        self._words.publish(String(data=words))

    def turn_back(self) -> None:
        """Publish an image whose stamp is a little before the last one."""
        last_ns = messages.stamp_nanoseconds(self.image.header.stamp)
        self.image.header.stamp = messages.stamp_message(last_ns - BACK_NS)
        self._images.publish(self.image)
        self.sent += 1

    def bad_calibration(self) -> None:
        """Publish a calibration that is none."""
        message = messages.camera_info_message(self._camera, time.monotonic_ns(), FRAME)
        message.k[0] = float("nan")
        self._infos.publish(message)

    def change_bundle(self) -> None:
        """Change the student on the disk, and have the node let go of the one that it has."""
        self.rest()
        student = StudentBundle.load(self._bundle)
        other = replace(student, threshold=0.5 if student.threshold != 0.5 else 0.6)
        other.save(self._bundle, student.read_encoder())
        self.change_state(Transition.TRANSITION_DEACTIVATE, Transition.TRANSITION_CLEANUP)

    def configure(self) -> None:
        """Lead the node back to work."""
        self.change_state(Transition.TRANSITION_CONFIGURE, Transition.TRANSITION_ACTIVATE)
        self.play_on()

    def change_state(self, *transitions: int) -> None:
        """Ask for transitions, one after the other."""
        for transition in transitions:
            self.call(ChangeState, "change_state", ChangeState.Request(transition=Transition(id=transition)))

    def watch(self) -> None:
        """A viewer joins."""
        for topic, kind in ((topics.OBSTACLES, PointCloud2), (topics.DEPTH, Image), (topics.CLEARING, PointCloud2)):
            self._viewer.append(self.subscribe(kind, topic, lambda _: None))

    def look_away(self) -> None:
        """It leaves."""
        while self._viewer:
            self.node.destroy_subscription(self._viewer.pop())

    # What diagnostics have of it.

    def warns(self, part: str, words: str) -> bool:
        """Whether a part is not well, for a reason in these words."""
        status = self.statuses.get(part)
        return status is not None and status.level != b"\0" and words in status.message

    def at_work(self) -> bool:
        """Whether the node is active and has begun its map: a pose that jumps before that is its first one."""
        begun = self.values("fusion").get("map voxels", "0") != "0"
        return self.values("lifecycle").get("state") == "active" and begun

    def readers(self, topic: str) -> str | None:
        """How many read one of the node's topics."""
        return self.values("outputs").get(f"subscribers of {self.full_name(topic)}")


def _nothing(drive: Drive) -> None:
    """All is well without."""


@dataclass(frozen=True)
class Fault:
    """Something that goes wrong or changes."""

    begin: Callable[[Drive], object]  # brings it about
    # What the diagnostics have of it, which has to change; None where they have nothing now.
    signal: Callable[[Drive], object]
    expected: str  # how it has to change, in words
    end: Callable[[Drive], object] = _nothing  # puts it right
    # Whether the diagnostics have forgotten it; None where the signal has to be what it was before.
    over: Callable[[Drive], bool] | None = None
    exchanges: bool = False  # another student is loaded


def named(begin: Callable[[Drive], object], part: str, words: str, end: Callable[[Drive], object] = _nothing) -> Fault:
    """A fault that a part of the diagnostics names while it lasts, and some seconds after."""
    return Fault(begin, lambda drive: drive.warns(part, words), f"{part}: {words}", end)


def counted(begin: Callable[[Drive], object], part: str, name: str, end: Callable[[Drive], object] = _nothing) -> Fault:
    """A change after which a number of a part of the diagnostics is another, and stays so."""

    def number(drive: Drive) -> str | None:
        values = drive.values(part)
        return values.get(name, "0") if values else None

    return Fault(begin, number, f"{part}: {name} grows", end, lambda _: True)


def _set(**values: Any) -> Callable[[Drive], None]:
    def change(drive: Drive) -> None:
        vars(drive).update(values)

    return change


_UNFUSED = "without those of earlier ones"
FAULTS: dict[str, Fault] = {
    "the camera pauses": named(_set(playing=False), "input", "but nothing arrives", _set(playing=True)),
    "the camera leaves and returns": named(Drive.leave, "input", "nobody publishes", Drive.return_),
    "the pose jumps": counted(Drive.jump, "fusion", "times started anew"),
    "the time of poses goes back": named(_set(poses_late_ns=LATE_NS), "fusion", _UNFUSED, _set(poses_late_ns=0)),
    "poses are missing": named(_set(posing=False), "fusion", _UNFUSED, _set(posing=True)),
    "parameters change": counted(Drive.change_parameters, "inference", "images completed"),
    "the vocabulary cannot be read": named(lambda drive: drive.ask_for('{"classes": 5}'), "vocabulary", "refused"),
    "the bundle changes": Fault(
        Drive.change_bundle,
        lambda drive: drive.values("lifecycle").get("state"),
        "lifecycle: unconfigured",
        Drive.configure,
        Drive.at_work,
        exchanges=True,
    ),
    "a viewer joins and leaves": Fault(
        Drive.watch,
        lambda drive: drive.readers(topics.OBSTACLES),
        f"outputs: subscribers of {topics.OBSTACLES}",
        Drive.look_away,
    ),
    "nobody reads": Fault(
        lambda drive: drive.node.destroy_subscription(drive.reader),
        lambda drive: drive.values("inference").get("images that nobody subscribed to"),
        "inference: images that nobody subscribed to grow",
        Drive.make_reader,
        lambda drive: drive.readers(topics.VOXELS) == "1",
    ),
    "JPEGs are cut off": named(
        _set(damage=lambda data: data[: len(data) // 2]), "input", "bad image", _set(damage=None)
    ),
    "images are no images": named(_set(damage=lambda data: data[1:50]), "input", "bad image", _set(damage=None)),
    "a stamp goes back": named(Drive.turn_back, "input", "stamp went back"),
    "a calibration is none": named(Drive.bad_calibration, "calibration", "bad CameraInfo"),
}  # by name

VOCABULARY = Fault(
    lambda drive: drive.ask_for("car, tree"),
    lambda drive: drive.values("vocabulary").get("classes", "those of the bundle"),
    "vocabulary: its classes",
    lambda drive: drive.ask_for(""),
)  # only where the student has a text bank
