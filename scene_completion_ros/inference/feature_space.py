"""Feature spaces: how the features of a foundation model follow from a student's label units, and cosines in them.

A feature has hundreds of numbers, the label units E = 64. Since it is linear in the units, its cosine with a text
embedding can be computed from the units alone: exactly, see `FeatureSpace.folded`.
"""

import functools
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scene_completion_ros.errors import BundleError, VocabularyError
from scene_completion_ros.inference.json_object import CURE, JsonObject
from scene_completion_ros.inference.text_bank import LARGEST_DIMENSION, TextBank, Vocabulary
from scene_completion_ros.untrusted_files import parse_tensors
from scene_completion_ros.whole_files import tensor_bytes

FIELD = "feature_spaces"
FILE = "feature_spaces.safetensors"
MOST_SPACES = 16

_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")


@dataclass(frozen=True, eq=False)
class FeatureSpace:
    """f(x) = A h(x) + b: the features of one teacher, in its own space, of label units h.

    Raises BundleError where a name or number that cannot be, or tensors of other shapes or types, or not finite.
    """

    name: str  # name of the teacher: letters, digits, ``_`` and ``-``
    weight: NDArray[np.float32]  # A, float32 [D, E]
    bias: NDArray[np.float32]  # b, float32 [D]
    # text_encoder, text_encoder_sha256: Id and hash of the encoder whose texts lie in the same space; empty where there
    # is none.
    text_encoder: str = ""
    text_encoder_sha256: str = ""
    temperature: float = 0.07  # of the softmax over cosines that gives a confidence

    def __post_init__(self) -> None:
        where = f"feature space {self.name[:80]!r}"
        if not _NAME.fullmatch(self.name):
            raise BundleError("a name has 1 to 64 letters, digits, _ or -", where=where, cure=CURE)
        if not 1e-4 <= self.temperature <= 1e4:
            raise BundleError(f"temperature {self.temperature} is not in 0.0001..10000", where=where, cure=CURE)
        weight, bias = self.weight, self.bias
        if weight.ndim != 2 or not 1 <= len(weight) <= LARGEST_DIMENSION or bias.shape != weight.shape[:1]:
            raise BundleError(f"weight {weight.shape} and bias {bias.shape} do not fit", where=where, cure=CURE)
        for name, tensor in (("weight", weight), ("bias", bias)):
            if tensor.dtype != np.float32 or not np.isfinite(tensor).all():
                raise BundleError(f"is {tensor.dtype} or not finite", where=f"{where}: {name}", cure=CURE)

    @property
    def dimension(self) -> int:
        """D, of the teacher's features."""
        return int(self.weight.shape[0])

    def features(self, hidden: NDArray[np.floating]) -> NDArray[np.float64]:
        """Features [N, D] of label units [N, E], float64."""
        return np.asarray(hidden @ self.weight.T.astype(np.float64) + self.bias, dtype=np.float64)

    def folded(
        self, rows: NDArray[np.floating]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        """Weight [R, E], bias [R] and root [E + 1, E + 1] by which label units h have cosines with unit rows [R, D].

        cos = (weight h + bias) / |root [h; 1]|. With A' = [A b] and h' = [h; 1], f = A' h', t . f = (t A') h', and
        |f| = |Q root h'| = |root h'|, where A' = Q root is a QR decomposition. The upper triangular root is the
        Cholesky factor of A'^T A' up to signs. It exists whatever the rank of A' is, and no square costs it precision.
        """
        extended, root = self._extended
        # Not by BLAS: its threads wait busily, and would take the cores from an image that is being completed.
        products = np.einsum("rd,de->re", np.asarray(rows, dtype=np.float64), extended)
        return products[:, :-1].copy(), products[:, -1].copy(), root

    @functools.cached_property
    def _extended(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """A' [D, E + 1] and its root."""
        extended = np.column_stack([self.weight, self.bias]).astype(np.float64)
        extended /= np.abs(extended).max() or 1.0  # a cosine does not change, and squares cannot overflow
        root = np.zeros((extended.shape[1], extended.shape[1]))
        root[: min(extended.shape)] = np.linalg.qr(extended, mode="r")
        return extended, root


def feature_space_for(spaces: Sequence[FeatureSpace], bank: TextBank | Vocabulary, student: str) -> FeatureSpace:
    """The first space in which the texts of a bank lie: same weights of the text encoder, same dimension.

    The encoder's name is for people: two names may mean the same weights. Raises VocabularyError where there is none.
    `student`: name of the student whose spaces these are, for messages.
    """
    of_encoder = [space for space in spaces if space.text_encoder_sha256 == bank.text_encoder_sha256]
    for space in of_encoder:
        if space.text_encoder_sha256 and space.dimension == bank.dimension:
            return space
    own = ", ".join(
        f"{space.name} (text encoder {space.text_encoder or 'none'} {space.text_encoder_sha256[:12]}, "
        f"{space.dimension} numbers)"
        for space in spaces
    )
    what = "encoder" if not of_encoder else "dimension"
    raise VocabularyError(
        f"was made by the text encoder {bank.text_encoder or 'none'} {bank.text_encoder_sha256[:12]} with "
        f"{bank.dimension} numbers a phrase, but the student {student} has "
        f"{f'spaces of another {what} only: {own}' if spaces else 'no feature spaces'}",
        where=bank.where if isinstance(bank, TextBank) else "vocabulary",
        cure="Make a bank with the student's text encoder, or take the student that the bank was made for.",
    )


def check_feature_spaces(spaces: Sequence[FeatureSpace], label_hidden: int) -> None:
    """Raises BundleError where spaces do not read E label units, or have one name."""
    for i, space in enumerate(spaces):
        where = f"{FIELD}.{space.name}"
        if not label_hidden or space.weight.shape[1] != label_hidden:
            what = f"reads {space.weight.shape[1]} label units, the head has {label_hidden or 'none'}"
            cure = "A space belongs to the label units that it was trained on: export it with them."
            raise BundleError(what, where=where, cure=cure)
        if space.name in (other.name for other in spaces[:i]):
            raise BundleError("comes twice", where=where, cure=CURE)
    if len(spaces) > MOST_SPACES:
        raise BundleError(f"{len(spaces)} where at most {MOST_SPACES} are possible", where=FIELD, cure=CURE)


def spaces_to_bytes(spaces: Sequence[FeatureSpace]) -> bytes:
    """Content of ``feature_spaces.safetensors``."""
    tensors = {f"{space.name}.{part}": getattr(space, part) for space in spaces for part in ("weight", "bias")}
    return tensor_bytes(tensors)


def spaces_to_json(spaces: Sequence[FeatureSpace]) -> list[dict[str, Any]]:
    """Plain values for the manifest."""
    names = ("name", "dimension", "text_encoder", "text_encoder_sha256", "temperature")
    return [{name: getattr(space, name) for name in names} for space in spaces]


def parse_feature_spaces(
    manifest: JsonObject, label_hidden: int, read: Callable[[int], bytes]
) -> tuple[FeatureSpace, ...]:
    """The spaces that a manifest names; none where it has no such field.

    `label_hidden`: E of the head; `read`: gives the checked content of `FILE`, of a largest size in bytes. Raises
    BundleError where a field is malformed, or a tensor is missing, of another shape or type, or not finite.
    """
    if FIELD not in manifest.values:
        return ()
    entries = manifest.values[FIELD]
    if not isinstance(entries, list) or not 1 <= len(entries) <= MOST_SPACES:
        raise manifest.error(FIELD, f"is no list of 1 to {MOST_SPACES} objects")
    named = manifest.items(FIELD, entries)
    fields = [named.object(name) for name in named.values]
    dimensions = [entry.integer("dimension") for entry in fields]
    for entry, dimension in zip(fields, dimensions, strict=True):
        if not 1 <= dimension <= LARGEST_DIMENSION:
            raise entry.error("dimension", f"{dimension} is not in 1..{LARGEST_DIMENSION}")
    content = read(4 * sum(dimensions) * (label_hidden + 1) + (1 << 16))
    where = str(manifest.file.parent / FILE)
    tensors = parse_tensors(content, BundleError, where=where, cure=CURE)
    return tuple(
        _space(entry, dimension, label_hidden, tensors, where)
        for entry, dimension in zip(fields, dimensions, strict=True)
    )


def _space(
    entry: JsonObject, dimension: int, label_hidden: int, tensors: Mapping[str, NDArray[Any]], where: str
) -> FeatureSpace:
    name = entry.text("name")
    for part, shape in (("weight", (dimension, label_hidden)), ("bias", (dimension,))):
        tensor = tensors.get(f"{name}.{part}")
        if tensor is None or tensor.shape != shape:
            found = "is missing" if tensor is None else f"has shape {tensor.shape}"
            raise BundleError(f"{found} where {shape} is needed", where=f"{where}: tensor {name}.{part}", cure=CURE)
    try:
        return FeatureSpace(
            name,
            tensors[f"{name}.weight"],
            tensors[f"{name}.bias"],
            entry.text("text_encoder"),
            entry.text("text_encoder_sha256"),
            entry.number("temperature"),
        )
    except BundleError as error:
        raise BundleError(error.what, where=f"{where}: {error.where}", cure=CURE) from error
