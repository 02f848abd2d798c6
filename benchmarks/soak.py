"""Hours of operation of the running node while much goes wrong: what grows, what is lost, and whether it is named.

``python -m benchmarks.soak --minutes 120 --output DIR`` runs the node in a process of its own and plays the bundled
drive to it in a loop, with poses. Meanwhile all of `FAULTS` come in a random order, at least once and as often as the
minutes allow. Each has something in /diagnostics that has to appear, and to be gone afterwards.

It prints a table; DIR gets the numbers as soak.json. The command ends with status 1 where memory, threads or open files
grew after the warm-up, an image that was sent is not accounted for, or a fault was not named or not forgotten.
"""

import json
import math
import os
import random
import shutil
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from nav_msgs.msg import Odometry
from scipy.stats import theilslopes
from sensor_msgs.msg import CompressedImage
from std_msgs.msg import Header

from benchmarks.measuring import hardware, option_parser
from benchmarks.running_node import FRAME, PATIENCE_S, RunningNode
from scene_completion_ros.bags.reader import demo_drive
from scene_completion_ros.evaluation.metric import table
from scene_completion_ros.geometry.transforms import OPTICAL_FROM_FORWARD
from scene_completion_ros.inference.bundle import StudentBundle
from scene_completion_ros.ros import messages
from scene_completion_ros.ros.health.judgement import memory_status

JUMP = 500.0  # metres; fusion allows 60 a second
LARGEST_GROWTH = {"own MB": 10.0, "threads": 1.0, "open files": 1.0}
EVERY_S = 5.0  # a measurement
NAMED_S, FORGOTTEN_S = 60.0, 90.0  # in which the diagnostics have to name a fault, and to forget it


