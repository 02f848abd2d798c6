"""One word opens a teacher of any kind, whose tokens are those of its network; what it cannot choose is refused."""

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional
from transformers import CLIPTextConfig, CLIPTextModel

from scene_completion_ros.errors import BundleError, ConfigurationError
from scene_completion_ros.inference.text_bank import BankClass
from scene_completion_ros.sequences.kitti import kitti_odometry
from scene_completion_training.data.drawn_views import canonical_image
from scene_completion_training.foundation.backbone import DenseExtractor
from scene_completion_training.foundation.class_probabilities import (
    CITYSCAPES_CLASSES,
    ClassProbabilityTeacher,
    ESPNetv2,
    city_segmentation,
    load_espnetv2,
)
from scene_completion_training.foundation.encoded_words import PhraseList, TextEncoder
from scene_completion_training.foundation.feature_store import FeatureManifest, FeatureStore
from scene_completion_training.foundation.teachers import ClipTeacher, open_teacher
from scene_completion_training.viewpoint import STREET_CAMERA
from tests.test_untrusted_files import Bomb
from tests.training.foundation.test_backbone import images
from tests.training.foundation.tiny_models import (
    _save_clip_tokenizer,
    saved_clip,
    saved_depth_model,
    saved_model,
)

ROAD, BUILDING, VEGETATION, SKY, CAR = (
    CITYSCAPES_CLASSES.index(name) for name in ("road", "building", "vegetation", "sky", "car")
)


def test_a_real_street_is_read_aright(shared_data: Path, espnetv2_cityscapes: Path) -> None:
    """Half of the shares that were found are required."""
    sequence = kitti_odometry(shared_data / "kitti_windows" / "sequences" / "06")
    name = next(iter(sequence.cameras))
    image = canonical_image(sequence.image(0, name), sequence.cameras[name], STREET_CAMERA)
    classes = city_segmentation(espnetv2_cityscapes)(image)
    assert (classes[150:, 250:350] == ROAD).mean() > 0.9  # ahead of the car
    assert (classes[:20, 300:340] == SKY).mean() > 0.9
    for number, share in ((ROAD, 0.06), (BUILDING, 0.12), (VEGETATION, 0.09), (SKY, 0.04), (CAR, 0.025)):
        assert (classes == number).mean() > share


PICTURE = "a picture of a {}"
ROADS = (BankClass("road", ("road", "asphalt"), (0, 0, 0)),)


def test_a_class_lies_between_the_phrases_describing_it(encoder: TextEncoder, tmp_path: Path) -> None:
    torch.save(ESPNetv2((16, 32, 64, 128)).state_dict(), tmp_path / "narrow.pth")
    plain, found = (
        ClassProbabilityTeacher(tmp_path / "narrow.pth", encoder, PhraseList(classes, template=PICTURE)).embeddings
        for classes in ((), ROADS)
    )
    both = encoder.encode(["a picture of a road", "a picture of a asphalt"]).sum(dim=0)
    torch.testing.assert_close(found[ROAD], both / both.norm())
    others = [number for number in range(len(CITYSCAPES_CLASSES)) if number != ROAD]
    torch.testing.assert_close(found[others], plain[others])

    lake = PhraseList((BankClass("lake", ("lake",), (0, 0, 0)),))
    with pytest.raises(ConfigurationError, match="no classes lake. There are .*, terrain"):
        ClassProbabilityTeacher(tmp_path / "narrow.pth", encoder, lake)


