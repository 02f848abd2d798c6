"""Clusters, the class file and the label head."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import adjusted_rand_score

from scene_completion_ros.errors import ConfigurationError
from scene_completion_training.clustering import fit_clusters, fit_label_head, read_class_file, write_class_file


def _rays(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Codes of length one around three directions, and which one each is around."""
    generator = np.random.default_rng(seed)
    directions = np.array([[1.0, 0, 0, 0], [0, 1.0, 0, 0], [0, 0.6, 0.8, 0]])
    true = generator.integers(0, 3, count)
    codes = directions[true] + 0.05 * generator.normal(size=(count, 4))
    return (codes / np.linalg.norm(codes, axis=1, keepdims=True)).astype(np.float32), true


def test_clusters_are_found_and_assigned_by_cosine() -> None:
    codes, true = _rays(600)
    clusters = fit_clusters(codes, 3)
    assert np.linalg.norm(clusters.centres, axis=1) == pytest.approx(np.ones(3), abs=1e-6)
    assert adjusted_rand_score(true, clusters.assign(codes)) == 1.0
    assert np.array_equal(clusters.assign(codes), clusters.assign(9.0 * codes))
    assert np.array_equal(fit_clusters(codes, 3).centres, clusters.centres)
    with pytest.raises(ConfigurationError, match="3 points for 4 clusters"):
        fit_clusters(_rays(3)[0], 4)


def _set(**values: object) -> Callable[[dict[str, Any]], None]:
    """Change the entry of cluster 1."""
    return lambda content: content["clusters"][1].update(values)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda content: content["clusters"].pop(), r"clusters: leaves out \[2\]"),
        (_set(cluster=0), r"clusters: leaves out \[1\], has twice or unknown \[0\]"),
        (_set(colour=[1, 2, 256]), r"clusters\[1\]\.colour: \[1, 2, 256\] is no RGB colour"),
        (_set(name="road", colour=[1, 2, 3]), r"clusters\[1\]\.colour: is \[1, 2, 3\], another road has"),
        (lambda content: content.update(schema=2), "schema: is 2, this version reads 1"),
    ],
)
def test_a_spoilt_class_file_is_refused(tmp_path: Path, spoil: Callable[[dict[str, Any]], None], said: str) -> None:
    file = tmp_path / "classes.json"
    write_class_file(file, ["road", None, "car"], [0.5, 0.3, 0.2])
    content = json.loads(file.read_text())
    spoil(content)
    file.write_text(json.dumps(content))
    with pytest.raises(ConfigurationError, match=said):
        read_class_file(file, 3)


def test_a_label_head_repeats_classes_that_its_units_tell(tmp_path: Path) -> None:
    """Class 2 occurs nowhere and is never given; the others follow from the units."""
    generator = np.random.default_rng(1)
    units = np.abs(generator.normal(size=(2000, 6))).astype(np.float16)
    classes = np.array([0, 1, 3])[np.argmax(units[:, :3], axis=1)]
    head = fit_label_head(units, classes, 4)
    assert head.weight.shape == (4, 6) and head.bias.shape == (4,)
    found = (units.astype(np.float32) @ head.weight.T + head.bias).argmax(axis=1)
    assert head.agreement > 0.97 and (found == classes).mean() > 0.97
    assert 2 not in found


def test_two_classes_have_a_row_each_and_one_is_too_few() -> None:
    units = np.random.default_rng(2).normal(size=(500, 3))
    head = fit_label_head(units, (units[:, 0] > 0.3).astype(np.int64), 2)
    assert head.weight.shape == (2, 3) and head.agreement > 0.95
    with pytest.raises(ConfigurationError, match="1 of 3 classes"):
        fit_label_head(np.ones((50, 3)), np.zeros(50, np.int64), 3)
