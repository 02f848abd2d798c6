"""How a recording is played, and under which names its topics go out; knows nothing of rclpy."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from scene_completion_ros.errors import SceneCompletionError
from scene_completion_ros.ros.parameters.schema import names_in
from scene_completion_ros.ros.topics import CAMERA_INFO, IMAGE

CLOCK = "/clock"
ANSWER_TIMEOUT_S = 60.0
LEAD_NS = 500_000_000
"""In lock step further topics run this far ahead of the images: what an image needs must be there before it."""
SHORTEST_LOOP_NS = 1_000_000_000  # the node takes a smaller step back for late images, see `StampOrder`

_COMPRESSED = "/compressed"
_NAME = re.compile(r"/?[A-Za-z_][A-Za-z0-9_]*(/[A-Za-z_][A-Za-z0-9_]*)*")


@dataclass(frozen=True)
class Playback:
    """How a recording is played.

    Attributes:
        rate: None plays in lock step. The next image is sent when the node has published the result of the last one or
            said that it dropped it. A number plays in real time, that many times as fast as recorded.
        loops: How often the recording is played; 0 plays it until interrupted.
        clock_hz: Ticks of /clock a second (of recorded time in lock step, else of this machine's time); None: no clock.
        timeout_s: How long to wait for the result of an image; after that, lock step is given up.
        node: Full name of a running node to play to; None starts one in a process of its own.
        also: Further recorded topics to publish.
        remappings: Recorded topic -> the name that it goes out under.

    Raises:
        SceneCompletionError: A number makes no sense: names the option.
    """

    rate: float | None = None
    loops: int = 1
    clock_hz: float | None = None
    timeout_s: float = ANSWER_TIMEOUT_S
    node: str | None = None
    also: Sequence[str] = ()
    remappings: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for value, where, cure in (
            (self.rate, "rate", "1 is the speed of the recording; without a rate it is played in lock step"),
            (self.clock_hz, "clock", "Give ticks a second, such as 100"),
            (self.timeout_s, "timeout", "Give seconds"),
        ):
            if value is not None and not (math.isfinite(value) and value > 0.0):
                raise SceneCompletionError(f"{value} is not positive", where=where, cure=cure)
        if self.loops < 0:
            raise SceneCompletionError(f"{self.loops} is negative", where="loop", cure="0 plays until interrupted")
        if self.node is not None and not (self.node.startswith("/") and _NAME.fullmatch(self.node)):
            raise SceneCompletionError(
                f"{self.node!r} is not the full name of a node",
                where="node",
                cure="Give namespace and name, such as /scene_completion",
            )


@dataclass(frozen=True)
class InputTopics:
    """Names that the node's inputs go out under.

    Attributes:
        image: Without the transport.
        camera_info: Its CameraInfo.
    """

    image: str
    camera_info: str

    @property
    def compressed(self) -> str:
        """Where compressed images go, as image_transport has it."""
        return self.image + _COMPRESSED


def parse_remappings(rules: Sequence[str]) -> dict[str, str]:
    """Recorded topic -> new name, from rules "FROM:=TO".

    Raises:
        SceneCompletionError: A rule has another form.
    """
    found = {}
    for rule in rules:
        source, separator, target = rule.partition(":=")
        if not (separator and _NAME.fullmatch(source) and _NAME.fullmatch(target)):
            raise SceneCompletionError(
                f"{rule!r} is not of the form FROM:=TO", where="remap", cure="Write /camera/image_raw:=/front/image"
            )
        found["/" + source.lstrip("/")] = "/" + target.lstrip("/")
    return found


def base_name(image_topic: str) -> str:
    """An image topic without the transport that image_transport appends to it."""
    return image_topic.removesuffix(_COMPRESSED)


def input_topics(image_topic: str, camera_info_topic: str | None, playback: Playback) -> InputTopics:
    """Names that image and CameraInfo go out under.

    To a node of the replay's own they go as `image` and `camera_info` in its namespace, so that nothing else hears
    them. To a running node they go under their recorded names. A remapping comes before both.

    Args:
        camera_info_topic: Recorded topic; None where there is none and the calibration comes from elsewhere.
        playback: Node and remappings.
    """
    base = base_name(image_topic)
    recorded_info = camera_info_topic or f"{base.rpartition('/')[0]}/{CAMERA_INFO}"
    own = playback.node is None
    rules = playback.remappings
    image = rules.get(image_topic) or rules.get(base) or (IMAGE if own else base)
    return InputTopics(base_name(image), rules.get(recorded_info) or (CAMERA_INFO if own else recorded_info))


def check_remappings(playback: Playback, image_topic: str, camera_info_topic: str | None) -> None:
    """Refuse remappings of what is not played.

    Raises:
        SceneCompletionError: Such a topic: names it and lists what is played.
    """
    played = {image_topic, base_name(image_topic), *playback.also}
    played |= {camera_info_topic} if camera_info_topic else set()
    played |= {CLOCK} if playback.clock_hz else set()
    for topic in playback.remappings:
        if topic not in played:
            raise SceneCompletionError(
                f"{topic} is not played", where="remap", cure=f"Name one of {', '.join(sorted(played))}"
            )


def check_topics(playback: Playback, recorded: Collection[str], image_topic: str) -> None:
    """Refuse further topics that are not in the recording, or that are played anyway.

    Raises:
        SceneCompletionError: Such a topic: names it and lists what is recorded.
    """
    for topic in playback.also:
        if topic not in recorded or topic == image_topic:
            known = ", ".join(sorted(set(recorded) - {image_topic}))
            raise SceneCompletionError(f"no further topic {topic} is recorded", where="also", cure=f"Known: {known}")


def check_fusion_topics(playback: Playback, parameters: Mapping[str, object]) -> None:
    """Refuse to play to a node that is to join successive images, but would not hear where they were taken.

    Raises:
        SceneCompletionError: It listens to topics for that, none of which is played: names them.
    """
    names = ",".join(str(parameters.get(name, "")) for name in ("transform.topics", "odometry.topics"))
    source = parameters.get("transform.source", "auto")
    if source == "auto":  # as `source_kind` of the node has it
        placed = parameters.get("extrinsics_file") or parameters.get("camera.height")
        source = "topics" if names_in(names) else "parameters" if placed else "tf2"
    heard = {"topics": names, "tf2": "/tf"}.get(str(source), "")
    wanted, played = names_in(heard), {playback.remappings.get(topic, topic) for topic in playback.also}
    if parameters.get("fusion.enabled") and wanted and played.isdisjoint(wanted):
        raise SceneCompletionError(
            f"fusion.enabled needs {', '.join(wanted)}, which the replay does not play",
            where="parameter fusion.enabled",
            cure="Play the recorded topic too, with --also, under the full name that the parameter has",
        )


def check_loops(playback: Playback, duration_ns: int) -> None:
    """Refuse to repeat a recording so short that the node takes its second start for late images.

    Raises:
        SceneCompletionError: It is that short.
    """
    if playback.loops != 1 and duration_ns <= SHORTEST_LOOP_NS:
        raise SceneCompletionError(
            f"the recording lasts {duration_ns / 1e9:.2f} s",
            where="loop",
            cure="The node takes only a step back of more than 1 s for a restarted recording: loop a longer one",
        )
