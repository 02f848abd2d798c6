"""Phrases and their embeddings, as a text encoder gave them, and the vocabularies that are made of them.

A `TextBank` is one safetensors file. The robot reads it and needs no text encoder. Banks come from untrusted sources:
nothing in them is executed, sizes are checked before memory is taken, and a hash shows whether they are whole.
A `Vocabulary` is what voxels are compared with: rows of a bank, each of a class or of the background.

Feature spaces: how the features of a foundation model follow from a student's label units, and cosines in them.

A feature has hundreds of numbers, the label units E = 64. Since it is linear in the units, its cosine with a text
embedding can be computed from the units alone: exactly, see `FeatureSpace.folded`.
"""

import difflib
import functools
import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import safetensors
from numpy.typing import NDArray

from scene_completion_ros import untrusted_files
from scene_completion_ros.arrays import Doubles, Floats, Halves, Reals
from scene_completion_ros.errors import BundleError, VocabularyError
from scene_completion_ros.messages.words import LONGEST_PHRASE, check_phrase, check_phrases
from scene_completion_ros.untrusted_files import CURE, JsonObject, shown
from scene_completion_ros.voxels.colours import spread_colour
from scene_completion_ros.whole_files import tensor_bytes, write_whole

SCHEMA_VERSION = 1
METADATA = "text_bank"
EMBEDDINGS = "embeddings"
LARGEST_FILE, LARGEST_HEADER = 64 << 20, 32 << 20
LARGEST_DIMENSION = 8192
MOST_CLASSES = 254  # a label is one byte, and one label is "unknown"
MOST_ROWS = 4096
MOST_QUERIED = 16  # phrases of a query, at most: the memory that a GPU keeps for its answer grows with them
MARGIN = 0.02
UNKNOWN = "unknown"
UNKNOWN_COLOUR = (128, 128, 128)
BACKGROUND = -1
LEAST_REACH = 0.02  # a phrase with less contrast everywhere matches nothing
Pooling = Literal["max", "mean"]
Colour = tuple[int, int, int]
_CURE = "Make the bank again with: scene-completion vocabulary"
_SUGGESTED = 3  # a search for near matches takes milliseconds


@dataclass(frozen=True)
class BankClass:
    """A class that a bank names: what phrases stand for it, and its RGB colour (0..255)."""

    name: str
    phrases: tuple[str, ...]
    colour: Colour


@dataclass(frozen=True)
class Contrast:
    """What cosines with phrases are worth: a phrase's cosine less that which a voxel has with phrases in general.

    A voxel that the student is unsure of has a mixture of features. That lies near what all sentences have in common,
    and so near any phrase. Its cosine with "tree" may be larger than that of a tree.
    """

    common: float  # length of the mean of the phrases in general; the background's row is its direction
    # Of each phrase the largest contrast that a class of the bank has with it. A word that the teacher never learned
    # finds what is nearest to it. Infinite where no class has any.
    reach: tuple[float, ...]


@dataclass(frozen=True, eq=False)
class Vocabulary:
    """What voxels are compared with: rows of unit length, each of a class or of the background.

    The score of a class is the largest cosine of its rows. Raises VocabularyError: a name twice, or no such margin.
    """

    names: tuple[str, ...]  # names of the K classes, each another, without ``unknown``
    colours: tuple[Colour, ...]  # one RGB colour (0..255) a class
    rows: Floats  # float32 [R, D], L2-normalised
    group: NDArray[np.int32]  # int32 [R], class 0..K-1 of each row; `BACKGROUND` for those that are of none
    # text_encoder, text_encoder_sha256: The encoder that made the rows.
    text_encoder: str = ""
    text_encoder_sha256: str = ""
    margin: float = MARGIN  # a voxel whose best class is not ahead of all others by this much cosine is ``unknown``
    bank_sha256: str = ""  # hash of the bank that the rows are from; empty where they are from none
    contrast: Contrast | None = None  # of a query, see `TextBank.query`; None for labels

    def __post_init__(self) -> None:
        check_phrases(self.names, "vocabulary: class", forbidden=UNKNOWN)
        assert len(self.colours) == len(self.names) and self.group.shape == (len(self.rows),)
        if not 0.0 <= self.margin <= 2.0:
            raise VocabularyError(f"{self.margin} is no difference of cosines", where="vocabulary: margin")

    @property
    def dimension(self) -> int:
        """D, of the text encoder's embeddings."""
        return int(self.rows.shape[1])

    @property
    def legend_names(self) -> tuple[str, ...]:
        """Names by label; ``unknown`` is the last, label K."""
        return (*self.names, UNKNOWN)

    @property
    def legend_colours(self) -> tuple[Colour, ...]:
        """RGB colours by label; grey is the last."""
        return (*self.colours, UNKNOWN_COLOUR)


