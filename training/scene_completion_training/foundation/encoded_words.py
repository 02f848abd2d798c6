"""Words with embeddings: text encoders, lists of phrases, text banks, and messages to a node for free text.

Encoders are sentence-transformers of the BERT family, and the text tower of CLIP. `scene-completion vocabulary` loads
this module by its name: the robot side has no torch.
"""

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from scene_completion_ros.errors import BundleError, ConfigurationError, VocabularyError
from scene_completion_ros.inference.text_bank import MOST_ROWS, BankClass, TextBank
from scene_completion_ros.messages.words import RequestedWords, read_query, read_vocabulary
from scene_completion_ros.progress import watched
from scene_completion_ros.untrusted_files import JsonObject, read_json, read_yaml, shown
from scene_completion_ros.voxels.colours import spread_colour
from scene_completion_training.clustering import CLASS_COLOURS
from scene_completion_training.foundation import model_files

STREET_TEMPLATE = "a photo of a {} on the street"
BARE = "other"  # the phrase that no template is put around: "a photo of a other" means nothing
_SENTENCES = {"bert": "BertModel", "mpnet": "MPNetModel", "xlm-roberta": "XLMRobertaModel"}
_CLIP = "clip"
_TOKENIZER_FILES = ("*.json", "*.txt")
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


class TextEncoder:
    """A frozen text encoder: a local folder, or a name on the hub.

    Raises ConfigurationError: no such model, or of another type; BundleError: weights or tokenizer are missing,
    damaged, of another network, or only pickled.
    """

    def __init__(self, model: str | Path, device: str = "cpu") -> None:
        self._model = str(model)
        folder = model_files.description_folder(self._model, _TOKENIZER_FILES)
        config = model_files.read_config(folder)
        self.type = str(config.get("model_type"))
        self._files = model_files.weight_files(self._model)
        self._device = torch.device(device)
        self._tokenizer = model_files.read_tokenizer(folder)
        options: dict[str, Any] = {"attn_implementation": "sdpa"}
        if self.type in _SENTENCES:
            self._first_token = _pools_first_token(folder)
            name = _SENTENCES[self.type]
            options["add_pooling_layer"] = False
        elif self.type == _CLIP:
            name = "CLIPTextModelWithProjection"
            part = model_files.config_part(config, "text_config", self._model)
            config = part | {name: config[name] for name in ("projection_dim",) if name in config}
        else:
            what = f"model type {self.type!r} is no text encoder that is supported"
            raise ConfigurationError(what, where=self._model, cure=f"There are {', '.join((*_SENTENCES, _CLIP))}")
        self._network = model_files.frozen_network(name, config, self._files, **options).to(self._device)
        settings = self._network.config
        self.dim = int(settings.projection_dim if self.type == _CLIP else settings.hidden_size)
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
        options = {"padding": True, "truncation": True, "max_length": self._longest, "return_tensors": "pt"}
        tokens = self._tokenizer(texts, **options).to(self._device)
        if self.type == _CLIP:
            return self._network(**tokens).text_embeds.float().cpu()  # type: ignore[no-any-return]
        states = self._network(**tokens).last_hidden_state.float()
        if self._first_token:
            return states[:, 0].cpu()  # type: ignore[no-any-return]
        kept = tokens["attention_mask"][..., None].float()
        return ((states * kept).sum(dim=1) / kept.sum(dim=1)).cpu()  # type: ignore[no-any-return]


def _pools_first_token(folder: Path) -> bool:
    """Whether a sentence-transformer takes its first token, not the mean over all, by its modules."""
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


@dataclass(frozen=True)
class PhraseList:
    """What a text bank is made of."""

    classes: tuple[BankClass, ...] = ()  # classes of the vocabulary; may be none
    background: tuple[str, ...] = ()  # phrases that voxels of no class should be nearest to
    phrases: tuple[str, ...] = ()  # further phrases that the bank has
    template: str = STREET_TEMPLATE  # sentence that each phrase stands in; "other" alone stays bare
    licence: str = ""  # of the text encoder's weights


def read_phrases(file: Path) -> PhraseList:
    """Reads YAML: a list of phrases, or `template`, `classes`, `background`, `phrases` and `licence`, any of them.

    `classes` is a list of names, or an object: name -> `{phrases: [...], colour: [r, g, b]}`. A class without phrases
    is its own phrase, and one without colour gets one. Raises VocabularyError where something is not as it should be.
    """
    content = read_yaml(file, VocabularyError, cure="Give a file of YAML")
    if isinstance(content, list):
        content = {"phrases": content}
    if not isinstance(content, dict):
        raise VocabularyError("is neither a list nor an object", where=str(file), cure="Write phrases, or classes")
    usual = {"classes": {}, "background": [], "phrases": [], "template": STREET_TEMPLATE, "licence": ""}
    given = usual | {name: value for name, value in content.items() if value is not None}
    fields = JsonObject(given, file, kind=VocabularyError, cure="Correct it; words such as no, on and 1 need quotes")
    fields.only([*usual])
    if isinstance(given["classes"], list):
        given["classes"] = dict.fromkeys(fields.texts("classes"))
    classes = fields.object("classes")
    return PhraseList(
        classes=tuple(_class(classes, name, number) for number, name in enumerate(classes.values)),
        background=fields.texts("background"),
        phrases=fields.texts("phrases"),
        template=fields.text("template"),
        licence=fields.text("licence"),
    )


