"""Which images of a stream count, by their stamps; one rule for the running node and the offline replay."""

from typing import Literal

CLOCK_JUMP_NS = 1_000_000_000  # a stamp further back than this is a restarted recording, not a late message

Arrival = Literal["in order", "late", "restarted"]


class StampOrder:
    """Tells late images from those to complete, by the stamps of all images so far.

    An image less than a second behind the newest is late. One further behind belongs to a recording started again, from
    which on its stamps count. Equal stamps are in order: some drivers leave all stamps at 0.
    """

    def __init__(self) -> None:
        self._newest_ns: int | None = None
        self.behind_ns = 0  # how far the last image was behind the newest one before it; 0 if it was not

    def forget(self) -> None:
        """Time began anew: the next image is in order, whatever its stamp."""
        self._newest_ns, self.behind_ns = None, 0

    def arrived(self, stamp_ns: int) -> Arrival:
        """Take note of an image's stamp; only a ``late`` image is to be dropped."""
        self.behind_ns = 0 if self._newest_ns is None else max(self._newest_ns - stamp_ns, 0)
        if 0 < self.behind_ns < CLOCK_JUMP_NS:
            return "late"
        self._newest_ns = stamp_ns
        return "restarted" if self.behind_ns else "in order"
