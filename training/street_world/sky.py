"""Sky of a town: gradient, sun, clouds and the hills on the horizon, by direction."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from scene_completion_training.street_world.daylight import Daylight
from scene_completion_training.street_world.shading_kernel import compiled
from scene_completion_training.street_world.textures import periodic_noise

Floats = NDArray[np.float32]

CLOUD_TILE = 512
HILL_STEPS = 4096


class Sky:
    """Radiance of the sky.

    Args:
        daylight: The town's weather.
    """

    def __init__(self, daylight: Daylight) -> None:
        self._daylight = daylight
        rng = np.random.default_rng(daylight.cloud_seed)
        noise = periodic_noise(rng, CLOUD_TILE, CLOUD_TILE, 1.7, 2.0)
        threshold = 1.1 - 2.0 * daylight.cloudiness
        cover = np.clip((noise - threshold) / 1.2, 0.0, 1.0).astype(np.float32)
        shade = np.clip(1.0 - 0.18 * (noise - threshold), 0.6, 1.0).astype(np.float32)
        woods = [periodic_noise(rng, 1, HILL_STEPS, exponent, 2.0)[0] for exponent in (1.6, 1.0)]
        hills = daylight.hills * np.stack([0.8 + 0.5 * woods[0], 0.45 + 0.12 * woods[0] + 0.16 * woods[1]], axis=-1)
        sunlight = 0.3 * daylight.sun_colour * max(float(daylight.sun_direction[2]), 0.2) + 0.4 * daylight.horizon
        forest = 0.65 * np.array([0.06, 0.09, 0.045]) * sunlight + 0.1 * daylight.horizon
        colours = np.stack([daylight.horizon, daylight.zenith, daylight.sun_colour, forest]).astype(np.float32)
        self.tables: tuple[Any, ...] = (
            colours,
            daylight.sun_direction.astype(np.float32),
            np.float32(daylight.cloudiness),
            cover,
            shade,
            np.maximum(hills, 0.003).astype(np.float32),
        )
        """What `sky_at` needs."""

    def radiance(self, directions: Floats) -> Floats:
        """Linear colour [N, 3] seen along unit directions [N, 3], world frame."""
        out = np.empty((len(directions), 3), np.float32)
        compiled("sky")(directions, *self.tables, out)
        return out

    @property
    def ambient(self) -> Floats:
        """Mean light from above, linear colour [3]."""
        light = self._daylight
        return np.asarray(0.55 * light.zenith + 0.45 * light.horizon, np.float32)
