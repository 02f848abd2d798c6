"""Networks of transformers with the weights of safetensors files, and nothing else from outside."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from scene_completion_ros.errors import BundleError

# Entries of a configuration that count its blocks, and do not matter here.
_DERIVED = ("out_features", "out_indices", "stage_names")
_UNUSED = "mask_token"
_TOKENIZERS = (
    "tokenizer.json",
    "vocab.txt",
    "vocab.json",
    "spiece.model",
    "tokenizer.model",
    "sentencepiece.bpe.model",
)


def frozen_network(name: str, config: dict[str, Any], files: list[Path], *, part: str = "", **options: Any) -> Any:
    """The network, a class of transformers, with the weights of its files, or random ones where there are none, frozen.

    `part`: prefix of its weights, where they are part of a larger network; `options`: what else the class takes. Raises
    BundleError where they are damaged, or those of another network.
    """
    import transformers

    network_class = getattr(transformers, name)
    known = {name: value for name, value in config.items() if name not in _DERIVED}
    if not files:
        options.pop("attn_implementation", None)
        return network_class(network_class.config_class.from_dict(known), **options).eval().requires_grad_(False)
    folder = str(files[0].parent)
    try:
        weights = {
            name.removeprefix(part): value
            for file in files
            for name, value in safetensors.torch.load_file(file).items()
            if name.startswith(part)
        }
        with _quiet():
            # Given the weights, transformers opens no file: a configuration cannot send it elsewhere.
            network, report = network_class.from_pretrained(
                None,
                config=network_class.config_class.from_dict(known),
                state_dict=weights,
                dtype=torch.float32,
                ignore_mismatched_sizes=True,  # they are in the report
                output_loading_info=True,
                **options,
            )
    except Exception as error:  # of whatever kind: these files may say anything
        what = f"cannot be loaded as {name} ({str(error)[:300]})"
        raise BundleError(what, where=folder, cure="Get it once more") from error
    missing = [name for name in report["missing_keys"] if not name.endswith(_UNUSED)]
    unfit = sorted([*missing, *(name for name, *_ in report["mismatched_keys"])])
    if unfit:  # they would have random values
        what = f"{len(unfit)} weights are missing or of another shape, such as {unfit[0]}"
        raise BundleError(what, where=folder, cure="Name a model whose weights fit its config.json")
    return network.eval().requires_grad_(False)


def read_tokenizer(folder: Path) -> Any:
    """Tokenizer of transformers in a folder; a `BundleError` if there is none that can be read."""
    from transformers import AutoTokenizer

    try:
        if not any((folder / name).is_file() for name in _TOKENIZERS):  # transformers would make an empty one
            raise FileNotFoundError(f"there is none of {', '.join(_TOKENIZERS)}")
        return AutoTokenizer.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
    except Exception as error:  # of whatever kind: these files may say anything
        what = f"no tokenizer that can be read ({' '.join(str(error).split())[:200]})"
        cure = "Name a folder with the tokenizer's files beside the model's"
        raise BundleError(what, where=str(folder), cure=cure) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps transformers from listing the blocks that are left out on purpose, and from drawing a bar."""
    from transformers.utils import logging as settings

    logger = logging.getLogger("transformers")
    level, bar = logger.level, settings.is_progress_bar_enabled()
    logger.setLevel(logging.ERROR)
    settings.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        logger.setLevel(level)
        if bar:
            settings.enable_progress_bar()  # type: ignore[no-untyped-call]
