"""A report folder that grows frame by frame and loses nothing when its process is interrupted.

The page ``index.html`` of a report, one file that needs no network and no other, and the bytes that it shows.

Script and style lie in ``assets`` next to this module and are put into the page when it is written.
"""

import base64
import html
import json
import zlib
from collections.abc import Iterable, Mapping, Sequence
from importlib import resources
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

import numpy as np
from numpy.typing import NDArray

from scene_completion_ros.arrays import Bytes, Floats, Ints
from scene_completion_ros.errors import SceneCompletionError
from scene_completion_ros.geometry.cameras import Camera
from scene_completion_ros.plain_text import printable
from scene_completion_ros.report.pictures import depth_picture, encode_picture, fit_width, heading_of, voxel_view
from scene_completion_ros.report.summaries import BY_FRAME, Summary, evidence_in_words
from scene_completion_ros.voxels import colours
from scene_completion_ros.voxels.semantic_voxels import PhraseMatches, SemanticVoxels, phrase_colours
from scene_completion_ros.whole_files import whole_file

LIDAR_RESOLUTION = 0.05  # metres
PROBABILITIES = 10  # how many the page distinguishes
_MOST_LIDAR_POINTS = 20_000

Colours = Sequence[tuple[int, int, int]]


def _resource(name: str) -> str:
    return (resources.files("scene_completion_ros.report") / "assets" / name).read_text(encoding="utf-8")


def _html(text: str) -> str:
    return html.escape(printable(text))


def _embedded_json(identity: str, value: object) -> str:
    text = json.dumps(value, separators=(",", ":")).replace("<", "\\u003c")
    return f'<script type="application/json" id="{identity}">{text}</script>\n'


def _swatch(colour: Sequence[int], name: str) -> str:
    red, green, blue = colour
    return f'<span><i style="background:rgb({red},{green},{blue})"></i>{_html(name)}</span>'


def _ramp(low: str, high: str) -> str:
    stops = ",".join("rgb({},{},{})".format(*colours.height_colours(i, low=0, high=8)) for i in range(9))
    return f'<span>{low} <i class="ramp" style="background:linear-gradient(to right,{stops})"></i> {high}</span>'


