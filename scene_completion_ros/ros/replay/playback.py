"""How a recording is played; knows nothing of rclpy."""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from scene_completion_ros.errors import SceneCompletionError
from scene_completion_ros.ros.parameters.schema import names_in

ANSWER_TIMEOUT_S = 60.0
# In lock step further topics run this far ahead of the images: what an image needs must be there before it.
LEAD_NS = 500_000_000


@dataclass(frozen=True)
class Playback:
    """How a recording is played. Raises SceneCompletionError where a number makes no sense: names the option."""

    # None plays in lock step. The next image is sent when the node has published the result of the last one or said
    # that it dropped it. A number plays in real time, that many times as fast as recorded.
    rate: float | None = None
    # How long to wait for the result of an image; after that, lock step is given up.
    timeout_s: float = ANSWER_TIMEOUT_S
    also: Sequence[str] = ()  # further recorded topics to publish

    def __post_init__(self) -> None:
        for value, where, cure in (
            (self.rate, "rate", "1 is the speed of the recording; without a rate it is played in lock step"),
            (self.timeout_s, "timeout", "Give seconds"),
        ):
            if value is not None and not (math.isfinite(value) and value > 0.0):
                raise SceneCompletionError(f"{value} is not positive", where=where, cure=cure)


def check_topics(playback: Playback, recorded: Collection[str], image_topic: str) -> None:
    """Refuse further topics that are not in the recording, or that are played anyway.

    Raises SceneCompletionError: such a topic: names it and lists what is recorded.
    """
    for topic in playback.also:
        if topic not in recorded or topic == image_topic:
            known = ", ".join(sorted(set(recorded) - {image_topic}))
            raise SceneCompletionError(f"no further topic {topic} is recorded", where="also", cure=f"Known: {known}")


def check_fusion_topics(playback: Playback, parameters: Mapping[str, object]) -> None:
    """Refuse to play to a node that is to join successive images, but would not hear where they were taken.

    Raises SceneCompletionError: it listens to topics for that, none of which is played: names them.
    """
    names = ",".join(str(parameters.get(name, "")) for name in ("transform.topics", "odometry.topics"))
    source = parameters.get("transform.source", "auto")
    if source == "auto":  # as `source_kind` of the node has it
        placed = parameters.get("extrinsics_file") or parameters.get("camera.height")
        source = "topics" if names_in(names) else "parameters" if placed else "tf2"
    heard = {"topics": names, "tf2": "/tf"}.get(str(source), "")
    wanted, played = names_in(heard), set(playback.also)
    if parameters.get("fusion.enabled") and wanted and played.isdisjoint(wanted):
        what = f"fusion.enabled needs {', '.join(wanted)}, which the replay does not play"
        cure = "Play the recorded topic too, with --also, under the full name that the parameter has"
        raise SceneCompletionError(what, where="parameter fusion.enabled", cure=cure)
