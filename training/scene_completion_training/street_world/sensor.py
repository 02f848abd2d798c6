"""From linear light to the pixels of a camera: its look, drawn from the seed, and lens, exposure, tone curve, noise."""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from scene_completion_training.street_world.sky import Daylight
from scene_completion_training.street_world.texture_atlas import linear_to_srgb

Floats = NDArray[np.float32]

MIDDLE_GREY = 0.45  # display value that the contrast turns about
REFERENCE_WIDTH = 1242
GREY = 0.22  # linear light that an image which is exposed by itself has on average, of its logarithms


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


def expose(linear: Floats, look: CameraLook, seed: tuple[int, ...]) -> NDArray[np.uint8]:
    """Develop light [H, W, 3] into a uint8 RGB image [H, W, 3] with the seed's noise."""
    height, width = linear.shape[:2]
    light = linear
    sigma = look.blur * width / REFERENCE_WIDTH
    if sigma > 0.05:
        light = np.asarray(cv2.GaussianBlur(light, (0, 0), sigma), np.float32)
    exposure = look.exposure or GREY / max(float(np.exp(np.log(light.mean(axis=-1) + 1e-3).mean())), 1e-3)
    gain = exposure * np.asarray(look.white_balance, np.float32)
    light = light * (gain * _vignette(height, width, look.vignetting)[..., None])
    grey = light.mean(axis=-1, keepdims=True)
    light = np.maximum(grey + look.saturation * (light - grey), 0.0)
    light = np.where(light < 0.6, light, 1.0 - 0.4 * np.exp(-(light - 0.6) / 0.4))  # a soft shoulder
    rng = np.random.default_rng([*seed, 5])
    deviation = np.sqrt(look.read_noise**2 + look.shot_noise**2 * light)
    light = light + deviation * rng.standard_normal(light.shape, np.float32)
    shown = linear_to_srgb(light)
    curved = np.where(
        shown < MIDDLE_GREY,
        MIDDLE_GREY * (shown / MIDDLE_GREY) ** look.contrast,
        1.0 - (1.0 - MIDDLE_GREY) * ((1.0 - shown) / (1.0 - MIDDLE_GREY)) ** look.contrast,
    )
    return np.asarray(np.rint(255.0 * curved), np.uint8)


def _vignette(height: int, width: int, loss: float) -> Floats:
    y = (np.arange(height, dtype=np.float32)[:, None] - (height - 1) / 2) / (width / 2)
    x = (np.arange(width, dtype=np.float32)[None] - (width - 1) / 2) / (width / 2)
    return np.asarray(1.0 - loss * np.minimum(x * x + y * y, 1.5), np.float32)
