"""Sentences to vectors: sentence-transformers of the BERT family, and the text towers of CLIP and SigLIP."""

import string
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from scene_completion_ros.errors import BundleError, ConfigurationError
from scene_completion_ros.untrusted_files import read_json
from scene_completion_training.foundation import model_files

STREET_TEMPLATE = "a photo of a {} on the street"
BARE = "other"  # the phrase that no template is put around: "a photo of a other" says nothing
_SENTENCES = {"bert": "BertModel", "mpnet": "MPNetModel", "xlm-roberta": "XLMRobertaModel"}
_TOWERS = {"clip": "CLIPTextModelWithProjection", "siglip": "SiglipTextModel", "siglip2": "Siglip2TextModel"}
_TOWERS_ALONE = {"clip_text_model": "clip", "siglip_text_model": "siglip", "siglip2_text_model": "siglip2"}
_TOKENIZER_FILES = ("*.json", "*.txt", "*.model")
_LONGEST = 512
_BATCH = 256


def check_template(template: str) -> None:
    """Raises a `ConfigurationError` unless a template has one place for a phrase."""
    if template.count("{}") != 1:
        what = f"{template!r} has {template.count('{}')} places for a phrase"
        cure = f'Write one {{}} where the phrase goes, as in "{STREET_TEMPLATE}"'
        raise ConfigurationError(what, where="template", cure=cure)


def prompt(phrase: str, template: str) -> str:
    """A phrase within a template; "other" stays bare, wherever it stands in a list."""
    check_template(template)
    return phrase if phrase.casefold() == BARE else template.replace("{}", phrase)


def canonical_text(text: str) -> str:
    """A text as SigLIP was trained with: lower case, no punctuation, single spaces."""
    return " ".join(text.lower().translate(str.maketrans("", "", string.punctuation)).split())


class TextEncoder:
    """A frozen text encoder: a local folder, a name on the hub, or `package:NAME/FOLDER` of an installed package.

    Of CLIP and SigLIP the folder has the whole model, or the text tower alone. Raises ConfigurationError: no such
    model, or of another type; BundleError: weights or tokenizer are missing, damaged, of another network, or only
    pickled.
    """

    def __init__(self, model: str | Path, device: str = "cpu") -> None:
        self._model = str(model)
        folder = model_files.description_folder(self._model, _TOKENIZER_FILES)
        config = model_files.read_config(folder)
        kind = str(config.get("model_type"))
        self.type = _TOWERS_ALONE.get(kind, kind)
        self._files = model_files.weight_files(self._model)
        self._device = torch.device(device)
        self._tokenizer = model_files.read_tokenizer(folder)
        options: dict[str, Any] = {"attn_implementation": "sdpa"}
        if self.type in _SENTENCES:
            self._first_token = _pools_first_token(folder)
            name = _SENTENCES[self.type]
            options["add_pooling_layer"] = False
        elif self.type in _TOWERS:
            name = _TOWERS[self.type]
            if kind in _TOWERS:
                part = model_files.config_part(config, "text_config", self._model)
                config = part | {name: config[name] for name in ("projection_dim",) if name in config}
        else:
            what = f"model type {kind!r} is no text encoder that is supported"
            raise ConfigurationError(what, where=self._model, cure=f"There are {', '.join((*_SENTENCES, *_TOWERS))}")
        self._network = model_files.frozen_network(name, config, self._files, **options).to(self._device)
        settings = self._network.config
        sizes = {"clip": "projection_dim", "siglip": "projection_size", "siglip2": "projection_size"}
        self.dim = int(getattr(settings, sizes.get(self.type, "hidden_size")))
        file = folder / "sentence_bert_config.json"
        content = read_json(file, BundleError, cure=model_files.GET_AGAIN, kind=dict) if file.is_file() else {}
        length = content.get("max_seq_length")
        longest = length if isinstance(length, int) and length > 2 else _LONGEST
        self._longest = min(int(settings.max_position_embeddings), _LONGEST, longest)

    @property
    def name(self) -> str:
        """Name of its folder, or on the hub; for people, two names may mean the same model."""
        return model_files.model_name(self._model)

    @cached_property
    def sha256(self) -> str:
        """Of the weights; reads the files."""
        return model_files.joint_sha256(self._files)

    @torch.no_grad()
    def encode(self, texts: Sequence[str]) -> Tensor:
        """Vectors float32 [N, D], of length 1, of texts, cut if too long; a `ConfigurationError` for none."""
        if not all(text.strip() for text in texts):
            raise ConfigurationError("an empty text", where="phrases", cure="Leave it out")
        batches = [self._encoded(list(texts[start : start + _BATCH])) for start in range(0, len(texts), _BATCH)]
        vectors = torch.cat([torch.zeros(0, self.dim), *batches])
        if not (torch.isfinite(vectors).all() and (vectors.norm(dim=-1) > 0.0).all()):
            what = "gives vectors that are no numbers or zero"
            raise ConfigurationError(what, where=self._model, cure="Name another text encoder")
        return functional.normalize(vectors, dim=-1)

    def _encoded(self, texts: list[str]) -> Tensor:
        siglip = self.type.startswith("siglip")
        tokens = self._tokenizer(
            [canonical_text(text) for text in texts] if siglip else texts,
            padding="max_length" if siglip else True,  # SigLIP has seen nothing else, and takes the last token
            truncation=True,
            max_length=self._longest,
            return_tensors="pt",
        ).to(self._device)
        if self.type in _TOWERS:
            if siglip:
                return self._network(input_ids=tokens["input_ids"]).pooler_output.float().cpu()  # type: ignore[no-any-return]
            return self._network(**tokens).text_embeds.float().cpu()  # type: ignore[no-any-return]
        states = self._network(**tokens).last_hidden_state.float()
        if self._first_token:
            return states[:, 0].cpu()  # type: ignore[no-any-return]
        kept = tokens["attention_mask"][..., None].float()
        return ((states * kept).sum(dim=1) / kept.sum(dim=1)).cpu()  # type: ignore[no-any-return]


def _pools_first_token(folder: Path) -> bool:
    """Whether a sentence-transformer takes its first token, not the mean over all, as its modules say."""
    modules, pooling = folder / "modules.json", folder / "1_Pooling" / "config.json"
    listed = read_json(modules, BundleError, cure=model_files.GET_AGAIN, kind=list) if modules.is_file() else []
    if not all(isinstance(module, dict) for module in listed):
        raise BundleError("is no list of modules", where=str(modules), cure=model_files.GET_AGAIN)
    kinds = [str(module.get("type")).rpartition(".")[2] for module in listed]
    foreign = sorted({*kinds} - {"Transformer", "Pooling", "Normalize"})
    content = read_json(pooling, BundleError, cure=model_files.GET_AGAIN, kind=dict) if pooling.is_file() else {}
    modes = {name.removeprefix("pooling_mode_") for name, value in content.items() if value is True}
    if "pooling_mode" in content:
        modes = {str(content["pooling_mode"])}
    modes = {mode for mode in modes if not mode.startswith("include")} or {"mean_tokens"}
    if foreign or not modes <= {"mean_tokens", "mean", "cls_token", "cls"} or len(modes) != 1:
        what = f"pools with {', '.join(foreign or sorted(modes))}, supported are the mean and the first token"
        raise ConfigurationError(what, where=str(folder), cure="Name another text encoder")
    return modes <= {"cls_token", "cls"}
