"""Feature targets: variants of images with shifted grids and mirrored, computed in the training or kept on disk.

A store is a folder with `manifest.json` and `features/<key>.safetensors`, one file an image, computed once: features
float16 [V, D, h, w] of its V variants, which follow from seed and key. Grids are shifted at random
against the image, so that tokens land on arbitrary pixels (SceneDINO). A shift is (dy, dx), multiples of an eighth of a
cell in [−cell/2, cell/2). A token is rendered as 8 × 8 rays, which then stay on pixels of the views they are compared
with. Token (i, j) of a shifted image covers the rows [i·cell + dy, (i+1)·cell + dy) and the columns [j·cell + dx,
(j+1)·cell + dx) of the original.
"""

import dataclasses
import hashlib
import json
import os
import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from scene_completion_ros.errors import ConfigurationError, SequenceError
from scene_completion_ros.geometry import Camera
from scene_completion_ros.progress import watched
from scene_completion_ros.untrusted_files import read_json
from scene_completion_ros.whole_files import write_whole
from scene_completion_training.arrays import Bytes
from scene_completion_training.data.drawn_views import canonical_image
from scene_completion_training.data.prepared import Drive
from scene_completion_training.data.store import Entry, damaged
from scene_completion_training.foundation.backbone import DenseExtractor, ModelIdentity
from scene_completion_training.foundation.model_files import Normalisation
from scene_completion_training.randomness import drawn, samples_of

LARGEST_HALF = 65504.0


@dataclass(frozen=True)
class Variant:
    """How an image is changed before its features are computed."""

    shift: tuple[int, int]  # (dy, dx) of the grid
    mirrored: bool  # swap left and right, before the shift


def shifted(images: Tensor, shift: tuple[int, int]) -> Tensor:
    """Images [..., H, W] whose pixel (r, c) is the original's (r + dy, c + dx), or the nearest on its edge."""
    height, width = images.shape[-2:]
    rows = (torch.arange(height, device=images.device) + shift[0]).clamp(0, height - 1)
    return images[..., rows[:, None], (torch.arange(width, device=images.device) + shift[1]).clamp(0, width - 1)]


