"""A tree of static and time-stamped transforms between named frames, with interpolated look-ups."""

from bisect import bisect_left, insort
from collections import deque
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal

from scene_completion_ros.geometry.transforms import RigidTransform, TransformError

Problem = Literal["unconnected", "before", "after", "gap"]

JUMP_NS = 1_000_000_000  # a transform further back than this belongs to a recording started again
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

    def forget_before(self, stamp_ns: int) -> None:
        kept = bisect_left(self.stamps, stamp_ns)
        for old in self.stamps[:kept]:
            del self.samples[old]
        del self.stamps[:kept]

    def forget(self) -> None:
        self.samples.clear()
        self.stamps.clear()

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


class TransformTree:
    """Static and time-varying transforms between named frames.

    `keep_ns`: of a running robot, how long transforms are kept (by their stamps). A transform more than a second before
    the newest of its pair then belongs to a recording started again. The tree forgets those before it. None keeps all,
    in any order: that is for recordings.
    """

    def __init__(self, keep_ns: int | None = None) -> None:
        self._keep_ns = keep_ns
        self._edges: dict[tuple[str, str], _Edge] = {}
        self._neighbours: dict[str, list[str]] = {}

    @property
    def frames(self) -> list[str]:
        """Names of all frames, sorted."""
        return sorted(self._neighbours)

    def add(self, parent: str, child: str, stamp_ns: int, parent_from_child: RigidTransform, *, static: bool) -> None:
        """Add one transform. A later static one replaces an earlier; of two with one stamp the first is kept.

        Raises TransformError where a frame has no name, or is its own parent. `parent`: frame that it maps into;
        `child`: frame that it maps from; `stamp_ns`: its time, nanoseconds; of no meaning for a static one; `static`:
        whether it holds for all time.
        """
        parent, child = parent.strip("/"), child.strip("/")
        if parent == child or not parent or not child:
            raise TransformError("a frame needs a parent of another name", where=f"{parent!r} -> {child!r}")
        key = (parent, child)
        if key not in self._edges:
            self._edges[key] = _Edge()
            self._neighbours.setdefault(parent, []).append(child)
            self._neighbours.setdefault(child, []).append(parent)
        edge = self._edges[key]
        if static:
            edge.static = parent_from_child
            return
        if self._keep_ns is not None and edge.stamps:
            if stamp_ns < edge.stamps[-1] - JUMP_NS:
                edge.forget()
            else:
                edge.forget_before(max(stamp_ns, edge.stamps[-1]) - self._keep_ns)
        edge.add(stamp_ns, parent_from_child)

    def forget_moving(self) -> None:
        """Forget all time-varying transforms: time began anew. The frames stay known."""
        for edge in self._edges.values():
            edge.forget()

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
