"""The model card of a student: what its bundle says of it, and what was measured, as Markdown for the hub."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from scene_completion_ros.errors import BundleError
from scene_completion_ros.inference.bundle import ENCODER, HEAD, MANIFEST, StudentBundle
from scene_completion_ros.untrusted_files import read_json

STUDENTS = "students"
DEPLOYED_RULE = "calibrated"
"""The rule of `evaluate` by which a deployed student calls voxels occupied; rows of other rules are left out."""
_TAGS = ["ros2", "robotics", "semantic-scene-completion", "occupancy", "depth-estimation"]
Row = Mapping[str, Any]


def fingerprint(bundle: StudentBundle) -> dict[str, str | float]:
    """What a measurement of a student depends on: hashes of encoder and head, and the threshold."""
    return {ENCODER: bundle.sha256[ENCODER], HEAD: bundle.sha256[HEAD], "threshold": bundle.threshold}


@dataclass(frozen=True)
class Results:
    """What ``scene-completion evaluate --output`` wrote of one student.

    Attributes:
        name: Name of the file or of its folder.
        settings: What the evaluation was asked for.
        tables: Metric -> rows of the student, a value a column.
        certain: Whether the file names the very encoder, head and threshold of the student.
    """

    name: str
    settings: Mapping[str, Any]
    tables: Mapping[str, Sequence[Row]]
    certain: bool

    @staticmethod
    def read(file: Path, bundle: StudentBundle) -> Results:
        """Reads the rows of a student out of a ``results.json``.

        Raises:
            BundleError: It cannot be read, was measured on another student, or holds nothing of this one.
        """
        where = str(file)
        cure = "Name a results.json of `scene-completion evaluate`."
        content = read_json(file, BundleError, cure=cure, kind=dict, most_bytes=100 << 20)
        settings, scores = (
            found if isinstance(found := content.get(key), dict) else {} for key in ("settings", "scores")
        )
        measured = settings.get(STUDENTS, {})
        methods = {name for name, value in measured.items() if value == fingerprint(bundle)}
        if measured and not methods:
            raise BundleError(
                f"was measured on another student, or before the last change of this one ({', '.join(measured)})",
                where=where,
                cure="Evaluate the bundle that you publish.",
            )
        folder = bundle.encoder_path.parent.resolve().name
        tables = _tables(scores, methods or {bundle.name, folder})
        if not tables:
            raise BundleError(
                f"has no scores of {bundle.name}", where=where, cure="Name results in which the bundle was scored."
            )
        name = file.parent.resolve().name if file.stem == "results" else file.stem
        return Results(name, {key: value for key, value in settings.items() if key != STUDENTS}, tables, bool(methods))


def model_card(bundle: StudentBundle, results: Sequence[Results], *, named: str, notes: str = "") -> str:
    """The card, as ``README.md`` of a repository of the hub.

    Args:
        bundle: The student.
        results: What was measured.
        named: Name of the bundle on the hub, as commands take it.
        notes: What its author writes about it, Markdown; a first heading is left out.

    Returns:
        Markdown behind the YAML that the hub reads.
    """
    front = {
        "license": "other",
        "license_name": " ".join(bundle.licence.split()),
        "library_name": "scene_completion_ros",
        "pipeline_tag": "robotics",
        "tags": _TAGS,
    }
    parts = [
        f"---\n{yaml.safe_dump(front, sort_keys=False, allow_unicode=True, width=1000)}---",
        f"# {_plain(bundle.name)}",
        "`scene-completion publish` made this card of the bundle and of the results of `scene-completion evaluate`.",
        f"```\nscene-completion replay --bundle {named}\n```",
        "## What it expects and gives",
        _table(_expected(bundle), ("", "")),
        "## Where it comes from",
        _table(_origin(bundle), ("", "")),
        "## What was measured",
        *(_measured(results) or ["Nothing was measured, or nobody gave the results."]),
        "## Files",
        f"`{MANIFEST}` holds these hashes. The package compares every file with its hash before it reads the file.",
        _table([{"": f"`{name}`", "sha256": f"`{value}`"} for name, value in sorted(_hashes(bundle).items())]),
        "## Licence",
        _plain(bundle.licence),
    ]
    if notes.strip():
        parts += ["## Notes of the author", _without_heading(notes)]
    return "\n\n".join(parts) + "\n"


def _expected(bundle: StudentBundle) -> list[Row]:
    camera, grid = bundle.canonical, bundle.grid
    size = " × ".join(f"{grid.voxel_size * count:.4g}" for count in grid.shape)
    provenance = {
        "image after resampling": f"{camera.width} × {camera.height} pixels, fx {camera.fx:g}, fy {camera.fy:g}",
        "height of the cameras of the training": f"{bundle.height_above_ground:g} m above the ground",
        "their pitch": f"{_degrees(bundle.pitch_range)}, down positive",
        "their focal length over the width of the image": _range(bundle.focal_range),
        "depth": f"{_range(bundle.depth_range)} m",
        "grid": f"{' × '.join(map(str, grid.shape))} voxels of {grid.voxel_size:g} m, {size} m, frame {grid.frame}",
        "a voxel counts as occupied from": f"probability {bundle.threshold:.3f}",
        "classes": ", ".join(bundle.class_names) if bundle.head.label_hidden else "none: it knows geometry alone",
        "encoders for GPUs": ", ".join(bundle.gpu_precisions) or "none",
    }
    return [{"": key, " ": value} for key, value in provenance.items()]


def _origin(bundle: StudentBundle) -> list[Row]:
    provenance = bundle.provenance
    calibration = provenance.get("calibration")
    fitted = calibration.get("fitted_on") if isinstance(calibration, Mapping) else None
    rows = {
        "trained on": provenance.get("trained_on"),
        "calibrated on": fitted,
        "checkpoint": provenance.get("checkpoint"),
    }
    return [{"": key, " ": value or "the bundle does not say"} for key, value in rows.items()]


def _hashes(bundle: StudentBundle) -> dict[str, str]:
    return {**bundle.sha256, **{encoder.file: encoder.sha256 for encoder in bundle.gpu_encoders.values()}}


def _measured(results: Sequence[Results]) -> list[str]:
    parts = []
    for found in results:
        parts.append(f"### {_plain(found.name)}")
        settings = "; ".join(f"{_plain(key)} {_cell(value)}" for key, value in found.settings.items())
        certain = (
            "the very encoder, head and threshold of this bundle"
            if found.certain
            else ("a student of this name. The file does not say that its encoder, head and threshold were these")
        )
        parts.append(f"Asked for: {settings or 'not said'}. Measured on {certain}.")
        for title, rows in found.tables.items():
            parts += [f"**{_plain(title)}**", _table(rows)]
    return parts


def _tables(scores: Mapping[str, Any], methods: set[str]) -> dict[str, list[Row]]:
    """Metric -> rows of the student alone and as it is deployed, of the columns that hold one value each."""
    found: dict[str, list[Row]] = {}
    for metric, rows in scores.items():
        own = [row for row in rows if isinstance(row, Mapping)] if isinstance(rows, list) else []
        own = [row for row in own if row.get("method") in methods and row.get("rule", DEPLOYED_RULE) == DEPLOYED_RULE]
        if own:
            found[str(metric)] = [{key: row[key] for key in row if _is_value(key, row[key])} for row in own]
    return found


def _is_value(key: str, value: object) -> bool:
    return key not in ("method", "rule") and (value is None or isinstance(value, str | int | float))


def _table(rows: Sequence[Row], head: Sequence[str] | None = None) -> str:
    columns = list(dict.fromkeys(key for row in rows for key in row))
    lines = [list(map(_plain, head or columns)), ["---"] * len(columns)]
    lines += [[_cell(row.get(column)) for column in columns] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(value: object) -> str:
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return "–"
    if isinstance(value, float):
        return f"{value:.4g}"
    return _plain(", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value))


def _plain(text: object) -> str:
    """Text as Markdown shows it, on one line: no cell and no tag ends in it."""
    return " ".join(str(text).split()).replace("|", "\\|").replace("<", "&lt;")


def _range(values: tuple[float, float]) -> str:
    return f"{values[0]:.3g} to {values[1]:.3g}"


def _degrees(values: tuple[float, float]) -> str:
    return f"{math.degrees(values[0]):.1f}° to {math.degrees(values[1]):.1f}°"


def _without_heading(text: str) -> str:
    lines = text.strip().splitlines()
    return "\n".join(lines[1:] if lines[0].startswith("# ") else lines).strip()
