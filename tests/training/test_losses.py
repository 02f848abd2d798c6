"""Each loss on a case worked out by hand."""

import math

import pytest
import torch

from scene_completion_ros.inference.head import PointCodeSpec
from scene_completion_training import losses

# Optima p for a constant loss: p² = (L + √(L² + 8L)) / 4.
LOSSES = (0.05, 0.2, 0.5, 1.0, 2.0)
OPTIMA: dict[losses.Regulariser, tuple[float, ...]] = {
    "log1p_square": (0.4137, 0.6084, 0.8002, 1.0, 1.2720),
    "log1p": (0.4134, 0.6976, 1.0, 1.3247, 1.7693),
    "log": (0.2236, 0.4472, 0.7071, 1.0, 1.4142),
}


def test_dense_depth_is_the_log_error_of_inverse_depth() -> None:
    """10 m predicted where 8 m was measured: log((1/8 + 0.002) / (1/10 + 0.002)); wild errors count as the cap."""
    spec = PointCodeSpec()
    hint = torch.tensor([8.0, 0.0, 60.0])
    code = torch.stack([spec.depth_code(torch.tensor(10.0)), torch.tensor(9.0), torch.tensor(9.0)])
    expected = (math.log(0.127 / 0.102) + 1.0) / 2
    assert losses.log_inverse_depth_loss(code, hint, spec).item() == pytest.approx(expected, rel=1e-5)
    assert losses.log_inverse_depth_loss(code, torch.zeros(3), spec).item() == 0.0


def test_dense_depth_costs_too_far_and_too_near_the_same_and_pulls_from_beyond_infinity() -> None:
    spec = PointCodeSpec()
    hint = torch.full((1,), 10.0)
    codes = (spec.depth_code(torch.tensor([depth])) for depth in (7.0, 100 / 7))
    near, far = (losses.log_inverse_depth_loss(code, hint, spec, offset=0.0) for code in codes)
    assert near.item() == pytest.approx(far.item(), rel=1e-4)
    beyond = torch.full((1,), -1.2, requires_grad=True)  # a negative inverse depth
    losses.log_inverse_depth_loss(beyond, torch.full((1,), 70.0), spec, cap=10.0).backward()
    assert beyond.grad is not None and beyond.grad.item() < 0.0


def test_block_depth_is_the_depth_at_the_centre_of_a_plane() -> None:
    """Inverse depth is linear on a plane: its mean over a block is its value at the block's centre."""
    u = torch.arange(8.0)
    depth = (1.0 / (0.02 + 0.01 * u)).expand(1, 4, 8).clone()
    blocks = losses.block_depth(depth, 4)
    assert blocks[0, 0].tolist() == pytest.approx([1 / (0.02 + 0.01 * 1.5), 1 / (0.02 + 0.01 * 5.5)])
    depth[:] = 0.0
    depth[0, 1, 2] = 7.0
    assert losses.block_depth(depth, 4)[0, 0].tolist() == pytest.approx([7.0, 0.0])


def test_emptiness_is_the_cross_entropy_against_free() -> None:
    logit = torch.tensor([[0.0, math.log(3.0)], [5.0, 5.0]], requires_grad=True)  # p = 1/2 and 3/4
    loss = losses.free_cross_entropy(logit, torch.tensor([True, False]))
    assert loss.item() == pytest.approx((math.log(2.0) + math.log(4.0)) / 4.0)
    loss.backward()
    assert logit.grad is not None and torch.all(logit.grad[1] == 0.0)  # nothing is known of the second sample


def test_what_teachers_know_together_by_hand() -> None:
    """A cell with probability 1/4 against 0.8, weight 2; half of that where teachers deviate by 0.2; others do not."""
    logits = torch.full((1, 4, 8), math.log(3.0), requires_grad=True)  # 3/4
    with torch.no_grad():
        logits[0, 0] = torch.tensor([-50.0, 0.0] * 4)  # 0 and 1/2
    taught = torch.tensor([[204, 51, 0, 255]], dtype=torch.uint8)
    doubt = torch.tensor([[0, 51, 255, 255]], dtype=torch.uint8)
    divergence = [0.8 * math.log(0.8 / 0.25) + 0.2 * math.log(0.2 / 0.75)]
    divergence.append(0.2 * math.log(0.2 / 0.75) + 0.8 * math.log(0.8 / 0.25))
    weight = torch.tensor([[2.0, 2.0, 7.0, 7.0]])
    loss = losses.taught_occupancy(logits, taught, doubt, weight)
    assert loss.item() == pytest.approx((2.0 * divergence[0] + divergence[1]) / 3.0, rel=2e-3)  # but for `CERTAIN`
    loss.backward()
    assert logits.grad is not None and (logits.grad[0, 2:] == 0.0).all() and (logits.grad[0, 1] > 0.0).all()
    for value in (0, 51, 255):  # agreement costs nothing
        agreeing = torch.full((1, 2, 8), float(torch.logit(torch.tensor(value / 255.0))))
        given, sure = torch.full((1, 2), value, dtype=torch.uint8), torch.zeros(1, 2, dtype=torch.uint8)
        assert losses.taught_occupancy(agreeing, given, sure, torch.ones(1, 2)).item() == pytest.approx(0.0, abs=1e-6)


