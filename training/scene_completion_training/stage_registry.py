"""Names of the training stages. A line in `STAGES` makes one known; nothing else lists them."""

from importlib import import_module
from typing import Any

from scene_completion_ros.errors import ConfigurationError

STAGES = {
    "single_view": "scene_completion_training.stages.density:SingleViewStage",
    "teacher": "scene_completion_training.stages.density:TeacherStage",
    "student": "scene_completion_training.stages.density:StudentStage",
    "feature_field": "scene_completion_training.stages.feature_field:FeatureFieldStage",
    "agglomeration": "scene_completion_training.stages.agglomeration:AgglomerationStage",
    "point_agglomeration": "scene_completion_training.stages.agglomeration:PointAgglomerationStage",
    "semantics": "scene_completion_training.stages.feature_field:SemanticsStage",
    "pixels": "scene_completion_training.stages.pixels:PixelStage",
    "completion": "scene_completion_training.stages.completion:CompletionStage",
    "supervised_points": "scene_completion_training.stages.supervised_points:SupervisedPointsStage",
    "masked_scene": "scene_completion_training.stages.masked_scene:MaskedSceneStage",
}  # name, as `stage` in a configuration gives it -> module and class
DEFAULT_STAGE = next(iter(STAGES))  # stage of configurations and checkpoints that name none


def stage_class(name: object, where: str = "stage") -> Any:
    """The class of a stage, a `Stage`, imported when it is needed; a `ConfigurationError` for an unknown name.

    `where`: file or key that names the stage.
    """
    if not isinstance(name, str) or name not in STAGES:
        raise ConfigurationError(f"stage {name!r} does not exist", where=where, cure=f"There are {', '.join(STAGES)}")
    module, _, attribute = STAGES[name].partition(":")
    return getattr(import_module(module), attribute)
