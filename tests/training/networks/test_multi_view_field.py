"""Fusion of views: order does not matter, unseen views do not count, and gradients are what they should be."""

import math

import pytest
import torch

from scene_completion_ros.geometry import Camera
from scene_completion_training.losses import density_distillation, occupancy_distillation
from scene_completion_training.networks.encoder_decoder import EncoderDecoder
from scene_completion_training.networks.multi_view_field import FusionHead, MultiViewField

CAMERA = Camera(fx=55.0, fy=55.0, cx=47.5, cy=31.5, width=96, height=64)


@pytest.fixture
def head() -> FusionHead:
    torch.manual_seed(0)
    head = FusionHead(8, 5, hidden=16, fused=4).double()
    torch.nn.init.normal_(head.view_layer.weight)  # depth units included
    return head


def _inputs(views: int, points: int = 6) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(views)
    features = torch.randn(2, views, points, 16, generator=generator, dtype=torch.float64)
    code = torch.randn(2, views, points, 5, generator=generator, dtype=torch.float64)
    return features, code, torch.rand(2, views, points, generator=generator) > 0.4


def test_the_order_of_the_views_does_not_matter(head: FusionHead) -> None:
    features, code, seen = _inputs(4)
    order = torch.tensor([2, 0, 3, 1])
    torch.testing.assert_close(head(features[:, order], code[:, order], seen[:, order]), head(features, code, seen))


def test_a_view_that_does_not_see_a_point_does_not_count(head: FusionHead) -> None:
    features, code, seen = _inputs(3)
    seen[:, 0], seen[:, 1] = True, False
    changed = features.clone()
    changed[:, 1] += 100.0
    torch.testing.assert_close(head(changed, code, seen), head(features, code, seen))
    changed[:, 0] += 1.0
    assert not torch.allclose(head(changed, code, seen), head(features, code, seen))


def test_features_are_taken_where_a_point_projects_in_each_view() -> None:
    """A field whose views all stand in the same place sees a point at the same pixel: like one view."""
    torch.manual_seed(2)
    field = MultiViewField(CAMERA, encoder=EncoderDecoder((64, 96), pretrained=False)).eval()
    torch.nn.init.normal_(field.fusion.view_layer.weight)
    poses = torch.eye(4).repeat(1, 3, 1, 1)
    poses[0, 1, 2, 3] = 4.0  # 4 m ahead
    poses[0, 2, 0, 3] = 0.5  # half a metre to the right
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(1, 1, 3, 64, 96, generator=generator) * 255
    points = torch.rand(1, 200, 3, generator=generator) * torch.tensor([6.0, 2.0, 20.0]) + torch.tensor([-3, -1, 4.0])
    with torch.no_grad():
        one = field.observe(image, torch.eye(4)[None, None]).density_logit(points)
        same = field.observe(image.repeat(1, 3, 1, 1, 1), torch.eye(4).repeat(1, 3, 1, 1)).density_logit(points)
        moved = field.observe(image.repeat(1, 3, 1, 1, 1), poses).density_logit(points)
    torch.testing.assert_close(same, one, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(moved, one, atol=1e-2)


def test_distillation_by_hand() -> None:
    """|2 − 1| = 1, |0.5 − 2| = 1.5, and 9 against 3 are the same surface; the invalid fourth point does not count."""
    student, teacher = torch.tensor([[2.0, 0.5, 9.0, 7.0]]), torch.tensor([[1.0, 5.0, 3.0, 0.0]])
    valid = torch.tensor([[True, True, True, False]])
    assert density_distillation(student, teacher, valid).item() == pytest.approx((1.0 + 1.5 + 0.0) / 3)
    nothing = torch.zeros_like(valid)
    assert density_distillation(student, teacher, nothing).item() == 0.0
    # Probabilities 0.5 against 0.8, the same twice, and what does not count.
    logits = torch.tensor([[0.0, 3.0, -9.0]]), torch.tensor([[math.log(4.0), 3.0, 9.0]])
    counted = torch.tensor([[True, True, False]])
    divergence = 0.8 * math.log(0.8 / 0.5) + 0.2 * math.log(0.2 / 0.5)
    assert occupancy_distillation(*logits, counted).item() == pytest.approx(divergence / 2, rel=1e-5)
