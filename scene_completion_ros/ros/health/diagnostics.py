"""`/diagnostics`: what the node records of itself, judged and published about once a second, in every state."""

import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.clock import Clock, ClockType
from rclpy.qos import ReliabilityPolicy
from rclpy.utilities import get_rmw_implementation_identifier

from scene_completion_ros.errors import in_words
from scene_completion_ros.messages.drop_reasons import DropReason
from scene_completion_ros.removed import REMOVED, removed
from scene_completion_ros.ros.health.inference_health import NAME as FUSION
from scene_completion_ros.ros.health.inference_health import (
    FusionReport,
    InferenceRecord,
    WordsReport,
    depth_status,
    fusion_status,
    inference_status,
    words_status,
)
from scene_completion_ros.ros.health.input_health import (
    CameraFacts,
    InputRecord,
    Publishers,
    calibration_status,
    input_status,
)
from scene_completion_ros.ros.health.judgement import (
    Counts,
    Drops,
    Level,
    Status,
    idle_status,
    lifecycle_status,
    memory_status,
    of_camera,
    outputs_status,
    removed_status,
)
from scene_completion_ros.ros.parameters import NodeParameters
from scene_completion_ros.ros.student import ModelReport
from scene_completion_ros.ros.topics import DIAGNOSTICS

PERIOD_S = 1.0
DROPS_WINDOW_S = 10.0
LOGGED = ("input", "calibration")  # faults of which nothing else writes a line


@dataclass(frozen=True)
class Observed:
    """What is judged: the node of one moment."""

    state: str  # label of its state, such as "active"
    problem: str  # why the last transition failed; empty where it did not
    enabled: bool  # images are completed, as far as `~/set_enabled` is concerned
    parameters: NodeParameters  # the values of that moment
    counts: Counts  # what became of the images
    # What arrived, by the name of the camera; nothing unless active.
    inputs: Mapping[str, InputRecord] = field(default_factory=dict)
    inference: InferenceRecord | None = None  # what the inference thread did; None while unconfigured
    subscribers: Mapping[str, int] = field(default_factory=dict)  # number of subscribers of each result, by topic


