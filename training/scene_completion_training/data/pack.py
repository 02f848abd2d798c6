"""Packs: what trainings of cells need of recordings, teachers and a trunk, as one small folder for another machine.

The files of a pack are as untrusted as any: nothing in them is executed, and each has the hash that the manifest names.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import lzma
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from scene_completion_ros.errors import ConfigurationError
from scene_completion_ros.geometry import Camera
from scene_completion_ros.picture_files import decode_picture, to_rgb
from scene_completion_ros.untrusted_files import JsonObject, parse_tensors, read_bytes, read_json
from scene_completion_ros.whole_files import write_whole
from scene_completion_training.arrays import Bytes
from scene_completion_training.data.store import Arrays, keyed

MANIFEST, CONFIGURATION, WEIGHTS = "manifest.json", "configuration.yaml", "model.safetensors"
FORMAT = 4  # to be raised with `_VERSION` of `completion_samples`, and where keys of configurations go
_MOST_BYTES = 2**31  # of a file, unpacked
_MOST_MANIFEST = 2**28
_MEMORY = 2**27  # bytes that unpacking takes besides
_FILTERS = [{"id": lzma.FILTER_LZMA2, "preset": 6, "lc": 0, "lp": 1, "pb": 1}]  # most weigh two bytes a value
_CURE = "Copy the pack again, or make it again with `scene-completion pack`"


def packed(content: bytes) -> bytes:
    """Content as a pack has it in files that end in .xz."""
    return lzma.compress(content, lzma.FORMAT_XZ, filters=_FILTERS)


def made_of(configuration: Any) -> dict[str, str]:
    """Hashes of the keys of a configuration that the content of its pack follows from, by their names."""
    values = dataclasses.asdict(configuration)
    data = values.get("data", {})
    named = {name: values.get(name) for name in ("stage", "world", "encoder_weights", "camera", "volume")}
    named |= {f"data.{name}": data.get(name) for name in ("sources", "validation", "segmentation", "teachers")}
    content = {name: json.dumps(value, sort_keys=True).encode() for name, value in named.items()}
    return {name: hashlib.sha256(value).hexdigest() for name, value in content.items()}


class Pack:
    """A pack in a folder, see `write_pack`. Raises ConfigurationError where it is none, damaged, or of another version.

    Attributes:
        key: Names its content.
        manifest: Its values, by name.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        cure, most = "Name the folder of a pack", _MOST_MANIFEST
        content = read_json(folder / MANIFEST, ConfigurationError, cure=cure, kind=dict, most_bytes=most)
        self.manifest = JsonObject(content, folder / MANIFEST, kind=ConfigurationError, cure=_CURE)
        if (found := self.manifest.integer("format")) != FORMAT:
            what = f"scene_completion_ros {content.get('version')} made it in format {found}, this one reads {FORMAT}"
            raise ConfigurationError(what, where=str(folder), cure="Make it again with `scene-completion pack`")
        self.key = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def refuse_other(self, keys: Mapping[str, str]) -> None:
        """Raises a `ConfigurationError` where it was made of another configuration; `keys`: see `made_of`."""
        own = self.manifest.object("configuration").values
        if changed := [name for name, value in keys.items() if own.get(name) != value]:
            what = f"was packed with other values of {', '.join(changed)}"
            raise ConfigurationError(what, where=str(self.folder), cure="Pack this configuration, or leave those out")

    def content(self, name: str) -> bytes:
        """A file as it was packed."""
        content = read_bytes(self.folder / name, ConfigurationError, cure=_CURE, most_bytes=_MOST_BYTES)
        if hashlib.sha256(content).hexdigest() != self.manifest.object("files").text(name):
            raise ConfigurationError("is damaged: its hash is another one", where=str(self.folder / name), cure=_CURE)
        return content

    def unpacked(self, name: str) -> bytes:
        """What was packed into a file that ends in .xz."""
        reader = lzma.LZMADecompressor(lzma.FORMAT_XZ, _MEMORY)
        try:
            content = reader.decompress(self.content(f"{name}.xz"), _MOST_BYTES)
        except lzma.LZMAError as error:
            raise ConfigurationError(f"is damaged ({error})", where=str(self.folder / name), cure=_CURE) from error
        if not reader.eof:
            what = f"is cut short, or unpacks to more than {_MOST_BYTES >> 30} GiB"
            raise ConfigurationError(what, where=str(self.folder / name), cure=_CURE)
        return content

    def samples(self, place: str, indices: Sequence[int]) -> Iterator[Arrays]:
        """What is true and taught of frames of a recording, by their numbers."""
        for index in indices:
            name = f"{place}/{index:06d}"
            yield parse_tensors(self.unpacked(name), ConfigurationError, where=str(self.folder / name), cure=_CURE)

    def images(self, place: str, camera: Camera, indices: Sequence[int]) -> Iterator[tuple[int, Bytes]]:
        """Numbers of frames, and their images as recorded, RGB [H, W, 3]; an ImageError where one is none."""
        for index in indices:
            name = f"{place}/{index:06d}{self.manifest.text('images')}"
            where = str(self.folder / name)
            image = to_rgb(decode_picture(np.frombuffer(self.content(name), np.uint8), Path(name).suffix, where=where))
            if image.shape[:2] != (camera.height, camera.width):
                what = f"has {image.shape[1]}x{image.shape[0]} pixels, the camera {camera.width}x{camera.height}"
                raise ConfigurationError(what, where=where, cure=_CURE)
            yield index, image

    def model(self, cache: Path) -> Path:
        """Folder in a cache with the unpacked model of the trunk."""
        folder = cache.absolute() / keyed("trunk", self.key)
        folder.mkdir(parents=True, exist_ok=True)
        for name in self.manifest.object("files").values:
            target = folder / Path(name).name.removesuffix(".xz")
            if name.startswith("trunk/") and not target.exists():
                whole = name.removesuffix(".xz")
                write_whole(target, self.content(name) if whole == name else self.unpacked(whole))
        return folder
