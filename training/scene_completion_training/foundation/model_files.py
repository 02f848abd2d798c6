"""Files of a foundation model, in a folder or on the model hub, and the frozen network that they make."""

import hashlib
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import safetensors.torch
import torch

from scene_completion_ros.errors import BundleError, ConfigurationError
from scene_completion_ros.untrusted_files import read_json

GET_AGAIN = "Get the model once more"
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
_CONFIG, _PREPROCESSOR, _PROCESSOR = "config.json", "preprocessor_config.json", "processor_config.json"
_WEIGHTS, _INDEX = "model.safetensors", "model.safetensors.index.json"
DESCRIPTION_FILES = (_CONFIG, _PREPROCESSOR, _PROCESSOR)
_WEIGHT_FILES = (_WEIGHTS, _INDEX, "model-*.safetensors")
_PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")


Triple: TypeAlias = tuple[float, float, float]


@dataclass(frozen=True)
class Normalisation:
    """What a model expects of its input: (image − mean) / deviation, for RGB in 0..255."""

    mean: Triple
    deviation: Triple


def description_folder(model: str, wanted: Sequence[str] = (), *, key: str = "") -> Path:
    """Folder with the configuration of a model, without its weights, and files of wanted patterns.

    `model`: local folder, or name on the hub, from which it is downloaded; `key`: of a training's configuration, which
    names it. Raises ConfigurationError where there is neither.
    """
    return hub_folder(model, (*DESCRIPTION_FILES, *wanted), key)


def model_name(model: str) -> str:
    """Name of a model for people: its folder's, or what it was named by."""
    folder = Path(model).expanduser()
    return folder.resolve().name if folder.is_dir() else model


def weight_files(model: str, *, key: str = "") -> list[Path]:
    """The safetensors files with the weights of a model, downloaded where it is on the hub; pickled ones stay closed.

    Raises BundleError where there are none, or not those of their index; ConfigurationError: see `description_folder`.
    """
    folder = hub_folder(model, (*DESCRIPTION_FILES, *_WEIGHT_FILES), key)
    if (folder / _WEIGHTS).is_file():
        return [folder / _WEIGHTS]
    if not (folder / _INDEX).is_file():
        pickled = sorted(file.name for pattern in _PICKLED for file in folder.glob(pattern))
        instead = f", only {', '.join(pickled)}" if pickled else ""
        cure = "Only safetensors are read, because pickled weights can execute code: convert them once where you "
        cure += "trust them (from_pretrained, then save_pretrained)"
        raise BundleError(f"no {_WEIGHTS} in it{instead}", where=model, cure=cure)
    content = read_json(folder / _INDEX, BundleError, cure=GET_AGAIN, kind=dict).get("weight_map")
    named = content.values() if isinstance(content, dict) else ()
    parts = sorted({name for name in named if isinstance(name, str)})
    present = {file.name for file in folder.iterdir() if file.is_file()}
    lacking = [name for name in parts if name not in present]
    if not parts or lacking:
        what = f"names {lacking[0] if lacking else 'no files'}, which are not there"
        raise BundleError(what, where=str(folder / _INDEX))
    return [folder / name for name in parts]


def hub_folder(model: str, wanted: Sequence[str], key: str = "") -> Path:
    """Folder of a model with files of these patterns at least, see `description_folder`."""
    folder = Path(model).expanduser()
    if folder.is_dir():
        return folder
    if folder.is_absolute() or model.startswith(".") or model.count("/") > 1:
        raise ConfigurationError("no such folder", where=model, cure="Name the folder of a model, or one on the hub")
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(model, allow_patterns=list(wanted)))
    except (OSError, ValueError) as error:
        what = f"neither a folder here, nor to be had from the hub ({str(error).splitlines()[0]})"
        setting = f", in a training with {key}=FOLDER" if key else ""
        cure = f"Name a local folder with config.json and model.safetensors{setting}; or check name, network and access"
        raise ConfigurationError(what, where=model, cure=cure) from error


