"""The student bundle: a folder with all the robot needs to complete scenes, safe to load from untrusted sources.

``student.json`` describes the student. Of a field student, ``encoder.onnx`` maps an image to pre-activations, and
``head.safetensors`` turns them into density and, where the student has classes, into labels. Of one that completes
cells, ``encoder.onnx`` maps it to what its pixels show, ``decoder.onnx`` what cells look up there to what is around
each of them, and ``cells.onnx`` both to what they are.
Nothing in it is executed as Python, and nothing is pickled. Lower precisions, of CPUs and GPUs, are made from these
graphs where they run.
"""

import contextlib
import dataclasses
import difflib
import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from scene_completion_ros import untrusted_files
from scene_completion_ros.errors import BundleError, VocabularyError
from scene_completion_ros.geometry.cameras import Camera, camera_of
from scene_completion_ros.geometry.grids import DEFAULT_GRID, DEFAULT_GRID_FROM_CAMERA, VoxelGrid, placed_grid_of
from scene_completion_ros.geometry.transforms import RigidTransform
from scene_completion_ros.inference import text_bank
from scene_completion_ros.inference.cells import PRIOR_EDGE, STRIDE, CellVolume, Ground
from scene_completion_ros.inference.head import HeadWeights, PointCodeSpec, check_tensors, expected_shapes
from scene_completion_ros.inference.text_bank import FEATURE_SPACES_FILE, FeatureSpace, TextBank, Vocabulary
from scene_completion_ros.untrusted_files import CURE, JsonObject, parse_tensors, read_bytes, read_json
from scene_completion_ros.voxels.occupancy import Calibration, Thresholds
from scene_completion_ros.whole_files import tensor_bytes, whole_folder

_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class MeasuredPrecision:
    """What was measured of a lower precision on a CPU against single precision."""

    made_from: Mapping[str, str]  # file of the bundle -> its hash when it was measured
    parity: Mapping[str, float]  # numbers by name, see `parity.BF16`


def _hash(fields: JsonObject, name: str) -> str:
    value = fields.text(name)
    if not _SHA256.fullmatch(value):
        raise fields.error(name, f"{value!r} is no sha256")
    return value


SCHEMA_VERSION = 8
MOST_CLASSES = 255  # a label is one byte
LARGEST_SIDE = 8192  # pixels of the network's image, and cells of its features
LARGEST_FREQUENCY = 1e4
LARGEST_CODE = 500.0  # of a depth; tables of the code have 4096 rows for each 1
_METRES = (1e-3, 1e6)
LARGEST_CONTEXT = 1024  # channels
LARGEST_VOLUME = 2**28  # numbers that cells look up, and that are predicted of them
MANIFEST = "student.json"
ENCODER = "encoder.onnx"
DECODER = "decoder.onnx"
CELLS = "cells.onnx"
_THAT_DECODE = DECODER, CELLS
CELL_ROWS = 8192  # cells that a run of the latter takes, where there are so many
# What graphs give of a student that completes cells: of the pixels of an image at half its size, inverse depth code and
# standard deviation of the logarithm of depth, float32 [1, h, w, 2], probabilities of the classes and of the sky
# [1, h, w, K + 1], and what else cells look up [1, h, w, C]; of cells, what is around them [x y z, A], and, always the
# same, the mean of their hidden voxels, logits [x y z, 8], and the prior of columns, where there is one; then what is
# predicted of them, see `PredictedCells`.
PIXEL_OUTPUTS = "surfaces", "classes", "context"
SEEN_GROUND = "seen_ground"  # input of the decoder of those, `ground_pixels.seen_ground`
PLANE = "plane"  # and where the whole image shows the plane of the road, this [1, 3, 2]
COLUMN_OUTPUTS = "around", "mean", "ground"
PRIOR = "prior"
CELL_OUTPUTS = "hidden", "others"
HEAD = "head.safetensors"
WEIGHTS = "weights.safetensors"
TEXT_BANK = "text_bank.safetensors"
_OTHER_FILE = re.compile(rb"(?:\x08|\x88\x80*\x00)location")  # ONNX's key for it, behind its length in any encoding
_LOOP = re.compile(rb"(?:\x22|\xa2\x80*\x00)(?:\x04|\x84\x80*\x00)Loop")  # a node of that kind, in any encoding
_VOCABULARY_FILES = {FEATURE_SPACES_FILE, TEXT_BANK}
_FETCH = "Fetch or export the bundle again, then load it anew (clean up and configure a running node)."
DEFAULT_BUNDLE = Path(__file__).resolve().parent.parent / "models" / "kitti_student"


