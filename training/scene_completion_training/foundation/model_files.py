"""Files of a foundation model, in a local folder or on the model hub, and what they say without being run."""

import hashlib
import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scene_completion_ros.errors import BundleError, ConfigurationError
from scene_completion_ros.untrusted_files import read_json

GET_AGAIN = "Get the model once more"
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
_CONFIG, _PREPROCESSOR, _PROCESSOR = "config.json", "preprocessor_config.json", "processor_config.json"
_WEIGHTS, _INDEX = "model.safetensors", "model.safetensors.index.json"
_DESCRIPTION_FILES = (_CONFIG, _PREPROCESSOR, _PROCESSOR)
_WEIGHT_FILES = (_WEIGHTS, _INDEX, "model-*.safetensors")
_PACKAGE = "package:"
_PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")


@dataclass(frozen=True)
class Normalisation:
    """What a model expects of its input: (image − mean) / deviation, for RGB in 0..255."""

    mean: tuple[float, float, float]
    deviation: tuple[float, float, float]


def description_folder(model: str, wanted: Sequence[str] = ()) -> Path:
    """Folder with the configuration of a model, without its weights.

    `model`: local folder, `package:NAME/FOLDER` for a folder of an installed package (which is not imported), or name
    on the hub, from which it is downloaded; `wanted`: patterns of further files. Raises ConfigurationError where there
    is neither such a folder nor such a model on the hub.
    """
    return hub_folder(model, (*_DESCRIPTION_FILES, *wanted))


def model_name(model: str) -> str:
    """Name of a model for people: its folder's, or what it was named by."""
    folder = Path(model).expanduser()
    return folder.resolve().name if folder.is_dir() else model


def weight_files(model: str) -> list[Path]:
    """The safetensors files that hold the weights of a model, downloaded where it is on the hub.

    Raises BundleError where there are none, or they are not as their index says. Pickled ones are never opened;
    ConfigurationError: see `description_folder`.
    """
    folder = hub_folder(model, (*_DESCRIPTION_FILES, *_WEIGHT_FILES))
    if (folder / _WEIGHTS).is_file():
        return [folder / _WEIGHTS]
    if not (folder / _INDEX).is_file():
        pickled = sorted(file.name for pattern in _PICKLED for file in folder.glob(pattern))
        instead = f", only {', '.join(pickled)}" if pickled else ""
        raise BundleError(
            f"no {_WEIGHTS} in it{instead}",
            where=model,
            cure="Only safetensors are read, because pickled weights can execute code: convert them once where you "
            "trust them (from_pretrained, then save_pretrained)",
        )
    content = read_json(folder / _INDEX, BundleError, cure=GET_AGAIN, kind=dict).get("weight_map")
    named = content.values() if isinstance(content, dict) else ()
    parts = sorted({name for name in named if isinstance(name, str)})
    present = {file.name for file in folder.iterdir() if file.is_file()}
    lacking = [name for name in parts if name not in present]
    if not parts or lacking:
        what = f"names {lacking[0] if lacking else 'no files'}, which are not there"
        raise BundleError(what, where=str(folder / _INDEX))
    return [folder / name for name in parts]


def hub_folder(model: str, wanted: Sequence[str]) -> Path:
    """Folder of a model with files of these patterns at least, see `description_folder`."""
    if model.startswith(_PACKAGE):
        return _package_folder(model)
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
        cure = "Name a local folder with config.json and model.safetensors, or check name, network and access"
        raise ConfigurationError(what, where=model, cure=cure) from error


def _package_folder(model: str) -> Path:
    """Folder of `package:NAME/FOLDER`; a `ConfigurationError` if there is none."""
    package, _, inside = model.removeprefix(_PACKAGE).partition("/")
    found = importlib.util.find_spec(package) if package.isidentifier() else None
    places = (found.submodule_search_locations if found else None) or []
    for place in places:
        folder = Path(place, inside)
        if folder.is_dir() and folder.resolve().is_relative_to(Path(place).resolve()):
            return folder
    cure = "Install the package, or name a local folder or a model on the hub"
    raise ConfigurationError("no such folder in it" if places else "not installed", where=model, cure=cure)


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
    folder: Path,
    usual_mean: tuple[float, float, float] = IMAGENET_MEAN,
    usual_deviation: tuple[float, float, float] = IMAGENET_STD,
) -> Normalisation:
    """What the preprocessor's file says of colours, or else what is usual; a `BundleError` if it makes no sense."""
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
