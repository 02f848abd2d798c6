"""Classes of the indoor data sets."""

from scene_completion_training.points.scene import OTHERS, label_set, label_sets


def test_other_is_found_by_name_and_nothing_else_is_taken_for_it() -> None:
    """The last class but one is 'air vent', 'headboard' and 'person' in the longer sets of Matterport3D (S7)."""
    found = {name: [one for one in of.classes if one in OTHERS] for name, of in label_sets().items()}
    assert found.pop("scannet20") == ["otherfurniture"] and found.pop("matterport21") == ["other"]
    assert not any(found.values())
    assert [label_set(f"matterport{k}").classes[-2] for k in (21, 40, 80, 160)] == [
        "other", "air vent", "headboard", "person",
    ]  # fmt: skip
