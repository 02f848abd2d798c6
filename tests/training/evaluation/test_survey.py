from pathlib import Path

import cv2
import numpy as np
import pytest

from scene_completion_ros.errors import ConfigurationError
from scene_completion_ros.sequences.posed_sequence import PosedSequence
from scene_completion_training.clustering.clusters import (
    read_class_file,
    read_clusters,
    write_class_file,
    write_clusters,
)
from scene_completion_training.evaluation.semantic_evaluation import FittedModel
from scene_completion_training.evaluation.survey import survey, write_contact_sheets
from tests.training.evaluation.one_wall import CAMERA, PaintedWall


def test_a_survey_is_kept_and_shown(street: PosedSequence, fitted: FittedModel, tmp_path: Path) -> None:
    found = survey(PaintedWall(), [street], every=4, points_a_frame=50)  # type: ignore[arg-type]
    assert set(found.frame) == {0, 4, 8} and (found.recording == 0).all()
    assert (found.pixel[:, 0] >= -0.5).all() and (found.pixel[:, 0] <= CAMERA.width - 0.5).all()
    file = tmp_path / "clusters.safetensors"
    write_clusters(file, fitted.clusters, found.codes, found.units)
    clusters, units, cluster = read_clusters(file)
    assert np.array_equal(clusters.centres, fitted.clusters.centres)
    assert np.array_equal(clusters.assign(units.astype(np.float32)), cluster)  # units are the codes here
    write_class_file(tmp_path / "classes.json", ["car", None], [0.5, 0.5])
    pages = write_contact_sheets(tmp_path, clusters, found, read_class_file(tmp_path / "classes.json", 2))
    assert [page.name for page in pages] == ["cluster_00.png", "cluster_01.png"]
    assert all(cv2.imread(str(page)) is not None for page in pages)
    file.write_bytes(b"nothing")
    with pytest.raises(ConfigurationError, match="is not a valid safetensors file"):
        read_clusters(file)
