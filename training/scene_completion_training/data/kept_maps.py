"""What the weights that never learn make of each sample, kept on disk, so that it is computed once."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from scene_completion_ros.errors import TrainingError
from scene_completion_ros.whole_files import tensor_bytes, write_whole
from scene_completion_training.data.prepared import mapped_arrays

KEY_FILE = "made_from.txt"


class KeptMaps:
    """Maps of samples on disk, float16, a file each; what another `key` (of what they follow from) left goes."""

    def __init__(self, folder: Path, key: str) -> None:
        self.folder, stored = folder, folder / KEY_FILE
        if not stored.exists() or stored.read_text(encoding="utf-8") != key:
            folder.mkdir(parents=True, exist_ok=True)
            for old in (stored, *folder.glob("map_[0-9]*")):
                old.unlink(missing_ok=True)
            stored.write_text(key, encoding="utf-8")

    def __deepcopy__(self, memo: object) -> "KeptMaps":
        return self  # an average of the weights has the same maps

    def get(self, numbers: Tensor, make: Callable[[], list[Tensor]]) -> list[Tensor]:
        """Maps [B, ...], float32, of samples of numbers [B], or what `make` gives; a `TrainingError` if not written."""
        files = [self.folder / f"map_{number}.safetensors" for number in numbers.tolist()]
        if not all(file.exists() for file in files):
            made = [values.detach().half().cpu().numpy() for values in make()]
            for row, file in enumerate(files):
                self._write(file, {f"{number:02d}": values[row] for number, values in enumerate(made)})
        kept = [mapped_arrays(file, "Delete it: it is made again at the next start") for file in files]
        maps = (np.stack([arrays[name] for arrays in kept]) for name in sorted(kept[0]))
        return [torch.from_numpy(values).to(numbers.device).float() for values in maps]

    def _write(self, file: Path, arrays: dict[str, np.ndarray]) -> None:
        try:
            write_whole(file, tensor_bytes(arrays))
        except OSError as error:
            what = f"maps of samples cannot be kept ({error.strerror})"
            cure = "Make room, take fewer data.distinct_samples, or set keep_maps=false"
            raise TrainingError(what, where=str(self.folder), cure=cure) from error
