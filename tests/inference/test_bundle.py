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
    DECODER,
    DEFAULT_BUNDLE,
    ENCODER,
    HEAD,
    MANIFEST,
    SCHEMA_VERSION,
    TEXT_BANK,
    WEIGHTS,
    StudentBundle,
)
from scene_completion_ros.inference.text_bank import FEATURE_SPACES_FILE as SPACES
from scene_completion_ros.inference.text_bank import TextBank
from scene_completion_ros.voxels.occupancy import Calibration
from tests.inference.small_bundle import (
    CANONICAL,
    class_colours,
    class_names,
    make_small_bundle,
    random_head,
    road_head,
    tiny_encoder,
    with_labels,
)
from tests.inference.small_vocabulary import small_bank, small_space


def edit_manifest(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    manifest = json.loads((folder / MANIFEST).read_text())
    change(manifest)
    (folder / MANIFEST).write_text(json.dumps(manifest))


def replace_head(folder: Path, **tensors: np.ndarray | None) -> None:
    """Replaces tensors of the head (None removes one)."""
    content = safetensors.numpy.load_file(folder / HEAD)
    for name, tensor in tensors.items():
        if tensor is None:
            del content[name]
        else:
            content[name] = tensor
    replace_file(folder, HEAD, safetensors.numpy.save(content))


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
    saved = make_small_bundle(tmp_path / "student", grid_from_camera=pose, head=head, **fields)
    given = {"canonical": CANONICAL, "feature_size": (96, 320), **fields}
    for bundle in (saved, StudentBundle.load(tmp_path / "student")):
        for name, value in given.items():
            assert getattr(bundle, name) == value, name
        np.testing.assert_allclose(bundle.grid_from_camera.matrix, pose.matrix, atol=1e-12)
        assert bundle.head.tensors().keys() == head.tensors().keys()
        for name, tensor in head.tensors().items():
            np.testing.assert_array_equal(getattr(bundle.head, name), tensor)
        assert (bundle.head.label_hidden, bundle.head.classes) == (label_hidden, len(names))
        assert bundle.head.channels == 64 + label_hidden
        assert bundle.encoder_path.read_bytes() == tiny_encoder(label_hidden=label_hidden)
    assert json.loads((tmp_path / "student" / MANIFEST).read_text())["head"].get("label_hidden", 0) == label_hidden


def test_the_shipped_student_knows_the_classes_of_a_street() -> None:
    shipped = StudentBundle.load(DEFAULT_BUNDLE)
    assert {"road", "sidewalk", "building", "vegetation", "car"} <= set(shipped.class_names)
    assert len(set(shipped.class_colours)) == len(shipped.class_names) == shipped.head.classes
    assert shipped.head.channels == shipped.head.hidden + shipped.head.label_hidden > shipped.head.hidden


def test_labels_and_a_head_that_do_not_announce_each_other_are_refused(tmp_path: Path) -> None:
    make_small_bundle(tmp_path)
    several = {"class_names": ["road", "car"], "class_colours": [[1, 2, 3], [4, 5, 6]]}
    edit_manifest(tmp_path, lambda m: m.update(several))
    assert refused(tmp_path).where.endswith("field head.label_hidden")
    edit_manifest(tmp_path, lambda m: m["head"].update(label_hidden=64))
    assert "tensor label_positional_weight" in refused(tmp_path).where
    make_small_bundle(tmp_path)
    replace_head(tmp_path, label_bias=np.zeros(3, np.float32))
    error = refused(tmp_path)
    assert f"{HEAD}: tensor label_bias" in error.where
    assert "label_hidden" in error.what


def test_classes_and_head_of_a_new_bundle_have_to_agree() -> None:
    for head, count in ((random_head(), 2), (with_labels(random_head(), 3), 2), (with_labels(random_head(), 1), 1)):
        with pytest.raises(BundleError, match="class_names"):
            StudentBundle(
                name="new",
                canonical=CANONICAL,
                head=head,
                class_names=class_names(count),
                class_colours=class_colours(count),
            )


def test_weights_beside_the_bundle(tmp_path: Path) -> None:
    bundle = make_small_bundle(tmp_path)
    with pytest.raises(BundleError, match=WEIGHTS):
        bundle.load_weights()
    bundle.save(tmp_path, tiny_encoder(), {"stem": np.arange(6, dtype=np.float16).reshape(2, 3)})
    loaded = StudentBundle.load(tmp_path)
    np.testing.assert_array_equal(loaded.load_weights()["stem"], [[0, 1, 2], [3, 4, 5]])
    (tmp_path / WEIGHTS).write_bytes(b"x" + (tmp_path / WEIGHTS).read_bytes()[1:])
    with pytest.raises(BundleError, match="sha256"):
        loaded.load_weights()
    (tmp_path / WEIGHTS).unlink()
    StudentBundle.load(tmp_path)  # the robot does not need them


def test_a_bundle_takes_the_place_of_an_earlier_one_and_of_no_other_file(tmp_path: Path) -> None:
    files = {ENCODER, HEAD, MANIFEST}
    (tmp_path / DECODER).write_bytes(b"mine")
    make_small_bundle(tmp_path).save(tmp_path, tiny_encoder(), {"stem": np.zeros(1, np.float32)})
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


def test_an_encoder_that_was_replaced_after_loading_is_refused(tmp_path: Path) -> None:
    loaded = make_small_bundle(tmp_path)
    assert loaded.read_encoder() == (tmp_path / ENCODER).read_bytes()
    (tmp_path / ENCODER).write_bytes(tiny_encoder() + b"of another student")
    with pytest.raises(BundleError, match="was replaced"):
        loaded.read_encoder()
    (tmp_path / ENCODER).unlink()
    with pytest.raises(BundleError, match="cannot be read"):
        loaded.read_encoder()


@pytest.mark.parametrize("spelt", [b"\x08location", b"\x88\x00location", b"\x88\x80\x80\x00location"])
@pytest.mark.parametrize("named", ["../../etc/passwd", "/etc/passwd", "weights.bin"])
def test_an_encoder_with_weights_in_another_file_is_refused(tmp_path: Path, named: str, spelt: bytes) -> None:
    """Engines look for them where the process runs; protobuf allows a length to be written in more bytes."""
    saved = make_small_bundle(tmp_path / "bundle")
    graph = onnx.load_from_string(saved.read_encoder())
    tensor = graph.graph.initializer[0]
    size = len(tensor.raw_data)
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    for key, value in (("location", named), ("length", str(size))):
        tensor.external_data.add(key=key, value=value)
    content = graph.SerializeToString()
    assert content.count(b"\x08location") == 1
    with pytest.raises(BundleError, match="encoder.onnx: has weights in another file"):
        saved.save(tmp_path / "spoilt", content.replace(b"\x08location", spelt))


@pytest.mark.parametrize("spelt", [b"\x22\x04Loop", b"\x22\x84\x00Loop", b"\xa2\x00\x84\x80\x00Loop"])
def test_an_encoder_with_a_loop_is_refused(tmp_path: Path, spelt: bytes) -> None:
    saved = make_small_bundle(tmp_path / "bundle")
    graph = onnx.load_from_string(saved.read_encoder())
    graph.graph.node.add(op_type="Loop", name="endless")
    content = graph.SerializeToString()
    assert content.count(b"\x22\x04Loop") == 1
    with pytest.raises(BundleError, match="encoder.onnx: has a loop, which may never end. Export the encoder without"):
        saved.save(tmp_path / "spoilt", content.replace(b"\x22\x04Loop", spelt))


def test_a_newer_schema_asks_for_an_update_and_a_pickle_is_not_a_head(tmp_path: Path) -> None:
    make_small_bundle(tmp_path)
    edit_manifest(tmp_path, lambda m: m.update(schema_version=SCHEMA_VERSION + 1))
    error = refused(tmp_path)
    assert "schema_version" in error.where
    assert "Update" in error.cure
    make_small_bundle(tmp_path)
    replace_file(tmp_path, HEAD, b"\x80\x04N.")
    assert "safetensors" in refused(tmp_path).what


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"density_bias": None}, "tensor density_bias: is missing"),
        ({"hidden_bias": np.zeros(63, dtype=np.float32)}, r"tensor hidden_bias: is float32 \(63,\)"),
        ({"positional_weight": np.zeros((64, 39), dtype=np.float16)}, "tensor positional_weight: is float16"),
        ({"density_weight": np.full(64, np.nan, dtype=np.float32)}, "tensor density_weight: holds NaN"),
        (
            {"label_positional_weight": np.zeros((16, 38), np.float32)},
            r"tensor label_positional_weight: .*\(16, 39\).*one column a value of the point code",
        ),
        ({"label_hidden_bias": np.zeros(15, np.float32)}, r"tensor label_hidden_bias: .*head\.label_hidden units"),
        ({"label_weight": np.zeros((4, 16), np.float32)}, r"\(4, 16\) where float32 \(3, 16\).*each of class_names"),
        ({"label_bias": np.full(3, 1e30, np.float32)}, "tensor label_bias: holds NaN, or values beyond"),
    ],
)
def test_bad_tensors_are_named(tmp_path: Path, tensors: dict[str, np.ndarray | None], message: str) -> None:
    head = with_labels(road_head(), 3, 16)
    make_small_bundle(tmp_path, head=head, class_names=class_names(3), class_colours=class_colours(3))
    replace_head(tmp_path, **tensors)
    error = refused(tmp_path)
    assert re.search(message, str(error))
    assert HEAD in error.where


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (lambda m: m.pop("threshold"), "threshold"),
        (lambda m: m.update(threshold=1.5), "threshold"),
        (lambda m: m["canonical_camera"].update(fx=0.0), "canonical_camera"),
        (lambda m: m["canonical_camera"].update(width=640.5), "canonical_camera.width"),
        (lambda m: m["point_code"].update(frequencies=[1.0, 2.0]), "head.code"),
        (lambda m: m["point_code"].update(near=100.0), "point_code.near"),
        (lambda m: m["point_code"].update(minimum_depth=0.0), "point_code.minimum_depth"),
        (lambda m: m["point_code"].update(frequencies=[1e308] * 6), "point_code.frequencies"),
        (lambda m: m["point_code"].update(xy_limit=1e9), "point_code.xy_limit"),
        (lambda m: m["canonical_camera"].update(width=100_000, height=100_000), "canonical_camera.width"),
        (lambda m: m["head"].update(feature_height=0), "head.feature_height"),
        (lambda m: m["grid"].update(shape=[100_000] * 3), "grid"),
        (lambda m: m.update(height_above_ground=0.0), "height_above_ground"),
        (lambda m: m.update(depth_range=[80.0, 3.0]), "depth_range"),
        (lambda m: m.update(pitch_range=[0.0, 7.0]), "pitch_range"),
        (lambda m: m["grid"].update(grid_from_camera=[1.0] * 16), "grid"),
        (lambda m: m["grid"].update(grid_from_camera=[1.0] * 15), "grid.grid_from_camera"),
        (lambda m: m["calibration"].update(kind="magic"), "calibration"),
        (lambda m: m.update(focal_range=[0.7, 0.5]), "focal_range"),
        (lambda m: m["normalisation"].update(mean=[1.0]), "normalisation.mean"),
        (lambda m: m.pop("sha256"), "sha256"),
        (lambda m: m["sha256"].pop(HEAD), f"sha256.{HEAD}"),
        (lambda m: m.update(provenance="a bag"), "provenance"),
        (lambda m: m["head"].pop("label_hidden"), "head.label_hidden"),
        (lambda m: m.update(schema_version=1), "schema_version"),
        (lambda m: m.update(class_names=["one"], class_colours=[[0, 0, 0]]), "class_names"),
        (lambda m: m.update(class_names=["car", "road", "car"]), "class_names"),
        (lambda m: m.update(class_colours=[[0, 0, 0]] * 2), "class_colours"),
        (lambda m: m["class_colours"].__setitem__(1, [0, 0, 256]), "class_colours.1"),
        (lambda m: m["class_colours"].__setitem__(0, [0, 0, 0.5]), "class_colours.0.2"),
    ],
)
def test_bad_fields_are_named(tmp_path: Path, change: Callable[[dict[str, Any]], Any], field: str) -> None:
    make_small_bundle(tmp_path, classes=3)
    edit_manifest(tmp_path, change)
    assert re.search(rf"field {re.escape(field)}(\W|$)", refused(tmp_path).where)


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
    ("fields", "told"),
    [
        ({"text_encoder_sha256": "ef" * 32}, "spaces of another encoder only: clip.*tiny-encoder abab"),
        ({"text_encoder_sha256": "cd" * 32}, "made by the text encoder tiny-encoder cdcdcdcdcdcd .*abababababab"),
        ({"dimension": 8}, "8 numbers a phrase.*another dimension only: clip.*16 numbers"),
    ],
)
def test_a_bank_of_another_encoder_or_student_is_refused(tmp_path: Path, fields: dict[str, Any], told: str) -> None:
    given, before = with_vocabulary(tmp_path), contents(tmp_path)
    with pytest.raises(VocabularyError, match=told):
        given.feature_space_for(small_bank(**fields).vocabulary())
    with pytest.raises(VocabularyError, match=told):
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
    with pytest.raises(BundleError, match="at most 16"):
        labelled.with_vocabulary([small_space(str(i)) for i in range(17)], None)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda m: m.update(feature_spaces={}), "no list of 1 to 16 objects"),
        (lambda m: m.update(feature_spaces=[]), "no list of 1 to 16 objects"),
        (lambda m: m.update(feature_spaces=[3]), "is not an object"),
        (lambda m: m["feature_spaces"][0].update(dimension=10**9), "1000000000 is not in 1..8192"),
        (lambda m: m["feature_spaces"][0].update(dimension=15), r"clip\.weight: has shape \(16, 64\) where \(15, 64\)"),
        (lambda m: m["feature_spaces"][0].update(name="dino"), r"dino\.weight: is missing"),
        (lambda m: m["feature_spaces"][0].update(temperature=-1), "temperature"),
        (lambda m: m["feature_spaces"][0].pop("text_encoder"), "is missing"),
        (lambda m: m["sha256"].pop(SPACES), "sha256.feature_spaces.safetensors: is missing"),
        (lambda m: m["sha256"].update({SPACES: "0" * 64}), "damaged or was replaced"),
    ],
)
def test_fields_of_spaces_that_cannot_be_are_refused(tmp_path: Path, change: Any, told: str) -> None:
    with_vocabulary(tmp_path)
    edit_manifest(tmp_path, change)
    error = refused(tmp_path)
    assert re.search(told, str(error))
    assert error.cure


