"""Why a moment is worth recording: what a request on `~/record_trigger` says, and how much that is worth."""

import math
from dataclasses import dataclass
from typing import Any

LONGEST_TEXT = 200  # characters of a name or message: anybody may publish a request
MOST_REASONS = 20  # that one request may give
BY_HAND = "by hand"


@dataclass(frozen=True)
class RecordReason:
    """One reason."""

    name: str = BY_HAND  # a word or two, such as "unsure"
    message: str = ""  # a sentence
    score: float = 1.0  # 0..1; that of a person is 1
    threshold: float = 0.0  # what the score exceeded, 0..1

    @property
    def value(self) -> float:
        """By how much the score exceeds its threshold, of all it could; 0..1. It compares reasons of any kind."""
        return max(self.score - self.threshold, 0.0) / (1.0 - self.threshold) if self.threshold < 1.0 else 0.0


def record_reasons(message: Any) -> list[RecordReason]:
    """The reasons that a diagnostic_msgs/DiagnosticArray gives; an empty one was published by hand.

    What has no `score`, or one outside of 0..1, counts as published by hand: its value is 1.
    """
    reasons = []
    for status in message.status[:MOST_REASONS]:
        values = {pair.key: pair.value for pair in status.values}
        score, threshold = _share(values.get("score", ""), 1.0), _share(values.get("threshold", ""), 0.0)
        name, text = status.name[:LONGEST_TEXT] or BY_HAND, status.message[:LONGEST_TEXT]
        reasons.append(RecordReason(name, text, score, threshold))
    return reasons or [RecordReason()]


def _share(text: str, otherwise: float) -> float:
    try:
        value = float(text)
    except ValueError:
        return otherwise
    return value if math.isfinite(value) and 0.0 <= value <= 1.0 else otherwise
