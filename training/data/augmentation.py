"""Images and depth brought into the canonical camera, and their colours shaken."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from scene_completion_ros.geometry import Camera


def homography(source: Camera, target: Camera, turn: NDArray[np.float64] | None) -> NDArray[np.float64]:
    """Source pixel from target pixel, of pinholes at one place, the target turned by `source_from_target` rotation."""
    rotation = np.eye(3) if turn is None else turn
    return np.asarray(source.matrix @ rotation @ np.linalg.inv(target.matrix))


def canonical_image(
    image: NDArray[np.uint8], camera: Camera, canonical: Camera, turn: NDArray[np.float64] | None = None
) -> NDArray[np.uint8]:
    """Image [H, W, 3] of a pinhole camera in the canonical one, which is turned by `turn` (source from target)."""
    size = (canonical.width, canonical.height)
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    matrix = homography(camera, canonical, turn)
    return np.asarray(cv2.warpPerspective(image, matrix, size, flags=flags, borderMode=cv2.BORDER_REPLICATE), np.uint8)


def canonical_mask(mask: NDArray[np.bool_], camera: Camera, canonical: Camera) -> NDArray[np.bool_]:
    """Pixels of the canonical camera [H, W] that the image covers where its mask [h, w] is true."""
    size = (canonical.width, canonical.height)
    flags = cv2.INTER_NEAREST | cv2.WARP_INVERSE_MAP
    matrix = homography(camera, canonical, None)
    return np.asarray(cv2.warpPerspective(mask.astype(np.uint8), matrix, size, flags=flags) > 0)


def canonical_depth(
    depth: NDArray[np.float16], camera: Camera, canonical: Camera, turn: NDArray[np.float64] | None = None
) -> NDArray[np.float32]:
    """z-depth along the axis of the (turned) canonical camera."""
    size = (canonical.width, canonical.height)
    flags = cv2.INTER_NEAREST | cv2.WARP_INVERSE_MAP
    warped = cv2.warpPerspective(depth.astype(np.float32), homography(camera, canonical, turn), size, flags=flags)
    if turn is not None:
        v, u = np.mgrid[: size[1], : size[0]]
        ray = np.stack([u, v, np.ones_like(u)], axis=-1) @ np.linalg.inv(canonical.matrix).T
        warped = warped / (ray @ turn[2])  # z along the source's axis of a ray that has z = 1 along the turned one
    return np.asarray(warped, np.float32)


def jittered(image: NDArray[np.uint8], generator: np.random.Generator) -> NDArray[np.uint8]:
    """Brightness, contrast, saturation ±0.3, hue ±0.1, greyscale one time in five, blur one time in five.

    Stronger than in BTS (±0.2), because a few drives are all there is and colours tell them apart.
    """
    brightness, contrast, saturation = generator.uniform(0.7, 1.3, 3)
    hue = generator.uniform(-0.1, 0.1)
    grey, blurred = generator.random(2) < 0.2
    out = image.astype(np.float32) * brightness
    out = (out - out.mean()) * contrast + out.mean()
    jittered = np.clip(out, 0, 255).astype(np.uint8)
    if blurred:
        jittered = np.asarray(cv2.GaussianBlur(jittered, (0, 0), generator.uniform(0.4, 1.2)), np.uint8)
    if grey:
        return np.asarray(cv2.cvtColor(cv2.cvtColor(jittered, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB), np.uint8)
    hsv = cv2.cvtColor(jittered, cv2.COLOR_RGB2HSV).astype(np.float32)
    hsv[..., 0] = (hsv[..., 0] + hue * 180.0) % 180.0
    hsv[..., 1] = np.clip(hsv[..., 1] * saturation, 0, 255)
    return np.asarray(cv2.cvtColor(hsv.astype(np.uint8), cv2.COLOR_HSV2RGB), np.uint8)
