"""Bundles: what is written, read, refused, kept and dropped, and which of the shipped ones is taken."""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import safetensors.numpy

from scene_completion_ros.errors import BundleError, VocabularyError
from scene_completion_ros.geometry import RigidTransform, VoxelGrid
from scene_completion_ros.inference.bundle import (
    AUTO,
    DECODER,
    DEFAULT_BUNDLE,
    ENCODER,
    HEAD,
    MANIFEST,
    SCHEMA_VERSION,
    TEXT_BANK,
    WEIGHTS,
    StudentBundle,
    open_student,
    shipped_students,
)
from scene_completion_ros.inference.text_bank import FEATURE_SPACES_FILE as SPACES
from scene_completion_ros.voxels.occupancy import Calibration
from tests.inference.small_bundle import (
    CANONICAL,
    make_small_bundle,
    random_head,
    road_head,
    small_bank,
    small_space,
    tiny_encoder,
    with_labels,
)


def edit_manifest(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    manifest = json.loads((folder / MANIFEST).read_text())
    change(manifest)
    (folder / MANIFEST).write_text(json.dumps(manifest))


def replace_tensors(folder: Path, file: str, **tensors: np.ndarray | None) -> None:
    """Replaces tensors of a file (None removes one)."""
    content = {**safetensors.numpy.load_file(folder / file), **tensors}
    kept = {name: tensor for name, tensor in content.items() if tensor is not None}
    replace_file(folder, file, safetensors.numpy.save(kept))


def replace_file(folder: Path, name: str, data: bytes) -> None:
    """Replaces a file and puts the hash right."""
    (folder / name).write_bytes(data)
    edit_manifest(folder, lambda m: m["sha256"].update({name: hashlib.sha256(data).hexdigest()}))


def refused(folder: Path) -> BundleError:
    with pytest.raises(BundleError) as caught:
        StudentBundle.load(folder)
    assert str(folder) in caught.value.where
    assert caught.value.cure
    return caught.value


@pytest.mark.parametrize(
    ("label_hidden", "names", "colours"),
    [(0, ("unlabelled",), ((128, 128, 128),)), (16, ("road", "car"), ((1, 2, 3), (0, 255, 6)))],
)
def test_everything_comes_back(
    tmp_path: Path, label_hidden: int, names: tuple[str, ...], colours: tuple[tuple[int, int, int], ...]
) -> None:
    head = with_labels(road_head(), 2, label_hidden) if label_hidden else road_head()
    pose = RigidTransform.from_quaternion((0.5, -0.5, 0.5, 0.5), (0.3, 0.0, -0.1))
    fields: dict[str, Any] = {
        "calibration": Calibration("piecewise_linear", (0.0, 0.3), (0.01, 0.8)),
        "threshold": 0.4,
        "height_above_ground": 1.2,
        "pitch_range": (-0.1, 0.2),
        "focal_range": (0.3, 0.7),
        "depth_range": (2.0, 60.0),
        "grid": VoxelGrid((1.0, -2.0, 3.0), 0.1, (10, 20, 30), "lidar"),
        "provenance": {"windows": ["00", "01"], "steps": 5},
        "licence": "CC BY-NC-SA 3.0",
        "class_names": names,
        "class_colours": colours,
    }
    bundle = make_small_bundle(tmp_path, grid_from_camera=pose, head=head, **fields)  # as loaded from there
    given = {"canonical": CANONICAL, "feature_size": (96, 320), **fields}
    for name, value in given.items():
        assert getattr(bundle, name) == value, name
    np.testing.assert_allclose(bundle.grid_from_camera.matrix, pose.matrix, atol=1e-12)
    assert bundle.head.tensors().keys() == head.tensors().keys()
    for name, tensor in head.tensors().items():
        np.testing.assert_array_equal(getattr(bundle.head, name), tensor)
    assert (bundle.head.label_hidden, bundle.head.classes) == (label_hidden, len(names))
    assert bundle.head.channels == 64 + label_hidden
    assert bundle.encoder_path.read_bytes() == tiny_encoder(label_hidden=label_hidden)
    assert json.loads((tmp_path / MANIFEST).read_text())["head"].get("label_hidden", 0) == label_hidden


def test_a_bundle_with_weights_takes_the_place_of_an_earlier_one_and_of_no_other_file(tmp_path: Path) -> None:
    files = {ENCODER, HEAD, MANIFEST}
    (tmp_path / DECODER).write_bytes(b"mine")
    plain = make_small_bundle(tmp_path)
    with pytest.raises(BundleError, match=WEIGHTS):
        plain.load_weights()
    trained = plain.save(tmp_path, tiny_encoder(), {"stem": np.arange(6, dtype=np.float16).reshape(2, 3)})
    np.testing.assert_array_equal(trained.load_weights()["stem"], [[0, 1, 2], [3, 4, 5]])
    assert contents(tmp_path).keys() == files | {WEIGHTS, DECODER}
    make_small_bundle(tmp_path)
    assert contents(tmp_path).keys() == files | {DECODER} and contents(tmp_path)[DECODER] == b"mine"


@pytest.mark.parametrize("name", [ENCODER, HEAD])
def test_a_changed_or_missing_file_is_refused(tmp_path: Path, name: str) -> None:
    make_small_bundle(tmp_path)
    content = bytearray((tmp_path / name).read_bytes())
    content[-1] ^= 1
    (tmp_path / name).write_bytes(bytes(content))
    error = refused(tmp_path)
    assert name in error.where and "sha256" in error.what
    (tmp_path / name).unlink()
    error = refused(tmp_path)
    assert name in error.where and "missing" in error.what


EXTERNAL = "has weights in another file"
LOOP = "has a loop, which may never end. Export the encoder without"


@pytest.mark.parametrize(
    ("named", "plain", "spelt", "why"),
    [
        *((named, b"\x08location", spelt, EXTERNAL)
          for named in ("../../etc/passwd", "/etc/passwd", "weights.bin")
          for spelt in (b"\x08location", b"\x88\x00location", b"\x88\x80\x80\x00location")),
        *(("", b"\x22\x04Loop", spelt, LOOP)
          for spelt in (b"\x22\x04Loop", b"\x22\x84\x00Loop", b"\xa2\x00\x84\x80\x00Loop")),
    ],
)  # fmt: skip
def test_an_encoder_with_weights_in_another_file_or_a_loop_is_refused(
    tmp_path: Path, named: str, plain: bytes, spelt: bytes, why: str
) -> None:
    """Engines look for weights where the process runs; protobuf allows a length to be written in more bytes."""
    saved = make_small_bundle(tmp_path / "bundle")
    graph = onnx.load_from_string(saved.read_encoder())
    if named:
        tensor = graph.graph.initializer[0]
        size = len(tensor.raw_data)
        tensor.ClearField("raw_data")
        tensor.data_location = onnx.TensorProto.EXTERNAL
        for key, value in (("location", named), ("length", str(size))):
            tensor.external_data.add(key=key, value=value)
    else:
        graph.graph.node.add(op_type="Loop", name="endless")
    content = graph.SerializeToString()
    assert content.count(plain) == 1
    with pytest.raises(BundleError, match=f"encoder.onnx: {why}"):
        saved.save(tmp_path / "spoilt", content.replace(plain, spelt))


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def with_vocabulary(folder: Path) -> StudentBundle:
    return make_small_bundle(folder, classes=3).with_vocabulary((small_space(),), small_bank())


def test_feature_spaces_and_a_bank_come_back(tmp_path: Path) -> None:
    plain = make_small_bundle(tmp_path, classes=3)
    assert (plain.feature_spaces, plain.text_bank()) == ((), None)
    spaces = (small_space("dino", 24, text_encoder=""), small_space("clip", temperature=0.05))
    given = plain.with_vocabulary(spaces, small_bank())
    assert [(s.name, s.dimension, s.text_encoder, s.temperature) for s in given.feature_spaces] == [
        ("dino", 24, "", 0.07),
        ("clip", 16, "tiny-encoder", 0.05),
    ]
    assert np.array_equal(given.feature_spaces[1].weight, spaces[1].weight)
    bank = given.text_bank()
    assert bank.sha256 == small_bank().sha256
    assert given.feature_space_for(bank).name == given.feature_space_for(bank.vocabulary()).name == "clip"


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"text_encoder_sha256": "ef" * 32}, "spaces of another encoder only: clip.*tiny-encoder abab"),
        ({"text_encoder_sha256": "cd" * 32}, "made by the text encoder tiny-encoder cdcdcdcdcdcd .*abababababab"),
        ({"dimension": 8}, "8 numbers a phrase.*another dimension only: clip.*16 numbers"),
    ],
)
def test_a_bank_of_another_encoder_or_student_is_refused(tmp_path: Path, fields: dict[str, Any], sentence: str) -> None:
    given, before = with_vocabulary(tmp_path), contents(tmp_path)
    with pytest.raises(VocabularyError, match=sentence):
        given.feature_space_for(small_bank(**fields).vocabulary())
    with pytest.raises(VocabularyError, match=sentence):
        given.with_vocabulary(given.feature_spaces, small_bank(**fields))
    with pytest.raises(VocabularyError, match="student small has no feature spaces"):
        dataclasses.replace(given, feature_spaces=()).feature_space_for(small_bank())
    assert contents(tmp_path) == before


