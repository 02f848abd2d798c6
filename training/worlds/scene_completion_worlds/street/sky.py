"""Weather and sky of a town, drawn from its seed, and how cameras turn its light into pixels."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from scene_completion_training.arrays import Bytes, Doubles, Floats, Random
from scene_completion_worlds.street.kernels import sky_seen
from scene_completion_worlds.street.textures import linear_to_srgb, periodic_noise

CLOUD_TILE = 512
HILL_STEPS = 4096
MIDDLE_GREY = 0.45  # display value that the contrast turns about
REFERENCE_WIDTH = 1242
GREY = 0.22  # linear light that an image which is exposed by itself has on average, of its logarithms


@dataclass(frozen=True, eq=False)
class Daylight:
    """Sun and sky of a town, linear colours."""

    sun_direction: Doubles  # towards the sun, world frame, unit length
    sun_colour: Doubles
    zenith: Doubles
    horizon: Doubles
    cloudiness: float  # 0 clear ... 1 overcast; softens the sun
    haze_m: float  # distance over which the air takes 63 % of a colour
    wetness: float  # 0 dry ... 1 wet: wet asphalt is dark and mirrors the sky
    hills: float  # elevation of the horizon's hills and woods, radians
    cloud_seed: int


def draw_daylight(rng: Random) -> Daylight:
    """Draw the weather."""
    elevation, azimuth = rng.uniform(0.25, 1.1), rng.uniform(0.0, 2.0 * np.pi)
    kinds = [rng.uniform(0.0, 0.3), rng.uniform(0.3, 0.75), rng.uniform(0.8, 1.0)]
    cloudiness = float(rng.choice(kinds, p=[0.5, 0.25, 0.25]))
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
        sun, heights = daylight.sun_direction.astype(np.float32), np.maximum(hills, 0.003).astype(np.float32)
        # What `sky_at` needs.
        self.tables: tuple[Any, ...] = (colours, sun, np.float32(daylight.cloudiness), cover, shade, heights)
        # Mean light from above, linear colour [3].
        self.ambient: Floats = np.asarray(0.55 * daylight.zenith + 0.45 * daylight.horizon, np.float32)

    def radiance(self, directions: Floats) -> Floats:
        """Linear colour [N, 3] seen along unit directions [N, 3], world frame."""
        out = np.empty((len(directions), 3), np.float32)
        sky_seen(directions, *self.tables, out)
        return out


@dataclass(frozen=True)
class CameraLook:
    """How a drive's cameras render light."""

    exposure: float  # factor on linear light; 0 exposes each image by itself
    white_balance: tuple[float, float, float]  # factors on red, green and blue
    contrast: float  # exponent about middle grey; above 1 shadows drown, as in most driving recordings
    saturation: float  # 1 keeps colours, 0 is grey
    vignetting: float  # light lost in the corners
    blur: float  # standard deviation of the lens, pixels of a 1242 pixel wide image
    shot_noise: float  # standard deviation at full scale, relative to it
    read_noise: float  # standard deviation in the dark, relative to full scale

    @staticmethod
    def drawn(
        rng: Random, exposure: float, warmth: float, tint: float, spans: Sequence[tuple[float, float]]
    ) -> "CameraLook":
        """A look whose numbers from the contrast on are drawn from spans, in their order."""
        balance = (float(1.0 + warmth), float(1.0 + tint), float(1.0 - warmth))
        return CameraLook(exposure, balance, *(float(rng.uniform(*span)) for span in spans))


def draw_camera_look(rng: Random, daylight: Daylight) -> CameraLook:
    """Draw the look of a drive's cameras, exposed for its weather."""
    grey = 0.22 * (0.55 * float(daylight.sun_colour.mean()) + 0.65 * float(daylight.horizon.mean()))
    warmth, tint = rng.normal(0.0, 0.06), rng.normal(0.0, 0.02)
    exposure = float(0.30 / grey * np.exp(rng.normal(0.0, 0.22)))
    spans = ((0.95, 1.5), (0.55, 1.05), (0.0, 0.25), (0.0, 0.7), (0.004, 0.02), (0.001, 0.007))
    return CameraLook.drawn(rng, exposure, warmth, tint, spans)


def expose(linear: Floats, look: CameraLook, seed: tuple[int, ...]) -> Bytes:
    """Develop light [H, W, 3] into a uint8 RGB image [H, W, 3] with the seed's noise."""
    height, width = linear.shape[:2]
    light = linear
    sigma = look.blur * width / REFERENCE_WIDTH
    if sigma > 0.05:
        light = np.asarray(cv2.GaussianBlur(light, (0, 0), sigma), np.float32)
    exposure = look.exposure or GREY / max(float(np.exp(np.log(light.mean(axis=-1) + 1e-3).mean())), 1e-3)
    gain = exposure * np.asarray(look.white_balance, np.float32)
    y = (np.arange(height, dtype=np.float32)[:, None] - (height - 1) / 2) / (width / 2)
    x = (np.arange(width, dtype=np.float32)[None] - (width - 1) / 2) / (width / 2)
    vignette = np.asarray(1.0 - look.vignetting * np.minimum(x * x + y * y, 1.5), np.float32)
    light = light * (gain * vignette[..., None])
    grey = light.mean(axis=-1, keepdims=True)
    light = np.maximum(grey + look.saturation * (light - grey), 0.0)
    light = np.where(light < 0.6, light, 1.0 - 0.4 * np.exp(-(light - 0.6) / 0.4))  # a soft shoulder
    rng = np.random.default_rng([*seed, 5])
    deviation = np.sqrt(look.read_noise**2 + look.shot_noise**2 * light)
    light = light + deviation * rng.standard_normal(light.shape, np.float32)
    shown = linear_to_srgb(light)
    dark = MIDDLE_GREY * (shown / MIDDLE_GREY) ** look.contrast
    light = 1.0 - (1.0 - MIDDLE_GREY) * ((1.0 - shown) / (1.0 - MIDDLE_GREY)) ** look.contrast
    return np.asarray(np.rint(255.0 * np.where(shown < MIDDLE_GREY, dark, light)), np.uint8)
