"""Encoders for GPUs in a bundle: what is read, refused, kept and dropped. What they compute is no matter here."""

import dataclasses
import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.measuring import canonical_image
from scene_completion_ros.errors import BundleError
from scene_completion_ros.inference.bundle import (
    DEFAULT_BUNDLE,
    ENCODER,
    HEAD,
    MANIFEST,
    GpuEncoder,
    StudentBundle,
    open_student,
)
from scene_completion_ros.inference.encoder import make_encoder
from tests.inference.small_bundle import make_small_bundle, random_head, serialised, tiny_encoder
from tests.inference.test_bundle import contents, edit_manifest, refused

HALF, SINGLE = b"a graph in float16", b"a graph in float32"


def encoder(precision: str, **fields: Any) -> GpuEncoder:
    values: dict[str, Any] = {"parity": {"images": 8.0, "occupied_iou": 0.99}, "reference": "torch"}
    return GpuEncoder(precision, "", {}, **{**values, **fields})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where the bundle lies."""
    return tmp_path / "student"


@pytest.fixture
def bundle(folder: Path) -> StudentBundle:
    return make_small_bundle(folder).add_gpu_encoders(
        {"fp32": (SINGLE, encoder("fp32")), "fp16": (HALF, encoder("fp16"))}
    )


def test_variants_come_back(bundle: StudentBundle, folder: Path) -> None:
    for found in (bundle, StudentBundle.load(folder)):
        assert found.gpu_precisions == ("fp32", "fp16")
        assert (found.read_gpu_encoder("fp16"), found.read_gpu_encoder("fp32")) == (HALF, SINGLE)
        assert found.gpu_encoders["fp16"].parity == {"images": 8.0, "occupied_iou": 0.99}
        assert found.gpu_encoders["fp16"].sha256 == hashlib.sha256(HALF).hexdigest()
    again = bundle.add_gpu_encoders({"fp16": (b"another", encoder("fp16"))})
    assert [again.read_gpu_encoder(p) for p in again.gpu_precisions] == [SINGLE, b"another"]
    assert not list(folder.glob(".*.part"))


def test_a_bundle_without_variants_says_how_to_make_them(tmp_path: Path) -> None:
    plain = make_small_bundle(tmp_path)
    assert plain.gpu_precisions == ()
    with pytest.raises(BundleError, match=f"it has: none.*export {tmp_path} --gpu fp16") as caught:
        plain.read_gpu_encoder("fp16")
    assert caught.value.where == str(tmp_path)
    with pytest.raises(BundleError, match="export .* --gpu"):
        make_encoder(plain, "onnxruntime_fp16")
    with pytest.raises(BundleError, match="a student with a decoder in space. Run it on the CPU"):
        open_student(Path("street")).read_gpu_encoder("fp16")


def test_the_shipped_student_has_an_encoder_for_gpus_that_computes_the_same() -> None:
    shipped = StudentBundle.load(DEFAULT_BUNDLE)
    assert shipped.gpu_precisions == ("fp16",)
    image = canonical_image(shipped)
    on_cpu, for_gpus = (make_encoder(shipped, engine)(image).copy() for engine in ("onnxruntime", "onnxruntime_fp16"))
    assert not np.array_equal(on_cpu, for_gpus)
    assert np.abs(on_cpu - for_gpus).mean() < 0.002 * np.abs(on_cpu).mean()


@pytest.mark.parametrize("damage", [lambda file: file.write_bytes(b"another graph"), Path.unlink])
@pytest.mark.usefixtures("bundle")
def test_a_damaged_variant_is_refused_when_it_is_read(folder: Path, damage: Callable[[Path], Any]) -> None:
    file = folder / "encoder_fp16.onnx"
    damage(file)
    loaded = StudentBundle.load(folder)  # without a GPU it is as good as ever
    assert loaded.read_gpu_encoder("fp32") == SINGLE
    with pytest.raises(BundleError, match=r"encoder_fp16\.onnx.*export .* --gpu") as caught:
        loaded.read_gpu_encoder("fp16")
    assert caught.value.where == str(file)


def of_half(name: str, value: Any) -> Callable[[dict[str, Any]], Any]:
    return lambda manifest: manifest["gpu_encoders"]["fp16"].update({name: value})


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (lambda m: m.update(gpu_encoders=["fp16"]), "gpu_encoders"),
        (lambda m: m["gpu_encoders"].update(fp8={}), r"gpu_encoders\.fp8"),
        (lambda m: m["gpu_encoders"].update({"../x": m["gpu_encoders"]["fp16"]}), r"gpu_encoders\.\.\./x"),
        (lambda m: m["gpu_encoders"].update(fp16=3), r"gpu_encoders\.fp16"),
        (of_half("file", "../encoder_fp16.onnx"), r"gpu_encoders\.fp16\.file"),
        (of_half("file", "encoder_fp32.onnx"), r"gpu_encoders\.fp16\.file"),
        (of_half("sha256", "0" * 64 + "\n"), r"gpu_encoders\.fp16\.sha256"),
        (of_half("parity", [1.0]), r"gpu_encoders\.fp16\.parity"),
        (of_half("parity", {"images": "8"}), r"gpu_encoders\.fp16\.parity\.images"),
        (of_half("made_from", {ENCODER: 1}), r"gpu_encoders\.fp16\.made_from\.encoder\.onnx"),
        (of_half("reference", 1), r"gpu_encoders\.fp16\.reference"),
        (lambda m: m["gpu_encoders"]["fp16"].pop("made_from"), r"gpu_encoders\.fp16\.made_from"),
    ],
)
@pytest.mark.usefixtures("bundle")
def test_bad_fields_of_gpu_encoders_are_named(folder: Path, change: Callable[[dict[str, Any]], Any], field: str) -> None:
    edit_manifest(folder, change)
    assert re.search(f"{MANIFEST}: field {field}: ", str(refused(folder)))


@pytest.mark.usefixtures("bundle")
def test_a_variant_of_another_head_is_refused(folder: Path) -> None:
    edit_manifest(folder, lambda m: m["gpu_encoders"]["fp16"]["made_from"].update({HEAD: "0" * 64}))
    loaded = StudentBundle.load(folder)
    with pytest.raises(BundleError, match="another encoder or head.*export .* --gpu"):
        loaded.read_gpu_encoder("fp16")
    # The next export leaves it out as well.
    assert loaded.add_gpu_encoders({"fp32": (b"single", encoder("fp32"))}).gpu_precisions == ("fp32",)


@pytest.mark.parametrize("changed", ["encoder", "head"])
def test_variants_are_dropped_with_what_they_were_made_from(bundle: StudentBundle, folder: Path, changed: str) -> None:
    graph = tiny_encoder(seed=1) if changed == "encoder" else bundle.read_encoder()
    other = bundle if changed == "encoder" else dataclasses.replace(bundle, head=random_head(seed=5))
    assert other.save(folder, graph).gpu_precisions == ()
    assert "gpu_encoders" not in json.loads((folder / MANIFEST).read_text())
    assert contents(folder).keys() == {ENCODER, HEAD, MANIFEST}


def test_a_bundle_that_was_replaced_meanwhile_gets_no_variants(tmp_path: Path) -> None:
    loaded = make_small_bundle(tmp_path)
    make_small_bundle(tmp_path, head=random_head(seed=7))
    before = contents(tmp_path)
    with pytest.raises(BundleError, match="replaced meanwhile"):
        loaded.add_gpu_encoders({"fp16": (HALF, encoder("fp16"))})
    assert contents(tmp_path) == before


def test_the_rounding_of_a_half_graph_is_that_of_a_gpu() -> None:
    """Without a place that stores it, ONNX Runtime multiplies twice in float32 and rounds once."""
    from onnx import TensorProto, helper

    from scene_completion_ros.inference.encoder import GpuGraphEncoder

    factors = {"third": np.float16(1 / 3), "three": np.float16(3.0)}
    nodes = [
        helper.make_node("Cast", ["image"], ["half"], to=TensorProto.FLOAT16),
        helper.make_node("Mul", ["half", "third"], ["less"]),
        helper.make_node("Mul", ["less", "three"], ["features"]),
    ]
    given = helper.make_tensor_value_info("image", TensorProto.UINT8, ["N", 1, 256, 1])
    made = helper.make_tensor_value_info("features", TensorProto.FLOAT16, ["N", 1, 256, 1])
    model = serialised(nodes, given, made, factors)
    image = np.arange(256, dtype=np.uint8).reshape(1, 1, 256, 1)
    twice = ((image.astype(np.float16) * factors["third"]) * factors["three"]).astype(np.float32)
    once = (image * factors["third"].astype(np.float32) * np.float32(3.0)).astype(np.float16).astype(np.float32)
    assert np.count_nonzero(once != twice) > 10
    np.testing.assert_array_equal(GpuGraphEncoder(model, "test", threads=1).encode(image[0]).features, twice[0])
