"""The decoder in space: where its logits lie, what it learns, and that the robot reads it as training does."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import onnxruntime
import torch

from scene_completion_ros.geometry import Camera
from scene_completion_ros.inference.query_kernel import density_reference
from scene_completion_training.export import encoder_onnx, head_weights
from scene_completion_training.networks.density_field import DensityField
from scene_completion_training.networks.encoder_decoder import EncoderDecoder
from scene_completion_training.networks.spatial_decoder import SpatialDecoder
from scene_completion_training.viewpoint import Viewpoint, Volume

CAMERA = Camera(fx=40.0, fy=40.0, cx=31.5, cy=15.5, width=64, height=32)
VIEWPOINT = Viewpoint(CAMERA, volume=Volume(ahead=12.8, sideways=5.2, voxel_size=0.4))
GRID, SPEC = VIEWPOINT.volume.grid, VIEWPOINT.volume.point_code


def _decoder(stride: int = 2) -> SpatialDecoder:
    torch.manual_seed(0)
    return SpatialDecoder(CAMERA, GRID, SPEC, channels=8, stride=stride, reduced=4, widths=(8, 12, 12))


def _random(decoder: SpatialDecoder) -> SpatialDecoder:
    with torch.no_grad():
        decoder.leave.weight.normal_(0.0, 0.3)
        decoder.mean.normal_(3.0, 2.0)
    return decoder


def test_logits_hold_at_the_centres_of_their_voxels() -> None:
    logits = torch.zeros(1, *GRID.shape)
    logits[0, 20, 3, 7] = 1.0
    x, y, z = (np.asarray(GRID.origin) + (np.array([20, 3, 7]) + 0.5) * GRID.voxel_size).tolist()
    centre = [-y, -z, x]  # of an optical frame: x right, y down, z ahead
    points = torch.tensor([[centre, [centre[0], centre[1], centre[2] + 0.2], [centre[0] + 0.1, centre[1], centre[2]]]])
    found = _decoder().at(logits, points)
    torch.testing.assert_close(found, torch.tensor([[1.0, 0.5, 0.75]]), atol=1e-4, rtol=0.0)


def test_it_learns_what_lies_behind_a_surface() -> None:
    """The pixel-aligned features say only how far the surface is; a box of 2 m behind it is to be called occupied."""
    decoder = _decoder()
    generator = torch.Generator().manual_seed(1)
    optimiser = torch.optim.Adam(decoder.parameters(), 1e-2)

    def example(depth: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        features = torch.zeros(len(depth), 8, 16, 32)
        features[:, 0] = SPEC.depth_code(depth)[:, None, None]
        ahead = torch.rand(len(depth), 400, generator=generator) * 9.0 + 3.0
        sideways = (torch.rand(len(depth), 400, generator=generator) - 0.5) * 0.5 * ahead
        points = torch.stack([sideways, torch.zeros_like(ahead), ahead], dim=-1)
        occupied = (ahead > depth[:, None]) & (ahead < depth[:, None] + 2.0)
        return features, points, occupied.float()

    for _ in range(120):
        features, points, occupied = example(torch.rand(4, generator=generator) * 5.0 + 4.0)
        logit = decoder.at(decoder(features), points)
        loss = torch.nn.functional.binary_cross_entropy_with_logits(logit, occupied)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    features, points, occupied = example(torch.tensor([4.3, 6.1, 7.7]))
    with torch.no_grad():
        right = (decoder.at(decoder(features), points) > 0) == (occupied > 0)
    assert right.float().mean() > 0.9


def test_the_robot_reads_what_training_reads(tmp_path: Path) -> None:
    torch.manual_seed(0)
    encoder = EncoderDecoder((CAMERA.height, CAMERA.width), channels=8, pretrained=False)
    field = DensityField(CAMERA, SPEC, encoder=encoder, hidden=16, spatial=_random(_decoder())).eval()
    with torch.no_grad():
        field.density_layer.weight.normal_(0.0, 0.5)
    image = torch.rand(1, 3, CAMERA.height, CAMERA.width) * 255.0
    file = tmp_path / "encoder.onnx"
    file.write_bytes(encoder_onnx(field, CAMERA))
    features, volume = onnxruntime.InferenceSession(file).run(["features", "volume"], {"image": image.numpy()})
    points = torch.rand(1, 300, 3) * torch.tensor([6.0, 2.0, 10.0]) + torch.tensor([-3.0, -1.0, 1.5])
    with torch.no_grad():
        seen = field.observe(image)
        expected = seen.density(points)[0].numpy()
        alone = dataclasses.replace(seen, volume=None).density(points)[0].numpy()
    assert np.abs(expected - alone).mean() > 0.1
    found = density_reference(features[0], points[0].numpy(), head_weights(field), SPEC, CAMERA, volume=volume[0])
    np.testing.assert_allclose(found, expected, atol=2e-2, rtol=2e-2)  # weights are stored in fp16
