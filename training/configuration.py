"""Training configurations: what a YAML file may say, for each stage."""

# No postponed annotations here: the configuration parser resolves those of a base class in the wrong module.
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from scene_completion_training.data.module import DataSettings
from scene_completion_training.settings import (
    FeatureFieldSettings,
    SemanticsSettings,
    StageSettings,
    StudentSettings,
    SupervisedSettings,
    TeacherSettings,
)

Stage = Literal["single_view", "teacher", "student", "feature_field", "semantics", "supervised"]


@dataclass
class RunSettings:
    """What a run needs besides its stage.

    Attributes:
        data: Sequences and samples.
        prior_steps: Steps in which the head is first fitted without images.
        ema_decay: Decay of the weight average that is evaluated and exported; 0 switches it off.
        ema_start: Step from which the average is kept.
        checkpoint_every: Steps between checkpoints (the last one is kept and resumed from).
        validate_every: Steps between validations, where `data.validation` names sequences; the best checkpoint is kept.
        picture_every: Steps between TensorBoard pictures; 0 switches them off.
        log_every: Steps between points of the curves.
        gradient_clip: Largest gradient norm.
        precision: Arithmetic: "32-true", "bf16-mixed" or "16-mixed".
        devices: Processes on a machine, each with its own device (started by the trainer, torchrun or SLURM).
        nodes: Machines.
        start_from: Folder of a student bundle, or a checkpoint, whose weights the training goes on from (a teacher
            takes the encoder of a student); then no prior is fitted, and the mean depth stays that of those drives.
        output: Folder for checkpoints and curves.
    """

    data: DataSettings = field(default_factory=DataSettings)
    prior_steps: int = 1000
    ema_decay: float = 0.0
    ema_start: int = 200
    checkpoint_every: int = 250
    validate_every: int = 500
    picture_every: int = 500
    log_every: int = 20
    gradient_clip: float = 5.0
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = "32-true"
    devices: int = 1
    nodes: int = 1
    start_from: str | None = None
    output: str = "runs/out"


@dataclass
class SingleViewConfiguration(RunSettings, StageSettings):
    """Stage `single_view`.

    Attributes:
        stage: Name of the stage.
    """

    stage: Stage = "single_view"


@dataclass
class TeacherConfiguration(RunSettings, TeacherSettings):
    """Stage `teacher`.

    Attributes:
        stage: Name of the stage.
    """

    stage: Stage = "teacher"


@dataclass
class StudentConfiguration(RunSettings, StudentSettings):
    """Stage `student`.

    Attributes:
        stage: Name of the stage.
    """

    stage: Stage = "student"


@dataclass
class FeatureFieldConfiguration(RunSettings, FeatureFieldSettings):
    """Stage `feature_field`.

    Attributes:
        stage: Name of the stage.
    """

    stage: Stage = "feature_field"


@dataclass
class SemanticsConfiguration(RunSettings, SemanticsSettings):
    """Stage `semantics`.

    Attributes:
        stage: Name of the stage.
    """

    stage: Stage = "semantics"


@dataclass
class SupervisedConfiguration(RunSettings, SupervisedSettings):
    """Stage `supervised`.

    Attributes:
        stage: Name of the stage.
    """

    stage: Stage = "supervised"


Configuration: TypeAlias = (
    SingleViewConfiguration
    | TeacherConfiguration
    | StudentConfiguration
    | FeatureFieldConfiguration
    | SemanticsConfiguration
    | SupervisedConfiguration
)
CONFIGURATIONS: dict[Stage, type[Configuration]] = {
    "single_view": SingleViewConfiguration,
    "teacher": TeacherConfiguration,
    "student": StudentConfiguration,
    "feature_field": FeatureFieldConfiguration,
    "semantics": SemanticsConfiguration,
    "supervised": SupervisedConfiguration,
}
"""Stage -> class of its configuration."""