@dataclass(frozen=True, eq=False)
class StudentBundle:
    """A trained student. Raises BundleError where names, colours, labels or feature spaces contradict each other."""

    name: str
    canonical: Camera  # the camera that every image is resampled into, without distortion
    head: HeadWeights | None = None  # of a field student; with labels where there are several classes
    volume: CellVolume | None = None  # of a student that completes cells; each student is one of these
    point_code: PointCodeSpec = field(default_factory=PointCodeSpec)
    feature_size: tuple[int, int] = (96, 320)  # (h, w) of the encoder's output
    height_above_ground: float = 1.65  # height of the cameras it was trained with, metres
    # Lowest and highest camera of the training, where the student takes its own; None otherwise.
    height_range: tuple[float, float] | None = None
    # Smallest and largest pitch seen in training, radians, down positive.
    pitch_range: tuple[float, float] = (-0.05, 0.05)
    focal_range: tuple[float, float] = (0.5, 0.65)  # smallest and largest fx / W of the source cameras seen in training
    depth_range: tuple[float, float] = (3.0, 80.0)  # nearest and farthest depth trained, metres
    # Names of the classes, each another; one, ``unlabelled``, where there are none.
    class_names: tuple[str, ...] = ("unlabelled",)
    class_colours: tuple[tuple[int, int, int], ...] = ((128, 128, 128),)  # one RGB colour (0..255) a class
    calibration: Calibration = field(default_factory=Calibration)  # alpha -> probability
    threshold: float = 0.5  # probability from which a voxel counts as occupied
    obstacle_threshold: float | None = None  # the same of what stands on a ground that it predicts; None: no other
    grid: VoxelGrid = DEFAULT_GRID
    grid_from_camera: RigidTransform = field(default_factory=lambda: DEFAULT_GRID_FROM_CAMERA)  # its pose
    provenance: Mapping[str, Any] = field(default_factory=dict)  # what it was trained on and how; any JSON object
    licence: str = ""
    # Spaces of foundation models that follow from the label units; there may be none.
    feature_spaces: tuple[FeatureSpace, ...] = ()
    bf16: MeasuredPrecision | None = None  # bfloat16 on CPUs; None where it was not measured, or missed the gate
    folder: Path | None = None  # where it was loaded from or saved to
    sha256: Mapping[str, str] = field(default_factory=dict)  # hash of each file of the folder

    def __post_init__(self) -> None:
        names, count = self.class_names, len(self.class_names)
        cure = "Give every class a name and an RGB colour of its own and export the bundle again."
        if len(set(names)) < count or not 1 <= count <= MOST_CLASSES:
            twice = ", ".join(repr(name) for name in dict.fromkeys(names) if names.count(name) > 1)
            what = f"{twice} more than once" if twice else f"{count} classes (1..{MOST_CLASSES})"
            raise BundleError(what, where="class_names", cure=cure)
        for i, colour in enumerate(self.class_colours):
            if not all(0 <= channel <= 255 for channel in colour):
                what = f"{list(colour)} of {names[i]!r} is no RGB colour of 0..255"
                raise BundleError(what, where=f"class_colours.{i}", cure=cure)
        assert (self.head is None) != (self.volume is None) and len(self.class_colours) == count
        assert count == (self.volume or self.head).classes and (count > 1) == (self.label_units > 0)  # type: ignore[union-attr]
        text_bank.check_feature_spaces(self.feature_spaces, self.label_units)

    @property
    def encoder_path(self) -> Path:
        """The ONNX encoder, of an image float32 [1, 3, H, W] RGB 0..255.

        Of a field student it gives ``features`` float32 [1, h, w, C + E]: the first C channels are those of the
        density, the last E those of the label units, see `HeadWeights`. Of one that completes cells it also takes
        ``ground`` [1, 2, H / 2, W / 2], which is 0, and gives `PIXEL_OUTPUTS`. Its decoder takes
        ``local`` and ``columns``, see `CellSampler`, and gives `COLUMN_OUTPUTS` and `PRIOR`. A third graph takes
        ``around``, ``local`` and ``mean`` of `CELL_ROWS` cells, and gives `CELL_OUTPUTS`.
        """
        if self.folder is None:
            raise BundleError("has not been saved", where=f"bundle {self.name}", cure="Call save(folder, ...) first.")
        return self.folder / ENCODER

    @property
    def takes_evidence(self) -> bool:
        """Whether it completes cells, which takes the camera's mounting and evidence of depth."""
        return self.volume is not None

    @property
    def label_units(self) -> int:
        """Numbers that labels and words follow from: label units of a head, or classes of cells; 0 without labels."""
        return self.volume.classes if self.volume else self.field_head.label_hidden

    @property
    def field_head(self) -> HeadWeights:
        """The head of a field student. Raises BundleError: it is none."""
        if self.head is None:
            raise BundleError("is no field student: it completes cells", where=f"bundle {self.name}", cure=CURE)
        return self.head

    def read_encoder(self) -> bytes:
        """The ONNX encoder as it was when loaded. Raises BundleError where its file was removed or replaced."""
        return _read_graph(self.encoder_path, self.sha256[ENCODER])

    def read_decoder(self) -> bytes:
        """The ONNX decoder of a student that `takes_evidence`, as `read_encoder`."""
        return _read_graph(self.encoder_path.with_name(DECODER), self.sha256[DECODER])

    def read_cells(self) -> bytes:
        """The ONNX graph of the cells of such a student, as `read_encoder`."""
        return _read_graph(self.encoder_path.with_name(CELLS), self.sha256[CELLS])

    @property
    def passed_bf16(self) -> bool:
        """Whether its graphs, as they are, passed the gate in bfloat16."""
        return self.bf16 is not None and self.bf16.made_from == self.made_from()

    def with_bf16(self, parity: Mapping[str, float]) -> "StudentBundle":
        """Writes down that the saved bundle passed the gate in bfloat16, and returns it as loaded from there."""
        folder, manifest = self.encoder_path.parent, self.unchanged_manifest()
        manifest["bf16"] = {"made_from": self.made_from(), "parity": dict(parity)}
        _write(folder, {MANIFEST: _serialised(manifest)})
        return StudentBundle.load(folder)

    def unchanged_manifest(self) -> dict[str, Any]:
        """The manifest of its folder. Raises BundleError where another bundle is there now than was loaded."""
        file = self.encoder_path.with_name(MANIFEST)
        manifest = dict(JsonObject.read(file).values)
        if manifest.get("sha256") != self.sha256 or StudentBundle.load(file.parent)._manifest() != self._manifest():
            raise BundleError("was replaced meanwhile", where=str(file), cure="Start again.")
        return manifest

    def text_bank(self) -> TextBank | None:
        """The bank of phrases that comes with the student; None where there is none.

        Raises BundleError where its file is gone or was replaced since the bundle was loaded; VocabularyError where it
        is no bank.
        """
        if self.folder is None or TEXT_BANK not in self.sha256:
            return None
        file = self.folder / TEXT_BANK
        return TextBank.from_bytes(
            _read_checked(file, self.sha256[TEXT_BANK], largest=text_bank.LARGEST_FILE), str(file)
        )

    def feature_space_for(self, bank: TextBank | Vocabulary) -> FeatureSpace:
        """The space of a bank's texts. Raises VocabularyError for a text encoder of none of the spaces."""
        return text_bank.feature_space_for(self.feature_spaces, bank, self.name)

    def with_vocabulary(self, spaces: Sequence[FeatureSpace], bank: TextBank | None) -> "StudentBundle":
        """Gives the saved bundle feature spaces and a bank, in place of those it has; returns it as loaded from there.

        All else stays as it is. Raises BundleError where the bundle was replaced since it was loaded, or the spaces do
        not fit its head; VocabularyError where the bank is in none of the spaces. `spaces`: spaces that follow from the
        label units; without any, the bank must be None; `bank`: phrases in one of the spaces; None for no bank.
        """
        changed = dataclasses.replace(self, feature_spaces=tuple(spaces))
        if bank is not None:
            changed.feature_space_for(bank)
        folder, manifest = self.encoder_path.parent, self.unchanged_manifest()
        files = changed._vocabulary_files(None if bank is None else bank.to_bytes())
        others = {name: value for name, value in self.sha256.items() if name not in _VOCABULARY_FILES}
        manifest.pop(text_bank.FEATURE_SPACES, None)
        manifest |= text_bank.spaces_to_json(changed.feature_spaces)
        manifest["sha256"] = others | {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
        _write(folder, files | {MANIFEST: _serialised(manifest)}, _VOCABULARY_FILES)
        return StudentBundle.load(folder)

    def _vocabulary_files(self, bank: bytes | None) -> dict[str, bytes]:
        tensors = {f"{s.name}.{part}": getattr(s, part) for s in self.feature_spaces for part in ("weight", "bias")}
        files = {FEATURE_SPACES_FILE: tensor_bytes(tensors)} if tensors else {}
        return files if bank is None else files | {TEXT_BANK: bank}

    @property
    def thresholds(self) -> Thresholds:
        """From where voxels count as occupied: of ground, and of what stands on it."""
        own = None if self.volume is None else self.obstacle_threshold  # fields do not know what stands
        return Thresholds(self.threshold, self.threshold if own is None else own)

    def made_from(self) -> dict[str, str]:
        """Hashes of graphs and head: what a measurement of the student depends on, but for its threshold."""
        return {name: self.sha256[name] for name in (ENCODER, *_THAT_DECODE, HEAD) if name in self.sha256}

    @classmethod
    def load(cls, folder: str | Path) -> "StudentBundle":
        """Reads a bundle; checks schema, hashes, fields, tensors. Raises BundleError with file, field and cure."""
        folder = Path(folder)
        if not (folder / MANIFEST).is_file():
            raise BundleError(f"no {MANIFEST} in it", where=str(folder), cure="Name the folder of a student bundle.")
        fields = JsonObject.read(folder / MANIFEST)
        version = fields.integer("schema_version")
        if version != SCHEMA_VERSION:
            what = f"is {version}, this version reads {SCHEMA_VERSION}"
            cure = "Update scene_completion_ros." if version > SCHEMA_VERSION else "Export the bundle again."
            raise fields.error("schema_version", what, cure)
        sha256 = _check_files(fields, folder)
        try:
            return cls(**_parse(fields), folder=folder, sha256=sha256)
        except BundleError as error:
            if str(folder) in error.where:
                raise
            raise BundleError(error.what, where=f"{folder / MANIFEST}: field {error.where}", cure=error.cure) from error

    def save(
        self,
        folder: str | Path,
        encoder_onnx: bytes,
        weights: Mapping[str, NDArray[Any]] | None = None,
        decoder: Sequence[bytes] | None = None,
    ) -> "StudentBundle":
        """Writes the bundle into a folder, which is made if needed, and returns it as loaded from there.

        A text bank that is in none of the feature spaces is dropped. `folder`: where to; files of an older bundle are
        replaced; `encoder_onnx`: the serialised ONNX graph; `weights`: unfolded weights for later training, stored as
        ``weights.safetensors``; `decoder`: the ONNX graphs that decode, of a student that `takes_evidence`; None for
        those that it has.
        """
        folder = Path(folder)
        files = {ENCODER: encoder_onnx}
        if self.head is not None:
            shapes = expected_shapes(self.head.hidden, self.point_code.size, self.head.label_hidden, self.head.classes)
            check_tensors(self.head.tensors(), shapes, f"head of bundle {self.name}")
            files[HEAD] = tensor_bytes(self.head.tensors())
        if decoder is None and self.takes_evidence and self.folder is not None:
            decoder = self.read_decoder(), self.read_cells()
        if decoder is not None:
            files |= zip(_THAT_DECODE, decoder, strict=True)
        if weights is not None:
            files[WEIGHTS] = tensor_bytes(weights)
        files |= self._vocabulary_files(self._kept_text_bank())
        manifest = self._manifest()
        manifest["sha256"] = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
        _write(folder, files | {MANIFEST: _serialised(manifest)}, {*_THAT_DECODE, HEAD, WEIGHTS} | _VOCABULARY_FILES)
        return StudentBundle.load(folder)

    def _kept_text_bank(self) -> bytes | None:
        """The bank, if it is whole and in one of the spaces."""
        with contextlib.suppress(BundleError, VocabularyError):
            if bank := self.text_bank():
                self.feature_space_for(bank)
                return bank.to_bytes()
        return None

    def load_weights(self) -> dict[str, NDArray[Any]]:
        """The unfolded weights for training. Raises BundleError where they are missing or not those saved."""
        where = str(self.folder / WEIGHTS) if self.folder else f"bundle {self.name}"
        if self.folder is None or WEIGHTS not in self.sha256 or not (self.folder / WEIGHTS).is_file():
            raise BundleError("is missing", where=where, cure="Take the bundle with its weights.")
        content = _read_checked(self.folder / WEIGHTS, self.sha256[WEIGHTS])
        return parse_tensors(content, BundleError, where=where, cure=CURE)

    def _manifest_of_head(self, head: HeadWeights) -> dict[str, Any]:
        return {
            "hidden": head.hidden,
            **({"label_hidden": head.label_hidden} if head.label_hidden else {}),
            "code": self.point_code.size,
            "feature_height": self.feature_size[0],
            "feature_width": self.feature_size[1],
        }

    def _manifest(self) -> dict[str, Any]:
        camera = self.canonical
        return {
            "schema_version": SCHEMA_VERSION,
            "name": self.name,
            "canonical_camera": {name: getattr(camera, name) for name in ("fx", "fy", "cx", "cy", "width", "height")},
            "height_above_ground": self.height_above_ground,
            **({} if self.height_range is None else {"height_range": self.height_range}),
            "pitch_range": self.pitch_range,
            "focal_range": self.focal_range,
            "depth_range": self.depth_range,
            "point_code": dataclasses.asdict(self.point_code),
            **({} if self.head is None else {"head": self._manifest_of_head(self.head)}),
            **({} if self.volume is None else {"volume": _manifest_of_volume(self.volume)}),
            "class_names": self.class_names,
            "class_colours": self.class_colours,
            "calibration": dataclasses.asdict(self.calibration),
            "threshold": self.threshold,
            **({} if self.obstacle_threshold is None else {"obstacle_threshold": self.obstacle_threshold}),
            "grid": {
                "frame": self.grid.frame,
                "origin": self.grid.origin,
                "voxel_size": self.grid.voxel_size,
                "shape": self.grid.shape,
                "grid_from_camera": [float(x) for x in self.grid_from_camera.matrix.reshape(-1)],
            },
            "provenance": self.provenance,
            "licence": self.licence,
            **({} if self.bf16 is None else {"bf16": dataclasses.asdict(self.bf16)}),
            **text_bank.spaces_to_json(self.feature_spaces),
        }


def _manifest_of_volume(volume: CellVolume) -> dict[str, Any]:
    return {name: getattr(volume, name) for name in ("level", "context", "around")} | {
        "ground": volume.ground._asdict(),
        **({"prior": volume.prior} if volume.prior else {}),
        **({"on_ground": [*volume.on_ground]} if volume.on_ground else {}),
    }


def _serialised(manifest: Mapping[str, Any]) -> bytes:
    return (json.dumps(manifest, indent=2, allow_nan=False) + "\n").encode()


def _write(folder: Path, files: Mapping[str, bytes], replaced: Set[str] = frozenset()) -> None:
    """Replaces files of a folder, and those that a bundle there lists, at one moment; further files there stay."""
    try:
        listed = replaced & set(read_json(folder / MANIFEST, BundleError, cure=CURE, kind=dict)["sha256"])
    except (BundleError, LookupError, TypeError):
        listed = set()
    with whole_folder(folder, [*files, *listed], replace=True) as part:
        for name, content in files.items():
            (part / name).write_bytes(content)


def _read_checked(file: Path, expected: str, *, largest: int = untrusted_files.MOST_ARRAY_BYTES) -> bytes:
    """Content of a file, of at most `largest` bytes."""
    content = read_bytes(file, BundleError, cure=CURE, most_bytes=largest)
    found = hashlib.sha256(content).hexdigest()
    if found != expected:
        what = f"sha256 is {found[:12]}…, {MANIFEST} has {expected[:12]}…: the file is damaged or was replaced"
        raise BundleError(what, where=str(file), cure=_FETCH)
    return content


def _read_graph(file: Path, expected: str) -> bytes:
    """The content of an ONNX file, see `_read_checked`, refused where it has weights elsewhere, or a loop."""
    content = _read_checked(file, expected)
    if b"location" in content and _OTHER_FILE.search(content):
        what = "has weights in another file, which no hash of the bundle covers"
        raise BundleError(what, where=str(file), cure="Export the encoder with its weights inside.")
    if b"Loop" in content and _LOOP.search(content):
        what = "has a loop, which may never end"
        raise BundleError(what, where=str(file), cure="Export the encoder without control flow.")
    return content


def _check_files(fields: JsonObject, folder: Path) -> dict[str, str]:
    hashes = fields.object("sha256")
    for name in (ENCODER, *(_THAT_DECODE if "volume" in fields.values else (HEAD,))):
        expected = hashes.text(name)
        if not (folder / name).is_file():
            raise BundleError("is missing", where=str(folder / name), cure=CURE)
        (_read_checked if name == HEAD else _read_graph)(folder / name, expected)
    return {name: hashes.text(name) for name in hashes.values}


def _parse(fields: JsonObject) -> dict[str, Any]:
    point_code = _parse_point_code(fields.object("point_code"))
    grid, grid_from_camera = placed_grid_of(fields.object("grid"))
    calibration = fields.object("calibration")
    class_names = fields.texts("class_names")
    class_colours = fields.colours("class_colours", len(class_names))
    of_kind: dict[str, Any] = {}
    if "volume" in fields.values:  # of a student that completes cells
        of_kind["volume"] = volume = _parse_volume(fields, grid, class_names)
        label_units = volume.classes
    else:
        of_kind["head"], of_kind["feature_size"] = _parse_head(fields, point_code, class_names)
        label_units = of_kind["head"].label_hidden

    def read_spaces() -> bytes:
        name = FEATURE_SPACES_FILE
        return _read_checked(
            fields.file.parent / name, fields.object("sha256").text(name), largest=text_bank.LARGEST_FILE
        )

    return {
        "name": fields.text("name"),
        "canonical": _parse_camera(fields.object("canonical_camera")),
        "point_code": point_code,
        **of_kind,
        "height_above_ground": fields.number_in("height_above_ground", _METRES),
        "height_range": fields.range_in("height_range", _METRES) if "height_range" in fields.values else None,
        "pitch_range": fields.range_in("pitch_range", (-math.pi, math.pi)),
        "focal_range": fields.range_in("focal_range", (1e-3, 1e3)),
        "depth_range": fields.range_in("depth_range", _METRES),
        "class_names": class_names,
        "class_colours": class_colours,
        "calibration": Calibration(
            calibration.text("kind"),  # type: ignore[arg-type] # it checks that itself
            calibration.numbers("alpha"),
            calibration.numbers("probability"),
        ),
        "threshold": fields.number_in("threshold", (0.0, 1.0)),
        "obstacle_threshold": (
            fields.number_in("obstacle_threshold", (0.0, 1.0)) if "obstacle_threshold" in fields.values else None
        ),
        "grid": grid,
        "grid_from_camera": grid_from_camera,
        "provenance": dict(fields.object("provenance").values),
        "licence": fields.text("licence"),
        "feature_spaces": text_bank.parse_feature_spaces(fields, label_units, read_spaces),
        "bf16": _parse_bf16(fields),
    }


def _parse_bf16(fields: JsonObject) -> MeasuredPrecision | None:
    if "bf16" not in fields.values:
        return None
    made_from, parity = fields.object("bf16").object("made_from"), fields.object("bf16").object("parity")
    return MeasuredPrecision(
        {name: _hash(made_from, name) for name in made_from.values},
        {name: parity.number(name) for name in parity.values},
    )


def _parse_camera(fields: JsonObject) -> Camera:
    for name in ("width", "height"):
        fields.number_in(name, (1, LARGEST_SIDE))
    return camera_of(fields)


def _parse_point_code(fields: JsonObject) -> PointCodeSpec:
    spec = PointCodeSpec(
        near=fields.number_in("near", _METRES),
        far=fields.number_in("far", _METRES),
        minimum_depth=fields.number_in("minimum_depth", _METRES),
        frequencies=fields.numbers("frequencies"),
        xy_limit=fields.number_in("xy_limit", (1.0, 100.0)),  # the edge of the image is 1
    )
    if not spec.near < spec.far:
        raise fields.error("near", f"{spec.near} is not less than far = {spec.far}")
    if max(map(abs, spec.frequencies), default=0.0) > LARGEST_FREQUENCY:
        raise fields.error("frequencies", f"one of them is beyond {LARGEST_FREQUENCY:g}")
    if spec.depth_code_range[1] > LARGEST_CODE:
        raise fields.error("minimum_depth", f"{spec.minimum_depth} is too small for near = {spec.near}")
    return spec


def _parse_head(
    fields: JsonObject, code: PointCodeSpec, class_names: Sequence[str]
) -> tuple[HeadWeights, tuple[int, int]]:
    """The head, and the size of the map that it reads."""
    sizes, classes = fields.object("head"), len(class_names)
    if sizes.integer("code") != code.size:
        raise sizes.error("code", f"is {sizes.integer('code')}, but the point code has {code.size} values")
    for name in ("feature_height", "feature_width"):
        sizes.number_in(name, (2, LARGEST_SIDE))
    label_hidden = _parse_label_hidden(fields, sizes, classes)
    head = HeadWeights.load(fields.file.parent / HEAD, sizes.integer("hidden"), code.size, label_hidden, classes)
    return head, (sizes.integer("feature_height"), sizes.integer("feature_width"))


def _parse_label_hidden(fields: JsonObject, sizes: JsonObject, classes: int) -> int:
    """Hidden units E of the labels; 0 where there are none."""
    if classes == 1 and "label_hidden" not in sizes.values:
        return 0
    label_hidden = sizes.integer("label_hidden")
    if label_hidden < 1:
        raise sizes.error("label_hidden", f"{label_hidden} is no number of units")
    if classes == 1:
        raise fields.error("class_names", "one name, but the labels of the head need at least two classes")
    return label_hidden


def _parse_volume(fields: JsonObject, grid: VoxelGrid, class_names: Sequence[str]) -> CellVolume:
    """The volume of a student that completes cells."""
    given = fields.object("volume")
    of_ground, level = given.object("ground"), given.number("level")
    numbers = (of_ground.number_in(name, _METRES) for name in ("nearest", "farthest", "scale_deviation"))
    ground = Ground(of_ground.text("name"), *numbers)
    if ground.name not in class_names:
        raise of_ground.error("name", f"{ground.name!r} is none of the classes")
    channels = {name: given.integer(name) for name in ("context", "around")}
    for name, count in channels.items():
        if not 0 <= count <= LARGEST_CONTEXT:
            raise given.error(name, f"{count} is no number of channels (0..{LARGEST_CONTEXT})")
    if len(class_names) < 2:
        raise fields.error("class_names", "one name, but cells need at least two classes")
    camera = fields.object("canonical_camera")
    for name in ("width", "height"):
        camera.number_in(name, (4, LARGEST_SIDE))  # cells sample between pixels of half of it
    if not STRIDE < min(grid.shape) <= max(grid.shape) <= LARGEST_SIDE:
        what = f"{grid.shape} has fewer than two cells along an axis, or more than {LARGEST_SIDE} voxels"
        raise fields.object("grid").error("shape", what)
    if (prior := given.integer("prior") if "prior" in given.values else 0) not in (0, PRIOR_EDGE):
        raise given.error("prior", f"columns of {prior} voxels, this version has those of {PRIOR_EDGE}")
    on_ground = tuple(given.integers("on_ground")) if "on_ground" in given.values else ()
    if not all(0 <= number < len(class_names) for number in on_ground):
        raise given.error("on_ground", f"{[*on_ground]} are not all numbers of classes")
    options: dict[str, Any] = {**channels, "prior": prior, "on_ground": on_ground}
    volume = CellVolume(grid, level, ground, class_names.index(ground.name), len(class_names), **options)
    if not (abs(level) <= _METRES[1] and volume.low >= 1):
        raise fields.error("volume", f"a ground at {level} m lies below the grid")
    if math.prod(volume.cells) * (volume.around + volume.looked_up + volume.of_cell) > LARGEST_VOLUME:
        what = f"{grid.shape} has too many cells with {sum(channels.values())} channels"
        raise fields.object("grid").error("shape", what)
    return volume


# Students by folder and by name.
AUTO = "auto"


def shipped_students() -> tuple[str, ...]:
    """Names of the students that come with the package."""
    return tuple(sorted(file.parent.name for file in DEFAULT_BUNDLE.parent.glob(f"*/{MANIFEST}")))


def open_student(named: str | Path | None) -> StudentBundle:
    """The student of a folder or name; without a name, or "auto", the default. Raises BundleError."""
    return StudentBundle.load(student_folder(named))


def student_folder(named: str | Path | None) -> Path:
    """The folder of a student, see `open_student`. Raises BundleError where there is none."""
    if named is None or str(named) in ("", AUTO):
        return DEFAULT_BUNDLE
    students = shipped_students()
    if Path(named).is_dir() or len(Path(named).parts) > 1:
        return Path(named)
    if str(named) in students:
        return DEFAULT_BUNDLE.with_name(str(named))
    what = f"there is neither such a folder nor such a student of the package ({', '.join(students)})"
    near = difflib.get_close_matches(str(named).lower(), students, 1)
    cure = f"Did you mean {near[0]}?" if near else "Name the folder of a bundle, or one of these."
    raise BundleError(what, where=str(named), cure=cure)
