"""The transforms of messages, with interpolated look-ups: of /tf, /tf_static and odometry, recorded or live."""

from bisect import bisect_left, insort
from collections import Counter, deque
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Literal

import numpy as np

from scene_completion_ros.errors import BagError, TransformConflictError
from scene_completion_ros.geometry.transforms import RigidTransform, TransformError
from scene_completion_ros.messages.drop_reasons import CLOCK_JUMP_NS

Problem = Literal["unconnected", "before", "after", "gap"]

MAX_NORM_ERROR = 0.05  # of a quaternion: rounding is normalised away, anything else is a defect
FARTHEST_M = 1e9  # of a position: chains of such transforms stay within the numbers of `RigidTransform`
_SAME = 1e-3  # elements of two transforms that differ by less say the same
_CURES: dict[Problem, str] = {
    "unconnected": "Known frames: {frames}",
    "before": "Poses are not extrapolated: transforms must begin before the images do",
    "after": "Poses are not extrapolated: transforms must reach up to the stamps of images",
    "gap": "Publish transforms at a higher rate, or allow a larger gap",
}


class NoTransformError(TransformError):
    """There is no transform between two frames at a time."""

    def __init__(self, what: str, problem: Problem, *, where: str = "", frames: str = "") -> None:
        # ``unconnected`` frames, a time ``before`` the first or ``after`` the last transform, or in a ``gap`` between
        # two.
        self.problem: Problem = problem
        super().__init__(what, where=where, cure=_CURES[problem].format(frames=frames or "none"))


@dataclass
class _Edge:
    """Transforms parent_from_child of one pair of frames; a static one holds for all time."""

    static: RigidTransform | None = None
    samples: dict[int, RigidTransform] = field(default_factory=dict)
    stamps: list[int] = field(default_factory=list)

    def add(self, stamp_ns: int, transform: RigidTransform) -> None:
        if stamp_ns not in self.samples:
            self.samples[stamp_ns] = transform
            insort(self.stamps, stamp_ns)

    def forget(self, count: int | None = None) -> None:
        """Forget so many samples, the oldest first, or all."""
        for old in self.stamps[:count]:
            del self.samples[old]
        del self.stamps[:count]

    def at(self, stamp_ns: int, max_gap_ns: int, tolerance_ns: int, name: str) -> RigidTransform:
        """Interpolate between the two samples around a stamp; beyond the last, that one within the tolerance."""
        if self.static is not None:
            return self.static
        if stamp_ns in self.samples:
            return self.samples[stamp_ns]
        index = bisect_left(self.stamps, stamp_ns)
        if not self.stamps:
            raise NoTransformError(f"no transform at {stamp_ns} ns yet", "after", where=f"transform {name}")
        if index in (0, len(self.stamps)):
            nearest = self.stamps[0 if index == 0 else -1]
            if 0 < stamp_ns - nearest <= tolerance_ns:
                return self.samples[nearest]
            side = "before the first" if index == 0 else "after the last"
            what = f"no transform at {stamp_ns} ns: {abs(nearest - stamp_ns) / 1e9:.3f} s {side}"
            raise NoTransformError(what, "before" if index == 0 else "after", where=f"transform {name}")
        before, after = self.stamps[index - 1], self.stamps[index]
        if after - before > max_gap_ns:
            what = f"gap of {(after - before) / 1e9:.3f} s around {stamp_ns} ns, {max_gap_ns / 1e9:.3f} s are allowed"
            raise NoTransformError(what, "gap", where=f"transform {name}")
        fraction = (stamp_ns - before) / (after - before)
        return self.samples[before].interpolate(self.samples[after], fraction)


