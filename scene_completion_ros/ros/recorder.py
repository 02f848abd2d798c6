"""The rolling recorder: hears the robot's topics as they are serialised, and keeps what is worth it on the disk.

It is a process of its own. Whatever becomes of its disk, no other node learns of it.
"""

import functools
import time
from collections.abc import Collection, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import rclpy

from scene_completion_ros.bags.pieces import KeptPiece, Moment, PieceStore, RolledMessage, RollingMemory
from scene_completion_ros.bags.reader import CAMERA_INFO_TYPE, IMAGE_TYPES, ODOMETRY_TYPE, TRANSFORM_TYPE
from scene_completion_ros.bags.writer import knows_type
from scene_completion_ros.errors import BagError, SceneCompletionError
from scene_completion_ros.messages.drop_reasons import record_reasons
from scene_completion_ros.ros import dds, topics
from scene_completion_ros.ros.messages import message_class, stamp_nanoseconds
from scene_completion_ros.ros.subscriptions import AdaptiveSubscription

NAME = "scene_completion_recorder"
# What is recorded where no topics are named: what `scene-completion extract` makes sequences of.
RECORDED_TYPES = (*IMAGE_TYPES, CAMERA_INFO_TYPE, ODOMETRY_TYPE, TRANSFORM_TYPE)
QUEUE = 100  # messages of a topic; a latched one may have as many publishers
SPIN_S = 0.1
LOOK_PERIOD_S = 1.0
_COMPRESSED = "/compressed"
_OTHER_TRANSPORTS = ("/compressedDepth", "/theora", "/ffmpeg", "/zstd")


@dataclass(frozen=True)
class RecordSettings:
    """What to record."""

    node: str  # full name of the node whose requests are heard; its own topics are not recorded unless they are named
    names: tuple[str, ...]  # full names of topics; empty: all of `RECORDED_TYPES`
    before_s: float  # seconds before a request
    after_s: float  # seconds after it
    longest_s: float  # seconds from which a piece is cut
    memory: int  # bytes of messages that are held at most


class Recorder:
    """Hears topics and requests; a thread writes pieces into `store`, one at a time."""

    def __init__(self, node: Any, settings: RecordSettings, store: PieceStore, resources: ExitStack) -> None:
        self._node, self._settings, self._store, self._resources = node, settings, store, resources
        self._logger = node.get_logger()
        half = settings.memory // 2  # the other half is what is being written
        before_ns, after_ns, longest_ns = (
            round(1e9 * value) for value in (settings.before_s, settings.after_s, settings.longest_s)
        )
        self._memory = RollingMemory(before_ns, after_ns, longest_ns, half)
        self._ahead_ns = time.time_ns() - time.monotonic_ns()  # bag time goes on steadily, even if the clock is set
        self._seen: set[str] = set()
        self._recorded: set[str] = set()
        self._refused: set[str] = set()
        self._writer = resources.enter_context(ThreadPoolExecutor(1, "writing"))
        self._writing: Future[KeptPiece | None] | None = None
        self._shortened = 0
        spec = topics.topic_spec(topics.RECORD_TRIGGER)
        self.trigger = spec.name.replace("~", settings.node)  # full name of the topic of requests
        heard = node.create_subscription(message_class(spec.type_name, self.trigger), self.trigger, self._mark, QUEUE)
        resources.callback(node.destroy_subscription, heard)
        dds.steady_timer(node, LOOK_PERIOD_S, self._look, resources)
        self._look()

    def step(self) -> None:
        """Hand over a ready piece. Raises SceneCompletionError above the budget, OSError if the last one failed."""
        if self._writing is not None:
            if not self._writing.done():
                return
            self._said(self._writing)
            self._writing = None
        piece = self._memory.ready(self._now_ns())
        if piece is not None:
            self._writing = self._writer.submit(self._store.write, piece)

    def finish(self) -> None:
        """Write what there is of a piece. Raises as `step`."""
        if self._writing is not None:
            self._said(self._writing)
        piece = self._memory.rest(self._now_ns())
        if piece is not None:
            self._said(self._writer.submit(self._store.write, piece))

    def _now_ns(self) -> int:
        return time.monotonic_ns() + self._ahead_ns

    def _look(self) -> None:
        """Subscribe to topics that were there the last time as well: those of one publisher do not appear at once."""
        found = {name: kinds[0] for name, kinds in self._node.get_topic_names_and_types()}
        wanted = wanted_topics(found, self._settings.names, self._settings.node, self._recorded)
        for name in sorted((wanted & self._seen) - self._recorded - self._refused):
            self._record(name, found[name])
        self._seen = set(found)
        self._check_budget()
        if self._memory.shortened > self._shortened:
            self._shortened = self._memory.shortened
            self._logger.warning(
                f"{self._memory.size / 1e6:.0f} MB hold only {self._memory.span_ns / 1e9:.1f} s of messages: give more "
                "with --memory, or record less with --topics",
                throttle_duration_sec=10.0,
            )

    def _record(self, name: str, kind: str) -> None:
        try:
            if not knows_type(kind):
                raise BagError(f"bags of this package cannot hold {kind}", where=name, cure="Leave the topic out")
            message_type = message_class(kind, name)
        except SceneCompletionError as error:
            self._refused.add(name)
            self._logger.error(f"not recorded: {error}")
            return
        self._recorded.add(name)
        self._logger.info(f"recording {name} ({kind})")
        subscribe = functools.partial(self._node.create_subscription, raw=True)
        remember = functools.partial(self._remember, name, kind)
        AdaptiveSubscription(
            self._node,
            message_type,
            name,
            remember,
            depth=QUEUE,
            resources=self._resources,
            latched=True,
            subscribe=subscribe,
        )

    def _remember(self, name: str, kind: str, raw: Any, latched: bool) -> None:
        self._memory.add(RolledMessage(self._now_ns(), name, kind, bytes(raw), latched))

    def _mark(self, message: Any) -> None:
        for reason in record_reasons(message):
            self._memory.mark(Moment(self._now_ns(), reason, stamp_nanoseconds(message.header.stamp)))

    def _check_budget(self) -> None:
        """Raise where what is remembered says already that no piece fits: not only when something happens at last."""
        settings, span_s = self._settings, self._memory.span_ns / 1e9
        if 0.0 < 0.9 * settings.before_s <= span_s:
            expected = self._memory.size * (settings.before_s + settings.after_s) / span_s
            if expected > self._store.budget:
                raise self._store.too_small(expected, settings.before_s + settings.after_s)

    def _said(self, writing: Future[KeptPiece | None]) -> None:
        kept = writing.result()
        size = f"{self._store.size / 1e6:.1f} of {self._store.budget / 1e6:.1f} MB"
        if kept is None:
            self._logger.info(f"a piece was not kept: all of {size} is worth more")
        else:
            name, count = kept.path.name, len(self._store.kept)
            self._logger.info(f"kept {name}: {kept.size / 1e6:.1f} MB; {size} in {count} pieces")


