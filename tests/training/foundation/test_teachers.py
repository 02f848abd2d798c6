"""One word opens a teacher of any kind, and what it cannot choose is not chosen."""

import json
from pathlib import Path

import pytest
import torch
import transformers

from scene_completion_ros.errors import BundleError, ConfigurationError
from scene_completion_training.foundation.backbone import Backbone
from scene_completion_training.foundation.class_probabilities import ClassProbabilityTeacher
from scene_completion_training.foundation.dense_extractor import DenseExtractor
from scene_completion_training.foundation.espnetv2 import ESPNetv2
from scene_completion_training.foundation.feature_store import FeatureManifest, FeatureStore
from scene_completion_training.foundation.image_text import ClipTeacher, SiglipTeacher
from scene_completion_training.foundation.teachers import open_teacher
from tests.training.foundation.tiny_models import saved_clip, saved_depth_model, saved_model, saved_siglip

IMAGES = torch.randint(0, 256, (1, 3, 40, 60), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


@pytest.fixture(scope="module")
def teachers(tmp_path_factory: pytest.TempPathFactory, sentence_encoder: Path) -> dict[str, DenseExtractor]:
    folder = tmp_path_factory.mktemp("models")
    torch.save(ESPNetv2((16, 32, 64, 128)).state_dict(), folder / "espnetv2.pth")
    return {
        "espnetv2": open_teacher(f"espnetv2:{folder / 'espnetv2.pth'}", text_encoder=str(sentence_encoder)),
        "dinov2": open_teacher(str(saved_model("dinov2", folder / "dinov2")), 2),
        "depth_anything": open_teacher(str(saved_depth_model(folder / "depth")), 3),
        "clip": open_teacher(str(saved_clip(folder / "clip"))),
        "siglip": open_teacher(str(saved_siglip(folder / "siglip", "siglip2"))),
    }


def test_the_configuration_says_of_what_kind_a_teacher_is(teachers: dict[str, DenseExtractor], tmp_path: Path) -> None:
    classes = {
        "espnetv2": ClassProbabilityTeacher, "dinov2": Backbone, "depth_anything": Backbone, "clip": ClipTeacher,
        "siglip": SiglipTeacher,
    }  # fmt: skip
    for kind, teacher in teachers.items():
        assert isinstance(teacher, classes[kind])
        assert teacher.identity.type == kind
        features = teacher.features(IMAGES, 16)
        assert features.shape == (1, teacher.dim, 3, 4)
        assert features.dtype == torch.float32 and bool(features.isfinite().all())
        manifest = FeatureManifest(teacher.identity, cell=16, image_size=(40, 60), variants=1, seed=0)
        store = FeatureStore.create(tmp_path / kind, manifest)
        store.save("drive/000000/left", features)
        assert FeatureStore.open(tmp_path / kind).manifest == manifest
        assert bool(teacher.identity.text_encoder_sha256) == (kind in ("espnetv2", "clip", "siglip"))


def test_a_store_of_another_text_encoder_or_template_is_refused(
    teachers: dict[str, DenseExtractor], sentence_encoder: Path, tmp_path: Path
) -> None:
    espnetv2 = teachers["espnetv2"]
    assert isinstance(espnetv2, ClassProbabilityTeacher)
    (weights,) = espnetv2._weights
    FeatureStore.create(tmp_path, FeatureManifest(espnetv2.identity, 16, (40, 60), variants=1, seed=0))
    other = open_teacher(f"espnetv2:{weights}", text_encoder=str(sentence_encoder), template="{}")
    with pytest.raises(ConfigurationError, match=r"model settings .*asked for template \{\}"):
        FeatureStore.create(tmp_path, FeatureManifest(other.identity, 16, (40, 60), variants=1, seed=0))
    (texts := tmp_path / "texts.yaml").write_text("road: [road, asphalt]")
    other = open_teacher(f"espnetv2:{weights}", text_encoder=str(sentence_encoder), class_texts=texts)
    with pytest.raises(ConfigurationError, match="asked for .*class road road, asph"):
        FeatureStore.create(tmp_path, FeatureManifest(other.identity, 16, (40, 60), variants=1, seed=0))
    clip = saved_clip(tmp_path / "clip")
    other = open_teacher(f"espnetv2:{weights}", text_encoder=str(clip))
    with pytest.raises(ConfigurationError, match="model text_encoder_sha256"):
        FeatureStore.create(tmp_path, FeatureManifest(other.identity, 16, (40, 60), variants=1, seed=0))


def test_depth_tokens_are_those_that_its_head_sees(tmp_path: Path) -> None:
    """Fed as its preprocessor says, not as CLIP: defect S8 of the released code."""
    folder = saved_depth_model(tmp_path)
    content = {"image_mean": [0.4, 0.3, 0.2], "image_std": [0.5, 0.6, 0.7], "rescale_factor": 1 / 255}
    (folder / "preprocessor_config.json").write_text(json.dumps(content))
    whole = transformers.DepthAnythingForDepthEstimation.from_pretrained(folder).eval()
    mean, deviation = (torch.tensor(content[name])[:, None, None] for name in ("image_mean", "image_std"))
    image = IMAGES[..., :28, :56]
    with torch.no_grad():
        maps = whole.backbone((image / 255.0 - mean) / deviation).feature_maps
    for layer, expected in enumerate(maps, start=1):
        found = open_teacher(str(folder), layer).features(image, 14)
        torch.testing.assert_close(found.flatten(2).transpose(1, 2), expected[:, 1:], atol=1e-5, rtol=1e-4)


def test_what_a_teacher_cannot_choose_is_refused(teachers: dict[str, DenseExtractor], tmp_path: Path) -> None:
    clip = str(saved_clip(tmp_path / "clip"))
    with pytest.raises(ConfigurationError, match=r"clip: this teacher has no choice of a layer"):
        open_teacher(clip, 1)
    with pytest.raises(ConfigurationError, match="no choice of a text encoder"):
        open_teacher(clip, text_encoder=clip)
    with pytest.raises(ConfigurationError, match="no choice of class texts"):
        open_teacher(clip, class_texts=tmp_path / "texts.yaml")
    with pytest.raises(ConfigurationError, match=r"espnetv2:x: .*no text encoder is named.*all-MiniLM"):
        open_teacher("espnetv2:x")
    with pytest.raises(ConfigurationError, match="no choice of a layer"):
        open_teacher("espnetv2:x", 3, text_encoder=clip)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "depth_anything"}))
    with pytest.raises(BundleError, match="backbone_config is None"):
        open_teacher(str(tmp_path))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "resnet"}))
    with pytest.raises(ConfigurationError, match=r"'resnet' is not supported.*There are .*depth_anything"):
        open_teacher(str(tmp_path))