def test_spaces_that_do_not_fit_the_head_are_refused(tmp_path: Path) -> None:
    labelled, plain = make_small_bundle(tmp_path / "a", classes=3), make_small_bundle(tmp_path / "b")
    with pytest.raises(BundleError, match="reads 32 label units, the head has 64"):
        labelled.with_vocabulary((small_space(units=32),), None)
    with pytest.raises(BundleError, match="the head has none"):
        plain.with_vocabulary((small_space(),), None)
    with pytest.raises(BundleError, match=r"feature_spaces\.clip: comes twice"):
        labelled.with_vocabulary((small_space(), small_space()), None)
    with pytest.raises(BundleError, match="letters, digits"):
        small_space("../clip")


def test_a_bundle_stays_while_another_cannot_be_written_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = make_small_bundle(tmp_path / "b", seed=1)
    write, written = Path.write_bytes, []

    def full(self: Path, data: bytes) -> int:
        written.append(self.name)
        if len(written) > 1:
            raise OSError(errno.ENOSPC, "full")
        return write(self, data)

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="full"):
        make_small_bundle(tmp_path / "b", seed=2)
    assert StudentBundle.load(tmp_path / "b").sha256 == before.sha256
    assert [path.name for path in tmp_path.iterdir()] == ["b"]


def test_students_are_named_by_their_folders(tmp_path: Path) -> None:
    named = make_small_bundle(tmp_path / "named", name="named")
    assert {"kitti_student", "room", "street"} <= {*shipped_students()}
    assert open_student("street").folder == DEFAULT_BUNDLE.with_name("street")
    for default in (None, AUTO, DEFAULT_BUNDLE.name):
        assert open_student(default).folder == DEFAULT_BUNDLE
    assert open_student(named.folder).name == "named"
    shipped = r"there is neither such a folder nor such a student of the package \(kitti_student, room, street\)"
    near = {"strret": "Did you mean street", "Kitti-Student": "Did you mean kitti_student", "x": "Name the folder"}
    for wrong, cure in near.items():
        with pytest.raises(BundleError, match=f"^{wrong}: {shipped}. {cure}"):
            open_student(wrong)