def test_correspondence_by_hand() -> None:
    """One pair of points: −max(S^h, 0) (S^f − b)."""
    first, second = torch.tensor([[[1.0, 0.0]]]), torch.tensor([[[0.6, 0.8]]])
    assert losses.correspondence_loss(first, second, first, second, 0.2).item() == pytest.approx(-0.6 * (0.6 - 0.2))
    assert losses.correspondence_loss(first, second, first, second, 0.9).item() == pytest.approx(0.6 * 0.3)
    assert losses.correspondence_loss(first, second, first, -second, 0.2).item() == 0.0


def test_estimated_shifts_attract_the_share_they_should() -> None:
    drawn = torch.randn(3, 5000, generator=torch.Generator().manual_seed(1))
    similarities = {"self": 0.5 + 0.2 * drawn[0], "similar": 0.4 + 0.1 * drawn[1], "random": 0.1 * drawn[2]}
    forces = losses.estimate_forces(similarities)
    for pair, force in forces.items():
        share = (similarities[pair] > force.shift).float().mean().item()
        assert share == pytest.approx(losses.ATTRACTED[pair], abs=0.01)
    assert sum(force.weight for force in forces.values()) == pytest.approx(1.0)
    pull = [force.weight * (similarities[pair] - force.shift).abs().mean().item() for pair, force in forces.items()]
    assert pull == pytest.approx([pull[0]] * 3, rel=1e-4)


def test_photometric_is_zero_for_equal_images_and_takes_the_best_source() -> None:
    torch.manual_seed(0)
    target = torch.rand(3, 3, 8, 8)
    noise = torch.rand(3, 3, 8, 8)
    rendered = torch.stack([noise, target], dim=1)
    valid = torch.zeros(3, 8, 8, dtype=torch.bool)
    assert losses.photometric_loss(target, rendered, valid).item() == pytest.approx(0.0, abs=1e-6)
    assert losses.photometric_loss(target, rendered[:, :1], valid).item() > 0.1
    assert losses.photometric_loss(target, rendered[:, :1], ~valid).item() == 0.0  # invalid rays do not count


def test_photometric_weights_l1_with_fifteen_percent() -> None:
    """Flat images of 0.2 and 0.6: away from the border SSIM = (2ab + c1)/(a² + b² + c1), since variances vanish."""
    target = torch.full((1, 3, 8, 8), 0.2, dtype=torch.float64)
    rendered = torch.full((1, 1, 3, 8, 8), 0.6, dtype=torch.float64)
    kernel_sum = 4 * 0.0947 + 4 * 0.1183 + 0.1478
    a, b = 0.2 * kernel_sum, 0.6 * kernel_sum
    c1, c2 = 1e-4, 9e-4
    variance_a, variance_b = kernel_sum * 0.04 - a * a, kernel_sum * 0.36 - b * b
    covariance = kernel_sum * 0.12 - a * b
    similarity = (2 * a * b + c1) * (2 * covariance + c2) / ((a * a + b * b + c1) * (variance_a + variance_b + c2))
    expected = 0.85 * (1 - similarity) / 2 + 0.15 * 0.4
    assert losses.photometric_error(target, rendered)[0, 0, 4, 4].item() == pytest.approx(expected, abs=1e-5)


def test_smoothness_is_zero_on_constant_depth_and_forgives_image_edges() -> None:
    image = torch.zeros(1, 3, 8, 8)
    assert losses.edge_aware_smoothness(torch.full((1, 8, 8), 7.0), image).item() == 0.0
    step = torch.full((1, 8, 8), 5.0)
    step[..., 4:] = 20.0
    edge = image.clone()
    edge[..., 4:] = 1.0
    flat_cost, edge_cost = losses.edge_aware_smoothness(step, image), losses.edge_aware_smoothness(step, edge)
    assert edge_cost.item() == pytest.approx(flat_cost.item() * math.exp(-1.0), rel=1e-5)


def test_stereo_depth_by_hand_and_without_hints() -> None:
    rendered = torch.tensor([10.0, 12.0, 30.0], requires_grad=True)
    hint = torch.tensor([10.0, 10.0, 0.0])
    loss = losses.log_depth_loss(rendered, hint)
    assert loss.item() == pytest.approx(math.log(1 + 2.0 / 2.0) / 2)
    nothing = losses.log_depth_loss(rendered, torch.zeros(3))
    nothing.backward()
    assert nothing.item() == 0.0 and torch.all(rendered.grad == 0)


