"""The page ``index.html`` of a report, one file that needs no network and no other, and the bytes that it shows.

Script and style lie in ``assets`` beside this module and are put into the page when it is written.
"""

import base64
import html
import json
import zlib
from collections.abc import Iterable, Mapping, Sequence
from importlib import resources
from typing import Any, TextIO

import numpy as np
from numpy.typing import NDArray

from scene_completion_ros.report.animation import AnimatedPicture
from scene_completion_ros.report.evidence_plot import BY_FRAME, Summary, evidence_svg
from scene_completion_ros.report.latency_plot import latency_percentiles, latency_svg
from scene_completion_ros.report.map_axes import MARGIN
from scene_completion_ros.voxels.colours import (
    HEIGHT_RANGE,
    STATE_COLOURS,
    STATE_NAMES,
    class_colour_table,
    height_colours,
    state_colours,
)
from scene_completion_ros.voxels.semantic_voxels import LEAST_PROBABILITY, PhraseMatches, SemanticVoxels, phrase_colours

LIDAR_RESOLUTION = 0.02  # metres
MATCH_STEPS = 5  # how finely the page knows probabilities of matches, from `LEAST_PROBABILITY` to 1
_MOST_LIDAR_POINTS = 40_000

Colours = Sequence[tuple[int, int, int]]


def _resource(name: str) -> str:
    return (resources.files("scene_completion_ros.report") / "assets" / name).read_text(encoding="utf-8")


def _embedded_json(identity: str, value: object) -> str:
    text = json.dumps(value, separators=(",", ":")).replace("<", "\\u003c")
    return f'<script type="application/json" id="{identity}">{text}</script>\n'


def _swatch(colour: Sequence[int], name: str) -> str:
    red, green, blue = colour
    return f'<span><i style="background:rgb({red},{green},{blue})"></i>{html.escape(name)}</span>'


def _ramp(low: str, high: str) -> str:
    stops = ",".join("rgb({},{},{})".format(*height_colours(i, low=0, high=8)) for i in range(9))
    return f'<span>{low} <i class="ramp" style="background:linear-gradient(to right,{stops})"></i> {high}</span>'


def _legend(class_names: Sequence[str], class_colours: Colours) -> str:
    states = [_swatch(STATE_COLOURS[state], STATE_NAMES[state]) for state in sorted(STATE_COLOURS)]
    classes = [_swatch(colour, name) for name, colour in zip(class_names, class_colours, strict=True)]
    rows = [
        ("states", "".join(states)),
        ("classes", "".join(classes)),
        ("height (z)", _ramp(f"{HEIGHT_RANGE[0]:g} m", f"{HEIGHT_RANGE[1]:g} m")),
        ("probability", _ramp("0", "1")),
    ]
    lines = [f'<tr><td>{name}</td><td><div class="legend">{entries}</div></td></tr>' for name, entries in rows]
    return f"<table>{''.join(lines)}</table>"


def _number(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 1000 else f"{value:.0f}"
    return str(value)


def _flattened(statistics: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, object]]:
    for name, value in statistics.items():
        if name == BY_FRAME:  # the timeline shows it
            continue
        if isinstance(value, Mapping):
            yield from _flattened(value, f"{prefix}{name} ")
        elif isinstance(value, (list, tuple)):
            yield prefix + name, ", ".join(str(entry) for entry in value)
        elif value is not None:  # nothing was measured
            yield prefix + name, value


def _statistics_table(statistics: Mapping[str, Any]) -> str:
    rows = "".join(
        f'<tr><td>{html.escape(name.replace("_", " "))}</td><td class="number">{html.escape(_number(value))}</td></tr>'
        for name, value in _flattened(statistics)
    )
    return f"<table>{rows}</table>" if rows else "<p>No statistics were recorded.</p>"