def wanted_topics(found: Mapping[str, str], names: Collection[str], node: str, recorded: Collection[str]) -> set[str]:
    """Which topics to record.

    `found`: topics that there are, and their types; `names`: what was named; empty: all of `RECORDED_TYPES` that the
    node did not make itself. Of images that there are raw and compressed it is the compressed ones. `recorded`: those
    that are recorded already.
    """
    if names:
        return {name for name in names if name in found}
    wanted = {
        name
        for name, kind in found.items()
        if kind in RECORDED_TYPES and not name.startswith(f"{node}/") and not name.endswith(_OTHER_TRANSPORTS)
    }
    twice = {name for name in wanted if f"{name}{_COMPRESSED}" in wanted and name not in recorded}
    late = {name for name in wanted if name.endswith(_COMPRESSED) and name.removesuffix(_COMPRESSED) in recorded}
    return wanted - twice - late


def record(settings: RecordSettings, folder: Path, budget: int) -> int:
    """Record until SIGINT or SIGTERM; what is in hand then is written.

    `folder`: where pieces go; `budget`: bytes that they may take. Returns exit code: 0 after a signal, 1 where the disk
    is full or the folder gone. Raises SceneCompletionError where the folder cannot be used, or the budget is smaller
    than a piece.
    """
    with ExitStack() as resources:
        stopped = dds.signalled(resources)
        store = resources.enter_context(PieceStore(folder, budget))
        node, executor = dds.join_graph(lambda context: rclpy.create_node(NAME, context=context), resources)
        logger = node.get_logger()
        recorder = Recorder(node, settings, store, resources)
        there = f"{len(store.kept)} pieces with {store.size / 1e6:.1f} of {budget / 1e6:.1f} MB are there"
        logger.info(f"waiting for requests on {recorder.trigger}; {there} in {folder}")
        try:
            while not stopped():
                executor.spin_once(timeout_sec=SPIN_S)
                recorder.step()
            recorder.finish()
        except OSError as error:
            logger.error(
                f"the recording ends, as {error.filename or folder} cannot be written to: {error.strerror}. "
                f"{len(store.kept)} whole pieces stay. Make room, and start the recorder again"
            )
            return 1
    return 0
