"""Pictures of points show what is nearest, in the colours of their features."""

import numpy as np

from scene_completion_training.evaluation import point_pictures
from scene_completion_training.evaluation.point_pictures import SIDE, UNKNOWN

RED, GREEN, BLUE = np.eye(3, dtype=np.uint8) * 255


def test_a_view_from_above_lacks_the_ceiling_and_hides_the_floor_under_a_table() -> None:
    grid = np.stack(np.meshgrid(np.linspace(0, 4, 80), np.linspace(0, 4, 80)), axis=-1).reshape(-1, 2)
    heights = np.repeat([0.0, 1.0, 2.5], len(grid))
    points = np.column_stack([np.tile(grid, (3, 1)), heights])
    table = (heights == 1.0) & (np.abs(points[:, :2] - 2.0).max(axis=1) > 0.5)  # there is a table in the middle alone
    points, heights = points[~table], heights[~table]
    colours = np.select([heights[:, None] == 0.0, heights[:, None] == 1.0], [RED, GREEN], BLUE).astype(np.uint8)
    picture = point_pictures.oblique_view(points, colours)
    shown = [(picture == colour).all(axis=-1) for colour in (RED, GREEN, BLUE)]
    assert picture.shape == (SIDE, SIDE, 3) and shown[0].sum() > 5 * shown[1].sum() > 5000 and not shown[2].any()
    row, column = np.argwhere(shown[1]).mean(axis=0).round().astype(int)
    assert shown[1][row - 5 : row + 5, column - 5 : column + 5].all()


def test_clusters_and_classes_have_colours_and_what_is_unknown_is_grey() -> None:
    features = np.repeat([[3.0, 0.1], [0.0, 0.0], [0.1, 2.0]], 5, axis=0)
    colours = point_pictures.cluster_colours(features, 2)
    assert len({tuple(colour) for colour in colours[:5].tolist()}) == 1 and tuple(colours[7]) == UNKNOWN
    assert tuple(colours[0]) != tuple(colours[14]) != UNKNOWN
    assert point_pictures.class_colours(np.array([-1, 2, 255]), 2).tolist() == [list(UNKNOWN)] * 3
    heat = point_pictures.heat_colours(np.array([0.0, 0.5, np.nan]), 0.5)
    assert heat[0].sum() < heat[1].sum() and tuple(heat[2]) == UNKNOWN


def test_a_confusion_shows_the_share_of_each_true_class() -> None:
    picture = point_pictures.confusion_picture("a", np.array([[3, 0], [1, 0], [0, 4]]), ("wall", "floor"))
    cells = [picture[60 + 34 * row + 2, 150 + 34 * column + 2].tolist() for row in range(3) for column in range(2)]
    full, none = [40, 105, 195], [255, 255, 255]
    assert cells[5] == full and cells[1] == cells[3] == cells[4] == none
    assert cells[0] == [94, 142, 210]  # three quarters
