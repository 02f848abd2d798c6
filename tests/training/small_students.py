"""Small students of real networks with random weights, each in a bundle of its own."""

import dataclasses
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from scene_completion_ros.geometry import Camera, VoxelGrid
from scene_completion_ros.inference.bundle import StudentBundle
from scene_completion_ros.inference.head import HeadWeights
from scene_completion_ros.inference.point_code import PointCodeSpec
from scene_completion_ros.inference.query_kernel import VoxelQuery
from scene_completion_ros.inference.scene_query import ray_camera
from scene_completion_training.export import (
    encoder_onnx,
    feature_size,
    graph_of,
    head_weights,
    ray_depth,
    volume_reading,
)
from scene_completion_training.gpu_export.parity import Reference
from scene_completion_training.networks.density_field import DensityField
from scene_completion_training.networks.encoder_decoder import EncoderDecoder, TrunkName
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


def make_spatial_student(folder: Path, model: Path | None = None) -> StudentBundle:
    """Writes a student whose encoder gives volume and depth, without labels.

    Args:
        model: Configuration of a Depth Anything trunk; EfficientNet-Lite0 without.
    """
    torch.manual_seed(0)
    trunk: TrunkName = "efficientnet_lite0" if model is None else "depth_anything"
    size, spec = (CAMERA.height, CAMERA.width), PointCodeSpec()
    field = DensityField(
        CAMERA,
        spec,
        encoder=EncoderDecoder(size, channels=16, trunk=trunk, pretrained=False, weights=str(model or "")),
        hidden=32,
    ).eval()
    with torch.no_grad():
        if model is not None:  # whose own random weights are so small that no image matters
            for weight in field.encoder.trunk.parameters():
                weight += 0.1 * torch.randn_like(weight)
        field.encoder.projection.weight[0].normal_(0.0, 0.1)  # depth that depends on the image
    _settle(field)
    bundle = StudentBundle(
        name="spatial",
        canonical=CAMERA,
        head=dataclasses.replace(head_weights(field), volume=volume_reading(GRID)),
        point_code=spec,
        feature_size=feature_size(field, CAMERA),
        grid=GRID,
        provenance={"configuration": {"encoder": trunk}},
        licence="Apache-2.0",
    )
    saved = bundle.save(
        folder,
        graph_of(
            LookingEncoder(field),
            {"image": torch.zeros(1, 3, CAMERA.height, CAMERA.width)},
            ["features", "volume", "depth"],
        ),
    )
    return dataclasses.replace(saved, threshold=_median(saved)).save(folder, saved.read_encoder())


class LookingEncoder(nn.Module):
    """Features, and volume and depth by the operators that students with a decoder in space have.

    Each column of the volume looks up some pixels, and how far it lies behind what they see.
    """

    levels, stride, width = 4, 4, 16

    def __init__(self, field: DensityField) -> None:
        super().__init__()
        self.field = field
        x, y, z = GRID.shape
        self.cells = (x // self.stride, y // self.stride)
        count = self.cells[0] * self.cells[1]
        self.pixels = 2.0 * torch.rand(1, count, self.levels, 2) - 1.0
        self.depth = 1.0 + 15.0 * torch.rand(1, 1, count, self.levels)
        looked_up = (field.encoder.channels + 2) * self.levels
        self.enter = nn.Sequential(nn.Conv2d(looked_up, self.width, 3, 1, 1), nn.GroupNorm(4, self.width), nn.ReLU())
        self.down = nn.Sequential(nn.Conv2d(self.width, self.width, 3, 2, 1), nn.GroupNorm(4, self.width), nn.ReLU())
        self.leave = nn.Conv2d(2 * self.width, z * self.stride**2, 1)
        nn.init.normal_(self.leave.weight, std=0.5)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Features [1, h, w, C], volume [1, X, Y, Z] and z-depth [1, h', w'] of an image [1, 3, H, W] in 0..255."""
        encoder, spec = self.field.encoder, self.field.spec
        maps = encoder.trunk(image)
        raw = encoder.projection(torch.cat([encoder.decoder(maps), encoder.prior], dim=1))
        seen = functional.grid_sample(raw, self.pixels, padding_mode="border", align_corners=False)
        behind = self.depth - 1.0 / spec.inverse_depth(seen[:, :1]).clamp_min(0.5 / spec.far)
        known = torch.cat([seen, torch.tanh(behind / 2.0), torch.exp(-((behind / 2.0) ** 2))], dim=1)
        x = self.enter(known.transpose(2, 3).reshape(1, -1, *self.cells))
        x = torch.cat([functional.interpolate(self.down(x), self.cells, mode="nearest"), x], dim=1)
        volume = functional.pixel_shuffle(self.leave(x), self.stride).permute(0, 2, 3, 1)
        features = self.field.feature_layer(raw).permute(0, 2, 3, 1)
        return features, volume, ray_depth(raw[:, :1], spec, ray_camera(CAMERA))


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
    encoded = Reference(bundle).encode(image)
    return float(np.median(query.opacity(encoded.features, encoded.volume)[query.in_view]))
