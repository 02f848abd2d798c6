"""The report card of an improvement: one HTML file that says what was decided, why, and shows both students' work."""

import html
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from scene_completion_ros.evaluation.label_free import COLUMNS, MEASURES, Comparison, Verdict
from scene_completion_ros.inference.completer import Completion
from scene_completion_ros.report.html import embedded
from scene_completion_ros.report.map_axes import MapScale, Picture, draw_axes, map_picture
from scene_completion_ros.report.pictures import birds_eye_view, encode_picture, scaled_down
from scene_completion_ros.whole_files import write_whole
from scene_completion_training.arrays import Mask
from scene_completion_training.improvement.judging import ScoredFrame

SHOWN = ("largest gain", "in the middle", "smallest gain or largest loss")  # the frames in pictures
RIGHT, GHOST, MISSED, FREE, UNKNOWN = (46, 125, 50), (211, 47, 47), (25, 118, 210), (238, 242, 238), (200, 200, 204)
_WIDTH = 900
_STYLE = """
body { margin: 0 auto; padding: 16px 24px 48px; max-width: 1320px; background: #fff; color: #222;
  font: 15px/1.45 system-ui, sans-serif; }
h1 { font-size: 22px; } h2 { font-size: 17px; margin: 26px 0 8px; }
.verdict { padding: 10px 14px; border-left: 6px solid; font-size: 17px; }
.accepted { border-color: #2e7d32; background: #edf7ed; } .refused { border-color: #c62828; background: #fdecea; }
table { border-collapse: collapse; font-size: 14px; margin: 6px 0 14px; }
th, td { text-align: left; padding: 2px 16px 2px 0; border-bottom: 1px solid #e4e4e4; font-weight: normal; }
td.number { text-align: right; font-variant-numeric: tabular-nums; }
.good { color: #2e7d32; } .bad { color: #c62828; }
.pair { display: grid; grid-template-columns: 1fr 1fr; gap: 8px 16px; }
figure { margin: 0 0 8px; } figure img { width: 100%; display: block; } figcaption { color: #555; font-size: 13px; }
.legend i { display: inline-block; width: 13px; height: 13px; margin: 0 5px 0 14px; vertical-align: -2px; }
"""


class DrawnFrame(NamedTuple):
    """A frame of which pictures lie on the disk: what the new student gained, their name, and a caption."""

    gain: float
    name: str
    caption: str