def read_config(folder: Path) -> dict[str, Any]:
    """Configuration of a model; a `BundleError` if there is none."""
    file = folder / _CONFIG
    if not file.is_file():
        raise BundleError(f"no {_CONFIG} in it", where=str(folder), cure="Name the folder that save_pretrained wrote")
    return read_json(file, BundleError, cure=GET_AGAIN, kind=dict)  # type: ignore[no-any-return]


def config_part(config: dict[str, Any], name: str, model: str) -> dict[str, Any]:
    """Configuration of a part of a model; a `BundleError` if there is none."""
    part = config.get(name)
    if not isinstance(part, dict):
        raise BundleError(f"{name} is {part!r}", where=f"{model}: {_CONFIG}", cure=GET_AGAIN)
    return part


def read_normalisation(
    folder: Path, usual_mean: Triple = IMAGENET_MEAN, usual_deviation: Triple = IMAGENET_STD
) -> Normalisation:
    """Normalisation by the preprocessor's file, or else the usual one; a `BundleError` if it makes no sense."""
    file = folder / _PREPROCESSOR
    content = read_json(file, BundleError, cure=GET_AGAIN, kind=dict) if file.is_file() else {}
    if not file.is_file() and (folder / _PROCESSOR).is_file():  # where transformers 5 writes it
        file = folder / _PROCESSOR
        part = read_json(file, BundleError, cure=GET_AGAIN, kind=dict).get("image_processor", {})
        content = part if isinstance(part, dict) else {}
    try:
        mean, deviation = content.get("image_mean", usual_mean), content.get("image_std", usual_deviation)
        if not content.get("do_normalize", True):
            mean, deviation = (0.0,) * 3, (1.0,) * 3
        factor = float(content.get("rescale_factor", 1.0 / 255.0)) if content.get("do_rescale", True) else 1.0
        (r, g, b), (dr, dg, db) = ([float(value) / factor for value in values] for values in (mean, deviation))
        if min(dr, dg, db) <= 0.0:
            raise ValueError(f"deviation {deviation}")
    except (TypeError, ValueError, ZeroDivisionError) as error:
        what = f"no mean and deviation of three channels ({error})"
        raise BundleError(what, where=str(file), cure="Correct or delete it") from error
    return Normalisation((r, g, b), (dr, dg, db))


def joint_sha256(files: Sequence[Path]) -> str:
    """SHA-256 of one file, or of the names and digests of several."""
    digests = {file.name: sha256(file) for file in files}
    if len(digests) == 1:
        return next(iter(digests.values()))
    return hashlib.sha256("".join(f"{digests[name]}  {name}\n" for name in sorted(digests)).encode()).hexdigest()


def sha256(file: Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


# Entries of a configuration that count its blocks, and do not matter here.
_DERIVED = ("out_features", "out_indices", "stage_names")
_UNUSED = "mask_token"
_TOKENIZERS = ("tokenizer.json", "vocab.txt", "vocab.json")


def frozen_network(name: str, config: dict[str, Any], files: list[Path], *, part: str = "", **options: Any) -> Any:
    """A frozen network of transformers with weights of files (named `part`...), or random; a `BundleError` if unfit."""
    import transformers

    network_class = getattr(transformers, name)
    known = {name: value for name, value in config.items() if name not in _DERIVED}
    if not files:
        options.pop("attn_implementation", None)
        return network_class(network_class.config_class.from_dict(known), **options).eval().requires_grad_(False)
    folder = str(files[0].parent)
    try:
        stored = [named for file in files for named in safetensors.torch.load_file(file).items()]
        weights = {name.removeprefix(part): value for name, value in stored if name.startswith(part)}
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
    except Exception as error:  # of whatever kind: these files are untrusted
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
    except Exception as error:  # of whatever kind: these files are untrusted
        what = f"no tokenizer that can be read ({' '.join(str(error).split())[:200]})"
        cure = "Name a folder with the tokenizer's files next to the model's"
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
