import numpy as np
import pytest

from scene_completion_training.street_world.kernels import texel_at
from scene_completion_training.street_world.textures import Texture, TextureAtlas


def test_textures_are_sampled_at_the_level_of_the_footprint() -> None:
    image = np.zeros((4, 4, 4), np.float32)
    image[0, 1] = 1.0  # second texel of the top row
    atlas = TextureAtlas({"grey": Texture(np.full((2, 2, 4), 0.5, np.float32), (1, 1)), "dot": Texture(image, (1, 1))})
    assert texel_at(1, 0.375, 0.875, 1.0, *atlas.tables) == pytest.approx((1.0,) * 4)
    assert texel_at(1, 2.375, -0.125, 1.0, *atlas.tables) == pytest.approx((1.0,) * 4)
    assert texel_at(1, 0.1, 0.2, 4.0, *atlas.tables) == pytest.approx((1 / 16,) * 4, abs=2e-3)
    assert atlas.tile_m["dot"] == (1, 1)