@pytest.mark.parametrize("regulariser", OPTIMA)
def test_descent_finds_the_closed_optimum_of_each_loss_alone(regulariser: losses.Regulariser) -> None:
    weights = losses.UncertaintyWeights(list(map(str, LOSSES)), regulariser).double()
    values = {str(loss): torch.tensor(loss, dtype=torch.float64) for loss in LOSSES}
    descent = torch.optim.Adam(weights.parameters(), 0.05)
    for _ in range(400):
        descent.zero_grad()
        weights(values).backward()
        descent.step()
    for loss, expected in zip(LOSSES, OPTIMA[regulariser], strict=True):
        assert weights.uncertainties[str(loss)] == pytest.approx(expected, abs=1e-3)
    certain = losses.UncertaintyWeights(["a"], regulariser)
    torch.nn.init.constant_(certain.logarithms[0], -1.0)
    assert (certain({"a": torch.tensor(0.0)}).item() >= 0.0) == (regulariser != "log")  # which has no lower bound


def test_the_released_weights_start_at_their_optimum_for_losses_of_one_and_none_weighs_all_alike() -> None:
    equal = losses.UncertaintyWeights(["a", "b"], "none")
    assert float(equal({"a": torch.tensor(0.3), "b": torch.tensor(0.5)})) == pytest.approx(0.8)
    assert equal.uncertainties == {"a": 1.0, "b": 1.0}
    weights = losses.UncertaintyWeights(["a", "b", "c"])
    weights({name: torch.tensor(1.0) for name in "abc"}).backward()
    assert [p.grad.item() for p in weights.parameters() if p.grad is not None] == pytest.approx([0.0] * 3, abs=1e-7)


def test_voxels_count_by_their_weight_and_classes_by_that_of_their_own() -> None:
    logits = torch.tensor([[[[0.0, 3.0]]]])
    loss = losses.occupancy_cross_entropy(logits, torch.tensor([[[[1.0, 0.0]]]]), torch.tensor([[[[2.0, 0.0]]]]))
    assert loss.item() == pytest.approx(math.log(2.0))
    nothing = torch.randn(1, 4, requires_grad=True)
    loss = losses.occupancy_cross_entropy(nothing, torch.ones(1, 4), torch.zeros(1, 4))
    loss.backward()
    assert loss.item() == 0.0 and torch.all(nothing.grad == 0)
    logits = torch.tensor([[0.0, 0.0], [math.log(3.0), 0.0]])
    loss = losses.class_terms(logits, torch.tensor([0, 1]), torch.tensor([1.0, 3.0]))
    assert loss.item() == pytest.approx((math.log(2.0) + 3.0 * math.log(4.0)) / 4.0, abs=1e-6)


def test_a_surface_is_as_likely_as_its_distance_and_its_doubt_say() -> None:
    """0.2 m off with a doubt of 0.1 m, and a cell that was not measured."""
    height, deviation = torch.tensor([[[1.2, 7.0]]]), torch.tensor([[[0.1, 0.5]]])
    loss = losses.surface_likelihood(height, deviation, torch.tensor([[[1.0, math.nan]]]), torch.ones(1, 1, 2))
    assert loss.item() == pytest.approx(2.0 + math.log(0.1), abs=1e-5)


def test_depth_is_compared_where_it_is_known() -> None:
    """A pixel twice as far, one without depth, and the sky."""
    true = torch.tensor([[[10.0, 0.0, math.inf]]])
    loss = losses.depth_likelihood(torch.full((1, 1, 3), math.log(20.0)), torch.full((1, 1, 3), 0.5), true)
    assert loss.item() == pytest.approx(math.log(2.0) / 0.5 + math.log(0.5), abs=1e-5)


def test_a_plane_is_a_laplace_likelihood_of_what_is_known_of_it() -> None:
    """Off by 0.2 at a deviation of 0.1, by 0 at 0.5, and by far too much at 0.1, where ten deviations count."""
    plane = torch.tensor([[[0.1, 0.1], [0.3, 0.5], [0.0, 0.2]], [[0.0, 0.1], [0.0, 0.1], [9.0, 0.1]]])
    true = torch.tensor([[0.3, 0.3, math.nan], [math.nan, math.nan, 0.0]])
    expected = (2.0 + math.log(0.1) + math.log(0.5) + 10.0 + math.log(0.1)) / 3.0
    assert losses.plane_likelihood(plane, true).item() == pytest.approx(expected, rel=1e-5)
    assert losses.plane_likelihood(plane, torch.full((2, 3), math.nan)).item() == 0.0


