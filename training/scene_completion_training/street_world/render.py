"""What the rig's sensors see of a world: images, depth and labels of its cameras, points of its LiDAR."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from scene_completion_ros.geometry import Camera, RigidTransform
from scene_completion_training.street_world.camera_rig import LidarModel, pixel_directions, turned
from scene_completion_training.street_world.scene import Hits, Scene
from scene_completion_training.street_world.sensor import expose

CHUNK = 131_072  # rays shaded at once: their arrays stay within the cache
WELL = 8.0  # highlights are clipped before the mean, as a sensor's wells are


@dataclass(frozen=True, eq=False)
class View:
    """Exact geometry behind every pixel centre.

    `depth`: z-depth in the optical frame, metres, float32 [H, W]; infinite where the sky is; `label`: class, uint8 [H,
    W]; 0 where the sky is; `instance`: number of the thing, int32 [H, W]; 0 where it is none.
    """

    depth: NDArray[np.float32]
    label: NDArray[np.uint8]
    instance: NDArray[np.int32]


class Shading(Protocol):
    """The light of a world."""

    def colour(
        self, origin: NDArray[np.float32], directions: NDArray[np.float32], hits: Hits, pixel_angle: float
    ) -> NDArray[np.float32]:
        """Linear colour [N, 3] of rays from one origin [3] with their first hits; radians between rays."""


class Renderer:
    """Renders one built part of a world, with `supersampling` rays along each side of a pixel."""

    def __init__(self, scene: Scene, shader: Shading, supersampling: int = 2) -> None:
        self._scene, self._shader = scene, shader
        self._supersampling = supersampling

    def image(self, camera: Camera, world_from_camera: RigidTransform, seed: tuple[int, ...]) -> NDArray[np.uint8]:
        """RGB image uint8 [H, W, 3] with the seed's noise; pixels outside a fisheye's circle are black."""
        light, dark = self.light(camera, world_from_camera)
        image = expose(light, self._scene.world.look, seed)
        image[dark] = 0
        return image

    def light(self, camera: Camera, world_from_camera: RigidTransform) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Linear light of every pixel's area [H, W, 3], and where the lens shows nothing [H, W]."""
        k = self._supersampling
        rays = pixel_directions(camera, k)  # [H * k, W * k, 3]
        origin = world_from_camera.translation.astype(np.float32)
        rows = max(1, CHUNK // (k * k * camera.width))
        image = np.zeros((camera.height, camera.width, 3), np.float32)
        dark = np.isnan(rays[::k, ::k, 0]) | np.isnan(rays[k - 1 :: k, k - 1 :: k, 0])
        for top in range(0, camera.height, rows):
            part = rays[top * k : (top + rows) * k]
            directions = turned(part.reshape(-1, 3), world_from_camera.rotation)
            seen = np.flatnonzero(~np.isnan(directions[:, 0])) if dark.any() else None
            light = self._shade(origin, directions, seen, 1.0 / (camera.fx * k))
            samples = np.minimum(light, WELL, out=light).reshape(len(part), camera.width * k, 3)
            for i in range(k):  # several times as fast as a mean over two axes
                for j in range(k):
                    image[top : top + rows] += samples[i::k, j::k] / np.float32(k * k)
        return image, dark

    def _shade(
        self,
        origin: NDArray[np.float32],
        directions: NDArray[np.float32],
        seen: NDArray[np.int64] | None,
        pixel_angle: float,
    ) -> NDArray[np.float32]:
        if seen is not None:
            light = np.zeros(directions.shape, np.float32)
            if len(seen):
                light[seen] = self._shade(origin, directions[seen], None, pixel_angle)
            return light
        hits = self._scene.rays.first_hits(np.broadcast_to(origin, directions.shape), directions)
        return self._shader.colour(origin, directions, hits, pixel_angle)


def trace_view(scene: Scene, camera: Camera, world_from_camera: RigidTransform) -> View:
    """Depth and labels at the pixel centres of a camera."""
    rays = pixel_directions(camera).reshape(-1, 3)
    known = ~np.isnan(rays[:, 0])
    directions = turned(rays, world_from_camera.rotation)
    directions[~known] = (0.0, 0.0, 1.0)
    origins = np.broadcast_to(world_from_camera.translation.astype(np.float32), directions.shape)
    hits = scene.rays.first_hits(origins, directions)
    shape = (camera.height, camera.width)
    hit = hits.hit & known
    depth = np.where(hit, hits.distance * rays[:, 2], np.inf)
    label = np.where(hit, scene.label[hits.triangle], 0)
    instance = np.where(hit, scene.instance[hits.triangle], 0)
    return View(depth.reshape(shape).astype(np.float32), label.reshape(shape).astype(np.uint8), instance.reshape(shape))


def beam_directions(model: LidarModel) -> NDArray[np.float32]:
    """Unit directions of one turn in the LiDAR's frame (x forward, y left, z up), [beams * columns, 3]."""
    elevation = np.linspace(model.elevation[1], model.elevation[0], model.beams)[:, None]
    azimuth = 2.0 * np.pi * np.arange(model.columns)[None, :] / model.columns
    flat = np.cos(elevation)
    directions = np.stack(
        [
            flat * np.cos(azimuth),
            flat * np.sin(azimuth),
            np.broadcast_to(np.sin(elevation), (*flat.shape[:1], model.columns)),
        ],
        axis=-1,
    )
    return directions.reshape(-1, 3).astype(np.float32)


def scan(
    scene: Scene, model: LidarModel, world_from_lidar: RigidTransform, seed: tuple[int, ...]
) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Points float32 [N, 3] of one turn at one instant, in the LiDAR's frame, metres, and their classes uint8 [N]."""
    rng = np.random.default_rng([*seed, 4])
    beams = beam_directions(model)
    directions = (beams @ world_from_lidar.rotation.T.astype(np.float32)).astype(np.float32)
    origins = np.broadcast_to(world_from_lidar.translation.astype(np.float32), directions.shape)
    hits = scene.rays.first_hits(origins, directions)
    distance = hits.distance + rng.normal(0.0, model.noise_m, len(beams)).astype(np.float32)
    kept = (hits.distance < model.reach_m) & (rng.random(len(beams)) >= model.dropout)
    return beams[kept] * distance[kept, None], scene.label[hits.triangle[kept]]
