"""A tiny student with encoders for GPUs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scene_completion_ros.inference.bundle import StudentBundle
from tests.inference.gpu.small_gpu_encoder import gpu_encoder
from tests.inference.small_bundle import make_small_bundle


@dataclass(frozen=True, eq=False)
class GpuStudent(StudentBundle):
    """A student whose encoders for GPUs are made when they are read."""

    precisions: tuple[str, ...] = ()

    @property
    def gpu_precisions(self) -> tuple[str, ...]:
        return self.precisions

    def read_gpu_encoder(self, precision: str) -> bytes:
        size, head = (self.canonical.height, self.canonical.width), self.head
        return gpu_encoder(precision, size=size, channels=head.hidden, label_hidden=head.label_hidden)


def make_gpu_bundle(folder: Path, precisions: tuple[str, ...] = ("fp16", "int8", "fp32"), **fields: Any) -> GpuStudent:
    """Writes a tiny student into a folder and loads it, with encoders for GPUs."""
    bundle = make_small_bundle(folder, **fields)
    values = {name: getattr(bundle, name) for name in StudentBundle.__dataclass_fields__}
    return GpuStudent(**values, precisions=precisions)
