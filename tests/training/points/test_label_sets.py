"""Classes of the indoor data sets."""

import numpy as np
import pytest

from scene_completion_ros.errors import SequenceError, VocabularyError
from scene_completion_training.points.scene import OTHERS, UNLABELLED, label_set, label_sets


def test_other_is_found_by_name_and_nothing_else_is_taken_for_it() -> None:
    """The last class but one is 'air vent', 'headboard' and 'person' in the longer sets of Matterport3D (S7)."""
    found = {name: [one for one in of.classes if one in OTHERS] for name, of in label_sets().items()}
    assert found.pop("scannet20") == ["otherfurniture"] and found.pop("matterport21") == ["other"]
    assert not any(found.values())
    assert [label_set(f"matterport{k}").classes[-2] for k in (21, 40, 80, 160)] == [
        "other", "air vent", "headboard", "person",
    ]  # fmt: skip


def test_ids_of_a_data_set_become_places_in_the_list() -> None:
    labels = label_set("scannet20")
    found = labels.labels(np.array([1, 39, 13, 0, -1, 16]), 40, "scan")
    assert [labels.classes[place] for place in found[[0, 1, 5]]] == ["wall", "otherfurniture", "curtain"]
    assert found[2:5].tolist() == [UNLABELLED] * 3
    with pytest.raises(
        SequenceError, match="scan: has labels 41, 90, but its list ends at 40. These are ids of another"
    ):
        labels.labels(np.array([3, 41, 90]), 40, "scan")
    with pytest.raises(VocabularyError, match="Name one of scannet20, scannet200"):
        label_set("s3dis", "scannet")
