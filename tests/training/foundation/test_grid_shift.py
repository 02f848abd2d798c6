"""Where the tokens of a shifted grid lie in the original image."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from scene_completion_training.foundation.backbone import Backbone
from scene_completion_training.foundation.grid_shift import cell_bounds, random_shift, shifted
from tests.training.foundation.tiny_models import PatchMeans

SHIFTS = [(0, 0), (-8, 7), (5, -3), (7, 7), (-8, -8)]


@pytest.mark.parametrize("shift", SHIFTS)
def test_a_token_sees_what_its_bounds_say(shift: tuple[int, int]) -> None:
    size, cell = (48, 70), 16
    image = torch.rand(1, 3, *size)
    features = PatchMeans().features(shifted(image, shift), cell)
    rows, columns = cell_bounds(size, cell, shift)
    assert features.shape[2:] == (len(rows), len(columns))
    whole = 0
    for i, (top, bottom) in enumerate(rows):
        for j, (left, right) in enumerate(columns):
            if bottom - top == right - left == cell:
                expected = image[0, :, top:bottom, left:right].mean(dim=(1, 2))
                torch.testing.assert_close(features[0, :, i, j], expected)
                whole += 1
    assert whole >= 2 * 3


@pytest.mark.parametrize("shift", SHIFTS)
def test_a_marked_cell_moves_its_own_token_only(shift: tuple[int, int]) -> None:
    size, cell = (48, 64), 16
    rows, columns = cell_bounds(size, cell, shift)
    (top, bottom), (left, right) = rows[1], columns[2]
    image = torch.zeros(1, 3, *size)
    image[..., top:bottom, left:right] = 255.0
    features = PatchMeans().features(shifted(image, shift), cell)
    expected = torch.zeros_like(features)
    expected[0, :, 1, 2] = 255.0
    torch.testing.assert_close(features, expected)


def test_a_real_backbone_sees_the_marked_cell_where_its_bounds_say(folders: dict[str, object]) -> None:
    size, cell, shift = (48, 64), 16, (-5, 6)
    backbone = Backbone(str(folders["dinov3_vit"]), 0)  # before the first block; tokens do not know of each other
    (top, bottom), (left, right) = (bounds[1] for bounds in cell_bounds(size, cell, shift))
    image = torch.zeros(1, 3, *size)
    marked = image.clone()
    marked[..., top:bottom, left:right] = 255.0
    change = backbone.features(shifted(marked, shift), cell) - backbone.features(shifted(image, shift), cell)
    assert torch.nonzero(change.abs().amax(dim=1)[0] > 1e-6).tolist() == [[1, 1]]


def test_beyond_the_edge_the_edge_is_repeated() -> None:
    image = torch.arange(12.0).reshape(1, 3, 4)
    assert shifted(image, (1, -2))[0].tolist() == [[4.0, 4.0, 4.0, 5.0], [8.0, 8.0, 8.0, 9.0], [8.0, 8.0, 8.0, 9.0]]
    rows, columns = cell_bounds((3, 4), 2, (1, -1))
    assert rows.tolist() == [[1, 3], [3, 3]]  # the second row of tokens has seen nothing but the edge
    assert columns.tolist() == [[0, 1], [1, 3]]


@pytest.mark.parametrize(
    ("cell", "values"), [(1, [0]), (7, list(range(-3, 4))), (8, list(range(-4, 4))), (16, list(range(-8, 8, 2)))]
)
def test_shifts_are_even_around_zero_in_eighths_of_a_cell(cell: int, values: list[int]) -> None:
    generator = np.random.default_rng(0)
    drawn = np.array([random_shift(generator, cell) for _ in range(3000)])
    for axis in (0, 1):
        found, counts = np.unique(drawn[:, axis], return_counts=True)
        assert found.tolist() == values
        assert counts.min() > 0.7 * 3000 / len(values)