def test_scores_are_those_of_the_released_code(espnetv2_cityscapes: Path) -> None:
    """The numbers are from sacmehta/EdgeNets at 2b232d3 with the same weights."""
    network, file = load_espnetv2(espnetv2_cityscapes)
    assert file.suffix == ".pth"
    assert len(network.state_dict()) == 526
    red, green, blue = torch.linspace(-2, 2, 3 * 64 * 96).reshape(3, 64, 96)
    waves = torch.stack([torch.sin(7 * red), torch.cos(11 * green), torch.sin(13 * blue)])[None]
    scores = functional.interpolate(network(waves), (64, 96), mode="bilinear", align_corners=True)
    found = scores[0, [0, 8, 10, 13], 32, 48].tolist()
    assert found == pytest.approx([-10.567636, 9.278087, -12.941771, 5.311815], abs=1e-3)
    assert scores[0, :4, 0, 0].tolist() == pytest.approx([-1.219530, -1.381813, 2.635502, 1.556442], abs=1e-3)
    assert (scores.mean().item(), scores.std().item()) == pytest.approx((0.031092, 4.278017), abs=1e-4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda weights: weights | {"bu_br_l2.0.weight": torch.zeros(3)}, "size mismatch"),
        (lambda weights: {name: value for name, value in weights.items() if "level4.6" not in name}, "Missing key"),
        (lambda weights: weights | {"another": torch.zeros(1)}, "Unexpected key"),
        (lambda weights: [1.0], "no weights of ESPNetv2"),
        (lambda weights: weights | {"trap": Bomb()}, "no weights of ESPNetv2"),
        (lambda weights: pickle.dumps(Bomb()), "no weights of ESPNetv2"),
        (lambda weights: ESPNetv2((16, 32, 64, 128), classes=21).state_dict(), r"21 classes.*Cityscapes"),
    ],
)
def test_other_weights_are_refused(
    change: Callable[[Any], Any], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    changed = change(ESPNetv2((16, 32, 64, 128)).state_dict())  # a narrow network of the same layout
    if isinstance(changed, bytes):
        (tmp_path / "changed.pth").write_bytes(changed)
    else:
        torch.save(changed, tmp_path / "changed.pth")
    with pytest.raises((BundleError, ConfigurationError), match=message):
        load_espnetv2(tmp_path)
    assert not (tmp_path / "exploded").exists()


# One word opens a teacher of any kind, and what it cannot choose is not chosen.


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
    }


def test_the_configuration_decides_the_kind_of_a_teacher(teachers: dict[str, DenseExtractor], tmp_path: Path) -> None:
    for kind, teacher in teachers.items():
        assert teacher.identity.type == kind
        features = teacher.features(IMAGES, 16)
        assert features.shape == (1, teacher.dim, 3, 4)
        assert features.dtype == torch.float32 and bool(features.isfinite().all())
        manifest = FeatureManifest(teacher.identity, cell=16, image_size=(40, 60), variants=1, seed=0)
        store = FeatureStore.create(tmp_path / kind, manifest)
        store.save("drive/000000/left", features)
        assert FeatureStore.open(tmp_path / kind).manifest == manifest
        assert bool(teacher.identity.text_encoder_sha256) == (kind in ("espnetv2", "clip"))


def test_features_of_classes_follow_from_encoder_template_and_texts(
    teachers: dict[str, DenseExtractor], sentence_encoder: Path, tmp_path: Path
) -> None:
    (weights,), encoder = teachers["espnetv2"]._weights, str(sentence_encoder)
    known = teachers["espnetv2"].identity
    for text_encoder, words, fact in (
        (encoder, PhraseList(template="{}"), "settings"),
        (encoder, PhraseList(ROADS), "settings"),
        (str(saved_clip(tmp_path / "clip")), None, "text_encoder_sha256"),
    ):
        other = open_teacher(f"espnetv2:{weights}", text_encoder=text_encoder, words=words).identity
        assert getattr(other, fact) != getattr(known, fact)


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


ENCODER, TEXTS = {"text_encoder": "words"}, {"words": PhraseList(ROADS)}


