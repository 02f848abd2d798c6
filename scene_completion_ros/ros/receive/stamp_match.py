"""Messages that are kept until an image of their time comes."""

from collections import deque
from itertools import pairwise
from typing import Any

from scene_completion_ros.messages.drop_reasons import CLOCK_JUMP_NS
from scene_completion_ros.ros.frame import NotYetError
from scene_completion_ros.ros.messages import stamp_nanoseconds


class StampMatch:
    """The last messages of a topic, to be found by the stamps of images.

    `kind`: what they are, in the plural; `cure`: what to do where none fits; `kept`: how many are kept.
    """

    def __init__(self, topic: str, kind: str, cure: str, kept: int) -> None:
        self._topic, self._kind, self._cure = topic, kind, cure
        self._kept: deque[tuple[int, Any]] = deque(maxlen=kept)
        self._alike = 0

    def add(self, message: Any) -> None:
        """Keep a message, in the place of the last one if that has its stamp.

        One more than a second before the last belongs to a recording started again.
        """
        stamp_ns = stamp_nanoseconds(message.header.stamp)
        if self._kept and stamp_ns < self._kept[-1][0] - CLOCK_JUMP_NS:
            self._kept.clear()
        alike = bool(self._kept) and stamp_ns == self._kept[-1][0]
        self._alike = self._alike + 1 if alike else 0
        if alike:
            self._kept.pop()
        self._kept.append((stamp_ns, message))

    def forget(self, until_ns: int | None = None) -> None:
        """Forget messages of before a time, but not the last three; without a time all of them."""
        if until_ns is None:
            self._kept.clear()
        while len(self._kept) > 3 and until_ns is not None and self._kept[0][0] < until_ns:
            self._kept.popleft()

    def exact(self, stamp_ns: int) -> Any:
        """The message of a stamp. Raises NotYetError where there is none; it may come, unless a later one has."""
        for stamp, message in reversed(self._kept):
            if stamp == stamp_ns:
                return message
        raise self._missing(f"none with the stamp {stamp_ns} ns", may_come=self.behind(stamp_ns))

    def nearest(self, stamp_ns: int, tolerance_ns: int, *, final: bool) -> Any:
        """The message nearest to a stamp. Raises NotYetError where there is none that near, or a nearer one may come.

        `tolerance_ns`: how far it may be from that; `final`: whether to take what is there, even if a nearer one may
        still come.
        """
        if self.behind(stamp_ns) and not final:
            raise self._missing(f"none after {stamp_ns} ns yet", may_come=True)
        near = [(abs(stamp - stamp_ns), number) for number, (stamp, _) in enumerate(self._kept)]
        if not near or min(near)[0] > tolerance_ns:
            raise self._missing(f"none within {tolerance_ns / 1e9:.3f} s of {stamp_ns} ns", may_come=False)
        return self._kept[min(near)[1]][1]

    def behind(self, stamp_ns: int) -> bool:
        """Whether all that came are of before a stamp."""
        return not self._kept or self._kept[-1][0] < stamp_ns

    def settled(self, stamp_ns: int, tolerance_ns: int) -> bool:
        """Whether none nearer to a stamp is due, going by the shorter time between the last three: one may be lost."""
        if len(self._kept) < 2:
            return False
        last = [stamp for stamp, _ in list(self._kept)[-3:]]
        period_ns = min(after - before for before, after in pairwise(last))
        reach_ns = min(tolerance_ns, *(abs(stamp - stamp_ns) for stamp, _ in self._kept))
        return last[-1] + 0.75 * period_ns > stamp_ns + reach_ns

    def _missing(self, what: str, *, may_come: bool) -> NotYetError:
        newest = f"the last is of {self._kept[-1][0]} ns" if self._kept else "none came at all"
        stuck = f", as are {self._alike} before it" if self._alike else ""
        return NotYetError(
            f"of {len(self._kept)} {self._kind} {what}, {newest}{stuck}",
            where=self._topic,
            cure=self._cure,
            may_come=may_come,
        )
