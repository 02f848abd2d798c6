"""Sun, sky, season and wetness of a town, and how its cameras turn light into pixels; all drawn from the seed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Daylight:
    """Sun and sky of a town, linear colours.

    Args:
        sun_direction: Towards the sun, world frame, unit length.
        cloudiness: 0 clear ... 1 overcast; softens the sun.
        haze_m: Distance over which the air takes 63 % of a colour.
        wetness: 0 dry ... 1 wet: wet asphalt is dark and mirrors the sky.
        hills: Elevation of the horizon's hills and woods, radians.
    """

    sun_direction: NDArray[np.float64]
    sun_colour: NDArray[np.float64]
    zenith: NDArray[np.float64]
    horizon: NDArray[np.float64]
    cloudiness: float
    haze_m: float
    wetness: float
    hills: float
    cloud_seed: int


@dataclass(frozen=True)
class CameraLook:
    """How a drive's cameras render light.

    Args:
        exposure: Factor on linear light.
        white_balance: Factors on red, green and blue.
        contrast: Exponent about middle grey; above 1 shadows drown, as in most driving recordings.
        saturation: 1 keeps colours, 0 is grey.
        vignetting: Light lost in the corners.
        blur: Standard deviation of the lens, pixels of a 1242 pixel wide image.
        shot_noise: Standard deviation at full scale, relative to it.
        read_noise: Standard deviation in the dark, relative to full scale.
    """

    exposure: float
    white_balance: tuple[float, float, float]
    contrast: float
    saturation: float
    vignetting: float
    blur: float
    shot_noise: float
    read_noise: float


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


def draw_camera_look(rng: np.random.Generator, daylight: Daylight) -> CameraLook:
    """Draw the look of a drive's cameras, exposed for its weather."""
    grey = 0.22 * (0.55 * float(daylight.sun_colour.mean()) + 0.65 * float(daylight.horizon.mean()))
    warmth, tint = rng.normal(0.0, 0.06), rng.normal(0.0, 0.02)
    return CameraLook(
        exposure=float(0.30 / grey * np.exp(rng.normal(0.0, 0.22))),
        white_balance=(float(1.0 + warmth), float(1.0 + tint), float(1.0 - warmth)),
        contrast=float(rng.uniform(0.95, 1.5)),
        saturation=float(rng.uniform(0.55, 1.05)),
        vignetting=float(rng.uniform(0.0, 0.25)),
        blur=float(rng.uniform(0.0, 0.7)),
        shot_noise=float(rng.uniform(0.004, 0.02)),
        read_noise=float(rng.uniform(0.001, 0.007)),
    )