def _latency_table(timings_ms: Sequence[Mapping[str, float]]) -> str:
    table = latency_percentiles(timings_ms)
    if not table:
        return ""
    names = list(next(iter(table.values())))
    head = "".join(f"<th>{name}</th>" for name in ["stage [ms]", *names])
    rows = "".join(
        f"<tr><td>{html.escape(stage)}</td>"
        + "".join(f'<td class="number">{row[name]:.1f}</td>' for name in names)
        + "</tr>"
        for stage, row in table.items()
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"


def _picture(identity: str, caption: str, absent: str) -> str:
    return (
        f'<figure><figcaption id="{identity}-name">{caption}</figcaption><img id="{identity}" alt="{caption}" hidden>'
        f'<div class="absent">{absent}</div></figure>'
    )


def _word_buttons(words: Sequence[str]) -> str:
    if not words:
        return ""
    buttons = "".join(
        f'<button class="word" data-word="{number}" aria-pressed="false">{_swatch(colour, word)}</button>'
        for number, (word, colour) in enumerate(zip(words, phrase_colours(len(words)), strict=True))
    )
    return (
        f'<div class="bar" role="group" aria-label="words">words: {buttons}<button id="no-word">classes</button>'
        f'<label>least match <input type="range" id="match" min="1" max="{MATCH_STEPS}" value="1"></label></div>'
        '<p><output id="matching">Click a word, and its voxels light up; with Shift, beside those of other words. '
        "Escape goes back to the classes.</output></p>"
    )


_CONTROLS = """
<div class="bar">
<span>view: <button data-viewpoint="behind">behind the camera</button>
<button data-viewpoint="side">from the side</button> <button data-viewpoint="top">from above</button></span>
<label>colour by <select id="colours">{colourings}</select></label>
<label><input type="checkbox" id="show-surface" checked> surface</label>
<label><input type="checkbox" id="show-completed" checked> completed</label>
<span id="lidar-switch" hidden><label><input type="checkbox" id="show-lidar"> LiDAR</label></span>
<label>least probability <input type="range" id="probability" min="0" max="1" step="0.02" value="0"></label>
</div>{words}
<div id="scene"><canvas id="view"></canvas><canvas id="labels"></canvas><div id="trouble" hidden></div></div>
<p>Drag to turn, drag with the right button (or Shift) to move, wheel to zoom, double click to return; the arrow keys
change the frame.</p>
"""


def write_page(
    out: TextIO,
    *,
    title: str,
    frames: Iterable[Mapping[str, Any]],  # what the viewer shows of each frame (see ``ReportWriter``), lazily read
    frame_count: int,  # number of entries in ``frames``
    class_names: Sequence[str],
    class_colours: Colours,
    timings_ms: Sequence[Mapping[str, float]],
    evidence: Sequence[Summary],  # of all frames, embedded or not
    statistics: Mapping[str, Any],  # numbers for the table; nested mappings are flattened
    notes: Sequence[str],  # sentences shown above the pictures
    animation: AnimatedPicture | None = None,
    words: Sequence[str] = (),  # what the frames' ``matches`` are of, in their order: a button each
) -> None:
    """Write the page, one frame after the other, so that memory holds one frame."""
    palettes = {
        "class": class_colour_table(class_colours),
        "state": state_colours(range(256)),
        "height": height_colours(range(256), low=0, high=255),
        "probability": height_colours(range(256), low=0, high=255),
    }
    first = "class" if len(class_names) > 1 else "height"
    order = sorted(palettes, key=lambda name: name != first)
    colourings = "".join(f'<option value="{name}">{name}</option>' for name in order)
    head = html.escape(title)
    out.write(
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{head}</title>\n'
        '<link rel="icon" href="data:,">\n'
        f"<style>{_resource('viewer.css')}</style></head><body>\n<h1>{head}</h1>\n"
    )
    out.writelines(f'<p class="note">{html.escape(note)}</p>\n' for note in notes)
    if animation is not None:
        out.write(
            f'<figure class="drive"><figcaption>the drive: {html.escape(animation.caption)}</figcaption>'
            f'<img alt="camera image and completed voxels over time" src="data:image/webp;base64,'
            f'{embedded(animation.data)}"></figure>\n'
        )
    if frame_count:
        out.write(
            f'<div class="bar timeline"><button id="play">▶ play</button>'
            f'<input type="range" id="frame" min="0" max="{frame_count - 1}" value="0">'
            f'<span id="caption"></span>{evidence_svg(evidence)}<output id="evidence"></output></div>\n'
            '<div class="pictures"><div>'
            + _picture("camera", "camera", "No camera image was recorded.")
            + _picture("depth", "depth [m]", "No depth was recorded.")
            + "</div>"
            + _picture("birds-eye", "from above: forward is up", "")
            + "</div>\n<h2>Voxels</h2>"
            + _CONTROLS.format(colourings=colourings, words=_word_buttons(words))
        )
    else:
        out.write("<p>No frame was completed.</p>")
    out.write(f"<h2>Legend</h2>{_legend(class_names, class_colours)}\n")
    out.write(f"<h2>Latency</h2>{latency_svg(timings_ms)}{_latency_table(timings_ms)}\n")
    out.write(f"<h2>Statistics</h2>{_statistics_table(statistics)}\n")
    settings = {
        "frames": frame_count,
        "heightRange": HEIGHT_RANGE,
        "lidarResolution": LIDAR_RESOLUTION,
        "palettes": {name: table.reshape(-1).tolist() for name, table in palettes.items()},
    }
    if words:
        settings |= {"words": list(words), "wordColours": phrase_colours(len(words)), "mapMargin": MARGIN}
        settings |= {"leastMatch": LEAST_PROBABILITY, "matchSteps": MATCH_STEPS}
    out.write(_embedded_json("report-data", settings))
    for number, frame in enumerate(frames):
        out.write(_embedded_json(f"frame-{number}", frame))
    out.write(f"<script>{_resource('viewer.js')}</script>\n</body></html>\n")


def embedded(data: bytes) -> str:
    """Base64 text of bytes, as the page carries them."""
    return base64.b64encode(data).decode("ascii")


def _byte_planes(values: NDArray[np.uint32] | NDArray[np.uint16]) -> bytes:
    """All lowest bytes first, then all second bytes, …: compresses far better than interleaved bytes."""
    little_endian = values.astype(values.dtype.newbyteorder("<"), copy=False)
    return little_endian.view(np.uint8).reshape(len(values), values.itemsize).T.tobytes()


def pack_voxels(voxels: SemanticVoxels) -> bytes:
    """Occupied voxels as zlib-compressed planes. `voxels`: completed voxels with N occupied ones.

    Returns compressed bytes of: four planes [N] of the differences between successive flat indices ((x·Y + y)·Z + z,
    ascending), then the labels [N], the states [N], and the probabilities times 255 [N].
    """
    flat, order = _page_order(voxels)
    steps = np.diff(flat[order], prepend=0).astype(np.uint32)
    probability = np.rint(np.clip(voxels.probability[order], 0.0, 1.0) * 255.0).astype(np.uint8)
    state = voxels.state[tuple(voxels.index[order].T)]
    planes = [_byte_planes(steps), voxels.label[order].tobytes(), state.tobytes(), probability.tobytes()]
    return zlib.compress(b"".join(planes), 6)


def _page_order(voxels: SemanticVoxels) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Flat indices [N] of occupied voxels, and the order [N] in which they ascend."""
    _, size_y, size_z = voxels.grid.shape
    index = voxels.index.astype(np.int64)
    flat = (index[:, 0] * size_y + index[:, 1]) * size_z + index[:, 2]
    return flat, np.argsort(flat, kind="stable")


def pack_matches(matches: Sequence[PhraseMatches], voxels: SemanticVoxels) -> bytes:
    """What phrases match the occupied voxels, as zlib-compressed planes.

    `matches`: of P phrases; `voxels`: the frame that they are of, with N occupied voxels. Returns compressed bytes of a
    plane [N] a phrase, in the order of `pack_voxels`: 0 where the phrase does not match, else 1 .. `MATCH_STEPS`, even
    steps from `LEAST_PROBABILITY` to 1.
    """
    planes = np.zeros((len(matches), len(voxels)), dtype=np.uint8)
    for plane, found in zip(planes, matches, strict=True):
        share = (np.nan_to_num(found.probability) - LEAST_PROBABILITY) / (1.0 - LEAST_PROBABILITY)
        plane[found.voxels] = np.clip(1 + np.floor(MATCH_STEPS * share), 0, MATCH_STEPS)
    _, order = _page_order(voxels)
    return zlib.compress(planes[:, order].tobytes(), 9)


def pack_lidar(points_grid: NDArray[np.float32], voxels: SemanticVoxels) -> bytes:
    """LiDAR points inside the grid's box, thinned, as zlib-compressed planes.

    `points_grid`: points in the grid frame, metres [M, 3]; `voxels`: completed voxels whose grid bounds the points.
    Returns compressed bytes of six planes [K] (x low, x high, y low, …): distance from the grid's origin in steps of
    ``LIDAR_RESOLUTION`` as uint16.
    """
    origin = np.asarray(voxels.grid.origin)
    extent = np.asarray(voxels.grid.shape) * voxels.grid.voxel_size
    points = np.asarray(points_grid, dtype=np.float64).reshape(-1, 3) - origin
    limit = np.minimum(extent, 65535 * LIDAR_RESOLUTION)
    points = points[((points >= 0.0) & (points < limit)).all(axis=1)]
    points = points[:: max(1, -(-len(points) // _MOST_LIDAR_POINTS))]
    steps = np.floor(points / LIDAR_RESOLUTION).astype(np.uint16)
    return zlib.compress(b"".join(_byte_planes(np.ascontiguousarray(column)) for column in steps.T), 6)
