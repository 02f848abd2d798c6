"""Teachers by name: one word says which network gives the features."""

from __future__ import annotations

from scene_completion_ros.errors import ConfigurationError
from scene_completion_training.foundation.backbone import Backbone
from scene_completion_training.foundation.class_probabilities import ClassProbabilityTeacher
from scene_completion_training.foundation.targets import Teacher
from scene_completion_training.foundation.text_encoder import STREET_TEMPLATE, TextEncoder

_ESPNETV2 = "espnetv2:"


def open_teacher(
    spec: str,
    layer: int = -1,
    device: str = "cpu",
    *,
    text_encoder: str | None = None,
    template: str = STREET_TEMPLATE,
) -> Teacher:
    """Opens a teacher.

    Args:
        spec: `espnetv2:FILE_OR_FOLDER`, or a folder or hub name of a DINO, DINOv2 or DINOv3 transformer.
        layer: Hidden state that is taken, where the teacher has a choice, see `Backbone`.
        device: Where it runs.
        text_encoder: Folder or hub name of the text encoder that class probabilities are tied to.
        template: Sentence that class names stand in.

    Raises:
        ConfigurationError: No such model, or of a type that is not supported, or a text encoder is lacking.
        BundleError: Weights that are missing, damaged, of another network, or only pickled.
    """
    if spec.startswith(_ESPNETV2):
        if text_encoder is None:
            raise ConfigurationError(
                "class probabilities are tied to sentences, and no text encoder is named",
                where=spec,
                cure="Name one, for example sentence-transformers/all-MiniLM-L6-v2",
            )
        encoder = TextEncoder(text_encoder, device)
        return ClassProbabilityTeacher(spec.removeprefix(_ESPNETV2), encoder, template, device)
    return Backbone(spec, layer, device)
