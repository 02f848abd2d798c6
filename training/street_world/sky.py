"""Sky of a town: gradient, sun and clouds, by direction."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from training.street_world.textures import periodic_noise
from training.street_world.town import Daylight

Floats = NDArray[np.float32]

CLOUD_TILE = 512
CLOUD_SCALE = 90.0  # texels per unit of the plane the clouds lie in


class Sky:
    """Radiance of the sky.

    Args:
        daylight: The town's weather.
    """

    def __init__(self, daylight: Daylight) -> None:
        self._daylight = daylight
        noise = periodic_noise(np.random.default_rng(daylight.cloud_seed), CLOUD_TILE, CLOUD_TILE, 1.7, 2.0)
        threshold = 1.1 - 2.0 * daylight.cloudiness
        self._cover = np.clip((noise - threshold) / 1.2, 0.0, 1.0).astype(np.float32)
        self._shade = np.clip(1.0 - 0.18 * (noise - threshold), 0.6, 1.0).astype(np.float32)

    def radiance(self, directions: Floats) -> Floats:
        """Linear colour [N, 3] seen along unit directions [N, 3], world frame."""
        light = self._daylight
        up = np.clip(directions[:, 2], 0.0, 1.0)
        blend = np.sqrt(up)[:, None]
        colour = light.horizon * (1 - blend) + light.zenith * blend
        towards_sun = np.clip(directions @ light.sun_direction, 0.0, 1.0)[:, None]
        clear = 1.0 - 0.9 * light.cloudiness
        colour = colour + light.sun_colour * clear * (0.25 * towards_sun**12 + 3.0 * towards_sun**900)
        plane = directions[:, :2] / (up[:, None] + 0.10) * CLOUD_SCALE
        column, row = plane.astype(np.int32).T & (CLOUD_TILE - 1)
        cover = (self._cover[row, column] * np.clip(up * 6.0, 0.0, 1.0))[:, None]
        cloud = self._shade[row, column][:, None] * np.array([0.92, 0.93, 0.95])
        return np.asarray(colour * (1 - cover) + cloud * cover, np.float32)

    @property
    def ambient(self) -> Floats:
        """Mean light from above, linear colour [3]."""
        light = self._daylight
        return np.asarray(0.55 * light.zenith + 0.45 * light.horizon, np.float32)
