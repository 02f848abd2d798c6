"""What the report card shows: right, wrong and unknown columns from above, and words that are no HTML."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from scene_completion_ros.evaluation.label_free import Verdict
from scene_completion_ros.geometry import VoxelGrid
from scene_completion_ros.report.map_axes import MARGIN
from scene_completion_training.improvement.report_card import (
    FREE,
    GHOST,
    MISSED,
    RIGHT,
    UNKNOWN,
    errors_from_above,
    write_card,
)

GRID = VoxelGrid((0.0, -1.5, 0.0), 1.0, (4, 3, 2))


def column(mask_at: list[tuple[int, int, int]]) -> np.ndarray:
    mask = np.zeros(GRID.shape, np.bool_)
    for place in mask_at:
        mask[place] = True
    return mask


def test_columns_are_coloured_by_what_was_seen_later() -> None:
    called = column([(0, 0, 0), (1, 0, 0), (3, 0, 0), (3, 0, 1)])
    verdict = Verdict(
        free=column([(1, 0, 0), (2, 1, 0), (3, 0, 1)]), occupied=column([(0, 0, 0), (2, 0, 0), (3, 0, 0)])
    )
    completion: Any = SimpleNamespace(voxels=SimpleNamespace(grid=GRID, index=np.argwhere(called)))
    picture = errors_from_above(completion, verdict)
    cell = 512 // 4

    def colour(x: int, y: int) -> tuple[int, ...]:
        row, across = MARGIN + (3 - x) * cell + cell // 4, MARGIN + (2 - y) * cell + cell // 4
        return tuple(picture[row, across].tolist())

    assert colour(0, 0) == RIGHT
    assert colour(1, 0) == GHOST
    assert colour(2, 0) == MISSED
    assert colour(2, 1) == FREE
    assert colour(0, 2) == UNKNOWN
    assert colour(3, 0) == GHOST  # what is wrong is shown


def test_words_of_users_are_no_html(tmp_path: Path) -> None:
    card = tmp_path / "card.html"
    write_card(
        card,
        title="<b>mine</b>",
        reasons=["a < b"],
        judged={},
        frames=[],
        pictures=tmp_path,
        facts={"recordings": {"<i>bag</i>": "5 frames"}},
        notes=["<u>note</u>"],
    )
    text = card.read_text()
    assert "&lt;b&gt;mine" in text
    assert "a &lt; b" in text
    assert not any(tag in text for tag in ("<b>", "<i>bag", "<u>"))
    assert "The old student stays." in text