@dataclass(frozen=True, eq=False)
class TextBank:
    """Phrases with their embeddings. Raises VocabularyError: what is wrong, where, and the cure."""

    phrases: tuple[str, ...]  # P phrases as typed, each another, without the template
    # float16 [P, D], as in the file. Other floating-point numbers are normalised and rounded to that.
    stored: Halves
    # text_encoder, text_encoder_sha256: The encoder that made them: an id, and the hash of its weights.
    text_encoder: str
    text_encoder_sha256: str
    template: str = "{}"  # what the encoder read is the template with a phrase for its ``{}``
    classes: tuple[BankClass, ...] = ()  # classes that the bank proposes; may be none
    background: tuple[str, ...] = ()  # phrases that voxels of no class should be nearest to
    licence: str = ""
    where: str = "text bank"  # file of the bank, for messages
    embeddings: Floats = field(init=False, repr=False)  # float32 [P, D], L2-normalised
    sha256: str = field(init=False)  # hash of the whole content, embeddings included
    _row_of: dict[str, int] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        check_phrases(self.phrases, f"{self.where}: phrase")
        check_phrase(self.text_encoder, f"{self.where}: encoder.id")
        check_phrase(self.template, f"{self.where}: template")
        if self.template.count("{}") != 1:
            raise self._error(f"{self.template!r} does not hold one {{}}", "template")
        _check_shape(self.stored.shape, len(self.phrases), self.where)
        stored = self.stored
        if stored.dtype != np.float16:
            stored = self._normalised(stored).astype(np.float16)
        object.__setattr__(self, "stored", np.ascontiguousarray(stored))
        object.__setattr__(self, "embeddings", self._normalised(stored))
        object.__setattr__(self, "_row_of", {phrase: i for i, phrase in enumerate(self.phrases)})
        check_phrases(tuple(c.name for c in self.classes), f"{self.where}: class", forbidden=UNKNOWN)
        for proposed in self.classes:
            where = f"{self.where}: class {shown(proposed.name)}"
            _check_phrases_of_class(proposed.phrases, where)
            self._rows_of(proposed.phrases)
            if len(proposed.colour) != 3 or not all(0 <= channel <= 255 for channel in proposed.colour):
                raise VocabularyError(f"{list(proposed.colour)} is no RGB colour of 0..255", where=where, cure=_CURE)
        check_phrases(self.background, f"{self.where}: background")
        self._rows_of(self.background)
        object.__setattr__(self, "sha256", self._hash())

    def _error(self, what: str, name: str) -> VocabularyError:
        return VocabularyError(what, where=f"{self.where}: {name}", cure=_CURE)

    def _normalised(self, given: NDArray[Any]) -> Floats:
        length = np.sqrt(np.einsum("pd,pd->p", given, given, dtype=np.float64, casting="safe"))  # makes no copy
        if not (np.isfinite(length) & (length > 0.0)).all():
            bad = int(np.flatnonzero(~(np.isfinite(length) & (length > 0.0)))[0])
            raise self._error(f"row {bad} ({shown(self.phrases[bad])}) is zero or not finite", EMBEDDINGS)
        normalised = np.array(given, dtype=np.float32)
        normalised /= length[:, None].astype(np.float32)
        return normalised

    @property
    def dimension(self) -> int:
        """D, of the text encoder's embeddings."""
        return int(self.stored.shape[1])

    def _content(self) -> dict[str, Any]:
        return {
            "schema_version": SCHEMA_VERSION,
            "encoder": {"id": self.text_encoder, "sha256": self.text_encoder_sha256},
            "template": self.template,
            "phrases": list(self.phrases),
            "classes": [{"name": c.name, "phrases": list(c.phrases), "colour": list(c.colour)} for c in self.classes],
            "background": list(self.background),
            "licence": self.licence,
        }

    def _hash(self) -> str:
        text = json.dumps(self._content(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode("ascii") + self.stored.astype("<f2").tobytes()).hexdigest()

    def to_bytes(self) -> bytes:
        """Content of the bank's file."""
        metadata = {METADATA: json.dumps({**self._content(), "sha256": self.sha256}, sort_keys=True)}
        return tensor_bytes({EMBEDDINGS: self.stored}, metadata)

    def save(self, path: str | Path) -> None:
        """Writes the bank as a whole file."""
        write_whole(Path(path), self.to_bytes())

    @classmethod
    def load(cls, path: str | Path) -> "TextBank":
        """Reads and checks a bank. Raises VocabularyError where it is damaged or contradicts itself."""
        content = untrusted_files.read_bytes(path, VocabularyError, cure="Name a text bank.", most_bytes=LARGEST_FILE)
        return cls.from_bytes(content, str(path))

    @classmethod
    def from_bytes(cls, content: bytes, where: str = "text bank") -> "TextBank":
        """The bank of a file's content; errors are those of `load`."""
        try:
            ((name, tensor),) = safetensors.deserialize(content)  # type: ignore[no-untyped-call]
        except (safetensors.SafetensorError, ValueError) as error:
            what = f"is no text bank ({type(error).__name__}: {str(error)[:LONGEST_PHRASE]})"
            raise VocabularyError(what, where=where, cure=_CURE) from error
        if name != EMBEDDINGS or tensor["dtype"] != "F16":
            what = f"holds {tensor['dtype']} {shown(name)} where F16 {EMBEDDINGS!r} is needed"
            raise VocabularyError(what, where=where, cure=_CURE)
        header, _ = untrusted_files.tensor_header(
            memoryview(content), VocabularyError, where=where, cure=_CURE, most_bytes=LARGEST_HEADER
        )
        metadata = header.get("__metadata__", {}).get(METADATA, "")
        values = untrusted_files.parse_json(
            metadata, VocabularyError, where=f"{where}: {METADATA}", cure=_CURE, kind=dict
        )
        try:
            parsed = _parse(JsonObject(values, Path(where), f"{METADATA}."))
        except BundleError as error:
            raise VocabularyError(error.what, where=error.where, cure=_CURE) from error
        expected = parsed.pop("sha256")
        _check_shape(tuple(tensor["shape"]), len(parsed["phrases"]), where)
        stored = np.frombuffer(tensor["data"], dtype="<f2").reshape(tensor["shape"]).astype(np.float16)
        bank = cls(**parsed, stored=stored, where=where)
        if bank.sha256 != expected:
            what = f"sha256 is {bank.sha256[:12]}…, the file has {shown(expected[:12])}…: it is damaged or was changed"
            raise VocabularyError(what, where=where, cure=_CURE)
        return bank

    def _rows_of(self, phrases: Sequence[str]) -> list[int]:
        unknown = [phrase for phrase in phrases if phrase not in self._row_of]
        if unknown:
            suggestions = "; ".join(self._near(phrase) for phrase in unknown[:_SUGGESTED])
            more = f"; and {len(unknown) - _SUGGESTED} more" if len(unknown) > _SUGGESTED else ""
            cure = "Use a phrase that it holds, or make a bank with yours with: scene-completion vocabulary"
            raise VocabularyError(f"does not hold {suggestions}{more}", where=self.where, cure=cure)
        return [self._row_of[phrase] for phrase in phrases]

    def _near(self, phrase: str) -> str:
        folded = {known.casefold(): known for known in self.phrases}
        near = difflib.get_close_matches(phrase[:LONGEST_PHRASE].casefold(), folded, n=_SUGGESTED)
        return f"{shown(phrase)} (near: {', '.join(repr(folded[n]) for n in near)})" if near else shown(phrase)

    def rows(self, phrases: Sequence[str]) -> Floats:
        """L2-normalised embeddings, float32 [R, D], of phrases as typed. Raises VocabularyError with near ones."""
        return self.embeddings[self._rows_of(phrases)]

    def vocabulary(
        self,
        # Phrases, a class each, or the phrases of each class by its name. Among the former, the name of a class of the
        # bank that is no phrase stands for all phrases of that class. None for the bank's own classes; where it has
        # none, for every phrase that is not of the background.
        classes: Sequence[str] | Mapping[str, Sequence[str]] | None = None,
        *,
        # ``max``: a class is as near as its nearest phrase. ``mean``: as the mean of its phrases.
        pooling: Pooling = "max",
        margin: float = MARGIN,  # see `Vocabulary`
    ) -> Vocabulary:
        """A vocabulary of the bank's phrases.

        A class that the bank names too keeps its colour. The bank's background goes along, less the phrases of classes.
        Raises VocabularyError where a phrase is not in the bank or is of two classes; or there are no classes, or too
        many.
        """
        phrases_of = self._phrases_of(classes)
        for name, phrases in phrases_of.items():
            _check_phrases_of_class(phrases, f"vocabulary: class {shown(name)}")
        _check_count(len(phrases_of), sum(map(len, phrases_of.values())))
        class_of: dict[str, str] = {}
        for name, phrases in phrases_of.items():
            for phrase in phrases:
                if class_of.setdefault(phrase, name) != name:
                    what = f"{shown(phrase)} stands for {shown(class_of[phrase])} and for {shown(name)}"
                    raise VocabularyError(what, where="vocabulary", cure="Give it to one of them.")
        rows, group = [], []
        for number, phrases in enumerate(phrases_of.values()):
            of_class = self.rows(phrases)
            if pooling == "mean":
                of_class = _mean(of_class, tuple(phrases_of)[number])
            rows.append(of_class)
            group += [number] * len(of_class)
        background = [phrase for phrase in self.background if phrase not in class_of]
        rows.append(self.rows(background))
        own_colours = {proposed.name: proposed.colour for proposed in self.classes}
        return Vocabulary(
            names=tuple(phrases_of),
            colours=tuple(own_colours.get(name, spread_colour(number)) for number, name in enumerate(phrases_of)),
            rows=np.concatenate(rows),
            group=np.array(group + [BACKGROUND] * len(background), dtype=np.int32),
            text_encoder=self.text_encoder,
            text_encoder_sha256=self.text_encoder_sha256,
            margin=margin,
            bank_sha256=self.sha256,
        )

    def query(self, phrases: Sequence[str], background: Sequence[str] | None = None) -> Vocabulary:
        """A vocabulary that asks where phrases are: by their contrast with phrases in general.

        `phrases`: as `vocabulary` takes them in a list; `background`: phrases in general; None for all of the bank.
        Raises VocabularyError where a phrase is not in the bank, there is none or there are too many, or there is no
        other phrase to compare them with.
        """
        if len(phrases) > MOST_QUERIED:
            what = f"{len(phrases)} phrases, where at most {MOST_QUERIED} can be asked for at a time"
            raise VocabularyError(what, where="query", cure="Ask for fewer; a vocabulary may have more.")
        queried = self.vocabulary(phrases, margin=0.0)
        rows = queried.rows[queried.group != BACKGROUND]
        general = self.rows(tuple(background or self.phrases)).astype(np.float64)
        mean = general.mean(axis=0)
        common = float(np.linalg.norm(mean))
        if common < 1e-6 or (background is None and len(np.unique(general, axis=0)) < 2):
            what = "nothing is left to compare the phrases with"
            cure = "Make a bank with further phrases, or with a background."
            raise VocabularyError(what, where=f"{self.where}: background", cure=cure)
        known = self.rows([phrase for proposed in self.classes for phrase in proposed.phrases] or self.phrases)
        group = queried.group[queried.group != BACKGROUND]
        reach = [self._reach(rows[group == number], mean, known) for number in range(len(queried.names))]
        return replace(
            queried,
            rows=np.concatenate([rows, (mean / common)[None].astype(np.float32)]),
            group=np.append(group, BACKGROUND).astype(np.int32),
            contrast=Contrast(common, tuple(reach)),
        )

    @staticmethod
    def _reach(rows: Floats, mean: Doubles, known: Floats) -> float:
        """Largest contrast of any of rows [R, D] at features of what is known [P, D], seen from its centre."""
        features = known - known.mean(axis=0) if len(known) > 1 else known
        length = np.linalg.norm(features, axis=1, keepdims=True)
        features = features[length[:, 0] > 1e-6] / length[length[:, 0] > 1e-6]
        best = float(((rows - mean) @ features.T).max()) if len(features) else 0.0
        return best if best > LEAST_REACH else float("inf")

    def _phrases_of(self, classes: Sequence[str] | Mapping[str, Sequence[str]] | None) -> dict[str, Sequence[str]]:
        own = {proposed.name: proposed.phrases for proposed in self.classes}
        if classes is None:
            return dict(own) or {p: (p,) for p in self.phrases if p not in self.background}
        check_phrases(tuple(classes), "vocabulary")
        if isinstance(classes, Mapping):
            return dict(classes)
        return {name: own[name] if name in own and name not in self._row_of else (name,) for name in classes}


def _mean(rows: Floats, name: str) -> Floats:
    """The mean of unit rows, of unit length, float32 [1, D]."""
    mean = rows.astype(np.float64).mean(axis=0, keepdims=True)
    length = float(np.linalg.norm(mean))
    if length < 1e-6:
        raise VocabularyError("the phrases cancel each other", where=f"vocabulary: class {shown(name)}")
    return np.asarray(mean / length, dtype=np.float32)


def _check_count(classes: int, rows: int) -> None:
    if not classes:
        raise VocabularyError("is empty", where="vocabulary", cure="Name at least one phrase.")
    if classes > MOST_CLASSES or rows > MOST_ROWS:
        what = f"has {classes} classes and {rows} phrases, where at most {MOST_CLASSES} and {MOST_ROWS} are possible"
        raise VocabularyError(what, where="vocabulary", cure="Name fewer, or group phrases into classes.")


def _check_phrases_of_class(phrases: Sequence[str], where: str) -> None:
    if not isinstance(phrases, (list, tuple)) or not phrases:
        raise VocabularyError("has no list of phrases", where=where, cure="Give it at least one phrase.")
    check_phrases(phrases, where)


def _check_shape(shape: tuple[int, ...], phrases: int, where: str) -> None:
    if len(shape) != 2 or shape[0] != phrases or not phrases or not 1 <= shape[1] <= LARGEST_DIMENSION:
        what = f"has shape {shape} where [{phrases or 'at least 1'}, 1..{LARGEST_DIMENSION}] is needed, a row a phrase"
        raise VocabularyError(what, where=f"{where}: {EMBEDDINGS}", cure=_CURE)


def _parse(fields: JsonObject) -> dict[str, Any]:
    if fields.integer("schema_version") != SCHEMA_VERSION:
        raise fields.error("schema_version", f"is {fields.integer('schema_version')}, this version reads 1")
    encoder = fields.object("encoder")
    return {
        "phrases": fields.texts("phrases"),
        "text_encoder": encoder.text("id"),
        "text_encoder_sha256": encoder.text("sha256"),
        "template": fields.text("template"),
        "classes": tuple(map(_parse_class, fields.objects("classes"))),
        "background": fields.texts("background"),
        "licence": fields.text("licence"),
        "sha256": fields.text("sha256"),
    }


def _parse_class(fields: JsonObject) -> BankClass:
    red, green, blue = fields.integers("colour", 3)
    return BankClass(fields.text("name"), fields.texts("phrases"), (red, green, blue))


FEATURE_SPACES = "feature_spaces"
FEATURE_SPACES_FILE = "feature_spaces.safetensors"

_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")


@dataclass(frozen=True, eq=False)
class FeatureSpace:
    """f(x) = A h(x) + b: the features of one teacher, in its own space, of label units h.

    Raises BundleError for a name or temperature that cannot be, or tensors of other types, or not finite.
    """

    name: str  # name of the teacher: letters, digits, ``_`` and ``-``
    weight: Floats  # A, float32 [D, E]
    bias: Floats  # b, float32 [D]
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
        for name, tensor in (("weight", self.weight), ("bias", self.bias)):
            if tensor.dtype != np.float32 or not np.isfinite(tensor).all():
                raise BundleError(f"is {tensor.dtype} or not finite", where=f"{where}: {name}", cure=CURE)

    @property
    def dimension(self) -> int:
        """D, of the teacher's features."""
        return int(self.weight.shape[0])

    def features(self, hidden: Reals) -> Doubles:
        """Features [N, D] of label units [N, E], float64."""
        return np.asarray(hidden @ self.weight.T.astype(np.float64) + self.bias, dtype=np.float64)

    def folded(self, rows: Reals) -> tuple[Doubles, Doubles, Doubles]:
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
    def _extended(self) -> tuple[Doubles, Doubles]:
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
        where = f"{FEATURE_SPACES}.{space.name}"
        if not label_hidden or space.weight.shape[1] != label_hidden:
            what = f"reads {space.weight.shape[1]} label units, the head has {label_hidden or 'none'}"
            cure = "A space belongs to the label units that it was trained on: export it with them."
            raise BundleError(what, where=where, cure=cure)
        if space.name in (other.name for other in spaces[:i]):
            raise BundleError("comes twice", where=where, cure=CURE)


def spaces_to_json(spaces: Sequence[FeatureSpace]) -> dict[str, list[dict[str, Any]]]:
    """Their field of the manifest, in plain values; none where there is no space."""
    names = ("name", "dimension", "text_encoder", "text_encoder_sha256", "temperature")
    values = [{name: getattr(space, name) for name in names} for space in spaces]
    return {FEATURE_SPACES: values} if values else {}


def parse_feature_spaces(
    manifest: JsonObject, label_hidden: int, read: Callable[[], bytes]
) -> tuple[FeatureSpace, ...]:
    """The spaces that a manifest names; none where it has no such field.

    `label_hidden`: E of the head; `read`: gives the checked content of their file. Raises BundleError where a field is
    malformed, or a tensor is missing, of another shape or type, or not finite.
    """
    if FEATURE_SPACES not in manifest.values:
        return ()
    where = str(manifest.file.parent / FEATURE_SPACES_FILE)
    tensors = untrusted_files.parse_tensors(read(), BundleError, where=where, cure=CURE)
    return tuple(_space(entry, label_hidden, tensors, where) for entry in manifest.objects(FEATURE_SPACES))


def _space(entry: JsonObject, label_hidden: int, tensors: Mapping[str, NDArray[Any]], where: str) -> FeatureSpace:
    name, dimension = entry.text("name"), entry.integer("dimension")
    for part, shape in (("weight", (dimension, label_hidden)), ("bias", (dimension,))):
        tensor = tensors.get(f"{name}.{part}")
        if tensor is None or tensor.shape != shape:
            found = "is missing" if tensor is None else f"has shape {tensor.shape}"
            raise BundleError(f"{found} where {shape} is needed", where=f"{where}: tensor {name}.{part}", cure=CURE)
    weight, bias = tensors[f"{name}.weight"], tensors[f"{name}.bias"]
    encoder = entry.text("text_encoder"), entry.text("text_encoder_sha256")
    try:
        return FeatureSpace(name, weight, bias, *encoder, entry.number("temperature"))
    except BundleError as error:
        raise BundleError(error.what, where=f"{where}: {error.where}", cure=CURE) from error
