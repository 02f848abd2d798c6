"""A buffer of time-stamped transforms, as recorded on /tf, /tf_static and in odometry, with interpolated look-ups."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np

from scene_completion_ros.errors import BagError
from scene_completion_ros.geometry.transforms import RigidTransform

MAX_NORM_ERROR = 0.05  # of a quaternion: rounding is normalised away, anything else is a defect


@dataclass
class _Edge:
    """Transforms parent_from_child of one pair of frames; a static one holds for all time."""

    static: RigidTransform | None = None
    samples: dict[int, RigidTransform] = field(default_factory=dict)
    _stamps: list[int] | None = None

    def stamps(self) -> list[int]:
        if self._stamps is None or len(self._stamps) != len(self.samples):
            self._stamps = sorted(self.samples)
        return self._stamps

    def at(self, stamp_ns: int, max_gap_ns: int, name: str) -> RigidTransform:
        """Interpolate between the two samples around a stamp; never beyond the first and last."""
        if self.static is not None:
            return self.static
        if stamp_ns in self.samples:
            return self.samples[stamp_ns]
        stamps = self.stamps()
        index = bisect_left(stamps, stamp_ns)
        if index in (0, len(stamps)):
            nearest = stamps[0 if index == 0 else -1]
            side = "before the first" if index == 0 else "after the last"
            raise BagError(
                f"no transform at {stamp_ns} ns: {abs(nearest - stamp_ns) / 1e9:.3f} s {side}",
                where=f"transform {name}",
                cure="Poses are not extrapolated: record transforms for the whole drive",
            )
        before, after = stamps[index - 1], stamps[index]
        if after - before > max_gap_ns:
            raise BagError(
                f"gap of {(after - before) / 1e9:.3f} s around {stamp_ns} ns, {max_gap_ns / 1e9:.3f} s are allowed",
                where=f"transform {name}",
                cure="Record transforms at a higher rate, or allow a larger gap",
            )
        fraction = (stamp_ns - before) / (after - before)
        return self.samples[before].interpolate(self.samples[after], fraction)


class TransformBuffer:
    """Tree of static and time-varying transforms between named frames.

    Attributes:
        rejected: Transforms that were not taken, by reason (NaN, broken quaternion, a frame that is its own parent).
    """

    def __init__(self) -> None:
        self._edges: dict[tuple[str, str], _Edge] = {}
        self._neighbours: dict[str, list[str]] = {}
        self.rejected: Counter[str] = Counter()

    @property
    def frames(self) -> list[str]:
        """Names of all frames, sorted."""
        return sorted(self._neighbours)

    def add(self, parent: str, child: str, stamp_ns: int, parent_from_child: RigidTransform, *, static: bool) -> None:
        """Add one transform. A later static one replaces an earlier; of two with one stamp the first is kept."""
        parent, child = parent.strip("/"), child.strip("/")
        if parent == child or not parent or not child:
            self.rejected[f"{parent!r} -> {child!r}: a frame needs a parent of another name"] += 1
            return
        key = (parent, child)
        if key not in self._edges:
            self._edges[key] = _Edge()
            self._neighbours.setdefault(parent, []).append(child)
            self._neighbours.setdefault(child, []).append(parent)
        edge = self._edges[key]
        if static:
            edge.static = parent_from_child
        else:
            edge.samples.setdefault(stamp_ns, parent_from_child)

    def add_message(self, message: Any, *, static: bool) -> None:
        """Add all transforms of a `tf2_msgs/TFMessage`; unusable ones are counted in `rejected`."""
        for stamped in message.transforms:
            transform = stamped.transform
            parsed = self._parse(
                transform.translation, transform.rotation, f"{stamped.header.frame_id} -> {stamped.child_frame_id}"
            )
            if parsed is not None:
                stamp = stamp_of(stamped.header)
                self.add(stamped.header.frame_id, stamped.child_frame_id, stamp, parsed, static=static)

    def add_odometry(self, message: Any) -> None:
        """Add the pose of a `nav_msgs/Odometry` as header.frame_id -> child_frame_id."""
        pose = message.pose.pose
        name = f"{message.header.frame_id} -> {message.child_frame_id} (odometry)"
        parsed = self._parse(pose.position, pose.orientation, name)
        if parsed is not None:
            stamp = stamp_of(message.header)
            self.add(message.header.frame_id, message.child_frame_id, stamp, parsed, static=False)

    def has_path(self, target: str, source: str) -> bool:
        """Whether the two frames hang together at all (at whatever time)."""
        return self._path(target.strip("/"), source.strip("/")) is not None

    def is_static(self, target: str, source: str) -> bool:
        """Whether the transform between two frames never changes."""
        path = self._path(target.strip("/"), source.strip("/"))
        return path is not None and all(self._edge(a, b)[0].static is not None for a, b in pairwise(path))

    def root_of(self, frame: str) -> str:
        """The topmost ancestor of a frame ("map" in a tree that follows REP-105)."""
        current, seen = frame.strip("/"), set()
        while current not in seen:
            seen.add(current)
            parents = [parent for parent, child in self._edges if child == current]
            if not parents:
                return current
            current = parents[0]
        return current

    def lookup(self, target: str, source: str, stamp_ns: int, max_gap_ns: int = 200_000_000) -> RigidTransform:
        """Find target_from_source at a time.

        Args:
            target: Frame the result maps into.
            source: Frame the result maps from.
            stamp_ns: Time; transforms are interpolated (slerp and lerp), never extrapolated.
            max_gap_ns: Largest distance of the two transforms between which is interpolated.

        Raises:
            BagError: The frames are not connected, or there is no transform close enough: names the pair.
        """
        target, source = target.strip("/"), source.strip("/")
        path = self._path(target, source)
        if path is None:
            known = ", ".join(self.frames) or "none"
            raise BagError(
                f"no transform from {source!r} to {target!r}",
                where="/tf, /tf_static",
                cure=f"Record /tf and /tf_static; known frames: {known}",
            )
        result = RigidTransform.identity()
        for upper, lower in pairwise(path):
            edge, forward = self._edge(upper, lower)
            name = f"{upper} -> {lower}" if forward else f"{lower} -> {upper}"
            step = edge.at(stamp_ns, max_gap_ns, name)
            result = result @ (step if forward else step.inverse())
        return result

    def _edge(self, upper: str, lower: str) -> tuple[_Edge, bool]:
        """Edge between neighbours and whether `upper` is the parent."""
        edge = self._edges.get((upper, lower))
        return (edge, True) if edge is not None else (self._edges[(lower, upper)], False)

    def _path(self, target: str, source: str) -> list[str] | None:
        """Shortest chain of frames from target to source."""
        if target == source:
            return [target]
        previous: dict[str, str] = {target: target}
        queue = deque([target])
        while queue:
            current = queue.popleft()
            for neighbour in self._neighbours.get(current, ()):
                if neighbour not in previous:
                    previous[neighbour] = current
                    queue.append(neighbour)
        if source not in previous:
            return None
        return list(_backwards(previous, source, target))[::-1]

    def _parse(self, translation: Any, rotation: Any, name: str) -> RigidTransform | None:
        position = np.array([translation.x, translation.y, translation.z], dtype=np.float64)
        quaternion = np.array([rotation.x, rotation.y, rotation.z, rotation.w], dtype=np.float64)
        if not (np.isfinite(position).all() and np.isfinite(quaternion).all()):
            self.rejected[f"{name}: not finite"] += 1
            return None
        norm = float(np.linalg.norm(quaternion))
        if abs(norm - 1.0) > MAX_NORM_ERROR:
            self.rejected[f"{name}: quaternion is not of unit length"] += 1
            return None
        return RigidTransform.from_quaternion(quaternion / norm, position)


def stamp_of(header: Any) -> int:
    """Stamp of a `std_msgs/Header` in nanoseconds (rosbags and rclpy messages)."""
    return int(header.stamp.sec) * 1_000_000_000 + int(header.stamp.nanosec)


def _backwards(previous: dict[str, str], start: str, end: str) -> Iterator[str]:
    current = start
    while current != end:
        yield current
        current = previous[current]
    yield end
