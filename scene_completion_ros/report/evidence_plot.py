"""What depths were scaled by, frame by frame: as a line of the page's timeline, in words, and summed up."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from scene_completion_ros.inference.evidence import DEVIATION, SCALE, WHY

Summary: TypeAlias = Mapping[str, float | str]  # `Evidence.summary` of a frame

BY_FRAME = "by_frame"  # in a summary, what is said of each frame
_WIDTH, _HEIGHT, _TEXT, _MOST_POINTS = 960, 64, 14, 960
_LEAST_SPAN = 0.1  # of the factor, so that a quiet line stays quiet


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
    if not any(evidence):
        return {}
    found = [_known(summary) for summary in evidence]
    known = np.array([one for one in found if math.isfinite(one[0])]).reshape(-1, 2)
    middle = np.median(known, axis=0).round(4).tolist() if len(known) else [None, None]
    reasons = Counter(_without_numbers(str(summary[WHY])) for summary in evidence if WHY in summary)
    return {
        "frames": len(known),
        "factor_median": middle[0],
        "deviation_median": middle[1],
        "not_measured": dict(reasons.most_common()),
        BY_FRAME: [list(one) if math.isfinite(one[0]) else None for one in found],
    }


def _without_numbers(reason: str) -> str:
    """A reason as many frames share it."""
    words = reason.split()
    return " ".join("…" if any(letter.isdigit() for letter in word) else word for word in words)


def evidence_svg(evidence: Sequence[Summary]) -> str:
    """Factor of all frames as a line within its standard deviation, interrupted where it is not known: an ``<svg>``.

    Empty where no factor is known. A line ``scale-now`` is there for the frame that is shown.
    """
    found = np.array([_known(summary) for summary in evidence], dtype=np.float64).reshape(-1, 2)
    found = found[:: -(-len(found) // _MOST_POINTS) or 1]
    known = np.isfinite(found[:, 0])
    if not known.any():
        return ""
    low, high = (found[:, 0] * np.exp(sign * found[:, 1]) for sign in (-1.0, 1.0))
    bottom, top = min(1.0, float(np.nanmin(low))), max(1.0, float(np.nanmax(high)))
    span = max(top - bottom, _LEAST_SPAN)
    x = (np.arange(len(found)) + 0.5) / len(found) * _WIDTH

    def row(factor: Any) -> Any:
        return _HEIGHT - 6 - (np.asarray(factor) - bottom) / span * (_HEIGHT - 12)

    def points(columns: Any, rows: Any) -> str:
        return " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(columns, rows, strict=True))

    one = float(row(1.0))
    elements = [
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="scale by motion, by frame" class="plot scale">',
        f'<line x2="{_WIDTH}" y1="{one:.1f}" y2="{one:.1f}" stroke="#bbb"/>',
    ]
    for part in np.split(np.arange(len(found)), np.flatnonzero(np.diff(known)) + 1):
        if known[part[0]]:
            outline = f"{points(x[part], row(high[part]))} {points(x[part][::-1], row(low[part][::-1]))}"
            elements.append(f'<polygon points="{outline}" fill="#56b4e9" fill-opacity="0.4" stroke="#56b4e9"/>')
            elements.append(
                f'<polyline points="{points(x[part], row(found[part, 0]))}" fill="none" stroke="#0072b2" '
                'stroke-width="1.6" stroke-linecap="square"/>'
            )
    ends = {round(bottom, 2), round(bottom + span, 2)}
    apart = all(abs(float(row(end)) - one) >= _TEXT for end in ends)  # their texts would cover each other
    for factor in sorted(ends | ({1.0} if apart else set())):
        place = min(max(float(row(factor)) + 4, 12.0), _HEIGHT - 2.0)
        elements.append(f'<text x="{_WIDTH - 2}" y="{place:.1f}" text-anchor="end">{factor:g}</text>')
    elements.append('<text x="2" y="12">scale by motion</text>')
    elements.append(f'<line id="scale-now" x1="-9" x2="-9" y2="{_HEIGHT}" stroke="#222"/></svg>')
    return "".join(elements)