class Drive(RunningNode):
    """A running node that gets the images of the bundled drive, with poses, again and again.

    Attributes:
        posing: Poses are published with the images.
        cut: Images are cut off.
        samples: Seconds of `time.monotonic`, and the values of `LARGEST_GROWTH` then.
    """

    def __init__(self, bundle: Path, rate_hz: float, threads: int) -> None:
        given = {"bundle": str(bundle), "threads": threads, "image.qos": "reliable", "fusion.enabled": True}
        given |= {"transform.source": "topics", "odometry.topics": "odometry"}
        self.posing, self.cut, self._jumped, self._bundle = True, False, 0.0, bundle
        self.samples: list[tuple[float, ...]] = []
        self._start_s = time.monotonic()
        super().__init__(*demo_drive(), compressed=True, parameters=given, reliable=True)
        self.rate_hz = rate_hz
        self._odometry = self.node.create_publisher(Odometry, "odometry", 100)

    def send(self) -> None:
        """Publish an image between poses of its time, and measure now and then."""
        self._send_pose()
        if self.cut:
            data = self.image.data[: len(self.image.data) // 2]
            header = Header(frame_id=FRAME, stamp=messages.stamp_message(time.monotonic_ns()))
            self.publish(CompressedImage(header=header, format=self.image.format, data=data))
        else:
            super().send()
        self._send_pose()
        now_s = time.monotonic()
        active = self.values("lifecycle").get("state") == "active"
        if active and (not self.samples or now_s > self.samples[-1][0] + EVERY_S):
            facts = memory_status(Path(f"/proc/{self.process.pid}")).values
            self.samples.append((now_s, *(float(facts[name]) for name in LARGEST_GROWTH)))

    def _send_pose(self) -> None:
        if self.posing:
            message = Odometry(child_frame_id=FRAME)
            message.header = Header(frame_id="odom", stamp=messages.stamp_message(time.monotonic_ns()))
            place, turned = message.pose.pose.position, message.pose.pose.orientation
            place.x, place.z = self._jumped + 8.0 * (time.monotonic() - self._start_s), 1.65
            turned.x, turned.y, turned.z, turned.w = OPTICAL_FROM_FORWARD.inverse().quaternion.tolist()
            self._odometry.publish(message)

    def leave(self) -> None:
        """The camera's publisher goes."""
        self.playing = False
        self.settle()
        self.node.destroy_publisher(self.images)

    def come_back(self) -> None:
        """Another publisher takes its place."""
        self.make_image_publisher()
        self.play_on()

    def play_on(self) -> None:
        """Go on playing once node and camera have found each other."""
        self.until(lambda: self.images.get_subscription_count() > 0, NAMED_S)
        self.until(lambda: self.values("input").get("publishers") == "1", NAMED_S)
        self.playing = True

    def jump(self) -> None:
        """The robot is somewhere else at once; a pose before the map has begun would be its first."""
        self.until(lambda: self.values("fusion").get("map voxels", "0") != "0", NAMED_S)
        self._jumped += JUMP

    def stop_reading(self) -> None:
        """The reader of voxels leaves."""
        self.node.destroy_subscription(self.reader)

    def change_bundle(self) -> None:
        """Change the student on the disk, and have the node release the one that it has."""
        self.playing = False
        self.settle()
        student = StudentBundle.load(self._bundle)
        other = replace(student, threshold=0.5 if student.threshold != 0.5 else 0.6)
        other.save(self._bundle, student.read_encoder())
        self._lead(Transition.TRANSITION_DEACTIVATE, Transition.TRANSITION_CLEANUP)

    def configure(self) -> None:
        """Lead the node back to work."""
        self._lead(Transition.TRANSITION_CONFIGURE, Transition.TRANSITION_ACTIVATE)
        self.play_on()

    def _lead(self, *transitions: int) -> None:
        client = self.node.create_client(ChangeState, f"{self.process.full_name}/change_state")
        self.until(client.service_is_ready, PATIENCE_S)
        for transition in transitions:
            answer = client.call_async(ChangeState.Request(transition=Transition(id=transition)))
            self.until(answer.done, PATIENCE_S)
        self.node.destroy_client(client)


class Fault(NamedTuple):
    """Something that goes wrong or changes."""

    begin: Callable[[Drive], object]  # brings it about
    # The part of the diagnostics that shows it, and words of its warning, or the name of one of its values.
    part: str
    shown: str
    end: Callable[[Drive], object] = lambda _: None  # puts it right
    value: bool = False  # `shown` names a value, which has to change
    returns: bool = True  # what is shown has to become again what it was

    def signal(self, drive: Drive) -> object:
        """What has to change; None where the diagnostics have nothing of that part yet."""
        status = drive.statuses.get(self.part)
        if status is None or self.value:
            return status and drive.values(self.part).get(self.shown, "0")
        return status.level != b"\0" and self.shown in status.message


def setting(**values: Any) -> Callable[[Drive], None]:
    """What sets attributes of the drive."""
    return lambda drive: vars(drive).update(values)


FAULTS: dict[str, Fault] = {
    "the camera pauses": Fault(setting(playing=False), "input", "but nothing arrives", setting(playing=True)),
    "the camera leaves and returns": Fault(Drive.leave, "input", "no publisher", Drive.come_back),
    "the pose jumps": Fault(Drive.jump, "fusion", "times started anew", value=True, returns=False),
    "poses are missing": Fault(setting(posing=False), "fusion", "without those of earlier ones", setting(posing=True)),
    "the bundle changes": Fault(Drive.change_bundle, "lifecycle", "state", Drive.configure, value=True),
    "no reader is left": Fault(
        Drive.stop_reading, "inference", "images without subscribers", Drive.make_reader, value=True, returns=False
    ),
    "JPEGs are cut off": Fault(setting(cut=True), "input", "bad image", setting(cut=False)),
}  # by name


def happen(drive: Drive, fault: Fault) -> tuple[float, float]:
    """Seconds until the diagnostics showed a fault, and until they forgot it once all was well; infinite for never."""
    drive.until(lambda: fault.signal(drive) is not None, NAMED_S)
    before, began_s = fault.signal(drive), time.monotonic()
    fault.begin(drive)
    named = drive.until(lambda: fault.signal(drive) not in (None, before), NAMED_S)
    named_s = time.monotonic() - began_s if named else math.inf
    fault.end(drive)
    began_s = time.monotonic()
    forgotten = drive.until(lambda: not fault.returns or fault.signal(drive) == before, FORGOTTEN_S)
    return named_s, time.monotonic() - began_s if forgotten else math.inf


def growth(samples: Sequence[tuple[float, ...]]) -> dict[str, float]:
    """By how much each of `LARGEST_GROWTH` grew after the first fifth: Theil and Sen's slope times the duration."""
    kept = np.array(samples[len(samples) // 5 :])
    if len(kept) < 3:
        return {}
    grown = [theilslopes(column, kept[:, 0])[0] * np.ptp(kept[:, 0]) for column in kept.T[1:]]
    return dict(zip(LARGEST_GROWTH, map(float, grown), strict=True))


def main() -> int:
    """Runs a soak; 1 where something is wrong."""
    parser = option_parser(__doc__, threads=0)
    parser.add_argument("--minutes", type=float, default=120.0, help="how long")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="folder for the results")
    parser.add_argument("--seed", type=int, default=0, help="of the order of the faults")
    parser.add_argument("--rate", type=float, default=5.0, help="images a second")
    given = parser.parse_args()
    shutil.rmtree(given.output / "student", ignore_errors=True)
    shutil.copytree(given.bundle, given.output / "student")
    print(hardware(given.threads or os.cpu_count() or 1) + "\n", flush=True)
    events: dict[str, list[tuple[float, float]]] = {name: [] for name in FAULTS}
    problems, chance, counts = [], random.Random(given.seed), Counter[str]()
    with closing(Drive(given.output / "student", given.rate, given.threads)) as drive:
        try:
            drive.start()
            drive.playing, until_s = True, time.monotonic() + 60.0 * given.minutes
            while not all(events.values()) or time.monotonic() < until_s:
                for name in chance.sample(sorted(FAULTS), len(FAULTS)):
                    drive.until(lambda: False, chance.uniform(1.0, 6.0))
                    events[name].append(happen(drive, FAULTS[name]))
            drive.playing = False
            drive.settle()
            counts = drive.counts()
        except (Exception, KeyboardInterrupt) as error:  # what was measured until then is printed
            problems.append(f"it ended early: {type(error).__name__} {error}".strip())
    longest = {name: [max(seconds) for seconds in zip(*of_name, strict=True)] for name, of_name in events.items()}
    rows = [
        (name, str(len(events[name])), *(f"{one:.1f}" for one in longest[name])) for name in FAULTS if longest[name]
    ]
    print(table(("what happened", "times", "named after s, at most", "forgotten after s, at most"), rows))
    problems += [f"{row[0]}: not named or not forgotten" for row in rows if "inf" in row]
    if not 0 < drive.sent == counts["received"] == counts.total() - counts["received"]:
        problems.append("images were lost on the way or not accounted for")
    grown = growth(drive.samples)
    record = {"sent": drive.sent, **counts, "grown": grown, "faults": rows, "problems": problems}
    text = json.dumps(record, indent=1)
    (given.output / "soak.json").write_text(text + "\n", encoding="utf-8")
    print(f"\n{text}", flush=True)
    return int(bool(problems) or any(one >= LARGEST_GROWTH[name] for name, one in grown.items()))


if __name__ == "__main__":
    sys.exit(main())