@pytest.fixture
def bundle(tmp_path: Path) -> StudentBundle:
    return make_small_bundle(tmp_path / "student", classes=3)


@pytest.mark.parametrize(
    ("file", "read", "replaced", "missing"),
    [
        (ENCODER, StudentBundle.read_encoder, "was replaced", "cannot be read"),
        (TEXT_BANK, StudentBundle.text_bank, "damaged or was replaced", "cannot be read"),
        (WEIGHTS, StudentBundle.load_weights, "sha256", "is missing"),
    ],
)
def test_a_file_that_is_read_later_is_checked_then(
    bundle: StudentBundle, file: str, read: Callable[[StudentBundle], Any], replaced: str, missing: str
) -> None:
    worded = bundle.with_vocabulary((small_space(),), small_bank())
    loaded = worded.save(worded.encoder_path.parent, worded.read_encoder(), {"stem": np.zeros(1, np.float32)})
    path = loaded.encoder_path.with_name(file)
    assert read(loaded) is not None
    for change, sentence in ((lambda: path.write_bytes(b"another"), replaced), (path.unlink, missing)):
        change()
        if file != ENCODER:
            loaded = StudentBundle.load(path.parent)  # the robot does not need it
        with pytest.raises(BundleError, match=sentence) as caught:
            read(loaded)
        assert caught.value.where == str(path)


WEIGHT, BIAS = np.ones((16, 64), np.float32), np.ones(16, np.float32)


@pytest.mark.parametrize(
    ("file", "tensors", "words"),
    [
        (HEAD, {"density_bias": None}, "tensor density_bias: is missing"),
        (HEAD, {"hidden_bias": np.zeros(63, np.float32)}, r"tensor hidden_bias: is float32 \(63,\)"),
        (HEAD, {"positional_weight": np.zeros((64, 39), np.float16)}, "tensor positional_weight: is float16"),
        (HEAD, {"density_weight": np.full(64, np.nan, np.float32)}, "tensor density_weight: holds NaN"),
        (HEAD, {"label_weight": WEIGHT}, r"label_weight: is float32 \(16, 64\) where float32 \(3, 64\) is needed"),
        (HEAD, {"label_bias": np.full(3, 1e30, np.float32)}, "tensor label_bias: holds NaN, or values beyond"),
        (SPACES, {"clip.bias": None}, "clip.bias: is missing"),
        (SPACES, {"clip.weight": WEIGHT * np.nan}, "not finite"),
        (SPACES, {"clip.weight": WEIGHT.astype(np.float16)}, "is float16"),
    ],
)
def test_bad_tensors_are_named(tmp_path: Path, file: str, tensors: dict[str, Any], words: str) -> None:
    with_vocabulary(tmp_path)
    replace_tensors(tmp_path, file, **tensors)
    error = refused(tmp_path)
    assert re.search(words, str(error)) and file in error.where


