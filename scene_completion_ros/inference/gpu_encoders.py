"""The encoder of a bundle for GPUs: which variants there are, and what was measured of each.

A variant is an ONNX graph that TensorRT builds an engine of: ``image`` uint8 [1, H, W, 3] RGB -> ``features``
[1, h, w, C + E], float32 for ``fp32``, float16 for ``fp16``. The number of images may be open. ``scene-completion
export --gpu`` makes them and measures each against the student it was made from. What this holds is read from untrusted
files: every field is checked.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from scene_completion_ros.errors import BundleError
from scene_completion_ros.untrusted_files import JsonObject

Precision = Literal["fp32", "fp16"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
FIELD = "gpu_encoders"
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class GpuEncoder:
    """One variant."""

    precision: str  # one of `PRECISIONS`
    sha256: str  # hash of its file
    made_from: Mapping[str, str]  # file of the bundle -> its hash when the variant was made and measured
    parity: Mapping[str, float]  # what was measured against the student, numbers by name
    reference: str  # what it was measured against, in words

    @property
    def file(self) -> str:
        """Name of its file in the bundle's folder."""
        return gpu_encoder_file(self.precision)

    def to_json(self) -> dict[str, Any]:
        """Plain values for the manifest."""
        own = {name: getattr(self, name) for name in ("sha256", "made_from", "parity", "reference")}
        return {"file": self.file, **own}


def gpu_encoder_file(precision: str) -> str:
    """Name of a variant's file; no other is read or written."""
    return f"encoder_{precision}.onnx"


def export_cure(folder: object, precision: str = "fp16") -> str:
    """What to do where a variant is missing or of no use."""
    return f"Run: scene-completion export {folder} --gpu {precision}"


def parse_gpu_encoders(manifest: JsonObject) -> dict[str, GpuEncoder]:
    """Variants of a manifest by precision, maybe none. Raises BundleError for a bad field or a file's name."""
    if FIELD not in manifest.values:
        return {}
    entries = manifest.object(FIELD)
    return {precision: _parse(entries, precision) for precision in entries.values}


def _parse(entries: JsonObject, precision: str) -> GpuEncoder:
    if precision not in PRECISIONS:
        raise entries.error(precision, f"is none of the precisions {', '.join(PRECISIONS)}")
    entry = entries.object(precision)
    if entry.text("file") != gpu_encoder_file(precision):
        raise entry.error("file", f"{entry.text('file')!r} where {gpu_encoder_file(precision)!r} is needed")
    made_from, parity = entry.object("made_from"), entry.object("parity")
    return GpuEncoder(
        precision=precision,
        sha256=_hash(entry, "sha256"),
        made_from={name: _hash(made_from, name) for name in made_from.values},
        parity={name: parity.number(name) for name in parity.values},
        reference=entry.text("reference"),
    )


def _hash(fields: JsonObject, name: str) -> str:
    value = fields.text(name)
    if not _SHA256.fullmatch(value):
        raise fields.error(name, f"{value!r} is no sha256")
    return value


def decoder_in_space(where: str) -> BundleError:
    """The error for a student that no GPU can run: its encoder takes and gives more than an image and a map."""
    what = "no encoder for GPUs can be made of a student with a decoder in space"
    return BundleError(what, where=where, cure="Run it on the CPU: engine auto or openvino")


def missing(precision: str, present: tuple[str, ...], where: str) -> BundleError:
    """The error for a variant that a bundle does not have."""
    return BundleError(
        f"has no encoder for GPUs in {precision} (it has: {', '.join(present) or 'none'})",
        where=where,
        cure=export_cure(where, precision),
    )