def variant_of(seed: int, key: str, number: int, cell: int) -> Variant:
    """Variant of an image: 0 is the image as it is; others have random shifts, and odd ones are mirrored as well."""
    if number == 0:
        return Variant((0, 0), mirrored=False)
    name = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "little")
    step = max(1, cell // 8)  # shifts are drawn evenly, in steps of a pixel where cells are smaller than 8
    generator = np.random.default_rng((seed, name, number))
    dy, dx = step * generator.integers(-(cell // step // 2), cell // step - cell // step // 2, 2)
    return Variant((int(dy), int(dx)), mirrored=number % 2 == 1)


def variant_images(image: Bytes, variants: Sequence[Variant]) -> Tensor:
    """Variants uint8 [V, 3, H, W] of an image [H, W, 3]."""
    plain = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)
    return torch.stack([shifted(plain.flip(-1) if v.mirrored else plain, v.shift) for v in variants])


def as_half(features: Tensor, key: str) -> Tensor:
    """Features as float16 on the CPU; a `ConfigurationError` if they are not numbers, or too large for it."""
    largest = features.abs().amax().item()
    if not largest <= LARGEST_HALF:  # also for NaN
        what = f"features up to {largest:g}, of which float16 holds {LARGEST_HALF:g} at most"
        raise ConfigurationError(what, where=key, cure="Choose another layer or model")
    return features.to("cpu", torch.float16)


# Random crops, their share of the image, and how far one is distorted.
CROPS, CROP_AREA, CROP_ASPECT = 2, (0.5, 1.0), 1.2


def target_features(
    extractor: DenseExtractor, images: Tensor, cell: int, upsampled: int, generator: torch.Generator
) -> Tensor:
    """Tokens of images [B, 3, H, W] in 0..255, `upsampled` times as many along each side: [B, D, h, w].

    More than once they have length one, are bilinear, and the mean of what the image, its mirror image and `CROPS`
    random crops of it, mirrored or not, have at a place (`upsample-gt` of SceneDINO's code, in place of a downsampler).
    """
    if upsampled == 1:
        return extractor.features(images, cell)
    images, size = images.float(), torch.tensor(images.shape[-2:])
    grid = [torch.arange(upsampled * -(-edge // cell), device=images.device) for edge in images.shape[-2:]]
    places = (torch.stack(torch.meshgrid(*grid, indexing="ij"), dim=-1) + 0.5) * cell / upsampled  # rows and columns
    boxes = [(torch.zeros(2), size, False), (torch.zeros(2), size, True)]
    for area, aspect, mirrored, *at in torch.rand(CROPS, 5, generator=generator):
        distorted = CROP_ASPECT ** (2.0 * aspect - 1.0)
        share = (CROP_AREA[0] + (CROP_AREA[1] - CROP_AREA[0]) * area) * torch.stack([1.0 / distorted, distorted])
        extent = (share.sqrt().clamp_max(1.0) * size).round()
        boxes.append(((torch.stack(at) * (size - extent)).floor(), extent, bool(mirrored < 0.5)))
    total, count = torch.zeros(()).to(images), torch.zeros(()).to(images)
    for corner, extent, mirrored in boxes:
        (top, left), (bottom, right) = corner.int().tolist(), (corner + extent).int().tolist()
        seen = functional.interpolate(
            images[..., top:bottom, left:right], images.shape[-2:], mode="bilinear", antialias=True
        )
        tokens = functional.normalize(extractor.features(seen.flip(-1) if mirrored else seen, cell), dim=1)
        within = (places - corner.to(places)) / extent.to(places)  # of the crop, 0 to 1
        inside = ((within >= 0.0) & (within <= 1.0)).all(dim=-1)
        u = 1.0 - within[..., 1] if mirrored else within[..., 1]
        held = tokens.new_tensor(tokens.shape[-2:]) * cell / size.to(tokens)  # cells may go beyond the image
        sampled = 2.0 * torch.stack([u / held[1], within[..., 0] / held[0]], dim=-1).to(tokens) - 1.0
        found = functional.grid_sample(
            tokens, sampled.expand(len(tokens), -1, -1, -1), padding_mode="border", align_corners=False
        )
        total, count = total + found * inside.to(found), count + inside.to(found)
    return total / count.clamp_min(1.0)  # cells that begin in the image and have their middle beyond are in no box


class LiveTokens:
    """Tokens, computed in the training step (SceneDINO), of cells of pixels on grids shifted by up to half of one."""

    def __init__(self, extractor: DenseExtractor, cell: int, upsampled: int = 1) -> None:
        self._extractor, self.cell, self._upsampled = extractor, cell, upsampled

    def __deepcopy__(self, memo: object) -> "LiveTokens":
        return self  # an average of the stage's weights needs no network of its own that never learns

    @property
    def dim(self) -> int:
        """Dimension of the features."""
        return self._extractor.dim

    def of(self, images: Tensor, views: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        """Features [B, V, D, h, w] and feature_offsets [B, V, 2] of images [B, V, 3, H, W], zero but for views."""
        self._extractor.to(images.device)
        half = self.cell // 2
        shifts = drawn(partial(torch.randint, -half, self.cell - half), (*views.shape, 2), generator)
        places = [(row, column) for row in range(len(views)) for column in range(views.shape[1])]
        wanted = [(place[0], int(views[place]), shifts[place].tolist()) for place in places]
        seen = torch.stack([shifted(images[row, view], (dy, dx)) for row, view, (dy, dx) in wanted])
        if self._upsampled == 1:
            tokens = self._extractor.features(255.0 * seen, self.cell)
        else:  # as many as pixels fill the memory: one image at a time, with crops of its own, in half precision
            own = samples_of(generator, len(views))
            each = (
                target_features(self._extractor, 255.0 * one, self.cell, self._upsampled, own[row])
                for one, (row, _, _) in zip(seen[:, None], wanted, strict=True)
            )
            tokens = torch.cat([found.half() for found in each])
        features = tokens.new_zeros(*images.shape[:2], *tokens.shape[1:])
        offsets = torch.zeros(*images.shape[:2], 2, dtype=torch.int64, device=images.device)
        for token, (row, view, (dy, dx)) in zip(tokens, wanted, strict=True):
            features[row, view] = token
            offsets[row, view] = torch.tensor([dx, dy], device=images.device)
        return {"features": features, "feature_offsets": offsets}


_MANIFEST = "manifest.json"
SCHEMA = 1
_AGAIN = "Make the features once more, in another folder"


@dataclass(frozen=True)
class FeatureManifest:
    """What all feature targets of a store have in common."""

    model: ModelIdentity
    cell: int  # edge of the square of pixels that a token covers
    image_size: tuple[int, int]  # height and width of the images
    variants: int
    seed: int  # seed of the variants
    upsampled: int = 1  # features along a token's side, see `target_features`

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of features."""
        height, width = self.image_size
        return self.upsampled * -(-height // self.cell), self.upsampled * -(-width // self.cell)

    def facts(self) -> dict[str, Any]:
        """What the features depend on, as name -> value for people; models' names do not matter."""
        model = dataclasses.asdict(self.model)
        del model["name"], model["text_encoder"]
        own = {name.replace("_", " "): value for name, value in vars(self).items() if name != "model"}
        return {f"model {name}": value for name, value in model.items()} | own

    def write(self, file: Path) -> None:
        """Writes it as JSON, whole."""
        content = {"schema": SCHEMA, **dataclasses.asdict(self)}
        write_whole(file, (json.dumps(content, indent=2, allow_nan=False) + "\n").encode())

    @staticmethod
    def read(file: Path) -> "FeatureManifest":
        """Reads what `write` wrote; a `SequenceError` if there is none, it is damaged, or of another version."""
        if not file.is_file():
            what = "no feature targets here"
            raise SequenceError(what, where=str(file.parent), cure="Make them with `scene-completion features images`")
        content = read_json(file, SequenceError, cure=_AGAIN, kind=dict)
        try:
            if content.pop("schema") != SCHEMA:
                raise ValueError(f"this version reads schema {SCHEMA}")
            model = content.pop("model")
            (mr, mg, mb), (dr, dg, db) = (map(float, model["normalisation"][name]) for name in ("mean", "deviation"))
            identity = ModelIdentity(**{**model, "normalisation": Normalisation((mr, mg, mb), (dr, dg, db))})
            height, width = content.pop("image_size")
            counted = {"height": height, "width": width, "dim": identity.dim, **content}
            if wrong := [name for name, value in counted.items() if type(value) is not int or value < 0]:
                raise ValueError(f"{wrong[0]} is no number")
            return FeatureManifest(identity, image_size=(height, width), **content)
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise damaged(file, f"{type(error).__name__}: {error}", _AGAIN) from error


class FeatureStore:
    """Feature targets in a folder, made by `create` or `open`; many processes may write and read it at a time."""

    def __init__(self, folder: Path, manifest: FeatureManifest) -> None:
        self.folder, self.manifest = folder, manifest
        cure = "Delete it and run `scene-completion features images` once more: the other files are kept"
        self._entry = Entry(folder / "features", cure)
        self.dim, self.cell, self.variants = manifest.model.dim, manifest.cell, manifest.variants

    @classmethod
    def create(cls, folder: Path, manifest: FeatureManifest) -> "FeatureStore":
        """Makes a store, or goes on with one of the same; a `ConfigurationError` for others, or senseless numbers."""
        if manifest.variants < 1 or manifest.cell < 1 or manifest.seed < 0:
            what = f"{manifest.variants} variants, cells of {manifest.cell} pixels, seed {manifest.seed}"
            cure = "Give at least one variant, one pixel, and no negative seed"
            raise ConfigurationError(what, where=str(folder), cure=cure)
        file = folder / _MANIFEST
        if not file.exists():
            folder.mkdir(parents=True, exist_ok=True)
            manifest.write(file)
        store = cls(folder, FeatureManifest.read(file))  # what is there now: others may have made it meanwhile
        _refuse_difference(folder, store.manifest, manifest)
        return store

    @classmethod
    def open(cls, folder: Path, *, cell: int | None = None, upsampled: int = 1) -> "FeatureStore":
        """Opens a store of cells of so many pixels, or of any; a `ConfigurationError` or `SequenceError` if none."""
        manifest = FeatureManifest.read(folder / _MANIFEST)
        wanted = dataclasses.replace(manifest, cell=cell or manifest.cell, upsampled=upsampled)
        _refuse_difference(folder, manifest, wanted)
        return cls(folder, manifest)

    def __contains__(self, key: str) -> bool:
        return key in self._entry

    def save(self, key: str, features: Tensor) -> None:
        """Stores features [V, D, h, w] of an image; a `ConfigurationError` for what float16 cannot hold."""
        self._entry.write(key, {"features": as_half(features, key).numpy()})

    def get(self, key: str, variant: int) -> tuple[Tensor, tuple[int, int]]:
        """Features [D, h, w], float16, of a variant of an image, and its shift; a `SequenceError` if damaged."""
        shape = (self.variants, self.dim, *self.manifest.grid)
        try:
            features = self._entry.read(key)["features"]
            if features.shape != shape:
                raise ValueError(f"features {features.shape}, not {shape}")
            copied = torch.from_numpy(np.array(features[variant], np.float16))  # the mapping ends here
            return copied, variant_of(self.manifest.seed, key, variant, self.cell).shift
        except FileNotFoundError as error:
            cure = "Run `scene-completion features images` once more"
            raise SequenceError(f"no features of {key}", where=str(self.folder), cure=cure) from error
        except (ValueError, LookupError) as error:
            raise damaged(self._entry.file(key), error, self._entry.cure) from error


def mirrored_targets(folder: str, where: str, cell: int | None = None, upsampled: int = 1) -> FeatureStore:
    """Targets of a training that mirrors scenes; a `ConfigurationError` without variants; see `FeatureStore.open`."""
    store = FeatureStore.open(Path(folder), cell=cell, upsampled=upsampled)
    if store.variants < 2:
        what = "the targets have one variant an image, but mirrored scenes need their own"
        raise ConfigurationError(what, where=where, cure="Make them with --variants 2 or more")
    return store


def _refuse_difference(folder: Path, held: FeatureManifest, requested: FeatureManifest) -> None:
    there, wanted = held.facts(), requested.facts()
    different = [fact for fact in there if there[fact] != wanted[fact]]
    if different:
        facts = "; ".join(f"{fact} {_short(there[fact])}, asked for {_short(wanted[fact])}" for fact in different)
        what = f"holds features of {held.model.name} ({held.model.type}), asked for {requested.model.name}: {facts}"
        raise ConfigurationError(what, where=str(folder), cure="Name another folder, or ask for what it holds")


def _short(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {str(entry)[:12]}" for name, entry in value.items())
    return str(value)


def precompute(frames: Drive, camera: Camera, teacher: DenseExtractor, store: FeatureStore) -> int:
    """Computes the features of every image of frames that the store lacks; their number.

    The images are those that trainings compare with: in the canonical camera that the frames were prepared for,
    unturned, with their own colours. Raises ConfigurationError: float16 cannot hold them.
    """
    images = [(frame, name) for frame in frames for name in sorted(frame.images)]
    # Every process in an order of its own: several that work on one store would all compute the same image at a time.
    random.Random(os.getpid()).shuffle(images)
    computed = 0
    for frame, name in watched(images, "image"):
        key = frame.key(name)
        if key in store:
            continue
        image = canonical_image(frame.images[name], frame.cameras[name], camera)
        changes = [variant_of(store.manifest.seed, key, number, store.cell) for number in range(store.variants)]
        variants = variant_images(image, changes)
        crops = torch.Generator().manual_seed(int.from_bytes(hashlib.sha256(key.encode()).digest()[:7], "little"))
        store.save(key, target_features(teacher, variants, store.cell, store.manifest.upsampled, crops))
        computed += 1
    return computed
