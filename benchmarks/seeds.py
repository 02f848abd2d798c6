"""Mean and spread over the seeds of runs that were evaluated with `evaluate occupancy` or `evaluate semantics`.

    python -m benchmarks.seeds docs/results/comparison/towns_*.json
    python -m benchmarks.seeds docs/results/semantics/test_seed_*.json

Runs that differ in nothing but their seed are called NAME-SEED. The spread is the standard deviation over seeds;
methods without a seed, the controls of occupancy, are shown once. Clusters depend on the seed of their evaluation,
those of controls as well.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from scene_completion_ros.evaluation.invisible_empty import SCORE_NAMES
from scene_completion_training.evaluation.density_model import CALIBRATED_RULE
from scene_completion_training.evaluation.tables import table

REGIONS = ("occluded", "visible", "all")
_RUN = re.compile(r"^(?P<name>[^,]+?)-(?P<seed>\d+)(?P<rest>(, | \().+)?$")

Values = dict[str, dict[str, list[float]]]
"""Method -> column -> value of each seed."""


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", nargs="+", type=Path, metavar="JSON", help="results.json of evaluations, same data")
    contents = [json.loads(path.read_text(encoding="utf-8")) for path in parser.parse_args().results]
    semantic = [content for content in contents if "scores" in content]
    occupancy = [content for content in contents if "scores" not in content]
    for title, values in (*semantic_tables(semantic), *(tables(occupancy) if occupancy else ())):
        print(f"{title}\n\n{seeds_table(values)}\n")


def tables(contents: Sequence[dict[str, Any]]) -> Iterable[tuple[str, Values]]:
    """Title and values of each table: voxels by region, LiDAR protocols by setting.

    Args:
        contents: What `results.json` holds, of evaluations on the same recordings.
    """
    voxels = [cell for content in contents for cell in content.get("exact", {}).get("voxels", [])]
    lidar = [row for content in contents for row in content["lidar"]]
    calibrated = {row["method"] for row in (*voxels, *lidar) if row["rule"] == CALIBRATED_RULE}
    for region in REGIONS:
        rows = [
            (cell["method"], f"{name} {cell['range_m']:g} m", cell[key])
            for name, key in (("IoU", "iou"), ("AP", "average_precision"))
            for cell in voxels
            if cell["region"] == region and _chosen(cell, calibrated)
        ]
        yield f"Voxels, {region}, in percent", by_method(rows)
    for protocol, scans in dict.fromkeys((row["protocol"], row["scans"]) for row in lidar):
        rows = [
            (row["method"], label, row[label])
            for row in lidar
            if (row["protocol"], row["scans"]) == (protocol, scans) and _chosen(row, calibrated)
            for label in (f"{_title(name)}@{scans}" for name in SCORE_NAMES)
        ]
        yield f"LiDAR protocol {protocol}, in percent", by_method(rows)


def semantic_tables(contents: Sequence[dict[str, Any]]) -> Iterable[tuple[str, Values]]:
    """Title and values of each table of semantics: by recordings and naming, and the classes at the largest range."""
    scores = [
        score | {"method": _seeded(score["method"], content["arguments"]["seed"])}
        for content in contents
        for score in content["scores"]
    ]
    largest = max((score["range_m"] for score in scores), default=0.0)
    for recordings, naming in dict.fromkeys((score["recordings"], score["naming"]) for score in scores):
        named = [score for score in scores if (score["recordings"], score["naming"]) == (recordings, naming)]
        rows = [
            (score["method"], f"{name} {score['range_m']:g} m", score[key])
            for name, key in (("mIoU", "mean_iou"), ("IoU", "iou"))
            for score in named
        ]
        title = f"{recordings}, clusters named by {naming}"
        yield f"{title}, in percent", by_method(rows)
        classes = [
            (score["method"], name, value)
            for score in named
            if score["range_m"] == largest
            for name, value in score["class_iou"].items()
        ]
        yield f"{title}, IoU of classes at {largest:g} m, in percent", by_method(classes)


def _seeded(method: str, seed: object) -> str:
    """A method's name with the seed of its evaluation, where it has none of its own."""
    if _RUN.match(method):
        return method
    name, comma, rest = method.partition(",")
    return f"{name}-{seed}{comma}{rest}"


def by_method(rows: Iterable[tuple[str, str, float | None]]) -> Values:
    """Gathers (method, column, value); what is not defined is left out, and the seed is no part of a method."""
    found: Values = {}
    for method, column, value in rows:
        match = _RUN.match(method)
        name = f"{match['name']}{match['rest'] or ''}" if match else method
        values = found.setdefault(name, {}).setdefault(column, [])
        if value is not None and (match or not values):  # each evaluation has the same controls
            values.append(value)
    return found


def seeds_table(values: Values) -> str:
    """Rows of methods, columns of scores: mean ± spread in percent, and the number of seeds.

    A score that is not defined for some of the seeds says for how many it is.
    """
    columns = list(dict.fromkeys(column for cells in values.values() for column in cells))
    rows = []
    for method, cells in values.items():
        seeds = max((len(found) for found in cells.values()), default=0)
        rows.append([method, str(seeds), *(_cell(cells.get(column, []), seeds) for column in columns)])
    return table(["method", "seeds", *columns], rows)


def _cell(values: Sequence[float], seeds: int) -> str:
    if not values:
        return "–"
    found = f"{100.0 * statistics.fmean(values):.1f}"
    if len(values) > 1:
        found += f" ± {100.0 * statistics.stdev(values):.1f}"
    return found if len(values) == seeds else f"{found} ({len(values)} of {seeds})"


def _chosen(row: dict[str, Any], calibrated: set[str]) -> bool:
    """A model's calibrated rule; that of the literature where it has no other, as the controls."""
    return bool((row["rule"] == CALIBRATED_RULE) == (row["method"] in calibrated))


def _title(name: str) -> str:
    kind, _, rest = name.partition("_")
    return f"{kind.upper()}_{rest}"


if __name__ == "__main__":
    main()
