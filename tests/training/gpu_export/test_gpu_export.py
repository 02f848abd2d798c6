"""Encoders for GPUs: the graphs, what they are measured against, the gates, and the command."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from onnx import TensorProto

from scene_completion_ros.cli import main
from scene_completion_ros.errors import BundleError, GpuError
from scene_completion_ros.geometry import Camera, VoxelGrid
from scene_completion_ros.inference.bundle import MANIFEST, StudentBundle
from scene_completion_ros.inference.encoder import make_encoder
from scene_completion_ros.inference.gpu.parity import GRAPH
from scene_completion_ros.inference.head import HeadWeights
from scene_completion_ros.inference.query_kernel import VoxelQuery
from scene_completion_ros.inference.scene_query import EncodedImage
from scene_completion_training.commands.arguments import say_dropped
from scene_completion_training.export import encoder_onnx, feature_size, head_weights
from scene_completion_training.gpu_parity import (
    REFERENCE,
    ParityCheck,
    canonical_images,
    export_for_gpus,
    gpu_graph,
    to_half,
)
from scene_completion_training.networks.density_field import DensityField
from scene_completion_training.networks.encoder_decoder import EncoderDecoder
from scene_completion_training.networks.feature_field import FeatureField
from tests.inference.small_bundle import class_colours, class_names, random_head, with_labels

CAMERA = Camera(fx=74.0, fy=74.0, cx=63.5, cy=28.0, width=128, height=64)
GRID = VoxelGrid((0.0, -6.4, -2.2), 0.4, (40, 32, 12), "camera_forward")
UNITS, CLASSES = 32, 5


def street_images(folder: Path, count: int, seed: int = 0) -> Path:
    """Writes pictures with large and small shapes, bright above and dark below, 160x80."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    for index in range(count):
        picture = np.repeat(np.linspace(220, 60, 80)[:, None, None], 160, axis=1).repeat(3, axis=2)
        for _ in range(12):
            top, left = rng.integers(0, 70), rng.integers(0, 140)
            picture[top : top + rng.integers(5, 40), left : left + rng.integers(5, 60)] = rng.integers(0, 256, 3)
        picture += rng.normal(0.0, 6.0, picture.shape)
        cv2.imwrite(str(folder / f"{index:03d}.png"), picture.clip(0, 255).astype(np.uint8))
    return folder


def make_small_student(folder: Path) -> StudentBundle:
    """Writes a student whose densities and labels depend on the image, with the unfolded weights beside it."""
    torch.manual_seed(0)
    density = DensityField(
        CAMERA,
        encoder=EncoderDecoder((CAMERA.height, CAMERA.width), channels=16, pretrained=False),
        depth_channel=False,
        hidden=32,
    )
    field = FeatureField(density, target_size=8, channels=8, units=UNITS, expansion=8, map_channels=16).eval()
    _settle(field)
    labels = with_labels(random_head(), CLASSES, UNITS)
    of_density = {name: getattr(head_weights(density), name) for name in _OF_DENSITY}
    head: HeadWeights = dataclasses.replace(labels, **of_density)
    bundle = StudentBundle(
        name="small",
        canonical=CAMERA,
        head=head,
        feature_size=feature_size(density, CAMERA),
        class_names=class_names(CLASSES),
        class_colours=class_colours(CLASSES),
        grid=GRID,
        provenance={"configuration": {"encoder": "efficientnet_lite0"}},
        licence="Apache-2.0",
    )
    weights = {name: value.detach().numpy().astype(np.float16) for name, value in density.state_dict().items()}
    saved = bundle.save(folder, encoder_onnx(field, CAMERA), weights)
    return dataclasses.replace(saved, threshold=_median(saved)).save(folder, saved.read_encoder(), weights)


_OF_DENSITY = ("positional_weight", "hidden_bias", "density_weight", "density_bias")


@torch.no_grad()
def _settle(field: DensityField | FeatureField) -> None:
    """Gives the normalisations of a random network the statistics of images, as training would."""
    images = torch.randint(0, 256, (4, 3, CAMERA.height, CAMERA.width)).float()
    blurred = torch.nn.functional.avg_pool2d(images, 9, 1, 4)
    field.train()
    for _ in range(20):
        field.observe(blurred)
    field.eval()


def _median(bundle: StudentBundle) -> float:
    """A threshold with about half of the voxels in view above it."""
    image = np.random.default_rng(0).integers(0, 256, (CAMERA.height, CAMERA.width, 3), dtype=np.uint8)
    query = VoxelQuery(
        bundle.head, bundle.point_code, CAMERA, bundle.feature_size, bundle.grid, bundle.grid_from_camera.inverse()
    )
    features = make_encoder(bundle, "onnxruntime")(image)
    return float(np.median(query.opacity(features)[query.in_view]))


Encode = Callable[[NDArray[np.uint8]], EncodedImage]


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("images")
    return street_images(folder / "training", 6), street_images(folder / "other", 3, seed=1)


@pytest.fixture(scope="module")
def images(places: tuple[Path, Path]) -> NDArray[np.uint8]:
    return canonical_images([places[1]], CAMERA, 8)


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> StudentBundle:
    return make_small_student(tmp_path_factory.mktemp("student"))


def graphs_of(student: StudentBundle) -> dict[str, onnx.ModelProto]:
    """Its encoders for GPUs by precision."""
    single = gpu_graph(student)
    return {"fp32": single, "fp16": to_half(single)}


