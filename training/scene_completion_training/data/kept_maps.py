"""What the weights that never learn make of each sample, kept on disk, so that it is computed once."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from scene_completion_ros.errors import TrainingError
from scene_completion_training.arrays import Halves, Ints, Mask

KEY_FILE, KNOWN_FILE = "key.txt", "known.npy"


class KeptMaps:
    """Maps of samples on disk, float16, of one process; what another `key` (of what they follow from) left goes."""

    def __init__(self, folder: Path, samples: int, key: str) -> None:
        self.folder, self.samples = folder, samples
        stored = folder / KEY_FILE
        if not stored.exists() or stored.read_text(encoding="utf-8") != key:
            folder.mkdir(parents=True, exist_ok=True)
            for old in (stored, *folder.glob("map_[0-9][0-9].*")):
                old.unlink(missing_ok=True)
            np.save(folder / KNOWN_FILE, np.zeros(samples, np.bool_))
            stored.write_text(key, encoding="utf-8")
        self._known: Mask = np.load(folder / KNOWN_FILE, mmap_mode="r+")
        self._maps: list[Halves] = []

    def __deepcopy__(self, memo: object) -> "KeptMaps":
        return self  # an average of the weights has the same maps

    def get(self, numbers: Tensor, make: Callable[[], list[Tensor]]) -> list[Tensor]:
        """Maps [B, ...], float32, of samples of numbers [B], or what `make` gives; a `TrainingError` if not written."""
        rows = numbers.cpu().numpy()
        if self._known[rows].all():
            self._open()
            return [torch.from_numpy(values[rows]).to(numbers.device).float() for values in self._maps]
        made = make()
        try:
            self._write(rows, made)
        except OSError as error:
            what = f"maps of samples cannot be kept ({error.strerror})"
            cure = "Make room, take fewer data.distinct_samples, or set keep_maps=false"
            raise TrainingError(what, where=str(self.folder), cure=cure) from error
        return [values.detach().half().float() for values in made]  # as they come next time

    def _write(self, rows: Ints, made: list[Tensor]) -> None:
        if not self._file(0).exists():
            for number in reversed(range(len(made))):  # the first one says that all are there
                part = self._file(number).with_suffix(".part")
                np.lib.format.open_memmap(part, "w+", np.float16, (self.samples, *made[number].shape[1:])).flush()
                with part.open("r+b") as file:  # a hole in a file ends the process where the disk is full
                    os.posix_fallocate(file.fileno(), 0, part.stat().st_size)
                part.replace(self._file(number))
        self._open()
        for values, kept in zip(made, self._maps, strict=True):
            kept[rows] = values.detach().cpu().half().numpy()
        self._known[rows] = True

    def _open(self) -> None:
        if not self._maps:
            self._maps = [np.load(file, mmap_mode="r+") for file in sorted(self.folder.glob("map_*.npy"))]

    def _file(self, number: int) -> Path:
        return self.folder / f"map_{number:02d}.npy"
