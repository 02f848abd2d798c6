"""Images, depth and labels as the rig's cameras see a town."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scene_completion_ros.geometry.cameras import Camera
from scene_completion_ros.geometry.transforms import RigidTransform
from training.street_world.scene import StreetScene
from training.street_world.shading import Shader, tone_mapped

CHUNK = 131_072  # rays shaded at once: their arrays stay within the cache


@dataclass(frozen=True, eq=False)
class View:
    """Exact geometry behind every pixel centre.

    Args:
        depth: z-depth in the optical frame, metres, float32 [H, W]; infinite where the sky is.
        label: `StreetClass`, uint8 [H, W]; 0 where the sky is.
    """

    depth: NDArray[np.float32]
    label: NDArray[np.uint8]


class Renderer:
    """Renders one town.

    Args:
        scene: The town.
        supersampling: Rays along each side of a pixel.
    """

    def __init__(self, scene: StreetScene, supersampling: int = 2) -> None:
        self._scene = scene
        self._shader = Shader(scene)
        self._supersampling = supersampling

    def image(self, camera: Camera, world_from_camera: RigidTransform) -> NDArray[np.uint8]:
        """RGB image uint8 [H, W, 3]: every pixel the mean of its area."""
        k = self._supersampling
        offsets = (np.arange(k) + 0.5) / k - 0.5
        u = (np.arange(camera.width)[:, None] + offsets).reshape(-1)
        pixel_angle = 1.0 / (camera.fx * k)
        rows_at_once = max(1, CHUNK // (k * k * camera.width))
        image = np.empty((camera.height, camera.width, 3), np.uint8)
        for top in range(0, camera.height, rows_at_once):
            rows = np.arange(top, min(top + rows_at_once, camera.height))
            v = (rows[:, None] + offsets).reshape(-1)
            origins, directions = _rays(camera, world_from_camera, u, v)
            hits = self._scene.rays.first_hits(origins, directions)
            linear = self._shader.colour(origins, directions, hits, pixel_angle)
            # Highlights are clipped before the mean, as a sensor's wells are.
            samples = np.minimum(linear, 4.0).reshape(len(rows), k, camera.width, k, 3)
            pixels = np.asarray(samples.mean(axis=(1, 3)), np.float32)
            image[rows] = tone_mapped(pixels)
        return image

    def view(self, camera: Camera, world_from_camera: RigidTransform) -> View:
        """Depth and labels at the pixel centres."""
        return trace_view(self._scene, camera, world_from_camera)


def trace_view(scene: StreetScene, camera: Camera, world_from_camera: RigidTransform) -> View:
    """Depth and labels at the pixel centres of a camera."""
    origins, directions = _rays(
        camera, world_from_camera, np.arange(camera.width) * 1.0, np.arange(camera.height) * 1.0
    )
    hits = scene.rays.first_hits(origins, directions)
    forward = world_from_camera.rotation[:, 2].astype(np.float32)
    shape = (camera.height, camera.width)
    depth = (hits.distance * (directions @ forward)).reshape(shape)
    label = np.where(hits.hit, scene.label[hits.triangle], 0).astype(np.uint8).reshape(shape)
    return View(depth.astype(np.float32), label)


def _rays(
    camera: Camera, world_from_camera: RigidTransform, u: NDArray[np.floating], v: NDArray[np.floating]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Origins and unit directions [V * U, 3] in the world through pixel coordinates u [U] and v [V]."""
    pixels = np.empty((len(v), len(u), 2))
    pixels[..., 0], pixels[..., 1] = u[None, :], v[:, None]
    rays = camera.unproject(pixels.reshape(-1, 2)) @ world_from_camera.rotation.T
    rays /= np.linalg.norm(rays, axis=-1, keepdims=True)
    directions = rays.astype(np.float32)
    origins = np.broadcast_to(world_from_camera.translation.astype(np.float32), directions.shape)
    return origins, directions
