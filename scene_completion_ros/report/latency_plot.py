"""Latency of every frame as an inline SVG picture, and its percentiles."""

import html
import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

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

    def points(columns: NDArray[np.float64], rows: NDArray[np.float64]) -> str:
        return " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(columns, rows, strict=True))

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
        outline = f"{points(x, height_of(above))} {points(x[::-1], height_of(below[::-1]))}"
        colour = _STAGE_COLOURS[position % len(_STAGE_COLOURS)]
        elements.append(f'<polygon points="{outline}" fill="{colour}" stroke="{colour}"/>')
        below = above
    if TOTAL in stages:
        line = points(x, height_of(table[:, stages.index(TOTAL)]))
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