def _class(classes: JsonObject, name: object, number: int) -> BankClass:
    if not isinstance(name, str):
        raise classes.error("", f"{shown(name)} is not a string")
    usual = {"phrases": [name], "colour": [*CLASS_COLOURS.get(name, spread_colour(number))]}
    fields = classes.object(name) if classes.values[name] else JsonObject({}, classes.file)
    fields.only([*usual])
    fields.values = usual | {**fields.values}
    red, green, blue = fields.integers("colour", 3)
    return BankClass(name, fields.texts("phrases"), (red, green, blue))


def make_bank(encoder: TextEncoder, given: PhraseList) -> TextBank:
    """The text bank of a list of phrases, each encoded by itself: its embedding follows from nothing else.

    Raises VocabularyError where there are no phrases, or they or the classes cannot be used, see `TextBank`;
    ConfigurationError where the template has no place for a phrase.
    """
    check_template(given.template)
    of_classes = [phrase for entry in given.classes for phrase in entry.phrases]
    phrases = tuple(dict.fromkeys([*of_classes, *given.background, *given.phrases]))  # each once
    if not phrases:
        raise VocabularyError("no phrases", where="vocabulary", cure="Name at least one")
    # All but its embeddings, so that mistakes are found before they are computed.
    others = given.template, given.classes, given.background, given.licence
    bank = TextBank(phrases, np.ones((len(phrases), 1), np.float16), encoder.name, encoder.sha256, *others)
    if bank.classes:
        bank.vocabulary()  # refuses a phrase of two classes, and too many
    rows = [encoder.encode([prompt(phrase, given.template)])[0].numpy() for phrase in watched(phrases, "phrase")]
    return replace(bank, stored=np.stack(rows))


# Phrases that fit anything: the canonical phrases of LERF (Kerr et al. 2023, section 3.4).
BACKGROUND = ("object", "things", "stuff", "texture")


def make_bank_of(model: str, phrases: Sequence[str], file: Path | None) -> TextBank:
    """The text bank of phrases and those of a file."""
    given = read_phrases(file) if file else PhraseList()
    return make_bank(TextEncoder(model), replace(given, phrases=(*given.phrases, *phrases)))


class EncodedAnswers:
    """Messages to a node with the embeddings of free text; a `VocabularyError` for a bank of another encoder."""

    def __init__(self, encoder: TextEncoder, bank: TextBank | None = None) -> None:
        if bank is not None and bank.text_encoder_sha256 != encoder.sha256:
            maker = f"{bank.text_encoder} {bank.text_encoder_sha256[:12]}"
            what = f"was made by the text encoder {maker}, this is {encoder.name} {encoder.sha256[:12]}"
            cure = "Name the encoder of the bank, or make the bank anew with: scene-completion vocabulary"
            raise VocabularyError(what, where=bank.where, cure=cure)
        self._encoder = encoder
        self._name = encoder.name if bank is None else bank.text_encoder  # one model may have two names
        self._background = BACKGROUND if bank is None else bank.background
        # The node compares a query with all phrases of its bank; without a bank it needs some to compare with.
        self._general = BACKGROUND if bank is None else None
        self._template = STREET_TEMPLATE if bank is None else bank.template

    def query(self, text: str) -> str:
        """The text for `~/query`, "" to end it; a `VocabularyError` if unreadable, see `messages.words`."""
        requested = read_query(text)
        if requested is None:
            return ""
        general = self._general if requested.background is None else requested.background
        return json.dumps({"phrases": list(requested.phrases), **self._embedded(requested, general)})

    def vocabulary(self, text: str) -> str:
        """The text for `~/vocabulary`; otherwise see `query`."""
        requested = read_vocabulary(text)
        if requested is None:
            return ""
        if (count := len(_phrases_of(requested))) > MOST_ROWS:
            raise VocabularyError(f"{count} phrases, where at most {MOST_ROWS} are possible", where="text_vocabulary")
        classes = requested.phrases if isinstance(requested.phrases, dict) else list(requested.phrases)
        background = self._background if requested.background is None else requested.background
        rules = {"margin": requested.margin, "pooling": requested.pooling}
        return json.dumps({"classes": classes, **rules, **self._embedded(requested, background)})

    def _embedded(self, requested: RequestedWords, background: Sequence[str] | None) -> dict[str, Any]:
        if requested.given is not None:
            raise VocabularyError("has embeddings already", where="text", cure="Publish it to the node itself")
        phrases = list(dict.fromkeys([*_phrases_of(requested), *(background or ())]))
        # Each by itself, as in a bank: an embedding is to follow from nothing but its phrase.
        rows = [self._encoder.encode([prompt(phrase, self._template)])[0].half().numpy() for phrase in phrases]
        packed = [base64.b64encode(row.astype("<f2").tobytes()).decode("ascii") for row in rows]
        others = None if background is None else [one for one in background if one not in _phrases_of(requested)]
        made: dict[str, Any] = {} if others is None else {"background": others}
        made["encoder"] = {"id": self._name, "sha256": self._encoder.sha256}
        return {**made, "embeddings": dict(zip(phrases, packed, strict=True))}


def _phrases_of(requested: RequestedWords) -> list[str]:
    if isinstance(requested.phrases, tuple):
        return list(requested.phrases)
    return [phrase for phrases in requested.phrases.values() for phrase in phrases]
