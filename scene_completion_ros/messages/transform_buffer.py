"""The transforms of messages, with interpolated look-ups: of /tf, /tf_static and odometry, recorded or live."""

import math
from bisect import bisect_left, insort
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import pairwise
from operator import itemgetter
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from scene_completion_ros.errors import BagError, TransformConflictError
from scene_completion_ros.geometry import plausible_motion as plausible
from scene_completion_ros.geometry.transforms import RigidTransform, TransformError
from scene_completion_ros.messages.drop_reasons import CLOCK_JUMP_NS

Problem = Literal["unconnected", "before", "after", "gap"]

MAX_NORM_ERROR = 0.05  # of a quaternion: rounding is normalised away, anything else is a defect
FARTHEST_M = 1e9  # of a position: chains of such transforms stay within the numbers of `RigidTransform`
_SAME = 1e-3  # elements of two transforms that differ by less say the same
# Fixed transforms that differ by less were rounded, or calibrated to no effect.
_SAME_M, _SAME_RAD = 5e-3, math.radians(0.2)
_ASIDE_M = 1.0, 0.8, 0.6  # a point that shows turns of 2° about any axis of a robot or camera as 3 cm
_POSES = 100  # by which the axes of a moving frame are judged
_GAP_NS = 500_000_000  # between two of them
JUDGED_NS = 5_000_000_000  # after which a running robot judges them anew
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
    again: dict[int, RigidTransform] = field(default_factory=dict)  # others with the stamp of a sample
    contradiction: tuple[RigidTransform, RigidTransform] | None = None  # two values, of which one is said to be fixed

    def add(self, stamp_ns: int, transform: RigidTransform) -> None:
        if stamp_ns not in self.samples:
            self.samples[stamp_ns] = transform
            insort(self.stamps, stamp_ns)
        elif _differ(self.samples[stamp_ns], transform):
            self.again[stamp_ns] = transform

    def compare(self, transform: RigidTransform, *, static: bool) -> None:
        """Take note where a transform contradicts a fixed one, or as a fixed one others."""
        known = self.static or (next(iter(self.samples.values()), None) if static else None)
        if known is not None and _differ(known, transform):
            self.contradiction = known, transform

    def forget(self, count: int | None = None) -> None:
        """Forget so many samples, the oldest first, or all."""
        for old in self.stamps[:count]:
            del self.samples[old]
            self.again.pop(old, None)
        del self.stamps[:count]

    def track(self, point: Sequence[float] = (0.0, 0.0, 0.0)) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Stamps [N] and positions [N, 3] of all samples, or those of a point in the child's frame."""
        found = self.sorted_samples()
        positions = np.array([transform.rotation @ point + transform.translation for _, transform in found])
        return np.array([stamp for stamp, _ in found], dtype=np.int64), positions.reshape(-1, 3)

    def sorted_samples(self) -> list[tuple[int, RigidTransform]]:
        return sorted([*self.samples.items(), *self.again.items()], key=itemgetter(0))

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
        self._checked: dict[tuple[str, str], TransformConflictError | None] = {}
        # What was found of frames of images, and when: how many frames were known, and the time of the transforms.
        self._optical: dict[str, tuple[tuple[int, int], tuple[str, str, str]]] = {}
        self._newest_ns = 0
        # What should be looked at, in words: poses of a recording that were left out because they cannot be.
        self.notes: dict[str, None] = {}
        # By how much stamps of moving transforms are ahead of the clock by which they were received, nanoseconds.
        self.ahead_ns: deque[int] = deque(maxlen=1000 if keep_ns is None else 20)

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
        self._newest_ns = max(self._newest_ns, stamp_ns)
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
        edge.compare(parent_from_child, static=static)
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
        self._newest_ns = 0
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
            raise NoTransformError(what, "unconnected", frames=self.known(source))
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

    def known(self, frame: str) -> str:
        """Names of all frames, and which of them was probably meant by an unknown one."""
        names = ", ".join(self.frames) or "none"
        meant = "" if frame in self._neighbours else plausible.nearest_name(frame, self.frames)
        return f"{names}. Probably {meant!r} is meant: have the driver set it as frame_id" if meant else names

    def check(self, target: str, source: str) -> None:
        """Raise TransformConflictError for the first of the `problems` between two frames of a recording.

        Poses that are far away for a moment are left out, with a note.
        """
        if (target, source) not in self._checked:
            for pair in self._pairs(target, source):
                edge = self._edges[pair]
                stamps, positions = edge.track()
                stray, problem = plausible.strays(stamps, positions)
                if problem:
                    self.notes[f"left out of the transform {' -> '.join(pair)}: {problem}"] = None
                for old in set(stamps[stray].tolist()) & set(edge.stamps):
                    edge.stamps.remove(old)
                    del edge.samples[old]
            self._checked[target, source] = next(self.problems(target, source), None)
        if found := self._checked[target, source]:
            raise found

    def problems(self, target: str, source: str) -> Iterator[TransformConflictError]:
        """Find what about the transforms between two frames cannot be, each with its frames, topics and cure.

        That is a pair that several topics hold; a fixed transform with two values; two tracks that alternate; a track
        that nothing on the ground can follow; a sensor farther from its base than a vehicle is long.
        """
        for pair in self._pairs(target, source):
            edge, name = self._edges[pair], " -> ".join(pair)
            topics = [self._topics.get((*pair, static), "") for static in (True, False)]
            where = " and ".join(filter(None, dict.fromkeys(topics)))
            if contested := self._contested.get(pair):
                cure = "Leave one out in a copy: `rosbags-convert --src BAG --dst COPY --exclude-topic TOPIC`"
                yield TransformConflictError(f"both hold the transform {name}", where=contested, cure=cure)
            cure = "End one of the two nodes that publish it, and record it again"
            if edge.contradiction is not None:
                values = " and ".join(map(_described, edge.contradiction))
                yield TransformConflictError(
                    f"the fixed transform {name} has two values: {values}", where=where, cure=cure
                )
            stamps, positions = edge.track()
            tracks = plausible.two_tracks(stamps, positions) or plausible.two_tracks(*edge.track(_ASIDE_M))
            if edge.static is None and tracks:
                samples = edge.sorted_samples()
                one, other = (f"{_described(samples[index][1])} at {samples[index][0]} ns" for index in tracks)
                what = f"the transform {name} goes to and fro between two tracks: {one}, {other}"
                yield TransformConflictError(what, where=where, cure=cure)
            if edge.static is None and (problem := plausible.speed_problem(stamps, positions)):
                cure = "Correct the positions or the stamps in the node that publishes them"
                yield TransformConflictError(f"{pair[1]} {problem}", where=where, cure=cure)
        base, base_from_source = self._mount(target, source)
        if problem := plausible.arm_problem(base_from_source, base):
            yield TransformConflictError(f"{source} {problem}", where="/tf_static", cure="Correct its fixed transform")

    def _pairs(self, target: str, source: str) -> Iterator[tuple[str, str]]:
        """Parent and child of each transform between two frames."""
        for upper, lower in pairwise(self._path(target.strip("/"), source.strip("/")) or ()):
            yield (upper, lower) if (upper, lower) in self._edges else (lower, upper)

    def _mount(self, target: str, source: str) -> tuple[str, RigidTransform]:
        """The last frame on the way to another in which a frame is fixed, and its pose there."""
        path = self._path(target.strip("/"), source.strip("/")) or [source]
        base = next(frame for frame in path if self.is_static(frame, source) or frame == source)
        return base, RigidTransform.identity() if base == source else self.find(base, source, 0)

    def optical_frame(self, frame: str, where: str) -> tuple[str, str]:
        """Find the optical frame of the images that name a frame, and what is to be said of it; empty for nothing.

        It is that frame, unless tf shows that this is the frame of a body: then its only optical child. Raises
        TransformConflictError where it has none or several: says `where` the images come from.
        """
        frame = frame.strip("/")
        era = len(self._neighbours), self._newest_ns // JUDGED_NS
        if self._optical.get(frame, ((), ()))[0] != era:
            self._optical[frame] = era, self._find_optical(frame)
        optical, note, cure = self._optical[frame][1]
        if cure:
            raise TransformConflictError(note, where=where, cure=cure)
        return optical, note

    def _find_optical(self, frame: str) -> tuple[str, str, str]:
        """The optical frame and a note, or what is wrong and its cure."""
        ups, steps = self._axes(frame)
        if plausible.upside_down(ups):
            return frame, f"by tf the camera of frame {frame!r} {plausible.HANGS}", ""
        if not plausible.body_axes(ups, steps):
            return frame, "", ""
        if "optical" in frame.lower():
            return frame, f"by tf the camera of frame {frame!r} {plausible.LOOKS_UP}", ""
        fixed = {one: self.find(frame, one, 0).rotation for one in self.frames if self.is_static(frame, one)}
        below = [one for one, turn in fixed.items() if turn[0, 2] > plausible.UP and turn[2, 1] < -plausible.UP]
        children = [one for one in below if (frame, one) in self._edges] or below
        what = f"images name {frame!r}, which is the frame of a body by its axes in tf (x forward, z up)"
        if len(children) == 1:
            return children[0], f"{what}: its optical child {children[0]!r} is taken instead", ""
        what += f", not the optical one; below it tf has {', '.join(children) or 'no optical frame'}"
        cure = "Have the driver name the optical frame (REP 103: x right, y down, z forward), and publish its transform"
        return frame, what, f"{cure}. A camera that does look straight up says so by its name, as {frame}_optical"

    def _axes(self, frame: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Find up in a frame, by its base and by the world, and how it moves; see `plausible_motion.body_axes`."""
        root = self.root_of(frame)
        base, base_from_frame = self._mount(root, frame)
        ups = [base_from_frame.rotation[2]] if base != frame else []
        moving = next(
            (edge for pair in self._pairs(root, frame) if (edge := self._edges[pair]).static is None), _Edge()
        )
        poses: list[RigidTransform] = []
        for stamp in moving.stamps[:: max(len(moving.stamps) // _POSES, 1)]:
            with suppress(NoTransformError):
                poses.append(self.find(root, frame, stamp, max_gap_ns=_GAP_NS))
        moves = [one.rotation.T @ (other.translation - one.translation) for one, other in pairwise(poses)]
        steps = np.array(moves).reshape(-1, 3)
        # A world alone may have any axes: visual odometry has those of the first image. Its motion tells.
        if poses and (ups or np.linalg.norm(steps, axis=1).sum() > plausible.FEWEST_WAY_M):
            ups.append(np.mean([pose.rotation[2] for pose in poses], axis=0))
        return np.array(ups).reshape(-1, 3), steps

    def clock_problem(self, images: str, ahead_ns: Sequence[int], than: str) -> str:
        """Find that images have another clock than moving transforms: see `plausible_motion.clock_problem`."""
        moving = {topic for (*_, static), topic in self._topics.items() if topic and not static}
        theirs, ours = np.array(ahead_ns, np.int64), np.array(self.ahead_ns, np.int64)
        return plausible.clock_problem(images, theirs, ", ".join(sorted(moving)) or "transforms", ours, than)

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


def _differ(one: RigidTransform, other: RigidTransform) -> bool:
    apart = one.inverse() @ other
    turned = float(Rotation.from_matrix(apart.rotation.copy()).magnitude())
    return bool(np.linalg.norm(apart.translation) > _SAME_M or turned > _SAME_RAD)


def _described(transform: RigidTransform) -> str:
    angles = Rotation.from_matrix(transform.rotation.copy()).as_euler("xyz", degrees=True)
    turned = (np.round(angles, 1) + 0.0).tolist()
    return f"{(np.round(transform.translation, 3) + 0.0).tolist()} m turned by {turned}° (roll, pitch, yaw)"


def child_cure(topic: str) -> str:
    """What to do about an odometry topic that does not say which frame its poses are of."""
    return f"Name that frame with the topic, as in {topic}=base_link"


def stamp_of(header: Any) -> int:
    """Stamp of a `std_msgs/Header` in nanoseconds (rosbags and rclpy messages)."""
    return int(header.stamp.sec) * 1_000_000_000 + int(header.stamp.nanosec)
