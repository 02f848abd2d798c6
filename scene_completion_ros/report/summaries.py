"""Sum up what scaled the depths of images, and what was warned of."""

import logging
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from scene_completion_ros.inference.evidence import DEVIATION, SCALE, WARNING, WHY

Summary: TypeAlias = Mapping[str, float | str]  # `Completion.summary` of a frame

BY_FRAME = "by_frame"  # in a summary, the values of each frame


def _without_numbers(sentence: str) -> str:
    """Keep what many frames share of a sentence."""
    return re.sub(r"\S*\d\S*", "…", sentence)


class Warnings(logging.Handler):
    """Warnings, each once, in the words in which it came first; as a handler, those that are logged meanwhile."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._counts: dict[str, tuple[str, int]] = {}

    def emit(self, record: logging.LogRecord) -> None:
        """Take what is logged."""
        self.add(record.getMessage())

    def add(self, sentence: str, times: int = 1) -> bool:
        """Take a warning and how often it came, 0 where that is not known. Returns whether it is a new one."""
        first, before = self._counts.get(_without_numbers(sentence), (sentence, -1))
        self._counts[_without_numbers(sentence)] = first, max(before, 0) + times
        return before < 0

    def __iter__(self) -> Iterator[str]:
        return (f"{first} ({times} times)" if times > 1 else first for first, times in [*self._counts.values()])


def _known(summary: Summary) -> tuple[float, float]:
    """Factor and standard deviation of its logarithm; NaN where they are not known."""
    return float(summary.get(SCALE, math.nan)), float(summary.get(DEVIATION, math.nan))


def evidence_in_words(summary: Summary) -> str:
    """What was known of one frame, for people; empty where nothing was asked."""
    factor, deviation = _known(summary)
    known = f"scale {factor:.3f} ± {deviation * factor:.3f}" if math.isfinite(factor) else "no scale"
    reason = f" (last image: {summary[WHY]})" if WHY in summary else ""
    rest = [f"{name} {value:g}" for name, value in summary.items() if not isinstance(value, str)]
    scale = [known + reason] if {SCALE, WHY} & summary.keys() else []
    return " · ".join([*scale, *(one for one in rest if not one.startswith(SCALE))])


def evidence_summary(evidence: Sequence[Summary]) -> dict[str, Any]:
    """Plain values: over all frames, and [factor, deviation] or None of each; empty where nothing was asked."""
    if not any(summary.keys() - {WARNING} for summary in evidence):
        return {}
    found = [_known(summary) for summary in evidence]
    known = np.array([one for one in found if math.isfinite(one[0])]).reshape(-1, 2)
    middle = np.median(known, axis=0).round(4).tolist() if len(known) else [None, None]
    reasons = Counter(_without_numbers(str(summary[WHY])) for summary in evidence if WHY in summary)
    by_frame = [list(one) if math.isfinite(one[0]) else None for one in found]
    medians = {"factor_median": middle[0], "deviation_median": middle[1]}
    return {"frames": len(known), **medians, "not_measured": dict(reasons.most_common()), BY_FRAME: by_frame}