def test_feature_smoothness_by_hand() -> None:
    """From (3, 0) to (0, 5) between columns: (√2, 0) to (0, √2) at a root mean square of one, √2 in the mean."""
    features = torch.zeros(1, 2, 2, 2)
    features[:, :, 0, 0] = 3.0
    features[:, :, 1, 1] = 5.0
    image = torch.full((1, 3, 2, 2), 0.5)
    assert losses.feature_smoothness(features, image).item() == pytest.approx(2 * math.sqrt(2.0) / 4)
    image[..., 1] += 0.04  # across an edge of 0.04, e^{−25·0.04} of it
    for factor in (1.0, 7.0):
        found = losses.feature_smoothness(factor * features, image).item()
        assert found == pytest.approx(2 * math.sqrt(2.0) * math.exp(-1.0) / 4)
    assert losses.feature_smoothness(torch.ones(3, 8, 8, 5), torch.rand(3, 3, 8, 8)).item() == 0.0


def test_distillation_by_hand() -> None:
    """|2 − 1| = 1, |0.5 − 2| = 1.5, and 9 against 3 are the same surface; the invalid fourth point does not count."""
    student, teacher = torch.tensor([[2.0, 0.5, 9.0, 7.0]]), torch.tensor([[1.0, 5.0, 3.0, 0.0]])
    valid = torch.tensor([[True, True, True, False]])
    assert losses.density_distillation(student, teacher, valid).item() == pytest.approx((1.0 + 1.5 + 0.0) / 3)
    assert losses.logit_distillation(student, teacher, valid).item() == pytest.approx((1.0 + 4.5 + 6.0) / 3)
    nothing = torch.zeros_like(valid)
    assert losses.density_distillation(student, teacher, nothing).item() == 0.0
    # Probabilities 0.5 against 0.8, the same twice, and what does not count.
    logits = torch.tensor([[0.0, 3.0, -9.0]]), torch.tensor([[math.log(4.0), 3.0, 9.0]])
    counted = torch.tensor([[True, True, False]])
    divergence = 0.8 * math.log(0.8 / 0.5) + 0.2 * math.log(0.2 / 0.5)
    assert losses.occupancy_distillation(*logits, counted).item() == pytest.approx(divergence / 2, rel=1e-5)


PREDICTED = torch.tensor([[3.0, 4.0], [1.0, 0.0], [9.0, 9.0]])
TARGET = torch.tensor([[5.0, 1.0], [0.0, 2.0], [0.0, 0.0]])
COUNTED = torch.tensor([True, True, False])


def test_each_comparison_by_hand() -> None:
    """The cosine of (3, 4), (5, 1) is 19 / (5 √26), of (1, 0), (0, 2) 0; de-meaned targets are (2, -2), (-1, 1)."""
    found = {name: float(loss(PREDICTED, TARGET, COUNTED)) for name, loss in losses.COMPARED.items()}
    assert found["cosine"] == pytest.approx((1 - 19 / (5 * 26**0.5) + 1) / 2)
    assert found["l1"] == pytest.approx(((2 + 3) / 2 + (1 + 2) / 2) / 2)
    cosines = (3 - 4) / (5 * 2**0.5), -1 / 2**0.5
    assert found["demeaned_cosine"] == pytest.approx(1 - sum(cosines) / 2)
    for loss in losses.COMPARED.values():
        nothing = loss(predicted := PREDICTED.clone().requires_grad_(), TARGET, torch.zeros_like(COUNTED))
        nothing.backward()
        assert nothing.item() == 0.0 and predicted.grad is not None and not predicted.grad.any()


def test_s1_the_comparison_of_each_teacher_is_its_own() -> None:
    """Longer predictions change what the L1 teacher says, and nothing else; shifted targets all but the de-meaned."""
    teachers = [losses.TeacherSpec(*of) for of in (("a", "cosine"), ("b", "l1"), ("c", "demeaned_cosine"))]
    weights = losses.UncertaintyWeights(["a", "b", "c"])

    def terms(predicted: torch.Tensor, target: torch.Tensor) -> dict[str, torch.Tensor]:
        each = (dict.fromkeys("abc", value) for value in (predicted, target, COUNTED))
        return losses.agglomeration_terms(teachers, weights, *each)

    plain, longer, shifted = terms(PREDICTED, TARGET), terms(2 * PREDICTED, TARGET), terms(PREDICTED, TARGET + 3)
    changed = [name for name in plain if not torch.isclose(plain[name], longer[name])]
    assert changed == ["agglomeration", "teacher_b"]
    assert [name for name in plain if torch.isclose(plain[name], shifted[name])] == ["teacher_c"]
    teachers_together = sum(plain[f"teacher_{name}"] for name in "abc")
    torch.testing.assert_close(plain["agglomeration"], teachers_together / 2 + 3 * torch.tensor(2.0).log())