def test_a_head_has_no_tensors_of_labels_without_them_and_is_no_pickle(tmp_path: Path) -> None:
    make_small_bundle(tmp_path)
    replace_tensors(tmp_path, HEAD, label_bias=BIAS)
    assert f"{HEAD}: tensor label_bias" in refused(tmp_path).where
    replace_file(tmp_path, HEAD, b"\x80\x04N.")
    assert "safetensors" in refused(tmp_path).what


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda m: m.update(threshold=1.5), r"field threshold\W"),
        (lambda m: m["canonical_camera"].update(fx=0.0), r"field canonical_camera\W"),
        (lambda m: m["point_code"].update(frequencies=[1.0, 2.0]), r"field head.code\W"),
        (lambda m: m["point_code"].update(near=100.0), r"field point_code.near\W"),
        (lambda m: m["point_code"].update(minimum_depth=0.0), r"field point_code.minimum_depth\W"),
        (lambda m: m["point_code"].update(frequencies=[1e308] * 6), r"field point_code.frequencies\W"),
        (lambda m: m["point_code"].update(xy_limit=1e9), r"field point_code.xy_limit\W"),
        (lambda m: m["canonical_camera"].update(width=100_000, height=100_000), r"field canonical_camera.width\W"),
        (lambda m: m["head"].update(feature_height=0), r"field head.feature_height\W"),
        (lambda m: m["grid"].update(shape=[100_000] * 3), r"field grid\W"),
        (lambda m: m.update(height_above_ground=0.0), r"field height_above_ground\W"),
        (lambda m: m.update(depth_range=[80.0, 3.0]), r"field depth_range\W"),
        (lambda m: m.update(pitch_range=[0.0, 7.0]), r"field pitch_range\W"),
        (lambda m: m["grid"].update(grid_from_camera=[1.0] * 16), r"field grid\W"),
        (lambda m: m["calibration"].update(kind="magic"), r"field calibration\W"),
        (lambda m: m.update(focal_range=[0.7, 0.5]), r"field focal_range\W"),
        (lambda m: m.pop("sha256"), r"field sha256\W"),
        (lambda m: m["sha256"].pop(HEAD), r"field sha256.head.safetensors\W"),
        (lambda m: m["head"].pop("label_hidden"), r"field head.label_hidden\W"),
        (lambda m: m.update(schema_version=5), r"(?s)field schema_version\W.*reads 8. Export"),
        (lambda m: m.update(schema_version=SCHEMA_VERSION + 1), r"(?s)field schema_version\W.*Update"),
        (lambda m: m.update(class_names=["one"], class_colours=[[0, 0, 0]]), r"field class_names\W"),
        (lambda m: m.update(class_names=["car", "road", "car"]), r"field class_names\W"),
        (lambda m: m.update(class_colours=[[0, 0, 0]] * 2), r"field class_colours\W"),
        (lambda m: m["class_colours"].__setitem__(1, [0, 0, 256]), r"field class_colours.1\W"),
        (lambda m: m["feature_spaces"][0].update(dimension=15), r"clip\.weight: has shape \(16, 64\) where \(15, 64\)"),
        (lambda m: m["feature_spaces"][0].update(name="dino"), r"dino\.weight: is missing"),
        (lambda m: m["feature_spaces"][0].update(temperature=-1), "temperature"),
        (lambda m: m["sha256"].pop(SPACES), "sha256.feature_spaces.safetensors: is missing"),
        (lambda m: m["sha256"].update({SPACES: "0" * 64}), "damaged or was replaced"),
    ],
)
def test_bad_fields_are_named(bundle: StudentBundle, change: Callable[[dict[str, Any]], Any], words: str) -> None:
    """Missing fields and those of another type are tested with the documents of all readers."""
    bundle.with_vocabulary((small_space(),), small_bank())
    edit_manifest(bundle.folder, change)
    assert re.search(words, str(refused(bundle.folder)))


def test_a_bundle_that_was_replaced_meanwhile_is_not_written_to(tmp_path: Path) -> None:
    loaded = make_small_bundle(tmp_path)
    make_small_bundle(tmp_path, head=random_head(seed=7))
    before = contents(tmp_path)
    with pytest.raises(BundleError, match="replaced meanwhile"):
        loaded.with_bf16({"occupied_iou": 1.0})
    assert contents(tmp_path) == before
