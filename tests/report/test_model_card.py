"""Model cards: what the bundle and the results say, and nothing of other students."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from scene_completion_ros.errors import BundleError
from scene_completion_ros.inference.bundle import StudentBundle, load_default_bundle
from scene_completion_ros.report.model_card import Results, fingerprint, model_card

NAMED = "hf:robots/student"


@pytest.fixture(scope="module")
def bundle() -> StudentBundle:
    return load_default_bundle()


def results_of(bundle: StudentBundle, **changed: Any) -> dict[str, Any]:
    row = {"method": "mine", "rule": "calibrated", "range_m": 12.8, "iou": 0.4201599, "remarks": ["a list"]}
    rows = [row, row | {"range_m": 25.6, "iou": None}, row | {"rule": "σ > 0.5"}, row | {"method": "nothing"}]
    return {
        "settings": {"students": {"mine": fingerprint(bundle)}, "data": ["towns/2001", "towns/2002"]},
        "scores": {
            "voxels": rows,
            "depth": [{"method": "mine", "abs_rel": 0.094}, {"method": "mean depth", "abs_rel": 0.777}],
            "words": [{"method": "mean depth", "average_precision": 0.777}],
        },
        **changed,
    }


def read(content: object, bundle: StudentBundle, folder: Path) -> Results:
    file = folder / "results.json"
    file.write_text(json.dumps(content), encoding="utf-8")
    return Results.read(file, bundle)


def test_results_of_the_student_become_tables(bundle: StudentBundle, tmp_path: Path) -> None:
    found = read(results_of(bundle), bundle, tmp_path)
    assert found.name == tmp_path.name
    assert found.certain
    assert dict(found.tables) == {
        "voxels": [{"range_m": 12.8, "iou": 0.4201599}, {"range_m": 25.6, "iou": None}],
        "depth": [{"abs_rel": 0.094}],
    }
    card = model_card(bundle, [found], named=NAMED)
    assert "| range_m | iou |\n| --- | --- |\n| 12.8 | 0.4202 |\n| 25.6 | – |" in card
    assert "data towns/2001, towns/2002" in card
    assert "0.777" not in card


@pytest.mark.parametrize("changed", [{"threshold": 0.9}, {"sha256": {"encoder.onnx": "0", "head.safetensors": "0"}}])
def test_results_of_another_student_are_refused(bundle: StudentBundle, tmp_path: Path, changed: dict[str, Any]) -> None:
    other = dataclasses.replace(bundle, **changed)
    with pytest.raises(BundleError, match="another student"):
        read(results_of(other), bundle, tmp_path)


def test_results_without_hashes_are_said_to_be_uncertain(bundle: StudentBundle, tmp_path: Path) -> None:
    content = results_of(bundle, settings={})
    with pytest.raises(BundleError, match="no scores of kitti_student"):
        read(content, bundle, tmp_path)
    content["scores"]["depth"].append({"method": "kitti_student", "abs_rel": 0.1})
    found = read(content, bundle, tmp_path)
    assert not found.certain
    assert "does not say that its encoder, head and threshold were these" in model_card(bundle, [found], named=NAMED)


@pytest.mark.parametrize("content", ["[]", "{}", "{", "null", '{"settings": [], "scores": [1]}'])
def test_what_holds_no_results_is_refused(bundle: StudentBundle, tmp_path: Path, content: str) -> None:
    file = tmp_path / "results.json"
    file.write_text(content, encoding="utf-8")
    with pytest.raises(BundleError, match=r"results\.json"):
        Results.read(file, bundle)


def test_card_says_what_the_bundle_says(bundle: StudentBundle) -> None:
    card = model_card(bundle, [], named=NAMED, notes="# Title\n\nMy words.")
    _, front, text = card.split("---\n", 2)
    head = yaml.safe_load(front)
    assert head["license"] == "other"
    assert head["license_name"] == bundle.licence
    assert f"--bundle {NAMED}" in text
    assert "320 × 96 pixels" in text
    assert str(bundle.provenance["trained_on"]) in text
    assert all(value in text for value in bundle.sha256.values())
    assert "Nothing was measured" in text
    assert text.endswith("## Notes of the author\n\nMy words.\n")


def test_text_of_a_bundle_ends_no_cell_and_starts_no_tag(bundle: StudentBundle) -> None:
    hostile = dataclasses.replace(
        bundle, name="<b>x</b>", licence="mine\n---\nlicense: mit", provenance={"trained_on": "a | b\n\n# c"}
    )
    card = model_card(hostile, [], named=NAMED)
    assert yaml.safe_load(card.partition("---\n")[2].partition("\n---")[0])["license"] == "other"
    assert "<b>" not in card
    assert "| a \\| b # c |" in card
