"""Writes packs, see `data/pack.py`: as many frames as fit, of every source."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import safetensors.torch

import scene_completion_ros
from scene_completion_ros.errors import ConfigurationError
from scene_completion_ros.picture_files import read_picture
from scene_completion_ros.progress import Progress
from scene_completion_ros.sequences.posed_sequence import reference_camera
from scene_completion_ros.whole_files import tensor_bytes
from scene_completion_training.configuration import TrainingConfiguration
from scene_completion_training.data.completion_samples import CompletionData
from scene_completion_training.data.module import matching
from scene_completion_training.data.pack import CONFIGURATION, FORMAT, MANIFEST, WEIGHTS, made_of, packed
from scene_completion_training.data.store import mapped_arrays
from scene_completion_training.foundation.model_files import DESCRIPTION_FILES, description_folder, weight_files
from scene_completion_training.networks.trunk import DEPTH_ANYTHING
from scene_completion_training.stages.pixels import SeenConfiguration

JPEG_QUALITY = 95
_LISTED = 250  # bytes that the manifest takes for a frame, at most


@dataclass(frozen=True)
class _Frame:
    recording: int
    index: int
    place: Path  # of its files, without their suffix

    def weigh(self) -> int:
        return _LISTED + sum(file.stat().st_size for file in self.place.parent.glob(f"{self.place.name}.*"))


@dataclass(frozen=True)
class _Source:
    """What one source of a role gives; of a wildcard all recordings that match it."""

    weights: Mapping[int, float]  # of its recordings: in proportion to how many samples are drawn of them
    frames: Sequence[_Frame]

    @property
    def weight(self) -> float:
        return sum(self.weights.values()) or 1e-6

    def taken(self, factor: float) -> list[_Frame]:
        """Frames in even distances, as many as its weights times a factor, and at least one."""
        count = min(len(self.frames), max(1, int(factor * self.weight)))
        return [self.frames[int((number + 0.5) * len(self.frames) / count)] for number in range(count)]


def write_pack(configuration: TrainingConfiguration, part: Path, most_bytes: int | None) -> dict[str, object]:
    """Writes all that the trainings of a configuration need into an empty folder, and returns rows that say what.

    Images are stored as recorded, as PNG, or as JPEG of quality 95 where they would not fit; if they still do not,
    fewer frames are taken of every source, more of one of which more samples are drawn. The trunk is stored in half
    precision, in which trunks are compared. `most_bytes`: of all files; None for any number.

    Raises ConfigurationError where the stage is none of those, it starts from other trainings, or not even one frame of
    each source fits; or as of `CompletionData.setup`.
    """
    if not isinstance(configuration, SeenConfiguration):
        cure = "Pack configurations of stages pixels and completion"
        raise ConfigurationError(f"stage {configuration.stage} cannot be packed", where="--config", cure=cure)
    if named := [name for name in ("start_from", "pixels_from") if getattr(configuration, name, "")]:
        what = "a pack holds no other trainings"
        raise ConfigurationError(what, where=named[0], cure=f"Leave it out, and give {named[0]}= where you train")
    settings = dataclasses.replace(configuration.data, pack="", augmentations=1)
    data = CompletionData(settings, configuration.viewpoint(), None, steps=configuration.steps, seed=configuration.seed)
    data.setup("fit")
    _write_model(configuration, part / "trunk")
    (part / CONFIGURATION).write_text(json.dumps(dataclasses.asdict(configuration)))
    fixed = 10_000 + _LISTED * sum(map(len, data.groups.values()))
    fixed += sum(file.stat().st_size for file in (*part.glob("trunk/*"), part / CONFIGURATION))
    sources = {role: _written(data, role, part) for role in data.recordings}
    kept, lossless = _fitted([one for found in sources.values() for one in found], fixed, most_bytes)
    suffix = ".png" if lossless else ".jpg"
    ranges = {"focal_ratios": data.focal_ratios, "heights": data.heights, "pitches": data.pitches}
    manifest = {
        "format": FORMAT,
        "version": scene_completion_ros.__version__,
        "configuration": made_of(configuration),
        "images": suffix,
        "images_sha256": data.images,
        **{name: [min(seen), max(seen)] if seen else [] for name, seen in ranges.items()},
        "recordings": {role: _recordings(data, role, found, kept) for role, found in sources.items()},
        "files": {
            file.relative_to(part).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest()
            for file in sorted(part.rglob("*"))
            if file.is_file()
        },
    }
    (part / MANIFEST).write_text(json.dumps(manifest))
    size = sum(file.stat().st_size for file in part.rglob("*") if file.is_file())
    every = {role: [frame for one in found for frame in one.frames] for role, found in sources.items()}
    taken = {role: f"{sum(frame in kept for frame in of)} of {len(of)} frames" for role, of in every.items()}
    images = "as they are" if lossless else f"as JPEG of quality {JPEG_QUALITY}"
    return {"size": f"{size / 1e6:.1f} MB", **taken, "images": images}


def _write_model(configuration: SeenConfiguration, folder: Path) -> None:
    model = configuration.encoder_weights or DEPTH_ANYTHING
    folder.mkdir()
    files = weight_files(model, key="encoder_weights")
    weights = {n: value for file in files for n, value in safetensors.torch.load_file(file).items()}
    halves = {n: value.half() if value.is_floating_point() else value for n, value in weights.items()}
    (folder / f"{WEIGHTS}.xz").write_bytes(packed(safetensors.torch.save(halves)))
    for name in DESCRIPTION_FILES:
        if (description_folder(model) / name).is_file():
            shutil.copyfile(description_folder(model) / name, folder / name)


def _written(data: CompletionData, role: str, part: Path) -> list[_Source]:
    """Writes all frames of a role."""
    named: list[Any] = data.settings.sources if role == "training" else data.settings.validation
    of = [number for number, one in enumerate(named) for _ in matching(Path(data.settings.root), [one])]
    weights: list[dict[int, float]] = [{} for _ in named]
    frames: list[list[_Frame]] = [[] for _ in named]
    with Progress(sum(map(len, data.groups[role])), f"packed {role} frame") as bar:
        for number, (source, sequence) in enumerate(data.recordings[role]):
            group, camera = data.groups[role][number], reference_camera(sequence)
            folder = part / role / f"{number:04d}"
            folder.mkdir(parents=True)
            weights[of[number]][number] = source.share * len(group) ** 0.5
            for index, files in zip(range(0, len(sequence), source.every), group, strict=True):
                place = folder / f"{index:06d}"
                arrays = {name: values for file in files for name, values in mapped_arrays(file).items()}
                place.with_suffix(".xz").write_bytes(packed(tensor_bytes(arrays)))
                image = sequence.image(index, camera)
                stored = cv2.imencode(".png", np.ascontiguousarray(image[..., ::-1]), [cv2.IMWRITE_PNG_COMPRESSION, 9])
                place.with_suffix(".png").write_bytes(stored[1].tobytes())
                frames[of[number]].append(_Frame(number, index, place))
                bar.step()
    return [_Source(*both) for both in zip(weights, frames, strict=True)]


def _fitted(sources: Sequence[_Source], fixed: int, most_bytes: int | None) -> tuple[set[_Frame], bool]:
    """The frames that fit, and whether their images stay without loss; files of others are removed."""
    every = [frame for one in sources for frame in one.frames]
    room = np.inf if most_bytes is None else most_bytes - fixed
    if sum(frame.weigh() for frame in every) <= room:
        return set(every), True
    for frame in every:
        image = read_picture(frame.place.with_suffix(".png"))
        stored = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])[1]
        frame.place.with_suffix(".jpg").write_bytes(stored.tobytes())
        frame.place.with_suffix(".png").unlink()
    weights = {frame: frame.weigh() for frame in every}
    factor = 1.0 + max(len(one.frames) / one.weight for one in sources)
    least = 1.0 / max(one.weight for one in sources)  # one frame of each
    while (size := sum(weights[frame] for one in sources for frame in one.taken(factor))) > room:
        if factor < least:
            what = f"one frame of each source and the trunk need {-(-(size + fixed) // 10**4) / 100:.2f} MB"
            raise ConfigurationError(what, where="--size", cure="Give at least that, or name fewer sources")
        factor *= 0.99
    kept = {frame for one in sources for frame in one.taken(factor)}
    for frame in weights.keys() - kept:
        for suffix in (".jpg", ".xz"):
            frame.place.with_suffix(suffix).unlink()
    return kept, False


def _recordings(
    data: CompletionData, role: str, sources: Sequence[_Source], taken: set[_Frame]
) -> list[dict[str, object]]:
    """What the manifest says of recordings: samples are drawn of each source as often as with all of its frames."""
    found: list[dict[str, object]] = [{} for _ in data.recordings[role]]
    for one in sources:
        frames = [frame for frame in one.frames if frame in taken]
        kept = {n: [frame.index for frame in frames if frame.recording == n] for n in one.weights}
        left = sum(weight for n, weight in one.weights.items() if kept[n]) or 1e-6
        for number, indices in kept.items():
            source, sequence = data.recordings[role][number]
            count = len(data.groups[role][number])
            share = source.share * (count / max(1, len(indices))) ** 0.5 * (one.weight / left)
            camera = dataclasses.asdict(sequence.cameras[reference_camera(sequence)])
            found[number] = {"name": sequence.name, "share": share, "frames": indices, "camera": camera}
    return found
