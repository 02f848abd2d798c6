"""Hours of operation of the running node while much goes wrong: what grows, what is lost, and whether it is named.

``python -m benchmarks.soak --minutes 120 --output DIR`` runs the node in a process of its own and plays the bundled
drive to it in a loop, with poses. Meanwhile cameras come and go, poses jump and are missing, and images are damaged.
Parameters, words and the bundle change, and viewers join and leave. All of `FAULTS` come in a random order,
at least once and as often as the minutes allow. Each has something in /diagnostics that has to appear, and to be gone
afterwards.

It prints a table; DIR gets soak.json with every measurement and every fault. The command ends with status 1 where
memory, threads or open files grew after the warm-up. It does so too where an image that was sent is not accounted for,
or where a fault was not named or not forgotten.
"""

import json
import os
import random
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from nav_msgs.msg import Odometry
from rcl_interfaces.srv import SetParametersAtomically
from rclpy.parameter import Parameter
from scipy.stats import theilslopes
from sensor_msgs.msg import CompressedImage, Image, PointCloud2
from std_msgs.msg import String

from benchmarks.measuring import demo_drive, hardware, option_parser
from benchmarks.running_node import FRAME, RunningNode
from scene_completion_ros.evaluation.metric import table
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
            "sync.timeout": random.uniform(0.1, 0.3),
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
    "the camera leaves and returns": named(Drive.leave, "input", "no publisher", Drive.return_),
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
    "no reader is left": Fault(
        lambda drive: drive.node.destroy_subscription(drive.reader),
        lambda drive: drive.values("inference").get("images without subscribers"),
        "inference: images without subscribers grow",
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


LARGEST_GROWTH = {"own MB": 10.0, "threads": 1.0, "open files": 1.0}
WARM_UP = 0.2, 15.0  # caches and memory pools fill in this part of the time, and in no more minutes than this
EVERY_S = 5.0  # a measurement
PAUSE_S = 1.0, 6.0  # between faults
NAMED_S, FORGOTTEN_S = 60.0, 90.0  # in which the diagnostics have to name a fault, and to forget it


@dataclass(frozen=True)
class Event:
    """A fault, and what the diagnostics had of it."""

    minute: float
    name: str
    expected: str  # what had to appear
    named_s: float | None  # seconds until it did; None where it did not
    forgotten_s: float | None  # seconds until it was gone once all was well again; None where it was not


@dataclass
class Record:
    """All that a soak came to."""

    minutes: float
    # The node's process at many moments: minute, own memory in 10^6 bytes, threads and open files.
    samples: list[dict[str, float]] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    sent: int = 0  # images that were published
    received: int = 0
    completed: int = 0
    # Images that came to nothing, by reason; those without subscribers among them.
    dropped: dict[str, int] = field(default_factory=dict)
    error: str = ""  # what ended it before its time, in words

    @property
    def warm_up(self) -> float:
        """Minutes at the beginning that do not count."""
        return min(WARM_UP[0] * self.minutes, WARM_UP[1])

    def counted(self, what: str) -> list[float]:
        """Values of the samples after the warm-up."""
        return [sample[what] for sample in self.samples if sample["minute"] >= self.warm_up]

    def grown(self, what: str) -> float:
        """By how much something grew from the warm-up to the end: Theil and Sen's slope times that duration."""
        minutes = self.counted("minute")
        return float(theilslopes(self.counted(what), minutes)[0]) * (minutes[-1] - minutes[0])

    def faults(self) -> list[str]:
        """What should not be, in words; empty where all is well."""
        found = [self.error] if self.error else []
        if len(self.counted("minute")) < 3:
            return [*found, "too few measurements"]
        for what, largest in LARGEST_GROWTH.items():
            if (grown := self.grown(what)) >= largest:
                found.append(f"{what} grew by {grown:.1f}, which is not below {largest:.1f}")
        if self.sent != self.received:
            found.append(f"{self.sent - self.received} of {self.sent} images did not reach the node")
        if uncounted := self.received - self.completed - sum(self.dropped.values()):
            found.append(f"{uncounted} of {self.received} images are not accounted for")
        if not self.completed:
            found.append("no image was completed")
        for event in self.events:
            if event.named_s is None:
                found.append(f"minute {event.minute:.1f}, {event.name}: not named: {event.expected}")
            elif event.forgotten_s is None:
                found.append(f"minute {event.minute:.1f}, {event.name}: not forgotten: {event.expected}")
        return found

    def text(self) -> str:
        """The table of faults, what grew, and the verdict, as Markdown."""
        rows = []
        for name in sorted({event.name for event in self.events}):
            of_name = [event for event in self.events if event.name == name]
            longest = (max(getattr(one, what) or 0.0 for one in of_name) for what in ("named_s", "forgotten_s"))
            rows.append((name, str(len(of_name)), of_name[0].expected, *(f"{seconds:.1f}" for seconds in longest)))
        header = ("what happened", "times", "expected", "named after s, at most", "forgotten after s, at most")
        parts = [table(header, rows)]
        if len(own := self.counted("own MB")) >= 3:
            parts.append(
                f"After {self.warm_up:.1f} minutes the node's own memory grew by {self.grown('own MB'):+.1f} MB "
                f"(from {own[0]:.1f} to {own[-1]:.1f}, largest less smallest: {max(own) - min(own):.1f}), threads by "
                f"{self.grown('threads'):+.1f}, open files by {self.grown('open files'):+.1f}."
            )
        dropped = ", ".join(f"{count} {reason}" for reason, count in sorted(self.dropped.items())) or "none"
        parts.append(
            f"{self.sent} images sent, {self.received} received, {self.completed} completed; the others: {dropped}."
        )
        return "\n\n".join([*parts, "\n".join(self.faults()) or "Nothing grew, nothing was lost, all was named."])


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a soak; 1 where something is wrong."""
    parser = option_parser(__doc__, threads=0)
    parser.add_argument("--minutes", type=float, default=120.0, help="how long")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="folder for the results")
    parser.add_argument("--seed", type=int, default=0, help="of the order of the faults")
    parser.add_argument("--rate", type=float, default=5.0, help="images a second")
    given = parser.parse_args(arguments)
    bundle = given.output / "student"
    shutil.rmtree(bundle, ignore_errors=True)
    shutil.copytree(given.bundle, bundle)
    faults = dict(FAULTS)
    if StudentBundle.load(bundle).text_bank() is not None:
        faults["the vocabulary changes"] = VOCABULARY
    print(hardware(given.threads or os.cpu_count() or 1) + "\n", flush=True)
    record, chance = Record(given.minutes), random.Random(given.seed)
    try:
        with Drive(bundle, given.rate, {"threads": given.threads}) as drive:
            Soak(drive, record).run(faults, chance)
    except (Exception, KeyboardInterrupt) as error:  # whatever ended it, what was measured is printed
        record.error = f"it ended early: {type(error).__name__} {error}".strip()
    (given.output / "soak.json").write_text(json.dumps(asdict(record), indent=1) + "\n", encoding="utf-8")
    print(record.text(), flush=True)
    return 1 if record.faults() else 0


class Soak:
    """Plays, breaks things, and measures into a record."""

    def __init__(self, drive: Drive, record: Record) -> None:
        self._drive, self._record = drive, record
        self._start_s = self._next_s = 0.0
        self._exchanging = False

    @property
    def _minute(self) -> float:
        return (time.monotonic() - self._start_s) / 60.0

    def run(self, faults: Mapping[str, Fault], chance: random.Random) -> None:
        """All of it; the record is filled meanwhile."""
        drive = self._drive
        drive.start()
        # What fills once is full before anything counts.
        drive.fill_queues()
        drive.on_turn, drive.playing = self._measure, True
        self._start_s = time.monotonic()
        while self._minute < self._record.minutes or not self._record.events:
            for name in chance.sample(sorted(faults), len(faults)):
                drive.spin(chance.uniform(*PAUSE_S))
                self._record.events.append(self._happen(name, faults[name]))
        drive.rest()
        self._record.sent = drive.sent
        self._record.received, self._record.completed, self._record.dropped = drive.counts()

    def _happen(self, name: str, fault: Fault) -> Event:
        drive, minute = self._drive, self._minute
        drive.until(lambda: fault.signal(drive) is not None, NAMED_S)
        before = fault.signal(drive)
        self._exchanging = fault.exchanges
        began_s = time.monotonic()
        fault.begin(drive)
        named = drive.until(lambda: fault.signal(drive) not in (None, before), NAMED_S)
        named_s = time.monotonic() - began_s
        fault.end(drive)
        began_s = time.monotonic()
        forgotten = drive.until(lambda: fault.over(drive) if fault.over else fault.signal(drive) == before, FORGOTTEN_S)
        forgotten_s = time.monotonic() - began_s
        self._exchanging = False
        return Event(minute, name, fault.expected, named_s if named else None, forgotten_s if forgotten else None)

    def _measure(self) -> None:
        """Every few seconds, while a student is loaded."""
        if time.monotonic() < self._next_s or self._exchanging:
            return
        self._next_s = time.monotonic() + EVERY_S
        facts = self._drive.facts()
        values = {name: facts.get(name, 0.0) for name in LARGEST_GROWTH}
        self._record.samples.append({"minute": self._minute, **values})


if __name__ == "__main__":
    sys.exit(main())
