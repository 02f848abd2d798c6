"""Computes the feature targets of prepared frames into a store."""

from __future__ import annotations

import os
import random
from collections.abc import Sequence
from typing import Any

from scene_completion_ros.geometry import Camera
from scene_completion_training.data.augmentation import canonical_image
from scene_completion_training.data.feature_targets import frame_key
from scene_completion_training.data.prepared import PreparedFrame
from scene_completion_training.foundation.backbone import Backbone
from scene_completion_training.foundation.feature_store import FeatureManifest, FeatureStore
from scene_completion_training.foundation.targets import variant_images


def canonical_manifest(backbone: Backbone, camera: Camera, *, cell: int, variants: int, seed: int) -> FeatureManifest:
    """Manifest of a store for images in the canonical camera."""
    size = (camera.height, camera.width)
    return FeatureManifest(backbone.identity, cell=cell, image_size=size, variants=variants, seed=seed)


def precompute(frames: Sequence[PreparedFrame], camera: Camera, backbone: Backbone, store: FeatureStore) -> int:
    """Computes the features of every image of frames that the store lacks.

    The images are those that trainings compare with: in the canonical camera, unturned, with their own colours.

    Args:
        camera: The canonical camera that they were prepared for.

    Returns:
        Number of images whose features were computed.

    Raises:
        ConfigurationError: float16 cannot hold them.
    """
    images = [(frame, name) for frame in frames for name in sorted(frame.images)]
    # Every process in an order of its own: several that work on one store would all compute the same image at a time.
    random.Random(os.getpid()).shuffle(images)
    computed = 0
    for frame, name in _bar(images):
        key = frame_key(frame, name)
        if key in store:
            continue
        image = canonical_image(frame.images[name], frame.cameras[name], camera)
        variants = variant_images(image, store.variants_of(key))
        store.save(key, backbone.features(variants, store.cell))
        computed += 1
    return computed


def _bar(images: list[tuple[PreparedFrame, str]]) -> Any:
    from tqdm import tqdm  # type: ignore[import-untyped]

    return tqdm(images, unit="image", disable=None)
