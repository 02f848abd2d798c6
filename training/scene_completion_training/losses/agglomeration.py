"""Several teachers at a time, each compared as suits it, weighed by learned uncertainty (CUA-O3D, section 3)."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from torch import Tensor

from scene_completion_ros.errors import ConfigurationError
from scene_completion_training.losses.feature_agreement import cosine_loss, demeaned_cosine_loss, l1_loss
from scene_completion_training.losses.uncertainty import UncertaintyWeights

Comparison: TypeAlias = Literal["cosine", "l1", "demeaned_cosine"]
COMPARED: dict[Comparison, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "cosine": cosine_loss,
    "l1": l1_loss,
    "demeaned_cosine": demeaned_cosine_loss,
}


@dataclass
class TeacherSpec:
    """A foundation model that is learned from."""

    name: str  # letters, digits, "_" and "-"
    loss: Comparison = "cosine"  # how features are compared with its own, see `losses.feature_agreement`


def check_teachers(teachers: Sequence[TeacherSpec], where: str) -> None:
    """Raises a `ConfigurationError` without teachers, or for names that cannot be."""
    names = [teacher.name for teacher in teachers]
    if not names or len(set(names)) < len(names) or not all(n.replace("-", "_").isidentifier() for n in names):
        cure = "Name one teacher or more, each another, with letters, digits, _ and -"
        raise ConfigurationError(f"teachers {names}", where=where, cure=cure)


def agglomeration_terms(
    teachers: Sequence[TeacherSpec],
    uncertainty: UncertaintyWeights,
    predicted: Mapping[str, Tensor],
    targets: Mapping[str, Tensor],
    weights: Mapping[str, Tensor],
) -> dict[str, Tensor]:
    """The weighed total "agglomeration" [], and what it is made of for the curves, "teacher_NAME" [].

    `predicted`, `targets`: [P, D] by the name of the teacher; `weights`: how much each point counts, [P]; booleans say
    which do.
    """
    losses = {
        teacher.name: COMPARED[teacher.loss](*(of[teacher.name] for of in (predicted, targets, weights)))
        for teacher in teachers
    }
    watched = {f"teacher_{name}": loss.detach() for name, loss in losses.items()}
    return {"agglomeration": uncertainty(losses), **watched}


def term_weights(teachers: Sequence[TeacherSpec]) -> dict[str, float]:
    """Weights of these terms: the total is the loss, what each teacher says is only watched."""
    return {"agglomeration": 1.0, **{f"teacher_{teacher.name}": 0.0 for teacher in teachers}}
