"""Encoders for GPUs: the graphs, what they are measured against, the gates, and the command."""

import dataclasses
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto

from scene_completion_ros.bags.reader import DEMO_DRIVE
from scene_completion_ros.cli import main
from scene_completion_ros.errors import BundleError, GpuError
from scene_completion_ros.inference.bundle import DEFAULT_BUNDLE, MANIFEST, StudentBundle
from scene_completion_ros.inference.encoder import field_encoder
from scene_completion_ros.inference.gpu.parity import GRAPH
from scene_completion_training.commands.arguments import say_dropped
from scene_completion_training.gpu_parity import (
    REFERENCE,
    ParityCheck,
    canonical_images,
    export_for_gpus,
    gpu_graph,
    to_half,
)

Encode = Callable[[NDArray[np.uint8]], NDArray[np.float32]]
COUNT = 2  # images that are compared


@pytest.fixture(scope="module", autouse=True)
def few_images() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("scene_completion_training.gpu_parity.PARITY_IMAGES", COUNT)
        yield


@pytest.fixture(scope="module")
def student() -> StudentBundle:
    """The shipped one, without its encoder for GPUs."""
    return dataclasses.replace(StudentBundle.load(DEFAULT_BUNDLE), gpu_encoder=None)


@pytest.fixture(scope="module")
def images(student: StudentBundle) -> NDArray[np.uint8]:
    return canonical_images([DEMO_DRIVE], student.canonical, COUNT)


@pytest.fixture(scope="module")
def graph(student: StudentBundle) -> onnx.ModelProto:
    return to_half(gpu_graph(student))


@pytest.fixture
def copied(student: StudentBundle, tmp_path: Path) -> StudentBundle:
    return student.save(tmp_path / "student", student.read_encoder(), student.load_weights())


def contents(folder: Path | None) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_the_graph_has_the_ports_of_the_student(student: StudentBundle, graph: onnx.ModelProto) -> None:
    (image,), (features,) = graph.graph.input, graph.graph.output
    (height, width), channels = student.feature_size, student.field_head.channels
    shapes = [[dimension.dim_value for dimension in port.type.tensor_type.shape.dim] for port in (image, features)]
    assert (image.name, features.name) == ("image", "features")
    assert shapes == [[1, student.canonical.height, student.canonical.width, 3], [1, height, width, channels]]
    assert image.type.tensor_type.elem_type == TensorProto.UINT8
    assert features.type.tensor_type.elem_type == TensorProto.FLOAT16
    assert {node.domain for node in graph.graph.node} == {""}
    assert not {node.op_type for node in graph.graph.node} & {
        "Shape",
        "ConstantOfShape",
        "Expand",
        "Range",
        "Loop",
        "If",
    }


def test_an_encoder_that_passes_is_added(
    copied: StudentBundle, images: NDArray[np.uint8], graph: onnx.ModelProto
) -> None:
    printed: list[str] = []
    made = export_for_gpus(copied, parity=[DEMO_DRIVE], threads=1, report=printed.append)
    assert len(printed) == 1
    assert made.read_gpu_encoder() == graph.SerializeToString(deterministic=True)
    assert made.gpu_encoder is not None and made.gpu_encoder.reference == REFERENCE
    parity = made.gpu_encoder.parity
    assert parity["images"] == COUNT and 0.0 < parity["features_relative"] < GRAPH.limits["features_relative"]
    assert json.loads(contents(made.folder)[MANIFEST])["gpu_encoders"]["fp16"]["parity"] == parity
    half, single = (field_encoder(made, name, threads=1) for name in ("onnxruntime_fp16", "onnxruntime"))
    assert half.name == "onnxruntime_fp16"
    assert 0.0 < np.abs(half(images[0]) - single(images[0])).mean() < 0.01 * np.abs(single(images[0])).mean()


def test_an_encoder_that_fails_is_not_added(copied: StudentBundle, monkeypatch: pytest.MonkeyPatch) -> None:
    before, limits = contents(copied.folder), {**GRAPH.limits, "features_relative": 0.0}
    monkeypatch.setattr("scene_completion_training.gpu_parity.GRAPH", dataclasses.replace(GRAPH, limits=limits))
    with pytest.raises(GpuError, match="^parity gate: the fp16 graph .*: mean difference of the map [0-9.e-]+ "):
        export_for_gpus(copied, parity=[DEMO_DRIVE], threads=1)
    assert contents(copied.folder) == before


@pytest.fixture(scope="module")
def check(student: StudentBundle, images: NDArray[np.uint8]) -> ParityCheck:
    return ParityCheck(student, images, threads=1)


@pytest.fixture(scope="module")
def exact(student: StudentBundle) -> Encode:
    encoder = field_encoder(student, "onnxruntime", threads=1)
    return lambda image: encoder(image).copy()


def test_each_kind_of_error_has_its_number(student: StudentBundle, check: ParityCheck, exact: Encode) -> None:
    """Noise in the map, one wrong unit of the density that the map's mean hardly shows, and shuffled label units."""
    hidden, unit = student.field_head.hidden, int(student.field_head.density_weight.argmax())

    def shifted(image: NDArray[np.uint8]) -> NDArray[np.float32]:
        features = exact(image)
        features[..., unit] += 8.0
        return features

    def shuffled(image: NDArray[np.uint8]) -> NDArray[np.float32]:
        features = exact(image)
        features[..., hidden:] = features[..., : hidden - 1 : -1].copy()
        return features

    noise, density, labels = map(check, (lambda image: exact(image) * np.float32(1.01), shifted, shuffled))
    limits = GRAPH.limits
    assert noise["features_relative"] == pytest.approx(0.01, rel=1e-3)
    assert density["density_relative"] > limits["density_relative"]
    assert (
        density["occupied_iou"] < limits["occupied_iou"] and density["labels_agreement"] >= limits["labels_agreement"]
    )
    assert (labels["occupied_iou"], labels["density_relative"]) == (1.0, 0.0)
    assert labels["labels_agreement"] < limits["labels_agreement"]


def test_a_student_that_sees_nothing_cannot_be_compared(student: StudentBundle, images: NDArray[np.uint8]) -> None:
    blind = dataclasses.replace(student, threshold=1.0)
    with pytest.raises(BundleError, match="nothing occupied in any of 1 images.*--parity-images"):
        ParityCheck(blind, images[:1])


def test_a_new_calibration_names_encoders_it_costs(copied: StudentBundle, capsys: pytest.CaptureFixture[str]) -> None:
    made = copied.add_gpu_encoder(b"graph", {}, "test")
    stretched = dataclasses.replace(made.head, density_bias=made.head.density_bias + np.float32(0.5))
    assert made.folder is not None
    say_dropped(made, dataclasses.replace(made, head=stretched).save(made.folder, made.read_encoder()))
    assert "was that of the head before and is gone; make it anew with" in capsys.readouterr().out
    say_dropped(copied, copied)
    assert capsys.readouterr().out == ""


def test_the_command_adds_the_encoders(copied: StudentBundle, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["export", str(copied.folder), "--parity-images", str(DEMO_DRIVE), "--gpu"]
    assert main([*arguments, "fp16"]) == 0
    printed = capsys.readouterr().out
    assert " MB; " in printed and "encoder for GPUs added" in printed
    assert StudentBundle.load(str(copied.folder)).gpu_encoder
    assert main(["export", str(copied.folder)]) == 2
    assert "BUNDLE: is missing" in capsys.readouterr().err
