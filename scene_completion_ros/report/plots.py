"""The report's plots, as SVG: what scaled the depths, and the latency of images."""

import html
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from scene_completion_ros.inference.scene_query import DEVIATION, SCALE, WHY

Summary: TypeAlias = Mapping[str, float | str]  # `Evidence.summary` of a frame

BY_FRAME = "by_frame"  # in a summary, what is said of each frame
_SCALE_WIDTH, _SCALE_HEIGHT, _TEXT, _MOST_POINTS = 960, 64, 14, 960
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


def _points(columns: NDArray[np.float64], rows: NDArray[np.float64]) -> str:
    """Corners of a line or polygon of an SVG."""
    return " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(columns, rows, strict=True))


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
    x = (np.arange(len(found)) + 0.5) / len(found) * _SCALE_WIDTH

    def row(factor: Any) -> Any:
        return _SCALE_HEIGHT - 6 - (np.asarray(factor) - bottom) / span * (_SCALE_HEIGHT - 12)

    one = float(row(1.0))
    elements = [
        f'<svg viewBox="0 0 {_SCALE_WIDTH} {_SCALE_HEIGHT}" role="img" aria-label="scale by motion, by frame" '
        'class="plot scale">',
        f'<line x2="{_SCALE_WIDTH}" y1="{one:.1f}" y2="{one:.1f}" stroke="#bbb"/>',
    ]
    for part in np.split(np.arange(len(found)), np.flatnonzero(np.diff(known)) + 1):
        if known[part[0]]:
            outline = f"{_points(x[part], row(high[part]))} {_points(x[part][::-1], row(low[part][::-1]))}"
            elements.append(f'<polygon points="{outline}" fill="#56b4e9" fill-opacity="0.4" stroke="#56b4e9"/>')
            elements.append(
                f'<polyline points="{_points(x[part], row(found[part, 0]))}" fill="none" stroke="#0072b2" '
                'stroke-width="1.6" stroke-linecap="square"/>'
            )
    ends = {round(bottom, 2), round(bottom + span, 2)}
    apart = all(abs(float(row(end)) - one) >= _TEXT for end in ends)  # their texts would cover each other
    for factor in sorted(ends | ({1.0} if apart else set())):
        place = min(max(float(row(factor)) + 4, 12.0), _SCALE_HEIGHT - 2.0)
        elements.append(f'<text x="{_SCALE_WIDTH - 2}" y="{place:.1f}" text-anchor="end">{factor:g}</text>')
    elements.append('<text x="2" y="12">scale by motion</text>')
    elements.append(f'<line id="scale-now" x1="-9" x2="-9" y2="{_SCALE_HEIGHT}" stroke="#222"/></svg>')
    return "".join(elements)


# Stages are stacked in these colours (Okabe-Ito with brown for its yellow); the total is drawn as a dark line.
_STAGE_COLOURS = ("#56b4e9", "#e69f00", "#009e73", "#cc79a7", "#0072b2", "#d55e00", "#8c510a", "#999999")
_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 960, 260, 56, 16, 30, 40
_MOST_COLUMNS = 480
TOTAL = "total"


def latency_percentiles(timings_ms: Sequence[Mapping[str, float]]) -> dict[str, dict[str, float]]:
    """By stage, over the frames that report it: ``mean``, ``p50``, ``p95``, ``p99``, ``max``, milliseconds."""
    table = {}
    for stage in _stages(timings_ms):
        values = np.array([timings[stage] for timings in timings_ms if stage in timings], dtype=np.float64)
        percentiles = {f"p{q}": float(np.percentile(values, q)) for q in (50, 95, 99)}
        table[stage] = {"mean": float(values.mean()), **percentiles, "max": float(values.max())}
    return table


def occupied_median(counts: Sequence[int]) -> float:
    """Median of the frames' numbers of occupied voxels; 0 where there was no frame."""
    return float(np.median(counts)) if counts else 0.0


