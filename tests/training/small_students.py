"""Small students of real networks with random weights, each in a bundle of its own."""

import dataclasses
from pathlib import Path

import cv2
import numpy as np
import torch

from scene_completion_ros.geometry import Camera, VoxelGrid
from scene_completion_ros.inference.bundle import StudentBundle
from scene_completion_ros.inference.head import HeadWeights
from scene_completion_ros.inference.query_kernel import VoxelQuery
from scene_completion_training.export import encoder_onnx, feature_size, head_weights
from scene_completion_training.gpu_export.parity import Reference
from scene_completion_training.networks.density_field import DensityField
from scene_completion_training.networks.encoder_decoder import EncoderDecoder
from scene_completion_training.networks.feature_field import FeatureField
from tests.inference.small_bundle import class_colours, class_names, random_head, with_labels

CAMERA = Camera(fx=74.0, fy=74.0, cx=63.5, cy=28.0, width=128, height=64)
GRID = VoxelGrid((0.0, -6.4, -2.2), 0.4, (40, 32, 12), "camera_forward")
UNITS, CLASSES = 32, 5


def street_images(folder: Path, count: int, seed: int = 0) -> Path:
    """Writes pictures with large and small shapes, bright above and dark below, 160x80."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    for index in range(count):
        picture = np.repeat(np.linspace(220, 60, 80)[:, None, None], 160, axis=1).repeat(3, axis=2)
        for _ in range(12):
            top, left = rng.integers(0, 70), rng.integers(0, 140)
            picture[top : top + rng.integers(5, 40), left : left + rng.integers(5, 60)] = rng.integers(0, 256, 3)
        picture += rng.normal(0.0, 6.0, picture.shape)
        cv2.imwrite(str(folder / f"{index:03d}.png"), picture.clip(0, 255).astype(np.uint8))
    return folder


def make_small_student(folder: Path) -> StudentBundle:
    """Writes a student whose densities and labels depend on the image, with the unfolded weights beside it."""
    torch.manual_seed(0)
    density = DensityField(
        CAMERA,
        encoder=EncoderDecoder((CAMERA.height, CAMERA.width), channels=16, pretrained=False),
        depth_channel=False,
        hidden=32,
    )
    field = FeatureField(density, target_size=8, channels=8, units=UNITS, expansion=8, map_channels=16).eval()
    _settle(field)
    labels = with_labels(random_head(), CLASSES, UNITS)
    of_density = {name: getattr(head_weights(density), name) for name in _OF_DENSITY}
    head: HeadWeights = dataclasses.replace(labels, **of_density)
    bundle = StudentBundle(
        name="small",
        canonical=CAMERA,
        head=head,
        feature_size=feature_size(density, CAMERA),
        class_names=class_names(CLASSES),
        class_colours=class_colours(CLASSES),
        grid=GRID,
        provenance={"configuration": {"encoder": "efficientnet_lite0"}},
        licence="Apache-2.0",
    )
    weights = {name: value.detach().numpy().astype(np.float16) for name, value in density.state_dict().items()}
    saved = bundle.save(folder, encoder_onnx(field, CAMERA), weights)
    return dataclasses.replace(saved, threshold=_median(saved)).save(folder, saved.read_encoder(), weights)


_OF_DENSITY = ("positional_weight", "hidden_bias", "density_weight", "density_bias")


@torch.no_grad()
def _settle(field: DensityField | FeatureField) -> None:
    """Gives the normalisations of a random network the statistics of images, as training would."""
    images = torch.randint(0, 256, (4, 3, CAMERA.height, CAMERA.width)).float()
    blurred = torch.nn.functional.avg_pool2d(images, 9, 1, 4)
    field.train()
    for _ in range(20):
        field.observe(blurred)
    field.eval()


def _median(bundle: StudentBundle) -> float:
    """A threshold with about half of the voxels in view above it."""
    image = np.random.default_rng(0).integers(0, 256, (CAMERA.height, CAMERA.width, 3), dtype=np.uint8)
    query = VoxelQuery(
        bundle.head, bundle.point_code, CAMERA, bundle.feature_size, bundle.grid, bundle.grid_from_camera.inverse()
    )
    features = Reference(bundle).encode(image).features
    return float(np.median(query.opacity(features)[query.in_view]))