def _legend(class_names: Sequence[str], class_colours: Colours) -> str:
    states = [_swatch(colour, colours.STATE_NAMES[state]) for state, colour in sorted(colours.STATE_COLOURS.items())]
    classes = [_swatch(colour, name) for name, colour in zip(class_names, class_colours, strict=True)]
    rows = [
        ("states", "".join(states)),
        ("classes", "".join(classes)),
        ("height (z)", _ramp(f"{colours.HEIGHT_RANGE[0]:g} m", f"{colours.HEIGHT_RANGE[1]:g} m")),
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
        if name in (BY_FRAME, "latency_ms", "bodies", "warnings"):  # which the timeline, tables and the notes show
            continue
        if isinstance(value, Mapping):
            yield from _flattened(value, f"{prefix}{name} ")
        elif isinstance(value, (list, tuple)) and value:
            yield prefix + name, ", ".join(str(entry) for entry in value)
        elif value not in (None, [], ()):  # nothing was measured
            yield prefix + name, value


def _statistics_table(statistics: Mapping[str, Any]) -> str:
    rows = "".join(
        f'<tr><td>{_html(name.replace("_", " "))}</td><td class="number">{_html(_number(value))}</td></tr>'
        for name, value in _flattened(statistics)
    )
    return f"<table>{rows}</table>" if rows else "<p>No statistics were recorded.</p>"


def _figures_table(corner: str, rows: Mapping[str, Mapping[str, float] | None], nothing: str) -> str:
    """A table of named rows of figures, such as percentiles by stage; `nothing`: said where there are none."""
    table = {name: row for name, row in rows.items() if row}
    if not table:
        return f"<p>{nothing}</p>"
    columns = list(next(iter(table.values())))
    head = "".join(f"<th>{_html(name)}</th>" for name in [corner, *columns])
    body = ""
    for name, row in table.items():
        cells = (f"{row[key]:.1f}" if isinstance(row[key], float) else str(row[key]) for key in columns)
        figures = "".join(f'<td class="number">{cell}</td>' for cell in cells)
        body += f"<tr><td>{_html(name)}</td>{figures}</tr>"
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _word_buttons(words: Mapping[int, str], word_colours: Colours) -> str:
    if not words:
        return ""
    buttons = "".join(
        f'<button class="word" data-word="{number}" aria-pressed="false">{_swatch(word_colours[number], word)}</button>'
        for number, word in words.items()
    )
    return (
        f'<div class="bar" role="group" aria-label="words">words: {buttons}<button id="no-word">classes</button></div>'
        '<p><output id="matching">Words light up the voxels that match them.</output></p>'
    )


def _headlines(figures: Mapping[str, str]) -> str:
    entries = "".join(f"<div><dt>{_html(k)}</dt><dd>{_html(v)}</dd></div>" for k, v in figures.items())
    return f'<dl class="headlines">{entries}</dl>\n' if figures else ""


def _folded(title: str, content: str) -> str:
    return f"<details><summary>{title}</summary>{content}</details>\n"


def _byte_planes(values: NDArray[np.uint32] | NDArray[np.uint16]) -> bytes:
    """All lowest bytes first, then all second bytes, …: compresses far better than interleaved bytes."""
    little_endian = values.astype(values.dtype.newbyteorder("<"), copy=False)
    return little_endian.view(np.uint8).reshape(len(values), values.itemsize).T.tobytes()


def pack_voxels(voxels: SemanticVoxels) -> bytes:
    """Occupied voxels as zlib-compressed planes. `voxels`: completed voxels with N occupied ones.

    Returns compressed bytes of: four planes [N] of the differences between successive flat indices ((x·Y + y)·Z + z,
    ascending), then the labels [N], the states [N], and the probabilities times 255 [N], rounded down to
    `PROBABILITIES` values: they take most of the room.
    """
    flat, order = _page_order(voxels)
    steps = np.diff(flat[order], prepend=0).astype(np.uint32)
    level = np.floor(np.clip(voxels.probability[order], 0.0, 1.0) * PROBABILITIES)
    probability = np.ceil(level * (255 / PROBABILITIES)).astype(np.uint8)
    state = voxels.state[tuple(voxels.index[order].T)]
    planes = [_byte_planes(steps), voxels.label[order].tobytes(), state.tobytes(), probability.tobytes()]
    return zlib.compress(b"".join(planes), 6)


def _page_order(voxels: SemanticVoxels) -> tuple[Ints, Ints]:
    """Flat indices [N] of occupied voxels, and the order [N] in which they ascend."""
    _, size_y, size_z = voxels.grid.shape
    index = voxels.index.astype(np.int64)
    flat = (index[:, 0] * size_y + index[:, 1]) * size_z + index[:, 2]
    return flat, np.argsort(flat, kind="stable")


def pack_matches(matches: Sequence[PhraseMatches], voxels: SemanticVoxels) -> bytes:
    """Which phrases match the occupied voxels, as zlib-compressed planes.

    `matches`: of P phrases; `voxels`: the frame that they are of, with N occupied voxels. Returns compressed bytes of a
    plane [N] for every eight phrases, in the order of `pack_voxels`: bit i of plane k is phrase 8·k + i.
    """
    planes = np.zeros((-(-len(matches) // 8), len(voxels)), dtype=np.uint8)
    for place, found in enumerate(matches):
        planes[place // 8, found.sure] |= np.uint8(1 << place % 8)
    _, order = _page_order(voxels)
    return zlib.compress(planes[:, order].tobytes(), 6)


def pack_lidar(points_grid: Floats, voxels: SemanticVoxels) -> bytes:
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


_PARTS = {
    "camera_jpg": "_camera.jpg",
    "depth_jpg": "_depth.jpg",
    "seen_png": "_seen.png",
    "voxels": "_voxels.bin",
    "lidar": "_lidar.bin",
    "matches": "_matches.bin",
}  # of a frame: their names in the page, and the ends of those of their files
_WIDEST_IMAGE = 640  # pixels; the page carries every image
_QUALITY = 80
LARGEST_PAGE = 8_000_000  # bytes: a browser cannot hold an hour of voxels


class ReportWriter:
    """Writes ``frames/*`` at once, and ``index.html``, which carries them, at the end.

    The writer also writes the page after 1, 2, 4, 8, … frames, so that even a killed process leaves one; and when an
    exception or an interruption leaves the ``with`` block, once there is a frame. Memory holds one frame. A page of a
    longer drive shows evenly spaced frames, as many as fit into 8 MB; ``frames`` always has all. `folder`: of the
    report; a SceneCompletionError where it holds something. `words`: phrases of the query that the frames answer; the
    page then has a button for each.
    """

    def __init__(
        self,
        folder: str | Path,
        title: str,
        class_names: Sequence[str],
        class_colours: Colours,
        *,
        words: Sequence[str] = (),
    ) -> None:
        self.folder = Path(folder)
        self.index = self.folder / "index.html"  # the page
        self.title = title
        self.notes: list[str] = []  # sentences shown above the pictures
        self.warnings: Iterable[str] = ()  # likewise
        self._class_names, self._class_colours = tuple(class_names), tuple(class_colours)
        self._words = tuple(words)
        self._matched: set[int] = set()  # places of words that matched somewhere
        self._sizes: list[int] = []  # bytes of each frame in the page
        self._first_ns = 0
        self._statistics: dict[str, Any] = {}
        self._headlines: dict[str, str] = {}
        if self.folder.exists() and any(self.folder.iterdir()):
            cure = "Move it away, or name another folder"
            raise SceneCompletionError("is not empty", where=str(self.folder), cure=cure)

    def __enter__(self) -> "ReportWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is not None:
            self.notes.append(f"Interrupted after {len(self._sizes)} frames ({kind.__name__}): the rest is missing.")
        if kind is None or self.index.exists():  # after an error without a frame, it may be tried again
            self.close()

    def add_frame(
        self,
        voxels: SemanticVoxels,
        image: Bytes,  # RGB [H, W, 3]
        depth: Floats,  # metres along the optical axis [h, w]
        camera: Camera,  # that of the depth image
        *,
        lidar_grid: Floats | None = None,  # LiDAR points in the grid frame, metres [M, 3]
        # What each word of the report matches among the voxels; none where there was no answer.
        matches: Sequence[PhraseMatches] = (),
        evidence: Summary | None = None,  # `Completion.summary` of the image
    ) -> None:
        """Write one frame; the matches are of the report's words."""
        assert not matches or tuple(found.phrase for found in matches) == self._words
        self._first_ns = self._first_ns or voxels.stamp_ns
        time_s = (voxels.stamp_ns - self._first_ns) / 1e9
        caption = f"frame {len(self._sizes) + 1} · t = {time_s:.1f} s · {len(voxels)} occupied voxels"
        if image.shape[1] > _WIDEST_IMAGE:
            image = fit_width(image, _WIDEST_IMAGE)
        drawn = depth_picture(depth, voxels.grid)
        seen = voxel_view(voxels, camera, width=_WIDEST_IMAGE)  # a ray has two by two pixels
        parts = {
            "_camera.jpg": encode_picture(image, ".jpg", quality=_QUALITY),
            "_depth.jpg": encode_picture(drawn, ".jpg", quality=_QUALITY),
            "_seen.png": encode_picture(seen[::2, ::2], ".png"),
            "_voxels.bin": pack_voxels(voxels),
        }
        if lidar_grid is not None:
            parts["_lidar.bin"] = pack_lidar(lidar_grid, voxels)
        if matches:
            parts["_matches.bin"] = pack_matches(matches, voxels)
            self._matched |= {place for place, found in enumerate(matches) if len(found.sure)}
        grid: dict[str, Any] = {"origin": list(map(float, voxels.grid.origin)), "size": float(voxels.grid.voxel_size)}
        grid["shape"] = list(map(int, voxels.grid.shape))
        about = {"caption": caption, "stamp_ns": voxels.stamp_ns, "count": len(voxels), "grid": grid}
        about |= {"viewpoint": _viewpoint(voxels, camera), "evidence": evidence_in_words(evidence or {})}
        parts[".json"] = json.dumps(about).encode()
        (self.folder / "frames").mkdir(parents=True, exist_ok=True)
        for suffix, data in parts.items():
            (self.folder / "frames" / f"{len(self._sizes):06d}{suffix}").write_bytes(data)
        self._sizes.append(4 * sum(map(len, parts.values())) // 3)  # as base64
        if len(self._sizes) & (len(self._sizes) - 1) == 0:
            self.close()

    def close(self, statistics: Mapping[str, Any] | None = None, headlines: Mapping[str, str] | None = None) -> Path:
        """Write ``index.html``, `headlines` first and `statistics` flattened in it; more frames may follow."""
        self._statistics = dict(statistics or self._statistics)
        self._headlines = dict(headlines or self._headlines)
        every = next(n for n in count(1) if sum(self._sizes[::n]) <= LARGEST_PAGE or n >= len(self._sizes))
        numbers = range(0, len(self._sizes), every)
        notes = [*self.warnings, *self.notes]
        if every > 1:
            shown = f"Of {len(self._sizes)} frames one of {every} is shown here"
            notes.append(f"{shown}; the folder frames has the pictures of all.")
        self.folder.mkdir(parents=True, exist_ok=True)
        with whole_file(self.index) as part, part.open("w", encoding="utf-8") as out:
            self._write_page(out, numbers, notes)
        return self.index

    def _write_page(self, out: TextIO, numbers: Sequence[int], notes: Sequence[str]) -> None:
        """Write the page with some of the frames, one after the other, so that memory holds one."""
        names, class_colours = self._class_names, self._class_colours
        states = np.array([colours.STATE_COLOURS.get(state, (255, 255, 255)) for state in range(256)], np.uint8)
        palettes = {"class": colours.class_colour_table(class_colours), "state": states}
        palettes |= dict.fromkeys(("height", "probability"), colours.height_colours(range(256), low=0, high=255))
        first = "class" if len(names) > 1 else "height"
        order = sorted(palettes, key=lambda name: name != first)
        head = _html(self.title)
        out.write(
            f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{head}</title>\n'
            '<link rel="icon" href="data:,">\n'
            f"<style>{_resource('viewer.css')}</style></head><body>\n<h1>{head}</h1>\n"
        )
        out.writelines(f'<p class="note">{_html(note)}</p>\n' for note in notes)
        out.write(_headlines(self._headlines))
        word_colours = phrase_colours(len(self._words), class_colours if len(names) > 1 else ())
        if numbers:
            buttons = {i: word for i, word in enumerate(self._words) if i in self._matched}
            colourings = "".join(f'<option value="{name}">{name}</option>' for name in order)
            shown = {"last": len(numbers) - 1, "middle": len(numbers) // 2, "step": 1 / PROBABILITIES}
            words = _word_buttons(buttons, word_colours)
            out.write(_resource("viewer.html").format(**shown, colourings=colourings, words=words))
        else:
            out.write("<p>No frame was completed.</p>")
        out.write(f"<h2>Legend</h2>{_legend(names, class_colours)}\n")
        latency, bodies = (self._statistics.get(name, {}) for name in ("latency_ms", "bodies"))
        out.write(_folded("Latency by stage", _figures_table("stage [ms]", latency, "No latency was measured.")))
        if bodies:
            out.write(_folded("Lengths of things along rays", _figures_table("medians [m]", bodies, "")))
        out.write(_folded("All figures", _statistics_table(self._statistics)))
        tables = {name: table.reshape(-1).tolist() for name, table in palettes.items()}
        settings = {"frames": len(numbers), "heightRange": colours.HEIGHT_RANGE, "lidarResolution": LIDAR_RESOLUTION}
        settings |= {"palettes": tables}
        if self._words:
            settings |= {"words": list(self._words), "wordColours": word_colours}
        out.write(_embedded_json("report-data", settings))
        for place, number in enumerate(numbers):
            out.write(_embedded_json(f"frame-{place}", self._embedded_frame(number)))
        out.write(f"<script>{_resource('viewer.js')}</script>\n</body></html>\n")

    def _embedded_frame(self, number: int) -> dict[str, Any]:
        """What the viewer shows of a frame."""
        stem = self.folder / "frames" / f"{number:06d}"
        frame: dict[str, Any] = json.loads(stem.with_suffix(".json").read_text())
        for name, suffix in _PARTS.items():
            part = stem.with_name(stem.name + suffix)
            frame[name] = base64.b64encode(part.read_bytes()).decode() if part.exists() else None
        return frame


def _viewpoint(voxels: SemanticVoxels, camera: Camera) -> dict[str, Any]:
    """Where the camera stands in the grid frame, where it looks, and a small pyramid of its view."""
    rotation, position = voxels.grid_from_camera.rotation, voxels.grid_from_camera.translation
    right, bottom = camera.width - 0.5, camera.height - 0.5
    pixels = np.array([[-0.5, -0.5], [right, -0.5], [right, bottom], [-0.5, bottom]])
    rays = np.asarray(camera.unproject(pixels), dtype=np.float64)
    corners = position + 2.0 * rays @ rotation.T
    return {"position": position.tolist(), "heading": heading_of(voxels.grid_from_camera), "corners": corners.tolist()}
