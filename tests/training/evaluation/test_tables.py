from __future__ import annotations

import numpy as np

from scene_completion_training.evaluation.kitti import (
    VOXEL_SHAPE,
    VoxelPrediction,
    VoxelTruth,
    WindowScores,
    score_voxels,
)
from scene_completion_training.evaluation.tables import as_json, markdown


def test_undefined_figures_are_dashes_and_null() -> None:
    none, all_ = np.zeros(VOXEL_SHAPE, bool), np.ones(VOXEL_SHAPE, bool)
    nothing, empty = VoxelTruth(none, all_, all_, all_), VoxelPrediction(np.zeros(VOXEL_SHAPE, np.float32), none)
    cells = score_voxels(empty, nothing, {"all": all_})
    scores = WindowScores("x", {}, {"empty": cells}, {}, {})
    assert "| x | all | empty | – / – / – |" in markdown([scores])
    assert as_json([scores])[0]["voxels"][0]["iou"] is None
