"""Weather and sky of a town, drawn from its seed: sun, haze, wetness, clouds and the hills on the horizon."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scene_completion_training.street_world.shading_kernel import compiled
from scene_completion_training.street_world.textures import periodic_noise

Floats = NDArray[np.float32]

CLOUD_TILE = 512
HILL_STEPS = 4096


@dataclass(frozen=True, eq=False)
class Daylight:
    """Sun and sky of a town, linear colours."""

    sun_direction: NDArray[np.float64]  # towards the sun, world frame, unit length
    sun_colour: NDArray[np.float64]
    zenith: NDArray[np.float64]
    horizon: NDArray[np.float64]
    cloudiness: float  # 0 clear ... 1 overcast; softens the sun
    haze_m: float  # distance over which the air takes 63 % of a colour
    wetness: float  # 0 dry ... 1 wet: wet asphalt is dark and mirrors the sky
    hills: float  # elevation of the horizon's hills and woods, radians
    cloud_seed: int


def draw_daylight(rng: np.random.Generator) -> Daylight:
    """Draw the weather."""
    elevation, azimuth = rng.uniform(0.25, 1.1), rng.uniform(0.0, 2.0 * np.pi)
    cloudiness = float(
        rng.choice([rng.uniform(0.0, 0.3), rng.uniform(0.3, 0.75), rng.uniform(0.8, 1.0)], p=[0.5, 0.25, 0.25])
    )
    direction = np.array([np.cos(elevation) * np.cos(azimuth), np.cos(elevation) * np.sin(azimuth), np.sin(elevation)])
    low = np.clip((0.7 - elevation) / 0.45, 0.0, 1.0)  # a low sun is warmer and weaker
    warm = np.array([1.0, 0.95 - 0.10 * low, 0.86 - 0.26 * low])
    blue, white = np.array([0.14, 0.30, 0.66]) * rng.uniform(0.8, 1.25), np.array([0.74, 0.77, 0.80])
    return Daylight(
        sun_direction=direction,
        sun_colour=warm * (3.7 - 0.6 * low) * (1.0 - cloudiness) ** 1.5 + 0.05,
        zenith=blue * (1 - cloudiness) + 0.85 * white * cloudiness,
        horizon=np.array([0.62, 0.72, 0.85]) * (1 - cloudiness) + white * cloudiness,
        cloudiness=cloudiness,
        haze_m=float(np.exp(rng.uniform(np.log(800.0), np.log(6000.0)))),
        wetness=float(rng.uniform(0.3, 1.0)) if cloudiness > 0.3 and rng.random() < 0.35 else 0.0,
        hills=float(rng.uniform(0.01, 0.07)),
        cloud_seed=int(rng.integers(2**31)),
    )


class Sky:
    """Radiance of the sky."""

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
        )  # what `sky_at` needs

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