def _stages(timings_ms: Sequence[Mapping[str, float]]) -> list[str]:
    names = dict.fromkeys(name for timings in timings_ms for name in timings)
    return [name for name in names if name != TOTAL] + ([TOTAL] if TOTAL in names else [])


def _columns(timings_ms: Sequence[Mapping[str, float]], stages: Sequence[str]) -> NDArray[np.float64]:
    """Milliseconds [columns, stages]; of a long drive the slowest frame of each stretch, so that no peak is hidden."""
    table = np.array([[timings.get(stage, 0.0) for stage in stages] for timings in timings_ms], dtype=np.float64)
    stretch = -(-len(table) // _MOST_COLUMNS)
    if stretch == 1:
        return table
    decisive = table[:, stages.index(TOTAL)] if TOTAL in stages else table.sum(axis=1)
    starts = range(0, len(table), stretch)
    return table[[start + int(np.argmax(decisive[start : start + stretch])) for start in starts]]


def latency_svg(timings_ms: Sequence[Mapping[str, float]]) -> str:
    """Stages (milliseconds) of all frames stacked, ``total`` as a line: an ``<svg>``, or a sentence if none."""
    stages = _stages(timings_ms)
    if not stages:
        return "<p>No latency was measured.</p>"
    table = _columns(timings_ms, stages)
    parts = [index for index, stage in enumerate(stages) if stage != TOTAL]
    stacked = np.cumsum(table[:, parts], axis=1) if parts else np.zeros((len(table), 0))
    highest = 1.08 * max(float(table.max()), float(stacked.max(initial=0.0)), 1e-3)
    x = _LEFT + (np.arange(len(table)) + 0.5) / len(table) * (_WIDTH - _LEFT - _RIGHT)

    def height_of(milliseconds: NDArray[np.float64] | float) -> NDArray[np.float64]:
        return np.asarray(_HEIGHT - _BOTTOM - np.asarray(milliseconds) / highest * (_HEIGHT - _TOP - _BOTTOM))

    elements = [f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="latency by frame" class="plot">']
    power = 10.0 ** math.floor(math.log10(highest / 4))
    step = next(power * factor for factor in (1, 2, 5, 10) if highest / (power * factor) <= 5)
    for tick in np.arange(0.0, highest, step):
        row = float(height_of(tick))
        elements.append(f'<line x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{row:.1f}" y2="{row:.1f}" stroke="#ddd"/>')
        elements.append(f'<text x="{_LEFT - 6}" y="{row + 4:.1f}" text-anchor="end">{tick:g}</text>')
    below = np.zeros(len(table))
    for position in range(len(parts)):
        above = stacked[:, position]
        outline = f"{_points(x, height_of(above))} {_points(x[::-1], height_of(below[::-1]))}"
        colour = _STAGE_COLOURS[position % len(_STAGE_COLOURS)]
        elements.append(f'<polygon points="{outline}" fill="{colour}" stroke="{colour}"/>')
        below = above
    if TOTAL in stages:
        line = _points(x, height_of(table[:, stages.index(TOTAL)]))
        elements.append(f'<polyline points="{line}" fill="none" stroke="#222" stroke-width="1.4"/>')
    elements.append(f'<text x="8" y="16">ms</text><text x="{_WIDTH // 2}" y="{_HEIGHT - 6}">frame</text>')
    for number, column in {1: x[0], len(timings_ms): x[-1]}.items():
        elements.append(f'<text x="{column:.1f}" y="{_HEIGHT - _BOTTOM + 18}" text-anchor="middle">{number}</text>')
    place = _LEFT
    for index, name in enumerate(stages):
        colour = "#222" if name == TOTAL else _STAGE_COLOURS[parts.index(index) % len(_STAGE_COLOURS)]
        elements.append(f'<rect x="{place}" y="7" width="12" height="12" fill="{colour}"/>')
        elements.append(f'<text x="{place + 17}" y="17">{html.escape(name)}</text>')
        place += 34 + 7 * len(name)
    return "".join([*elements, "</svg>"])