@pytest.mark.parametrize(
    ("spec", "choices", "message"),
    [
        ("clip", {"layer": 1}, "clip: this teacher has no choice of a layer"),
        ("clip", ENCODER, "no choice of a text encoder"),
        ("clip", TEXTS, "no choice of class texts"),
        ("espnetv2:x", {}, r"espnetv2:x: .*no text encoder is named.*all-MiniLM"),
        ("espnetv2:x", {"layer": 3} | ENCODER, "no choice of a layer"),
        ("diffusion:x", {"layer": 3}, "no choice of a layer"),
        ("depth_anything", {}, "backbone_config is None"),
        ("resnet", {}, r"'resnet' is not supported.*There are .*depth_anything"),
    ],
)
def test_what_a_teacher_cannot_choose_is_refused(
    spec: str, choices: dict[str, Any], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for kind in ("clip", "depth_anything", "resnet"):
        Path(kind).mkdir()
        (Path(kind) / "config.json").write_text(json.dumps({"model_type": kind}))
    with pytest.raises((BundleError, ConfigurationError), match=message):
        open_teacher(spec, **choices)


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a tiny pipeline, as diffusers writes them."""
    diffusers = pytest.importorskip("diffusers")
    folder = tmp_path_factory.mktemp("sd")
    torch.manual_seed(0)
    blocks = {"block_out_channels": (32, 64, 64, 64), "layers_per_block": 1, "norm_num_groups": 8}
    unet = diffusers.UNet2DConditionModel(cross_attention_dim=16, attention_head_dim=8, **blocks)
    unet.save_pretrained(folder / "unet")
    kinds = {"down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4}
    vae = diffusers.AutoencoderKL(**kinds, block_out_channels=(8,) * 4, norm_num_groups=4)
    vae.save_pretrained(folder / "vae")
    diffusers.DDIMScheduler().save_pretrained(folder / "scheduler")
    (folder / "tokenizer").mkdir()
    tokens = _save_clip_tokenizer(folder / "tokenizer")
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    text_encoder = CLIPTextModel(CLIPTextConfig(max_position_embeddings=77, **sizes, **tokens))
    text_encoder.save_pretrained(folder / "text_encoder")
    return folder


def test_three_blocks_on_the_way_up_stand_side_by_side_in_each_cell(pipeline: Path, tmp_path: Path) -> None:
    teacher = open_teacher(f"diffusion:{pipeline}")
    images = 255 * torch.rand(2, 3, 60, 80)
    found = teacher.features(images, 4)
    assert found.shape == (2, 64 + 64 + 64, 15, 20) and teacher.dim == 192
    assert torch.equal(teacher.features(images, 4), found)  # the noise is not drawn anew
    torch.testing.assert_close(teacher.features(images[1:], 4), found[1:], rtol=1e-3, atol=1e-3)
    assert (found[0] - found[1]).abs().max() > 1e-3
    assert len(teacher.identity.weights) > 0
    with pytest.raises(BundleError, match="cannot be loaded as a Stable Diffusion"):
        open_teacher(f"diffusion:{tmp_path}")


def test_clip_patches_are_values_of_the_last_attention(tmp_path: Path) -> None:
    """Computed once more with the published weights by their names."""
    clip = saved_clip(tmp_path / "clip")
    weights = load_file(clip / "model.safetensors")
    network = transformers.CLIPModel.from_pretrained(clip).eval()
    mean, deviation = torch.tensor([[0.48, 0.46, 0.41], [0.27, 0.26, 0.28]])[..., None, None]
    pixels = (images(24, 40) / 255.0 - mean) / deviation
    with torch.no_grad():
        vision = network.vision_model(pixel_values=pixels, interpolate_pos_encoding=True, output_hidden_states=True)
    states, block = vision.hidden_states[1], "vision_model.encoder.layers.1."  # what goes into the second of two

    def normalised(x: Tensor, name: str) -> Tensor:
        return functional.layer_norm(x, x.shape[-1:], weights[f"{name}.weight"], weights[f"{name}.bias"], 1e-5)

    def linear(x: Tensor, name: str) -> Tensor:
        return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    values = linear(normalised(states, f"{block}layer_norm1"), f"{block}self_attn.v_proj")
    values = linear(values, f"{block}self_attn.out_proj")
    expected = normalised(values, "vision_model.post_layernorm") @ weights["visual_projection.weight"].T
    found = ClipTeacher(clip).features(images(24, 40), 8)
    assert found.shape == (2, 20, 3, 5)
    torch.testing.assert_close(found.flatten(2).transpose(1, 2), expected[:, 1:], atol=1e-4, rtol=1e-3)
