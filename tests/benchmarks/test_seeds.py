"""The table of runs that differ in their seed."""

from __future__ import annotations

from typing import Any

from benchmarks.seeds import by_method, seeds_table, semantic_tables, tables


def test_mean_and_spread_over_seeds() -> None:
    rows = [("teacher-0, 2 views", "IoU", 0.2), ("teacher-1, 2 views", "IoU", 0.4), ("nothing", "IoU", 0.0)]
    rows += [("nothing", "IoU", 0.0), ("teacher-0, 2 views", "AP", None), ("teacher-1, 2 views", "AP", 0.5)]
    assert by_method(rows) == {"teacher, 2 views": {"IoU": [0.2, 0.4], "AP": [0.5]}, "nothing": {"IoU": [0.0]}}
    lines = seeds_table(by_method(rows)).splitlines()
    assert lines[2:] == ["| teacher, 2 views | 2 | 30.0 ± 14.1 | 50.0 (1 of 2) |", "| nothing | 1 | 0.0 | – |"]


def _evaluation(method: str, iou: float) -> dict[str, Any]:
    def cell(name: str, rule: str, value: float) -> dict[str, Any]:
        found = {"method": name, "rule": rule, "range_m": 12.8, "region": "occluded"}
        return {**found, "iou": value, "average_precision": value / 2}

    row = {"protocol": "original", "scans": 10, "method": method, "rule": "calibrated", "O_acc@10": iou}
    row |= {f"{name}@10": None for name in ("O_prec", "O_rec", "IE_acc", "IE_prec", "IE_rec")}
    voxels = [cell(method, "σ > 0.5", 0.9), cell(method, "calibrated", iou), cell("surface", "σ > 0.5", 0.1)]
    return {"exact": {"voxels": voxels}, "lidar": [row, {**row, "rule": "σ > 0.5", "O_acc@10": 0.9}]}


def test_a_calibrated_method_counts_by_its_own_threshold() -> None:
    found = dict(tables([_evaluation("student-0", 0.25), _evaluation("student-1", 0.35)]))
    occluded = found["Voxels, occluded, in percent"]
    assert occluded["student"] == {"IoU 12.8 m": [0.25, 0.35], "AP 12.8 m": [0.125, 0.175]}
    assert occluded["surface"] == {"IoU 12.8 m": [0.1], "AP 12.8 m": [0.05]}
    assert found["LiDAR protocol original, in percent"]["student"]["O_acc@10"] == [0.25, 0.35]


def test_without_voxels_the_lidar_says_what_is_calibrated() -> None:
    evaluation = _evaluation("student-0", 0.25)
    del evaluation["exact"]
    found = dict(tables([evaluation]))
    assert found["LiDAR protocol original, in percent"]["student"]["O_acc@10"] == [0.25]


def _semantics(seed: int, mean_iou: float) -> dict[str, Any]:
    scores = [
        {
            "recordings": "towns",
            "method": method,
            "naming": "hungarian",
            "range_m": range_m,
            "mean_iou": mean_iou,
            "iou": 0.5,
            "class_iou": {"road": range_m / 100.0, "car": None},
        }
        for method in (f"field-{seed}", f"field-{seed}, linear probe", f"bound-{seed} (from labels)", "tokens, lifted")
        for range_m in (12.8, 51.2)
    ]
    return {"arguments": {"seed": str(seed)}, "scores": scores}


def test_semantics_have_a_row_for_each_method_and_controls_a_seed_too() -> None:
    found = dict(semantic_tables([_semantics(0, 0.1), _semantics(1, 0.3)]))
    scores = found["towns, clusters named by hungarian, in percent"]
    assert list(scores) == ["field", "field, linear probe", "bound (from labels)", "tokens, lifted"]
    for cells in scores.values():
        assert cells["mIoU 12.8 m"] == [0.1, 0.3] and cells["IoU 51.2 m"] == [0.5, 0.5]
    classes = found["towns, clusters named by hungarian, IoU of classes at 51.2 m, in percent"]
    assert classes["field"] == {"road": [0.512, 0.512], "car": []}