class ShownFrames:
    """Draws the frames that are judged, wherever that is done, and keeps the pictures of those that the card shows.

    `folder`: where the pictures lie; it is emptied.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        if folder.exists():
            shutil.rmtree(folder)
        folder.mkdir(parents=True)

    def __call__(self, frame: ScoredFrame) -> DrawnFrame | None:
        """Draws a frame that an old and a new student completed, unless nothing is known of it."""
        gain = frame.log_loss[0] - frame.log_loss[1]
        if not np.isfinite(gain):
            return None
        pictures = {"image": scaled_down(frame.image, _WIDTH)}
        for name, completion in zip(("old", "new"), frame.completions, strict=True):
            pictures[f"{name}_map"] = birds_eye_view(completion.voxels, camera=frame.camera)
            pictures[f"{name}_errors"] = errors_from_above(completion, frame.verdict)
        for part, picture in pictures.items():
            write_whole(self._folder / f"{frame.key}_{part}.jpg", encode_picture(picture, ".jpg", quality=82))
        caption = f"{frame.drive}, frame {frame.number}: {gain:+.4f} nats of log loss gained"
        return DrawnFrame(gain, frame.key, caption)

    def chosen(self, drawn: Iterable[DrawnFrame | None]) -> list[dict[str, str]]:
        """Names and captions of the frames to show; the pictures of all others are removed."""
        ordered = sorted((frame for frame in drawn if frame is not None), reverse=True)
        places = list(dict.fromkeys([0, len(ordered) // 2, len(ordered) - 1])) if ordered else []
        chosen = zip(places, SHOWN, strict=False)
        kept = [{"name": ordered[place].name, "caption": f"{why}: {ordered[place].caption}"} for place, why in chosen]
        names = {frame["name"] for frame in kept}
        for file in self._folder.glob("*.jpg"):
            if file.name.partition("_")[0] not in names:
                file.unlink()
        return kept


def errors_from_above(completion: Completion, verdict: Verdict) -> Picture:
    """Columns of the grid: called occupied and found so, called occupied and seen through, missed, free, unknown.

    Where a column has several, what is wrong is shown.
    """
    grid = completion.voxels.grid
    called = np.zeros(grid.shape, np.bool_)
    called[tuple(completion.voxels.index.T)] = True
    cells = np.empty((*grid.shape[:2], 3), np.uint8)
    cells[:] = UNKNOWN
    layers: tuple[tuple[Mask, tuple[int, int, int]], ...] = (
        (verdict.free & ~called, FREE),
        (verdict.occupied & called, RIGHT),
        (verdict.occupied & ~called, MISSED),
        (verdict.free & called, GHOST),
    )
    for voxels, colour in layers:
        cells[voxels.any(axis=2)] = colour
    scale = MapScale((grid.origin[0], grid.origin[1]), grid.shape[:2], grid.voxel_size, max(1, 512 // grid.shape[0]))
    picture = map_picture(cells, scale)
    draw_axes(picture, scale)
    return picture


def write_card(
    file: Path,
    *,
    title: str,
    reasons: Sequence[str],  # why the new student is refused; empty where it is accepted
    judged: Mapping[str, Mapping[str, Any]],  # name of the drives -> `Judgement.content`
    frames: Sequence[Mapping[str, str]],  # what `ShownFrames.chosen` gave
    pictures: Path,  # folder of their pictures
    facts: Mapping[str, Mapping[str, Any]],  # headings -> names and values of a table
    notes: Sequence[str],  # sentences about what should be looked at
) -> None:
    """Writes the card, whole or not at all."""
    accepted = not reasons
    verdict = "The new student is accepted." if accepted else "The old student stays."
    parts = [
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>\n'
        f'<link rel="icon" href="data:,"><style>{_STYLE}</style></head><body>\n<h1>{html.escape(title)}</h1>\n'
        f'<div class="verdict {"accepted" if accepted else "refused"}">{verdict}'
        + "".join(f"<br>{html.escape(reason)}" for reason in reasons)
        + "</div>\n",
        *(f"<p>{html.escape(note)}</p>\n" for note in notes),
    ]
    for name, content in judged.items():
        parts += [f"<h2>{html.escape(name)}</h2>\n", _comparisons(content), _scores(content)]
    if frames:
        parts.append("<h2>What both made of the same images</h2>\n" + _legend())
        parts += [_frame(frame, pictures) for frame in frames]
    for heading, of in facts.items():
        rows = "".join(f"<tr><td>{html.escape(str(k))}</td><td>{html.escape(str(v))}</td></tr>" for k, v in of.items())
        parts.append(f"<h2>{html.escape(heading)}</h2><table>{rows}</table>\n")
    parts.append("</body></html>\n")
    write_whole(file, "".join(parts).encode())


def _comparisons(content: Mapping[str, Any]) -> str:
    head = "<tr><th>measure</th><th>voxels</th><th>old</th><th>new</th><th>gain</th><th>90 % interval</th></tr>"
    rows = []
    for entry in content["comparisons"]:
        one = Comparison(**entry)
        if not np.isfinite(one.gain):
            continue
        sign = "good" if one.low > 0.0 else "bad" if one.high < 0.0 else ""
        interval = f"{one.low:+.4f} … {one.high:+.4f}" if np.isfinite(one.low) else f"too few places: {one.places}"
        rows.append(
            f"<tr><td>{one.measure.replace('_', ' ')}</td><td>{one.region}</td>"
            f'<td class="number">{one.old:.4f}</td><td class="number">{one.new:.4f}</td>'
            f'<td class="number {sign}">{one.gain:+.4f}</td><td class="number">{interval}</td></tr>'
        )
    scored = ", ".join(f"{html.escape(name)} ({count} frames)" for name, count in content["drives"].items())
    return (
        f"<p>Scored: {scored}. A positive gain is better, whatever the measure: "
        f"{', '.join(MEASURES[2:]).replace('_', ' ')} are errors.</p><table>{head}{''.join(rows)}</table>\n"
    )


def _scores(content: Mapping[str, Any]) -> str:
    titles = "".join(f"<th>{column.title}</th>" for column in COLUMNS)
    head = f"<tr><th>voxels</th><th>student</th>{titles}"
    rows = []
    for region in content["scores"]["old"]:
        for name in ("old", "new"):
            one = content["scores"][name][region]
            values = [one[column.key] for column in COLUMNS]
            texts = [f"{value:.4f}" if isinstance(value, float) else str(value) for value in values]
            cells = "".join(f'<td class="number">{text}</td>' for text in texts)
            rows.append(f"<tr><td>{region}</td><td>{name}</td>{cells}</tr>")
    return f"<details><summary>all ranges</summary><table>{head}</tr>{''.join(rows)}</table></details>\n"


def _legend() -> str:
    entries = (
        (RIGHT, "called occupied, and later measured"),
        (GHOST, "called occupied, and later seen through"),
        (MISSED, "later measured, and not called occupied"),
        (FREE, "free, and called so"),
        (UNKNOWN, "never seen again"),
    )
    swatches = "".join(f'<i style="background:rgb{colour}"></i>{words}' for colour, words in entries)
    return f'<p class="legend">{swatches}</p>\n'


def _frame(frame: Mapping[str, str], pictures: Path) -> str:
    def shown(part: str, caption: str) -> str:
        data = embedded((pictures / f"{frame['name']}_{part}.jpg").read_bytes())
        image = f'<img alt="{caption}" src="data:image/jpeg;base64,{data}">'
        return f"<figure>{image}<figcaption>{caption}</figcaption></figure>"

    return (
        f"<h3>{html.escape(frame['caption'])}</h3>\n{shown('image', 'camera')}"
        f'<div class="pair">{shown("old_map", "old student, from above")}{shown("new_map", "new student, from above")}'
        f"{shown('old_errors', 'old student against what was seen later')}"
        f"{shown('new_errors', 'new student against what was seen later')}</div>\n"
    )
