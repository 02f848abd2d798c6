"""Teachers together: each is compared as it is set to, and heads say no more than what they read."""

import pytest
import torch

from scene_completion_ros.errors import ConfigurationError
from scene_completion_training.losses.agglomeration import COMPARED, TeacherSpec, agglomeration_terms, check_teachers
from scene_completion_training.losses.uncertainty import UncertaintyWeights
from scene_completion_training.networks.feature_heads import FeatureHeads

PREDICTED = torch.tensor([[3.0, 4.0], [1.0, 0.0], [9.0, 9.0]])
TARGET = torch.tensor([[5.0, 1.0], [0.0, 2.0], [0.0, 0.0]])
COUNTED = torch.tensor([True, True, False])


def test_each_comparison_by_hand() -> None:
    """The cosine of (3, 4), (5, 1) is 19 / (5 √26), of (1, 0), (0, 2) 0; de-meaned targets are (2, -2), (-1, 1)."""
    found = {name: float(loss(PREDICTED, TARGET, COUNTED)) for name, loss in COMPARED.items()}
    assert found["cosine"] == pytest.approx((1 - 19 / (5 * 26**0.5) + 1) / 2)
    assert found["l1"] == pytest.approx(((2 + 3) / 2 + (1 + 2) / 2) / 2)
    cosines = (3 - 4) / (5 * 2**0.5), -1 / 2**0.5
    assert found["demeaned_cosine"] == pytest.approx(1 - sum(cosines) / 2)


def test_s1_the_comparison_of_each_teacher_is_its_own() -> None:
    """Longer predictions change what the L1 teacher says, and nothing else; shifted targets all but the de-meaned."""
    teachers = [TeacherSpec("a", "cosine"), TeacherSpec("b", "l1"), TeacherSpec("c", "demeaned_cosine")]
    weights = UncertaintyWeights(["a", "b", "c"])

    def terms(predicted: torch.Tensor, target: torch.Tensor) -> dict[str, torch.Tensor]:
        each = (dict.fromkeys("abc", value) for value in (predicted, target, COUNTED))
        return agglomeration_terms(teachers, weights, *each)

    plain, longer, shifted = terms(PREDICTED, TARGET), terms(2 * PREDICTED, TARGET), terms(PREDICTED, TARGET + 3)
    changed = [name for name in plain if not torch.isclose(plain[name], longer[name])]
    assert changed == ["agglomeration", "teacher_b"]
    assert [name for name in plain if torch.isclose(plain[name], shifted[name])] == ["teacher_c"]
    losses = sum(plain[f"teacher_{name}"] for name in "abc")
    torch.testing.assert_close(plain["agglomeration"], losses / 2 + 3 * torch.tensor(2.0).log())


def test_s5_linear_heads_have_the_rank_of_what_they_read() -> None:
    torch.manual_seed(0)
    features = torch.randn(200, 6, dtype=torch.float64)
    for kind, rank in (("linear", 6), ("mlp", 18)):
        heads = FeatureHeads(6, {"a": 8, "b": 10}, kind).double()
        together = torch.cat([heads.of(name, features) for name in "ab"], dim=1)
        found = int(torch.linalg.matrix_rank(together))
        assert found == rank if kind == "linear" else 6 < found <= rank


@pytest.mark.parametrize("names", [[], ["a", "a"], ["a.b"]])
def test_teachers_have_names_of_their_own(names: list[str]) -> None:
    with pytest.raises(ConfigurationError, match="teachers"):
        check_teachers([TeacherSpec(name) for name in names], "teachers")