class Diagnostics:
    """Publishes diagnostics from a timer on a steady clock, so that they go on while simulated time stands still.

    Lives as long as its node. Names are "<node>: <part>", as diagnostic_aggregator's analyzers match them; a node in a
    namespace has it before its name, without the leading slash. `observe`: gives the node of now; `warn`: called with a
    key and a text where something went wrong here.
    """

    def __init__(self, node: Any, observe: Callable[[], Observed], warn: Callable[[str, str], None]) -> None:
        self._node, self._observe, self._warn = node, observe, warn
        self._prefix = node.get_fully_qualified_name().lstrip("/")
        self._middleware = get_rmw_implementation_identifier()
        self._faults: dict[str, str] = {}
        self._drops: deque[tuple[float, Counter[DropReason]]] = deque()
        self._publisher = node.create_publisher(DiagnosticArray, DIAGNOSTICS, 1)
        self._timer = node.create_timer(PERIOD_S, self._on_timer, clock=Clock(clock_type=ClockType.STEADY_TIME))

    def _on_timer(self) -> None:
        try:
            self.publish()
        except Exception as error:  # what only looks at the node must not end it
            self._warn("diagnostics", f"the node could not publish diagnostics: {in_words(error)}")

    def publish(self) -> None:
        """Publish the statuses of now, and log faults that have just begun or ended."""
        stamp = self._node.get_clock().now().to_msg()  # all that was counted until then is counted
        observed = self._observe()
        statuses = self.statuses(observed)
        self._log_changes(statuses)
        frames = [record.shape.frame_id for record in observed.inputs.values() if record.shape is not None]
        hardware_id = ", ".join(filter(None, frames)) or "camera"
        array = DiagnosticArray(
            status=[
                DiagnosticStatus(
                    level=bytes([status.level]),
                    name=f"{self._prefix}: {status.name}",
                    message=status.message,
                    hardware_id=hardware_id,
                    values=[KeyValue(key=key, value=value) for key, value in status.values.items()],
                )
                for status in statuses
            ]
        )
        array.header.stamp = stamp
        self._publisher.publish(array)

    def statuses(self, observed: Observed) -> list[Status]:
        """One status a part."""
        now_s, counts, record = time.perf_counter(), observed.counts, observed.inference
        drops = self._recent(counts, now_s)
        found = [lifecycle_status(observed.state, observed.problem, enabled=observed.enabled)]
        found += self._of_input(observed, drops, now_s)
        if record is None:
            found += [idle_status(name, observed.state) for name in ("inference", "outputs")]
        else:
            found.append(inference_status(record, drops, processed=counts.processed, unwanted=counts.unwanted))
            found.append(outputs_status(observed.subscribers, counts.warned, record.result_age_s(now_s)))
        found += _of_fusion(observed, now_s)
        if record is not None and observed.parameters.depth_from == "topic":
            found.append(depth_status(record.depth.report, now_s, DROPS_WINDOW_S))
        if record is not None and record.words.report != WordsReport():  # somebody wanted something
            found.append(words_status(record.words.report, now_s, DROPS_WINDOW_S))
        if awaited := self._removed_but_awaited():
            found.append(removed_status(awaited))
        return [*found, memory_status()]

    def _removed_but_awaited(self) -> list[str]:
        """Sentences about topics and services of earlier versions, on which other nodes wait."""
        topics = [name for name in REMOVED["topic"] if self._node.count_subscribers(name)]
        count = getattr(self._node, "count_clients", None)  # Humble cannot
        services = [name for name in REMOVED["service"] if count and count(name)]
        found = [removed("topic", name) for name in topics] + [removed("service", name) for name in services]
        return [sentence for sentence in found if sentence]

    def _of_input(self, observed: Observed, drops: Drops, now_s: float) -> list[Status]:
        inference = observed.inference
        if not observed.inputs or inference is None:
            return [idle_status(name, observed.state) for name in ("input", "calibration")]
        found = []
        for name, record in observed.inputs.items():
            image, info = self._publishers(record.image_topic), self._publishers(record.camera_info_topic)
            camera = CameraFacts(record, image, info, now_s, observed.parameters.image_timeout, self._middleware)
            status = input_status(camera, observed.counts.received, drops, of_camera("input", name))
            if name:
                missing = str(observed.counts.missing.get(name, 0))
                status = replace(status, values={**status.values, "sets completed without it": missing})
            found.append(status)
            warnings = inference.student.models.get(name, ModelReport()).warnings
            found.append(calibration_status(camera, drops, warnings, of_camera("calibration", name)))
        return found

    def _publishers(self, topic: str) -> Publishers:
        found = self._node.get_publishers_info_by_topic(topic)
        best_effort = [info.qos_profile.reliability == ReliabilityPolicy.BEST_EFFORT for info in found]
        return Publishers(tuple(info.topic_type for info in found), sum(best_effort))

    def _recent(self, counts: Counts, now_s: float) -> Drops:
        """Drops in all and of the last seconds; to be called once a period."""
        total = Counter(counts.dropped)
        self._drops.append((now_s, total))
        while len(self._drops) > 1 and now_s - self._drops[0][0] > DROPS_WINDOW_S:
            self._drops.popleft()
        return Drops(total, total - self._drops[0][1], DROPS_WINDOW_S)

    def _log_changes(self, statuses: list[Status]) -> None:
        for status in statuses:
            if not status.name.startswith(LOGGED):
                continue
            before = self._faults.pop(status.name, None)
            if status.level == Level.ERROR:
                fault = self._faults[status.name] = status.cause or status.message
                if fault != before:
                    self._node.get_logger().error(f"{status.name}: {status.message}")
            elif before is not None:
                self._node.get_logger().info(f"{status.name}: in order again: {status.message}")


def _of_fusion(observed: Observed, now_s: float) -> list[Status]:
    """Nothing where nobody ever wanted it."""
    record, wanted = observed.inference, observed.parameters.fusion_enabled
    if record is None:
        return [idle_status(FUSION, observed.state)] if wanted else []
    report = record.fusion.report
    if not wanted and report == FusionReport():
        return []
    return [fusion_status(report, now_s, DROPS_WINDOW_S, wanted=wanted)]
