"""The field agrees with the robot's readable query."""

import numpy as np
import pytest
import torch

from scene_completion_training.export import FoldedEncoder, head_weights
from scene_completion_training.networks.density_field import (
    DEPTH_UNITS,
    DensityField,
    OccupancyLink,
    SingleViewObservation,
    link_calibration,
    link_of_calibration,
)
from scene_completion_training.viewpoint import STREET_CAMERA
from tests.inference.twins import density_reference


@pytest.fixture(scope="module")
def field() -> DensityField:
    torch.manual_seed(3)
    return DensityField(STREET_CAMERA).eval()


@pytest.mark.parametrize("size", [(640, 192), (320, 96)], ids=["whole", "half"])
def test_field_agrees_with_the_deployed_query(field: DensityField, size: tuple[int, int]) -> None:
    """Same density from torch and from the robot's NumPy reference, inside the view, outside it and behind it."""
    camera = field.camera.resized(*size)
    generator = np.random.default_rng(0)
    points = generator.uniform([-30, -5, -3], [30, 3, 60], (4000, 3)).astype(np.float32)
    image = torch.from_numpy(generator.uniform(0, 255, (1, 3, *size[::-1])).astype(np.float32))
    with torch.no_grad():
        expected = field.observe(image).density(torch.from_numpy(points)[None])[0].numpy()
        features = FoldedEncoder(field, camera).eval()(image)[0].numpy()
    found = density_reference(features, points, head_weights(field), field.spec, camera)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)


def test_depth_units_place_a_surface_at_the_depth_of_channel_zero(field: DensityField) -> None:
    """A hat of three ramps (rise, twice fall, rise) is a bump at the pixel's depth, wherever that is."""
    local = DensityField(STREET_CAMERA).eval()
    raw = torch.zeros(1, 64, 96, 320)
    depth = 11.0
    raw[:, 0] = local.spec.depth_code(torch.tensor(depth))
    with torch.no_grad():
        local.density_layer.weight.zero_()
        for unit, (slope, offset) in enumerate(DEPTH_UNITS):
            if slope == 100.0 and offset in (-0.04, 0.0, 0.04):
                local.density_layer.weight[0, unit] = 1.0 if offset else -2.0
        z = torch.linspace(4, 40, 2000)
        points = torch.stack([torch.zeros_like(z), torch.zeros_like(z), z], dim=-1)[None]
        density = SingleViewObservation(local, local.feature_layer(raw), raw).density(points)[0]
    assert z[density.argmax()].item() == pytest.approx(depth, abs=0.1)
    assert density[z < 8].max() < 0.2 and density[z > 20].max() < 0.2


def test_the_link_of_a_bundle_is_that_of_its_training() -> None:
    """Exported, a link becomes a calibration; from that it comes back."""
    link = OccupancyLink(2.0)
    with torch.no_grad():
        link.log_scale.fill_(0.4)
    found = link_of_calibration(link_calibration(link.state_dict(), 0.2), 0.2)
    assert found["log_scale"].item() == pytest.approx(0.4, abs=0.02)
    assert found["offset"].item() == pytest.approx(2.0, abs=0.05)
    assert link_of_calibration(link_calibration({}, 0.2), 0.2) == {}