def test_tensors_of_spaces_that_cannot_be_are_refused(tmp_path: Path) -> None:
    with_vocabulary(tmp_path)
    weight, bias = np.ones((16, 64), np.float32), np.ones(16, np.float32)
    for tensors, told in (
        ({"clip.weight": weight}, "clip.bias: is missing"),
        ({"clip.weight": weight * np.nan, "clip.bias": bias}, "not finite"),
        ({"clip.weight": weight.astype(np.float16), "clip.bias": bias}, "is float16"),
        ({"clip.weight": weight, "clip.bias": bias, "more": np.ones(10**5)}, "is larger than"),
    ):
        replace_file(tmp_path, SPACES, safetensors.numpy.save(tensors))
        assert told in str(refused(tmp_path))
    replace_file(tmp_path, SPACES, b"")
    assert "not a valid safetensors file" in str(refused(tmp_path))


def test_a_bank_that_was_replaced_is_refused_but_the_student_loads(tmp_path: Path) -> None:
    with_vocabulary(tmp_path)
    small_bank(licence="other").save(tmp_path / TEXT_BANK)
    loaded = StudentBundle.load(tmp_path)
    with pytest.raises(BundleError, match="damaged or was replaced"):
        loaded.text_bank()
    assert TextBank.load(tmp_path / TEXT_BANK).licence == "other"


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
