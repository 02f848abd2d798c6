"""The stages of training. A line in `STAGES` makes a stage known; nothing else names one."""

from importlib import import_module
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, cast

from scene_completion_ros.errors import ConfigurationError
from scene_completion_ros.removed import removed

if TYPE_CHECKING:
    from scene_completion_training.stage import Stage

STAGES = {
    "single_view": "scene_completion_training.stages.density:SingleViewStage",
    "teacher": "scene_completion_training.stages.density:TeacherStage",
    "student": "scene_completion_training.stages.density:StudentStage",
    "feature_field": "scene_completion_training.stages.feature_field:FeatureFieldStage",
    "agglomeration": "scene_completion_training.stages.agglomeration:AgglomerationStage",
    "point_agglomeration": "scene_completion_training.stages.agglomeration:PointAgglomerationStage",
    "semantics": "scene_completion_training.stages.feature_field:SemanticsStage",
    "semantic_field": "scene_completion_training.stages.feature_field:SemanticFieldStage",
    "completion": "scene_completion_training.stages.completion:CompletionStage",
    "masked_scene": "scene_completion_training.stages.masked_scene:MaskedSceneStage",
}  # name, as `stage` in a configuration gives it -> module and class
GROUP = "scene_completion.stages"  # entry points of this group are stages of other packages, written as in `STAGES`
DEFAULT_STAGE = next(iter(STAGES))  # stage of configurations and checkpoints that name none


def known_stages() -> dict[str, str]:
    """Every stage there is, those of other packages included: name -> module and class."""
    return {entry.name: entry.value for entry in entry_points(group=GROUP)} | STAGES


def stage_class(name: object, where: str = "stage") -> "type[Stage]":
    """The class of a stage; `where` is what names it. Raises ConfigurationError where there is none of this name."""
    known = known_stages()
    if not isinstance(name, str) or name not in known:
        what = removed("stage", str(name)) or f"stage {name!r} does not exist"
        raise ConfigurationError(what, where=where, cure=f"There are {', '.join(known)}")
    module, _, attribute = known[name].partition(":")
    return cast("type[Stage]", getattr(import_module(module), attribute))
