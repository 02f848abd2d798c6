"""The page of results has the figures of what ships: one of each student is measured again."""

import re
from pathlib import Path

import pytest

from scene_completion_ros.evaluation.metric import Scores
from scene_completion_ros.evaluation.occupancy import CALIBRATION, OCCUPANCY
from scene_completion_ros.sequences.opening import open_recording
from scene_completion_training.evaluation.deployed import open_deployed
from scene_completion_training.evaluation.geometry import voxel_frames
from tests.checkout import ROOT, there

RESULTS = ROOT / "docs" / "results.md"
# Arithmetic of another processor, or of another engine, moved an average precision by 0.7; other weights, another
# calibration or another way of an image move one by points.
TOLERANCE = 1.0


def row_of(label: str, student: str) -> list[str]:
    """Columns of the first row of the page that begins with a label and names a student."""
    page = RESULTS.read_text(encoding="utf-8")
    row, *_ = re.findall(rf"^\| {re.escape(label)}[^|]*\|?[^|]*`{student}`[^|]*\|(.+)\|$", page, re.MULTILINE)
    return [column.strip() for column in row.split("|")]


@pytest.mark.parametrize(
    ("student", "recording", "label", "calibration"),
    [
        ("kitti_student", "kitti_windows/sequences/09", "09", 4),
        ("street", "kitti_windows/sequences/09", "09", 4),
        ("room", "room_hololens", "its first frame", None),
    ],
)
def test_the_page_of_results_has_figures_of_the_student_that_ships(
    student: str, recording: str, label: str, calibration: int | None, shared_data: Path
) -> None:
    folder = there(shared_data / recording, f"{recording} is not among the recordings")
    scores = Scores([OCCUPANCY, CALIBRATION])
    first = voxel_frames([open_recording(folder)], 10_000)
    assert scores.run("recordings", [open_deployed(Path(student), engine="openvino", scale_from="off")], first) == 1
    measured = scores.to_json()

    def column(region: str, name: str) -> list[float]:
        """A figure by range, percent."""
        wanted = ("calibrated", region)
        return [100 * row[name] for row in measured["voxels"] if (row["rule"], row["region"]) == wanted]

    written = row_of(label, student)
    figures = (("all", "average_precision"), ("occluded", "average_precision"), ("all", "iou"))
    for text, (region, name) in zip(written, figures, strict=False):
        assert [float(part) for part in text.split(" / ")] == pytest.approx(column(region, name), abs=TOLERANCE)
    if calibration is not None:
        (after,) = [row for row in measured["calibration"] if row["stated"] == "after"]
        assert float(written[calibration]) == pytest.approx(after["expected_calibration_error"], abs=0.001)
