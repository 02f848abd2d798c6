"""Teachers by name: one word says which network gives the features."""

from pathlib import Path

from scene_completion_ros.errors import ConfigurationError
from scene_completion_training.foundation.backbone import Backbone
from scene_completion_training.foundation.class_probabilities import ClassProbabilityTeacher, read_class_texts
from scene_completion_training.foundation.dense_extractor import DenseExtractor
from scene_completion_training.foundation.diffusion import DiffusionTeacher
from scene_completion_training.foundation.image_text import ClipTeacher, SiglipTeacher
from scene_completion_training.foundation.model_files import description_folder, read_config
from scene_completion_training.foundation.text_encoder import STREET_TEMPLATE, TextEncoder

_ESPNETV2, _DIFFUSION = "espnetv2:", "diffusion:"
_IMAGE_TEXT: dict[str, type[ClipTeacher | SiglipTeacher]] = {
    "clip": ClipTeacher,
    "siglip": SiglipTeacher,
    "siglip2": SiglipTeacher,
}


def open_teacher(
    # `espnetv2:FILE_OR_FOLDER`; `diffusion:FOLDER_OR_HUB_NAME` of a Stable Diffusion; or a local folder, or a name on
    # the hub, of a DINO, DINOv2, DINOv3, Depth Anything, CLIP or SigLIP: its configuration says which.
    spec: str,
    # Hidden state that is taken, of transformers of the DINO family and Depth Anything, see `Backbone`.
    layer: int = -1,
    device: str = "cpu",  # where it runs
    *,
    # Folder or hub name of the text encoder that the class names of ESPNetv2 are tied to.
    text_encoder: str | None = None,
    template: str = STREET_TEMPLATE,  # sentence that these names stand in
    class_texts: Path | None = None,  # file of phrases that describe its classes, see `read_class_texts`
) -> DenseExtractor:
    """Opens a teacher. Raises ConfigurationError: no such model, or of a type that is not supported.

    A text encoder is lacking, or there is no choice of a layer or text encoder; BundleError: weights that are missing,
    damaged, of another network, or only pickled.
    """
    if spec.startswith(_ESPNETV2):
        _refuse(layer != -1, "a layer", spec)
        if text_encoder is None:
            what = "class probabilities are tied to sentences, and no text encoder is named"
            cure = "Name one, for example sentence-transformers/all-MiniLM-L6-v2"
            raise ConfigurationError(what, where=spec, cure=cure)
        encoder = TextEncoder(text_encoder, device)
        described = read_class_texts(class_texts) if class_texts else None
        return ClassProbabilityTeacher(spec.removeprefix(_ESPNETV2), encoder, template, device, described)
    _refuse(text_encoder is not None, "a text encoder", spec)
    _refuse(class_texts is not None, "class texts", spec)
    if spec.startswith(_DIFFUSION):
        _refuse(layer != -1, "a layer", spec)
        return DiffusionTeacher(spec.removeprefix(_DIFFUSION), device)
    kind = read_config(description_folder(spec)).get("model_type")
    if isinstance(kind, str) and kind in _IMAGE_TEXT:
        _refuse(layer != -1, "a layer", spec)
        return _IMAGE_TEXT[kind](spec, device)
    return Backbone(spec, layer, device)


def _refuse(chosen: bool, what: str, spec: str) -> None:
    if chosen:
        raise ConfigurationError(f"this teacher has no choice of {what}", where=spec, cure="Leave it out")
