from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from scene_completion_training.evaluation.occupancy_plots import COLOURS
from scene_completion_training.evaluation.voxel_probe import LabelledFeatures, ProbeSettings, fit_probes, score_probes
from scene_completion_training.evaluation.voxel_probe_run import MethodScores
from scene_completion_training.evaluation.voxel_probe_tables import as_json, markdown, plots, write_plots

NAMES = ("road", "car", "pole")
SETTINGS = ProbeSettings(steps=150, bank=30, shares=(0.5,), voxels=(20,))


def drawn(seed: int, noise: float) -> LabelledFeatures:
    random = np.random.default_rng(seed)
    classes = random.integers(0, 2, 80)
    told = np.eye(2)[classes] + noise * random.normal(size=(80, 2))
    return LabelledFeatures((told.astype(np.float32), (0.1 * random.normal(size=(80, 3))).astype(np.float32)), classes)


def scored(method: str, noise: float, seeds: int) -> MethodScores:
    runs = []
    for seed in range(seeds):
        probes = fit_probes(
            [drawn(10 * seed + n, noise) for n in range(4)], ["level 1", "level 2"], 3, SETTINGS, seed=seed
        )
        runs.append(score_probes(probes, [drawn(99, noise)], NAMES))
    return MethodScores("towns", method, runs)


@pytest.fixture(scope="module")
def results() -> list[MethodScores]:
    return [scored("clear", 0.0, 2), scored("noisy", 1.0, 1)]


def test_tables_say_means_and_deviations(results: list[MethodScores]) -> None:
    text = markdown(results)
    titles = [line for line in text.splitlines() if line.startswith("towns: ")]
    assert len(titles) == 1 + 3 * 3 + 1 and all("in percent, mean ± sample standard deviation" in one for one in titles)
    first = next(line for line in text.splitlines() if line.startswith("| clear | 2 |")).split(" | ")
    # Road and car are told apart, no pole is true: 2 of 3 classes.
    assert first[2:5] == ["100.0 ± 0.0", "66.7 ± 0.0", "100.0 ± 0.0"]
    assert first[5].startswith("100.0") and first[6].startswith("66.7")
    assert "| method | alone level 1 | alone level 2 | without level 1 | without level 2 | all |" in text
    assert "| method | 50 % of scenes | all |" in text and "| method | 20 voxels | all |" in text
    alone = next(line for line in text.splitlines() if line.startswith("| noisy") and line.count("|") == 7)
    assert "±" not in alone


def test_plain_values_hold_every_variant_and_reading(results: list[MethodScores]) -> None:
    content = json.loads(json.dumps(as_json(results, {"steps": "40"}), allow_nan=False))
    assert content["arguments"] == {"steps": "40"} and len(content["scores"]) == 2 * 7 * 3
    entry = content["scores"][0]
    assert (entry["method"], entry["reading"], entry["runs"], entry["train_scenes"]) == ("clear", "linear", 2, 4)
    assert entry["variant"] == {"kind": "all", "value": "all", "levels": [0, 1], "share": 1.0, "voxels": None}
    assert entry["train_voxels"] == [320, 320] and len(entry["scores"]["mean_iou"]["values"]) == 2
    assert entry["scores"]["class_iou"]["pole"]["mean"] is None


def test_better_methods_stand_higher_in_plots(results: list[MethodScores], tmp_path: Path) -> None:
    picture = plots(results)["towns"]
    highest = []
    for colour in COLOURS[:2]:
        rows = np.nonzero((picture == np.array(colour)).all(axis=-1))[0]
        rows = rows[rows > 100]  # below the legend
        assert len(rows) > 200
        highest.append(rows.min())
    assert highest[0] < highest[1]
    write_plots(tmp_path, results)
    assert cv2.imread(str(tmp_path / "probe_towns.png")).shape == picture.shape


def test_nothing_is_drawn_where_nothing_was_varied(results: list[MethodScores]) -> None:
    """`--whole-only` once left an empty page with a legend."""
    whole = [MethodScores(one.group, one.method, [run[:1] for run in one.runs]) for one in results]
    assert plots(results) and not plots(whole)
