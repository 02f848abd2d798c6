"""A spinning LiDAR in the town."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from scene_completion_ros.geometry.transforms import RigidTransform
from scene_completion_training.street_world.camera_rig import LidarModel
from scene_completion_training.street_world.scene import StreetScene


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
    scene: StreetScene, model: LidarModel, world_from_lidar: RigidTransform, seed: tuple[int, ...]
) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """One turn, taken at one instant.

    Args:
        seed: Seed of noise and dropouts, for example (town, frame).

    Returns:
        Points float32 [N, 3] in the LiDAR's frame, metres, and their classes uint8 [N].
    """
    rng = np.random.default_rng([*seed, 4])
    beams = beam_directions(model)
    directions = (beams @ world_from_lidar.rotation.T.astype(np.float32)).astype(np.float32)
    origins = np.broadcast_to(world_from_lidar.translation.astype(np.float32), directions.shape)
    hits = scene.rays.first_hits(origins, directions)
    distance = hits.distance + rng.normal(0.0, model.noise_m, len(beams)).astype(np.float32)
    kept = (hits.distance < model.reach_m) & (rng.random(len(beams)) >= model.dropout)
    return beams[kept] * distance[kept, None], scene.label[hits.triangle[kept]]