@pytest.fixture(scope="module")
def graphs(student: StudentBundle) -> dict[str, onnx.ModelProto]:
    return graphs_of(student)


@pytest.fixture
def copied(student: StudentBundle, tmp_path: Path) -> StudentBundle:
    return student.save(tmp_path / "student", student.read_encoder(), student.load_weights())


def contents(folder: Path | None) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_the_graph_has_the_ports_of_the_student(student: StudentBundle, graphs: dict[str, onnx.ModelProto]) -> None:
    graph = graphs["fp16"].graph
    (image,), (features,) = graph.input, graph.output
    (height, width), channels = student.feature_size, student.head.channels
    shapes = [[dimension.dim_value for dimension in port.type.tensor_type.shape.dim] for port in (image, features)]
    assert (image.name, features.name) == ("image", "features")
    assert shapes == [[1, CAMERA.height, CAMERA.width, 3], [1, height, width, channels]]
    assert image.type.tensor_type.elem_type == TensorProto.UINT8
    assert features.type.tensor_type.elem_type == TensorProto.FLOAT16
    assert {node.domain for node in graph.node} == {""}
    assert not {node.op_type for node in graph.node} & {"Shape", "ConstantOfShape", "Expand", "Range", "Loop", "If"}


def test_an_export_is_the_same_again(
    copied: StudentBundle, places: tuple[Path, Path], graphs: dict[str, onnx.ModelProto]
) -> None:
    printed: list[str] = []
    made = export_for_gpus(copied, parity=[places[1]], threads=1, report=printed.append)
    first = contents(made.folder)
    made = export_for_gpus(made, parity=[places[1]], threads=1, report=printed.append)
    assert contents(made.folder) == first and printed[0] == printed[1]
    assert made.read_gpu_encoder() == graphs["fp16"].SerializeToString(deterministic=True)
    assert made.gpu_encoder is not None and made.gpu_encoder.reference == REFERENCE
    parity = made.gpu_encoder.parity
    assert parity["images"] == 3 and 0.0 < parity["features_relative"] < GRAPH.limits["features_relative"]
    assert json.loads(first[MANIFEST])["gpu_encoders"]["fp16"]["parity"] == parity
    half, single = (make_encoder(made, name, threads=1) for name in ("onnxruntime_fp16", "onnxruntime"))
    image = canonical_images([places[1]], CAMERA, 1)[0]
    assert half.name == "onnxruntime_fp16"
    assert 0.0 < np.abs(half(image) - single(image)).mean() < 0.01 * np.abs(single(image)).mean()


def test_an_encoder_that_fails_is_not_added(
    copied: StudentBundle, places: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    before, limits = contents(copied.folder), {**GRAPH.limits, "features_relative": 0.0}
    monkeypatch.setattr("scene_completion_training.gpu_parity.GRAPH", dataclasses.replace(GRAPH, limits=limits))
    with pytest.raises(GpuError, match="^parity gate: the fp16 graph .*: mean difference of the map [0-9.e-]+ "):
        export_for_gpus(copied, parity=[places[1]], threads=1)
    assert contents(copied.folder) == before


@pytest.fixture(scope="module")
def check(student: StudentBundle, images: NDArray[np.uint8]) -> ParityCheck:
    return ParityCheck(student, images, threads=1)


@pytest.fixture(scope="module")
def exact(student: StudentBundle) -> Encode:
    encoder = make_encoder(student, "onnxruntime", threads=1)
    return lambda image: EncodedImage(encoder(image).copy())


def test_each_kind_of_error_has_its_number(student: StudentBundle, check: ParityCheck, exact: Encode) -> None:
    """Noise in the map, one wrong unit of the density that the map's mean hardly shows, and shuffled label units."""
    hidden, unit = student.head.hidden, int(student.head.density_weight.argmax())

    def shifted(image: NDArray[np.uint8]) -> EncodedImage:
        encoded = exact(image)
        encoded.features[..., unit] += 8.0
        return encoded

    def shuffled(image: NDArray[np.uint8]) -> EncodedImage:
        features = exact(image).features
        features[..., hidden:] = features[..., : hidden - 1 : -1].copy()
        return EncodedImage(features)

    noise, density, labels = map(
        check, (lambda image: EncodedImage(exact(image).features * np.float32(1.01)), shifted, shuffled)
    )
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
    with pytest.raises(BundleError, match="nothing occupied in any of 3 images.*--parity-images"):
        ParityCheck(blind, images)


def test_a_new_calibration_names_encoders_it_costs(copied: StudentBundle, capsys: pytest.CaptureFixture[str]) -> None:
    made = copied.add_gpu_encoder(b"graph", {}, "test")
    stretched = dataclasses.replace(made.head, density_bias=made.head.density_bias + np.float32(0.5))
    assert made.folder is not None
    say_dropped(made, dataclasses.replace(made, head=stretched).save(made.folder, made.read_encoder()))
    assert "was that of the head before and is gone; make it anew with" in capsys.readouterr().out
    say_dropped(copied, copied)
    assert capsys.readouterr().out == ""


def test_the_command_adds_the_encoders(
    copied: StudentBundle, places: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["export", str(copied.folder), "--parity-images", str(places[1]), "--gpu"]
    assert main([*arguments, "fp16"]) == 0
    printed = capsys.readouterr().out
    assert " MB; " in printed and "encoder for GPUs added" in printed
    assert StudentBundle.load(str(copied.folder)).gpu_encoder
    assert main(["export", str(copied.folder)]) == 2
    assert "BUNDLE: is missing" in capsys.readouterr().err
