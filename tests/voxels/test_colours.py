import numpy as np

from scene_completion_ros.voxels.colours import (
    depth_colours,
    height_colours,
    voxel_colours,
)


def test_near_is_bright_far_is_dark_and_unknown_is_light_grey() -> None:
    brightness = depth_colours(np.array([3.0, 6.0, 12.0, 24.0, 48.0, 79.0])).astype(int).sum(axis=-1)
    assert np.all(np.diff(brightness) < 0)
    ends = depth_colours(np.array([3.0, 1.0, 80.0, 200.0]))  # beyond the range it takes the colours of the ends
    assert np.array_equal(ends[0], ends[1])
    assert np.array_equal(ends[2], ends[3])
    colours = depth_colours(np.array([[np.nan, np.inf], [0.0, -1.0]]))
    assert colours.shape == (2, 2, 3)
    assert np.all(colours == 225)


def test_voxels_take_the_colour_of_their_class_or_of_their_height() -> None:
    label, height = np.array([1, 0], dtype=np.uint8), np.array([0.0, 2.0], dtype=np.float32)
    assert voxel_colours(label, height, [(1, 2, 3), (4, 5, 6)]).tolist() == [[4, 5, 6], [1, 2, 3]]
    assert np.array_equal(voxel_colours(label, height, [(1, 2, 3)]), height_colours(height))