class TransformBuffer:
    """Static and time-varying transforms between named frames, from messages of rosbags and rclpy.

    `keep_ns`: of a running robot, how long transforms are kept (by their stamps). A transform more than a second before
    the newest of its pair then belongs to a recording started again. The buffer forgets those before it. None keeps
    all, in any order: that is for recordings.

    Of several topics that hold one pair of frames, the first alone is taken. A bag with such a pair is refused by
    `check` and `lookup` where that pair is asked for.
    """

    def __init__(self, keep_ns: int | None = None) -> None:
        self._keep_ns = keep_ns
        # Transforms that were not taken, by reason (NaN, broken quaternion, a pair that another topic holds, too).
        self.rejected: Counter[str] = Counter()
        self._edges: dict[tuple[str, str], _Edge] = {}
        self._neighbours: dict[str, list[str]] = {}
        self._topics: dict[tuple[str, str, bool], str] = {}  # by parent, child, and whether it is fixed
        self._contested: dict[tuple[str, str], str] = {}  # two topics, by parent and child
        self._checked: set[tuple[str, str]] = set()

    @property
    def frames(self) -> list[str]:
        """Names of all frames, sorted."""
        return sorted(self._neighbours)

    def add(
        self,
        parent: str,  # frame that it maps into
        child: str,  # frame that it maps from
        stamp_ns: int,  # its time, nanoseconds; of no meaning for a static one
        parent_from_child: RigidTransform,
        *,
        static: bool,  # whether it holds for all time
        topic: str = "",  # that it came from; one without a name goes with all
    ) -> None:
        """Add one transform; an unusable one is counted in `rejected`.

        A later static one replaces an earlier; of two with one stamp the first is kept.
        """
        pair = parent, child = parent.strip("/"), child.strip("/")
        edge, first = self._edges.get(pair), self._topics.setdefault((*pair, static), topic)
        known = None if edge is None else edge.static if static else edge.static or edge.samples.get(stamp_ns)
        differs = known is not None and np.abs(known.matrix - parent_from_child.matrix).max() > _SAME
        if first and topic and first != topic:
            if differs or known is None:
                self.rejected[f"{' -> '.join(pair)}: {first} holds it, too"] += 1
                self._contested.setdefault(pair, f"{first} and {topic}")
            return
        if parent == child or not parent or not child:
            self.rejected[f"{parent!r} -> {child!r}: a frame needs a parent of another name"] += 1
            return
        if edge is None:
            edge = self._edges[pair] = _Edge()
            self._neighbours.setdefault(parent, []).append(child)
            self._neighbours.setdefault(child, []).append(parent)
        if static:
            edge.static = parent_from_child
            return
        if self._keep_ns is not None and edge.stamps:
            if stamp_ns < edge.stamps[-1] - CLOCK_JUMP_NS:
                edge.forget()
            else:
                edge.forget(bisect_left(edge.stamps, max(stamp_ns, edge.stamps[-1]) - self._keep_ns))
        edge.add(stamp_ns, parent_from_child)

    def forget_moving(self) -> None:
        """Forget all time-varying transforms: time began anew. The frames stay known."""
        for edge in self._edges.values():
            edge.forget()
        self._topics = {key: topic for key, topic in self._topics.items() if key[2]}

    def has_path(self, target: str, source: str) -> bool:
        """Whether the two frames hang together at all (at whatever time)."""
        return self._path(target.strip("/"), source.strip("/")) is not None

    def is_static(self, target: str, source: str) -> bool:
        """Whether the transform between two frames never changes."""
        path = self._path(target.strip("/"), source.strip("/"))
        return path is not None and all(self._edge(a, b)[0].static is not None for a, b in pairwise(path))

    def find(
        self, target: str, source: str, stamp_ns: int, *, max_gap_ns: int = 200_000_000, tolerance_ns: int = 0
    ) -> RigidTransform:
        """Find target_from_source at a time.

        `stamp_ns`: time; between transforms it is interpolated (slerp and lerp); `max_gap_ns`: largest distance of the
        two transforms between which is interpolated; `tolerance_ns`: how long after the last transform that one still
        holds; nothing else is extrapolated. Raises NoTransformError: the frames are not connected, or there is no
        transform close enough: names the pair.
        """
        target, source = target.strip("/"), source.strip("/")
        path = self._path(target, source)
        if path is None:
            what = f"no transform from {source!r} to {target!r}"
            raise NoTransformError(what, "unconnected", frames=", ".join(self.frames))
        result = RigidTransform.identity()
        for upper, lower in pairwise(path):
            edge, forward = self._edge(upper, lower)
            name = f"{upper} -> {lower}" if forward else f"{lower} -> {upper}"
            step = edge.at(stamp_ns, max_gap_ns, tolerance_ns, name)
            result = result @ (step if forward else step.inverse())
        return result

    def _edge(self, upper: str, lower: str) -> tuple[_Edge, bool]:
        """Edge between neighbours and whether `upper` is the parent."""
        edge = self._edges.get((upper, lower))
        return (edge, True) if edge is not None else (self._edges[(lower, upper)], False)

    def _path(self, target: str, source: str) -> list[str] | None:
        """Shortest chain of frames from target to source."""
        paths = {target: [target]}
        queue = deque([target])
        while queue:
            current = queue.popleft()
            for neighbour in self._neighbours.get(current, ()):
                if neighbour not in paths:
                    paths[neighbour] = [*paths[current], neighbour]
                    queue.append(neighbour)
        return paths.get(source)

    def add_message(self, message: Any, *, static: bool, topic: str = "") -> None:
        """Add all transforms of a `tf2_msgs/TFMessage`; unusable ones are counted in `rejected`."""
        for stamped in message.transforms:
            self.add_stamped(stamped, static=static, topic=topic)

    def add_stamped(self, stamped: Any, *, static: bool, topic: str = "") -> None:
        """Add a `geometry_msgs/TransformStamped`; an unusable one is counted in `rejected`."""
        translation, rotation = stamped.transform.translation, stamped.transform.rotation
        self._add_pose(stamped, str(stamped.child_frame_id), translation, rotation, static=static, topic=topic)

    def add_odometry(self, message: Any, child: str = "", topic: str = "") -> None:
        """Add the pose of a `nav_msgs/Odometry` as header.frame_id -> child_frame_id, or another `child`."""
        child, pose = child or str(message.child_frame_id), message.pose.pose
        if child.strip("/"):
            self._add_pose(message, child, pose.position, pose.orientation, static=False, topic=topic)
        else:
            self.rejected[f"odometry without child_frame_id. {child_cure(topic)}"] += 1

    def lookup(self, target: str, source: str, stamp_ns: int, max_gap_ns: int = 200_000_000) -> RigidTransform:
        """Find target_from_source at a time of a recording.

        Raises BagError where the frames are not connected, or there is no transform close enough: names the pair; see
        also `check`. `stamp_ns`: time; transforms are interpolated (slerp and lerp), never extrapolated; `max_gap_ns`:
        largest distance of the two transforms between which is interpolated.
        """
        self.check(target, source)
        try:
            return self.find(target, source, stamp_ns, max_gap_ns=max_gap_ns)
        except NoTransformError as error:
            cure = f"{error.cure}. Record them for the whole drive"
            raise BagError(error.what, where=error.where or "/tf, /tf_static", cure=cure) from None

    def check(self, target: str, source: str) -> None:
        """Raise TransformConflictError where several topics hold a pair of frames between two: names the topics."""
        if (target, source) in self._checked:
            return
        for upper, lower in pairwise(self._path(target.strip("/"), source.strip("/")) or ()):
            pair = (upper, lower) if (upper, lower) in self._edges else (lower, upper)
            if topics := self._contested.get(pair):
                raise TransformConflictError(
                    f"both hold the transform {' -> '.join(pair)}",
                    where=topics,
                    cure="Leave one out in a copy: `rosbags-convert --src BAG --dst COPY --exclude-topic TOPIC`",
                )
        self._checked.add((target, source))

    def root_of(self, frame: str) -> str:
        """The topmost ancestor of a frame ("map" in a tree that follows REP-105).

        Raises TransformConflictError where a frame is its own ancestor: names all frames of that circle.
        """
        chain = [frame.strip("/")]
        while parents := [parent for parent, child in self._edges if child == chain[-1]]:
            if again := [parent for parent in parents if parent in chain]:
                circle = [again[0], *reversed(chain[chain.index(again[0]) :])]
                topics = {self._topics.get((*pair, kind), "") for pair in pairwise(circle) for kind in (True, False)}
                raise TransformConflictError(
                    f"transforms go round in a circle: {' -> '.join(circle)}",
                    where=", ".join(sorted(topics - {""})),
                    cure="One of them is the wrong way round: record without it",
                )
            chain.append(parents[0])
        return chain[-1]

    def _add_pose(self, message: Any, child: str, translation: Any, rotation: Any, *, static: bool, topic: str) -> None:
        parent = message.header.frame_id
        position = np.array([translation.x, translation.y, translation.z], dtype=np.float64)
        quaternion = np.array([rotation.x, rotation.y, rotation.z, rotation.w], dtype=np.float64)
        norm = float(np.linalg.norm(quaternion))
        if not (np.isfinite(position).all() and np.isfinite(quaternion).all()):
            reason = "not finite"
        elif np.abs(position).max() > FARTHEST_M:
            reason = f"further than {FARTHEST_M:g} m"
        elif abs(norm - 1.0) > MAX_NORM_ERROR:
            reason = "quaternion is not of unit length"
        else:
            transform = RigidTransform.from_quaternion(quaternion / norm, position)
            self.add(parent, child, stamp_of(message.header), transform, static=static, topic=topic)
            return
        self.rejected[f"{parent} -> {child}: {reason}"] += 1


def child_cure(topic: str) -> str:
    """What to do about an odometry topic that does not say which frame its poses are of."""
    return f"Name that frame with the topic, as in {topic}=base_link"


def stamp_of(header: Any) -> int:
    """Stamp of a `std_msgs/Header` in nanoseconds (rosbags and rclpy messages)."""
    return int(header.stamp.sec) * 1_000_000_000 + int(header.stamp.nanosec)
