"""Encoders for GPUs: the graphs, what they are measured against, the gates, and the command."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from scene_completion_ros.cli import main
from scene_completion_ros.errors import BundleError, ConfigurationError, ImageError, SequenceError
from scene_completion_ros.inference.bundle import MANIFEST, WEIGHTS, StudentBundle
from scene_completion_ros.inference.encoder import make_encoder
from scene_completion_ros.inference.gpu_encoders import PRECISIONS, GpuEncoder
from scene_completion_ros.inference.gpu_graph_encoder import GpuGraph
from scene_completion_training.commands.arguments import say_dropped
from scene_completion_training.evaluation.density_stretch import DensityStretch
from scene_completion_training.gpu_export.export import export_for_gpus
from scene_completion_training.gpu_export.graph import gpu_graph, simplified
from scene_completion_training.gpu_export.images import canonical_images
from scene_completion_training.gpu_export.parity import GATES, ONNX, TORCH, Gate, Parity, ParityCheck, Reference
from scene_completion_training.gpu_export.precisions import kept_in_half, to_half, to_int8
from tests.inference.small_bundle import make_small_bundle, random_head
from tests.training.foundation.tiny_models import saved_depth_model
from tests.training.small_students import CAMERA, GRID, make_small_student, make_spatial_student, street_images

# Random weights spread what is quantised more widely than trained ones.
LOOSE = {
    **GATES,
    "int8": Gate(features=0.3, density=0.5, occupied_iou=0.6, labels=0.6, batch=0.05, volume=0.5, depth=0.1),
}
FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16)
Encode = Callable[[NDArray[np.uint8]], list[NDArray[np.float32]]]


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


@pytest.fixture(scope="module")
def graphs(student: StudentBundle, places: tuple[Path, Path]) -> dict[str, onnx.ModelProto]:
    single = gpu_graph(student)
    calibration = canonical_images([places[0]], CAMERA, 8)
    return {"fp32": single, "fp16": to_half(single), "int8": to_int8(single, calibration, "student")}


@pytest.fixture(scope="module")
def depth_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved_depth_model(tmp_path_factory.mktemp("depth") / "tiny")


class Spatial(NamedTuple):
    """A student with a decoder in space, its trunk, and its encoder for GPUs in float32."""

    bundle: StudentBundle
    model: str
    single: onnx.ModelProto

    def variant(self, precision: str, calibration: Path) -> onnx.ModelProto:
        """The encoder for GPUs in a precision."""
        if precision == "int8":
            return to_int8(self.single, canonical_images([calibration], CAMERA, 8), "spatial")
        return to_half(self.single) if precision == "fp16" else self.single

    def reference(self) -> Reference:
        """What its variants are compared with."""
        return Reference(self.bundle, threads=1, encoder_weights=self.model)


@pytest.fixture(scope="module", params=["convolutions", "transformer"])
def spatial(request: pytest.FixtureRequest, depth_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Spatial:
    model = depth_model if request.param == "transformer" else None
    bundle = make_spatial_student(tmp_path_factory.mktemp("spatial"), model)
    return Spatial(bundle, str(model or ""), gpu_graph(bundle))


@pytest.fixture
def copied(student: StudentBundle, tmp_path: Path) -> StudentBundle:
    return student.save(tmp_path / "student", student.read_encoder(), student.load_weights())


def contents(folder: Path | None) -> dict[str, bytes]:
    assert folder is not None
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def types(model: onnx.ModelProto) -> dict[str, int]:
    """Element type of every tensor."""
    graph = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True).graph
    found = {value.name: value.type.tensor_type.elem_type for value in (*graph.value_info, *graph.input, *graph.output)}
    return found | {tensor.name: tensor.data_type for tensor in graph.initializer}


def test_the_single_graph_is_the_encoder_channels_last(
    student: StudentBundle, graphs: dict[str, onnx.ModelProto], images: NDArray[np.uint8]
) -> None:
    encoder = make_encoder(student, "onnxruntime", threads=1)
    wanted = np.stack([encoder(image).copy() for image in images])
    assert wanted.std() > 0.1 and np.abs(wanted[0] - wanted[1]).max() > 0.02
    found = GpuGraph(graphs["fp32"].SerializeToString(), "test", threads=1)(images)
    np.testing.assert_allclose(found, wanted, atol=2e-5 * np.abs(wanted).max())


@pytest.mark.parametrize("precision", PRECISIONS)
def test_every_graph_has_the_same_ports(
    student: StudentBundle, graphs: dict[str, onnx.ModelProto], precision: str
) -> None:
    graph = graphs[precision].graph
    (image,), (features,) = graph.input, graph.output
    (height, width), channels = student.feature_size, student.head.channels
    shapes = [
        [dimension.dim_param or dimension.dim_value for dimension in port.type.tensor_type.shape.dim]
        for port in (image, features)
    ]
    assert (image.name, features.name) == ("image", "features")
    assert shapes == [["N", CAMERA.height, CAMERA.width, 3], ["N", height, width, channels]]
    assert image.type.tensor_type.elem_type == TensorProto.UINT8
    wanted = TensorProto.FLOAT if precision == "fp32" else TensorProto.FLOAT16
    assert features.type.tensor_type.elem_type == wanted
    assert {node.domain for node in graph.node} == {""}
    assert not {node.op_type for node in graph.node} & {"Shape", "ConstantOfShape", "Expand", "Range", "Loop", "If"}


@pytest.mark.parametrize("precision", PRECISIONS)
def test_any_number_of_images_goes_through_at_once(
    graphs: dict[str, onnx.ModelProto], images: NDArray[np.uint8], precision: str
) -> None:
    graph = GpuGraph(graphs[precision].SerializeToString(), "test", threads=1)
    together = graph(images)
    for index, image in enumerate(images):
        np.testing.assert_allclose(together[index], graph(image[None])[0], atol=1e-3 * np.abs(together).max())


def test_constants_are_taken_out_of_what_convolutions_read(graphs: dict[str, onnx.ModelProto]) -> None:
    graph = graphs["fp32"].graph
    constants = {tensor.name for tensor in graph.initializer}
    joined = [node for node in graph.node if node.op_type == "Concat"]
    assert joined and not any(constants & set(node.input) for node in joined)
    # Channels that tensor cores take, also where two of coordinates were.
    weights = {tensor.name: tensor.dims for tensor in graph.initializer}
    read = [weights[node.input[1]][1] for node in graph.node if node.op_type == "Conv"]
    assert sum(channels % 8 == 0 for channels in read) > len(joined)


def test_float16_is_typed_strongly(graphs: dict[str, onnx.ModelProto]) -> None:
    model = graphs["fp16"]
    found = types(model)
    single = {node.op_type for node in model.graph.node if found[node.output[0]] == TensorProto.FLOAT}
    # The image's normalisation, and that of channels.
    assert single == {"Cast", "Transpose", "Sub", "Div", "ReduceMean", "Mul", "Add", "Sqrt"}
    for node in model.graph.node:
        if node.op_type not in ("Cast", "Resize", "Clip"):
            mixed = {found[name] for name in (*node.input, *node.output) if found.get(name) in FLOATS}
            assert len(mixed) == 1, node.name
    convolutions = [node for node in model.graph.node if node.op_type == "Conv"]
    assert {found[name] for node in convolutions for name in node.input} == {TensorProto.FLOAT16}


def test_integers_are_symmetric_and_stay_away_from_first_and_last(graphs: dict[str, onnx.ModelProto]) -> None:
    model = graphs["int8"]
    values = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    makers = {name: node for node in model.graph.node for name in node.output}
    pairs = [node for node in model.graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")]
    assert all(values[node.input[2]].dtype == np.int8 and not values[node.input[2]].any() for node in pairs)
    assert all(values[node.input[1]].dtype == np.float16 and (values[node.input[1]] > 0).all() for node in pairs)
    kept = kept_in_half(graphs["fp32"].graph)
    integers = []
    for node in model.graph.node:
        if node.op_type != "Conv":
            continue
        made = [makers[name].op_type if name in makers else None for name in node.input[:2]]
        if node.name in kept:
            assert made[1] is None
            continue
        assert made == ["DequantizeLinear", "DequantizeLinear"]
        weight, scale = (values[name] for name in makers[node.input[1]].input[:2])
        assert weight.dtype == np.int8 and scale.shape == (len(weight),) and np.abs(weight.astype(int)).max() <= 127
        integers.append(node.name)
    assert len(integers) > len(kept) > 3
    assert "/trunk/stem/stem.0/Conv" in kept and "/project/Conv" in kept


def test_integers_hold_the_weights(student: StudentBundle, graphs: dict[str, onnx.ModelProto]) -> None:
    weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in graphs["fp32"].graph.initializer}
    values = {tensor.name: numpy_helper.to_array(tensor) for tensor in graphs["int8"].graph.initializer}
    quantised = [name for name in values if name.endswith("_quantized")]
    assert len(quantised) > 10
    for name in quantised:
        weight = weights[name.removesuffix("_quantized")]
        (scale,) = (values[other] for other in values if other.startswith(name.replace("_quantized", "_scale")))
        steps = scale.astype(np.float32).reshape(-1, 1, 1, 1)
        assert np.all(np.abs(values[name] * steps - weight) <= 0.501 * steps)


def test_an_export_is_the_same_again(
    copied: StudentBundle, places: tuple[Path, Path], graphs: dict[str, onnx.ModelProto]
) -> None:
    said: dict[str, str] = {}

    def report(precision: str, size: int, parity: Parity) -> None:
        assert said.setdefault(precision, f"{size} {parity}") == f"{size} {parity}"

    def export(bundle: StudentBundle, *precisions: str) -> StudentBundle:
        return export_for_gpus(
            bundle, precisions, calibration=[places[0]], parity=[places[1]], gates=LOOSE, threads=1, report=report
        )

    made = export(copied, *PRECISIONS)
    assert said.keys() == set(made.gpu_precisions) == set(PRECISIONS)
    assert made.gpu_encoders["int8"].calibrated_on == "6 images of training"
    assert made.gpu_encoders["fp16"].reference.startswith(TORCH)
    first = contents(made.folder)
    made = export(made, "fp32", "fp16")  # that of integers is made a second time for `graphs`
    assert contents(made.folder) == first
    for precision in PRECISIONS:
        assert made.read_gpu_encoder(precision) == graphs[precision].SerializeToString(deterministic=True)
    parity = made.gpu_encoders["fp16"].parity
    assert parity["images"] == 3 and 0.0 < parity["features_relative"] < GATES["fp16"].features
    assert json.loads(first[MANIFEST])["gpu_encoders"]["fp16"]["parity"] == parity
    half, single = (make_encoder(made, f"onnxruntime_{name}", threads=1) for name in ("fp16", "fp32"))
    image = canonical_images([places[1]], CAMERA, 1)[0]
    assert half.name == "onnxruntime_fp16"
    assert 0.0 < np.abs(half(image) - single(image)).mean() < 0.01 * np.abs(single(image)).mean()
    with pytest.raises(ImageError, match="canonical image"):
        half(image[:, 1:])


def test_the_reference_is_the_network_in_torch(student: StudentBundle, images: NDArray[np.uint8]) -> None:
    reference = Reference(student, threads=1)
    assert reference.name == f"{TORCH}; label channels: {ONNX}"
    found, folded = reference(images[0]), make_encoder(student, "onnxruntime", threads=1)(images[0])
    hidden = student.head.hidden
    np.testing.assert_array_equal(found[..., hidden:], folded[..., hidden:])
    assert 0.0 < np.abs(found - folded)[..., :hidden].mean() < 1e-2 * np.abs(found).mean()


def test_without_unfolded_weights_the_encoder_is_the_reference(
    student: StudentBundle, images: NDArray[np.uint8], tmp_path: Path
) -> None:
    alone = student.save(tmp_path, student.read_encoder())
    reference = Reference(alone, threads=1)
    assert reference.name == ONNX
    np.testing.assert_array_equal(reference(images[0]), make_encoder(alone, "onnxruntime", threads=1)(images[0]))


def test_weights_of_another_training_fail(copied: StudentBundle, places: tuple[Path, Path], tmp_path: Path) -> None:
    weights = copied.load_weights()
    weights["feature_layer.weight"] = weights["feature_layer.weight"][::-1].copy()
    mixed = copied.save(tmp_path / "student", copied.read_encoder(), weights)
    before = contents(mixed.folder)
    with pytest.raises(BundleError, match="fp32: mean difference of the map is .* where at most 0.001 is allowed"):
        export_for_gpus(mixed, ["fp32"], parity=[places[1]], threads=1)
    assert contents(mixed.folder) == before


def test_weights_of_another_network_are_refused(student: StudentBundle, tmp_path: Path) -> None:
    weights = student.load_weights()
    del weights["density_layer.bias"]
    cut = student.save(tmp_path, student.read_encoder(), weights)
    with pytest.raises(BundleError, match=f"{WEIGHTS}: are weights of another network"):
        Reference(cut)


def test_one_variant_that_fails_keeps_all_out(copied: StudentBundle, places: tuple[Path, Path]) -> None:
    before = contents(copied.folder)
    exact = Gate(features=0.0, density=1.0, occupied_iou=0.0, labels=0.0, batch=1.0, volume=1.0, depth=1.0)
    with pytest.raises(BundleError, match="^parity with .*: fp16: mean difference of the map is [0-9.e-]+ where"):
        export_for_gpus(copied, ["fp32", "fp16"], parity=[places[1]], gates={**LOOSE, "fp16": exact}, threads=1)
    assert contents(copied.folder) == before


def test_images_for_integers_have_to_be_named(copied: StudentBundle, places: tuple[Path, Path]) -> None:
    with pytest.raises(ConfigurationError, match="--calibration-images"):
        export_for_gpus(copied, ["int8"], parity=[places[1]])


def test_an_encoder_of_two_layers_has_none_for_integers(tmp_path: Path) -> None:
    small = make_small_bundle(tmp_path)
    single = gpu_graph(small)
    with pytest.raises(BundleError, match="2 convolutions.*none is left"):
        to_int8(single, np.zeros((1, 192, 640, 3), np.uint8), "small")


@pytest.fixture(scope="module")
def check(student: StudentBundle, images: NDArray[np.uint8]) -> ParityCheck:
    return ParityCheck(student, images, Reference(student, threads=1).encode)


@pytest.fixture(scope="module")
def exact(student: StudentBundle) -> Encode:
    reference = Reference(student, threads=1)
    return lambda batch: [np.stack([reference(image) for image in batch])]


def test_the_reference_itself_passes_every_gate(check: ParityCheck, exact: Encode) -> None:
    parity = check(exact)
    assert all(parity.failures(gate) == [] for gate in GATES.values())
    assert (parity.features_max, parity.density_max, parity.batch_relative) == (0.0, 0.0, 0.0)
    assert (parity.occupied_agreement, parity.occupied_iou, parity.labels_agreement) == (1.0, 1.0, 1.0)


def test_noise_in_the_map_fails(check: ParityCheck, exact: Encode) -> None:
    parity = check(lambda batch: [exact(batch)[0] * np.float32(1.01)])
    assert parity.features_relative == pytest.approx(0.01, rel=1e-3)
    assert next(iter(parity.failures(GATES["fp32"]))).startswith("mean difference of the map is 0.01 ")


def test_wrong_densities_fail(student: StudentBundle, check: ParityCheck, exact: Encode) -> None:
    """One unit is off: hardly seen in the map's mean, but in what it is for."""
    unit = int(student.head.density_weight.argmax())

    def shifted(batch: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
        (features,) = exact(batch)
        features[..., unit] += 8.0
        return [features]

    said = " ".join(check(shifted).failures(dataclasses.replace(GATES["int8"], features=10.0)))
    assert "mean difference of the density" in said and "IoU of the occupied voxels" in said
    assert "labels" not in said and "batch" not in said


def test_wrong_labels_fail_alone(student: StudentBundle, check: ParityCheck, exact: Encode) -> None:
    def shuffled(batch: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
        (features,) = exact(batch)
        features[..., student.head.hidden :] = features[..., : student.head.hidden - 1 : -1]
        return [features]

    parity = check(shuffled)
    assert (parity.occupied_iou, parity.density_max) == (1.0, 0.0)
    (said,) = parity.failures(dataclasses.replace(GATES["int8"], features=10.0))
    assert said.startswith("agreement of the labels is 0.")


def test_images_that_mix_in_a_batch_fail_alone(check: ParityCheck, exact: Encode) -> None:
    (said,) = check(lambda batch: [exact(batch)[0] * len(batch)]).failures(GATES["int8"])
    assert said.startswith("difference between a batch and single images is 1 ")


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(Gate)])
def test_each_gate_has_its_number(check: ParityCheck, exact: Encode, precision: str, name: str) -> None:
    number = {"occupied_iou": "occupied_iou", "labels": "labels_agreement"}.get(name, f"{name}_relative")
    gate, parity = GATES[precision], check(exact)
    limit = getattr(gate, name)
    beyond = limit - 1e-6 if number in ("occupied_iou", "labels_agreement") else limit + 1e-6
    assert dataclasses.replace(parity, **{number: limit}).failures(gate) == []
    for value in (beyond, float("nan")):
        assert len(dataclasses.replace(parity, **{number: value}).failures(gate)) == 1


def test_a_student_that_sees_nothing_cannot_be_compared(student: StudentBundle, images: NDArray[np.uint8]) -> None:
    blind = dataclasses.replace(student, threshold=1.0)
    with pytest.raises(BundleError, match="nothing occupied in any of 3 images.*--parity-images"):
        ParityCheck(blind, images, Reference(student, threads=1).encode)


def joined(
    folder: Path, order: list[str], *further: onnx.NodeProto, axis: int = 1, channels: int | None = None
) -> StudentBundle:
    """A student whose encoder joins constants with what a convolution says, for no convolution to read."""
    channels = channels or 2 + sum(name != "map" for name in order)
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["image", "weight"], ["map"], "first"),
            helper.make_node("Concat", order, ["joined"], "join", axis=axis),
            *(further or (helper.make_node("Relu", ["joined"], ["active"]),)),
            helper.make_node("Transpose", ["active"], ["features"], perm=[0, 2, 3, 1]),
        ],
        "graph",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, 32, 64])],
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, [1, 32, 64, channels] if axis == 1 else None)],
        [
            numpy_helper.from_array(np.full((2, 3, 1, 1), 0.01, np.float32), "weight"),
            *(
                numpy_helper.from_array(np.random.default_rng(seed).random((1, count, 32, 64), np.float32), name)
                for seed, (name, count) in enumerate((("first_constant", 1), ("second_constant", 1), ("other", 2)))
            ),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    camera, head = CAMERA.resized(64, 32), random_head(channels=channels)
    small = make_small_bundle(folder, canonical=camera, head=head, feature_size=(32, 64))
    return small.save(folder, model.SerializeToString())


@pytest.mark.parametrize("order", [["map", "first_constant"], ["first_constant", "map", "second_constant"]])
def test_constants_that_no_convolution_reads_are_added(tmp_path: Path, order: list[str]) -> None:
    student = joined(tmp_path, order)
    images = np.random.default_rng(0).integers(0, 256, (3, 32, 64, 3), dtype=np.uint8)
    encoder = make_encoder(student, "onnxruntime", threads=1)
    wanted = np.stack([encoder(image).copy() for image in images])
    found = GpuGraph(gpu_graph(student).SerializeToString(), "test", threads=1)(images)
    np.testing.assert_allclose(found, wanted, rtol=1e-6)


def test_constants_that_no_batch_can_have_are_refused(tmp_path: Path) -> None:
    last = helper.make_node("ReduceSum", ["joined", "axis"], ["active"], "sum")
    values = helper.make_node("Constant", [], ["axis"], value=numpy_helper.from_array(np.array([0])))
    for number, (order, axis, further) in enumerate(
        ((["map", "other"], 0, (values, last)), (["map", "first_constant", "map"], 1, ()))
    ):
        with pytest.raises(BundleError, match=r"encoder\.onnx: join joins a constant"):
            gpu_graph(joined(tmp_path / str(number), order, *further, axis=axis))


def test_axes_that_take_the_place_of_the_images_are_refused(tmp_path: Path) -> None:
    turned = helper.make_node("Transpose", ["joined"], ["turned"], "turn", perm=[1, 0, 2, 3])
    twice = helper.make_node("Concat", ["turned", "turned"], ["twice"], "twice", axis=1)
    sizes = numpy_helper.from_array(np.array([1, 6, 32, 64]))
    shape = helper.make_node("Constant", [], ["shape"], value=sizes)
    flat = helper.make_node("Reshape", ["twice", "shape"], ["active"], "flat")
    with pytest.raises(BundleError, match="mixes the images of a batch"):
        gpu_graph(joined(tmp_path, ["map", "first_constant"], turned, twice, shape, flat, channels=6))


def outputs(model: onnx.ModelProto, images: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
    return GpuGraph(model.SerializeToString(), "test", threads=1).outputs(images)


def test_a_graph_gives_volume_and_depth_of_any_number_of_images(spatial: Spatial, images: NDArray[np.uint8]) -> None:
    encoder = make_encoder(spatial.bundle, "onnxruntime", threads=1)
    wanted = [encoder.encode(image).copy() for image in images]
    features, volumes, depths = (
        np.stack([getattr(one, name) for one in wanted]) for name in ("features", "volume", "depth")
    )
    assert volumes.shape == (len(images), *GRID.shape) and np.abs(volumes[0] - volumes[1]).max() > 0.1
    assert depths.shape == (len(images), CAMERA.height, CAMERA.width) and np.abs(depths[0] - depths[1]).max() > 0.1
    for found, right in zip(outputs(spatial.single, images), (features, volumes, depths), strict=True):
        np.testing.assert_allclose(found, right, atol=1e-4 * np.abs(right).max())
    assert not {node.op_type for node in spatial.single.graph.node} & {"Shape", "Expand", "Range", "Gemm"}


@pytest.mark.parametrize("precision", PRECISIONS)
def test_graphs_with_a_volume_have_two_outputs_of_one_type_and_depth_in_float32(
    spatial: Spatial, places: tuple[Path, Path], images: NDArray[np.uint8], precision: str
) -> None:
    model = spatial.variant(precision, places[0])
    kind = TensorProto.FLOAT if precision == "fp32" else TensorProto.FLOAT16
    ports = [
        (
            port.name,
            port.type.tensor_type.elem_type,
            [d.dim_param or d.dim_value for d in port.type.tensor_type.shape.dim],
        )
        for port in model.graph.output
    ]
    size, channels = spatial.bundle.feature_size, spatial.bundle.head.channels
    assert ports == [
        ("features", kind, ["N", *size, channels]),
        ("volume", kind, ["N", *GRID.shape]),
        ("depth", TensorProto.FLOAT, ["N", CAMERA.height, CAMERA.width]),
    ]
    together = outputs(model, images)
    for index, image in enumerate(images):
        for all_of_them, alone in zip(together, outputs(model, image[None]), strict=True):
            np.testing.assert_allclose(all_of_them[index], alone[0], atol=1e-3 * np.abs(alone).max())


def test_float16_keeps_what_it_would_spoil(spatial: Spatial, images: NDArray[np.uint8]) -> None:
    half = to_half(spatial.single)
    found = types(half)
    nodes = half.graph.node
    for node in nodes:
        if node.op_type not in ("Cast", "Resize", "Clip"):
            mixed = {found[name] for name in (*node.input, *node.output) if found.get(name) in FLOATS}
            assert len(mixed) == 1, node.name
    single = {node.op_type for node in nodes if found[node.output[0]] == TensorProto.FLOAT}
    kept = {"GridSample", "InstanceNormalization", "Exp", "Tanh", "Reciprocal"}
    if spatial.model:
        kept |= {"LayerNormalization", "Softmax", "Erf", "ReduceMean"}
        makers = {name: node for node in nodes for name in node.output}
        scores = [makers[node.input[0]] for node in nodes if node.op_type == "Softmax"]
        assert len(scores) == 4 and {node.op_type for node in scores} == {"MatMul"}
    assert kept <= single
    halves = {node.op_type for node in nodes if found[node.output[0]] == TensorProto.FLOAT16}
    assert halves & kept == set() and {"Conv", "DepthToSpace"} <= halves and "Conv" not in single
    for right, rounded in zip(outputs(spatial.single, images), outputs(half, images), strict=True):
        assert 0.0 < np.abs(right - rounded).mean() < 4e-3 * np.abs(right).mean()


def test_what_depth_is_computed_of_is_float32(spatial: Spatial, images: NDArray[np.uint8]) -> None:
    """Rounded to float16 only in the convolution before, and so with more than float16's steps."""
    half = to_half(spatial.single)
    found = types(half)
    makers = {name: node for node in half.graph.node for name in node.output}
    waiting, passed = ["depth"], set()
    while waiting:
        node = makers.get(waiting.pop())
        if node is not None and node.op_type != "Conv":
            passed.add(node.op_type)
            if not (node.op_type == "Cast" and makers[node.input[0]].op_type == "Conv"):
                assert found[node.output[0]] in (TensorProto.FLOAT, TensorProto.INT64), node.name
            waiting += node.input
    assert {"Resize", "Softplus", "Cast"} <= passed and {"Reciprocal", "Div"} & passed
    depth = outputs(half, images)[2]
    assert (depth.astype(np.float16).astype(np.float32) != depth).mean() > 0.9


def test_integers_are_those_of_convolutions_that_say_no_depth(spatial: Spatial, places: tuple[Path, Path]) -> None:
    model = spatial.variant("int8", places[0])
    integers = {tensor.name for tensor in model.graph.initializer if tensor.data_type == TensorProto.INT8}
    weights = {
        node.output[0] for node in model.graph.node if node.op_type == "DequantizeLinear" and node.input[0] in integers
    }
    quantised = {node.name: node.op_type for node in model.graph.node if weights & set(node.input)}
    assert set(quantised.values()) == {"Conv"} and len(quantised) >= 10
    assert any(name.startswith("/spatial/") for name in quantised)
    assert not {"/encoder_project/Conv", "/spatial/reduce/Conv", "/spatial/leave/Conv", "/project/Conv"} & set(
        quantised
    )


def test_a_student_with_a_volume_gets_its_encoders(
    spatial: Spatial, places: tuple[Path, Path], tmp_path: Path, images: NDArray[np.uint8]
) -> None:
    copy = spatial.bundle.save(tmp_path, spatial.bundle.read_encoder(), spatial.bundle.load_weights())
    options = {"calibration": [places[0]], "parity": [places[1]], "gates": LOOSE, "encoder_weights": spatial.model}
    made = export_for_gpus(copy, PRECISIONS, threads=1, **options)  # type: ignore[arg-type]
    assert made.gpu_precisions == PRECISIONS
    for precision in PRECISIONS:
        parity = made.gpu_encoders[precision].parity
        assert 0.0 < parity["volume_relative"] < LOOSE[precision].volume
        assert parity["volume_max"] > parity["volume_mean"] > 0.0
        assert 0.0 < parity["depth_relative"] < LOOSE[precision].depth
        assert parity["depth_relative"] < parity["depth_max"] < 0.1
        encoder = make_encoder(made, f"onnxruntime_{precision}", threads=1)
        right, found = outputs(spatial.variant(precision, places[0]), images[:1]), encoder.encode(images[0])
        assert found.volume is not None and found.depth is not None
        np.testing.assert_array_equal(found.volume, right[1][0])
        np.testing.assert_array_equal(found.depth, right[2][0])
    assert made.gpu_encoders["fp16"].reference == TORCH


def test_a_wrong_volume_or_depth_fails(spatial: Spatial, images: NDArray[np.uint8]) -> None:
    reference = spatial.reference()
    check = ParityCheck(spatial.bundle, images, reference.encode)

    def exact(batch: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
        encoded = [reference.encode(image) for image in batch]
        return [np.stack([getattr(one, name) for one in encoded]) for name in ("features", "volume", "depth")]

    def with_volume(factor: float) -> Parity:
        return check(lambda batch: [(one := exact(batch))[0], one[1] * np.float32(factor), one[2]])

    def with_depth(factor: float) -> Parity:
        return check(lambda batch: [*(one := exact(batch))[:2], one[2] * np.float32(factor)])

    parity = check(exact)
    assert all(parity.failures(gate) == [] for gate in GATES.values())
    assert (parity.volume_max, parity.volume_relative, parity.density_max) == (0.0, 0.0, 0.0)
    assert (parity.depth_max, parity.depth_relative) == (0.0, 0.0)
    scaled = with_volume(1.07)
    assert scaled.volume_relative == pytest.approx(0.07, rel=1e-3) and scaled.features_max == 0.0
    for gate in GATES.values():
        assert next(iter(scaled.failures(gate))).startswith("mean difference of the volume is 0.07 ")
    for place in (1, 2):
        mixed = check(
            lambda batch, of=place: [one * (len(batch) if at == of else 1) for at, one in enumerate(exact(batch))]
        )
        (said,) = mixed.failures(GATES["int8"])
        assert said.startswith("difference between a batch and single images is 1 ")
    broken = with_volume(float("nan"))
    assert "mean difference of the volume is nan" in " ".join(broken.failures(GATES["int8"]))
    for factor, share in ((1.04, "0.04"), (0.95, "0.05"), (float("nan"), "nan")):
        for gate in GATES.values():
            said = " ".join(with_depth(factor).failures(gate))
            assert f"mean share that the depth is off is {share} where" in said
            assert "volume" not in said and "density" not in said


def test_the_reference_of_a_stretched_student_is_what_its_encoder_says(
    spatial: Spatial, images: NDArray[np.uint8], tmp_path: Path
) -> None:
    """The head's gain stretches the volume, the encoder's stays; unfolded weights hold both."""
    bundle, stretch = spatial.bundle, DensityStretch(2.0, 0.5)
    head, weights = stretch.of_head(bundle.head), stretch.of_weights(bundle.load_weights())
    stretched = dataclasses.replace(bundle, head=head).save(tmp_path, bundle.read_encoder(), weights)
    before = spatial.reference().encode(images[0]).volume
    after = Reference(stretched, threads=1, encoder_weights=spatial.model).encode(images[0]).volume
    assert before is not None and after is not None
    np.testing.assert_allclose(after, before, atol=2e-3 * np.abs(before).max())


def test_what_is_no_encoder_is_refused() -> None:
    with pytest.raises(BundleError, match="somewhere: ONNX Runtime cannot run it"):
        simplified(b"no graph", "somewhere")


def test_images_come_from_folders_drives_and_bags(places: tuple[Path, Path], synthetic_drive: Path) -> None:
    from scene_completion_ros.bags.demo_drive import DEMO_DRIVE

    images = canonical_images([places[0], synthetic_drive, DEMO_DRIVE], CAMERA, 6)
    assert images.shape == (6, CAMERA.height, CAMERA.width, 3) and images.dtype == np.uint8
    assert len({image.tobytes() for image in images}) == 6
    assert all(image.std() > 5.0 for image in images)
    with pytest.raises(SequenceError, match="is no recording"):
        canonical_images([places[0].parent], CAMERA, 6)


def test_a_new_calibration_says_which_encoders_it_costs(
    copied: StudentBundle, capsys: pytest.CaptureFixture[str]
) -> None:
    made = copied.add_gpu_encoders({"fp16": (b"graph", GpuEncoder("fp16", "", {}, {}, "test"))})
    stretched = dataclasses.replace(made.head, density_bias=made.head.density_bias + np.float32(0.5))
    assert made.folder is not None
    say_dropped(made, dataclasses.replace(made, head=stretched).save(made.folder, made.read_encoder()))
    assert "(fp16) were those of the head before and are gone; make them anew with" in capsys.readouterr().out
    say_dropped(copied, copied)
    assert capsys.readouterr().out == ""


def test_the_command_adds_the_encoders(
    copied: StudentBundle, places: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["export-gpu", str(copied.folder), "--parity-images", str(places[1]), "--images", "2", "--threads", "1"]
    assert main(arguments) == 0
    said = capsys.readouterr().out
    assert said.startswith("fp16: ") and "(2 images)" in said and "encoders for GPUs in fp16" in said
    assert StudentBundle.load(str(copied.folder)).gpu_precisions == ("fp16",)
    assert main([*arguments, "--precision", "int8"]) == 2
    assert "--calibration-images" in capsys.readouterr().err
    assert main([*arguments[:-2], "--images", "0"]) == 2
    assert "--images" in capsys.readouterr().err


# In a process of its own: the library may end the process where it finds no driver.
BUILD = """
import json, sys
import tensorrt_rtx as trt
logger = trt.Logger(trt.Logger.ERROR)
builder = trt.Builder(logger)
answers = {}
for file in sys.argv[1:]:
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    with open(file, "rb") as graph:
        if not parser.parse(graph.read()):
            answers[file] = {"error": str(parser.get_error(0))}
            continue
    ports = [network.get_input(0), *(network.get_output(i) for i in range(network.num_outputs))]
    config, profile = builder.create_builder_config(), builder.create_optimization_profile()
    profile.set_shape("image", *((count, *tuple(ports[0].shape)[1:]) for count in (1, 2, 6)))
    config.add_optimization_profile(profile)
    plan = builder.build_serialized_network(network, config)
    answers[file] = {
        "ports": [[port.name, str(port.dtype), list(port.shape)] for port in ports],
        "plan": 0 if plan is None else plan.nbytes,
    }
print(json.dumps(answers))
"""


@pytest.mark.skipif(
    importlib.util.find_spec("tensorrt_rtx") is None,
    reason="TensorRT-RTX is not installed (pip install tensorrt_rtx; x86-64 only)",
)
def test_tensorrt_rtx_builds_every_precision(
    student: StudentBundle, graphs: dict[str, onnx.ModelProto], tmp_path: Path
) -> None:
    answers = built(graphs, tmp_path)
    for precision in PRECISIONS:
        element = "DataType.FLOAT" if precision == "fp32" else "DataType.HALF"
        assert answers[precision]["ports"] == [
            ["image", "DataType.UINT8", [-1, CAMERA.height, CAMERA.width, 3]],
            ["features", element, [-1, *student.feature_size, student.head.channels]],
        ]


@pytest.mark.skipif(
    importlib.util.find_spec("tensorrt_rtx") is None,
    reason="TensorRT-RTX is not installed (pip install tensorrt_rtx; x86-64 only)",
)
def test_tensorrt_rtx_builds_encoders_with_volume_and_depth(
    spatial: Spatial, places: tuple[Path, Path], tmp_path: Path
) -> None:
    answers = built({precision: spatial.variant(precision, places[0]) for precision in PRECISIONS}, tmp_path)
    for precision in PRECISIONS:
        element = "DataType.FLOAT" if precision == "fp32" else "DataType.HALF"
        assert answers[precision]["ports"][2:] == [
            ["volume", element, [-1, *GRID.shape]],
            ["depth", "DataType.FLOAT", [-1, CAMERA.height, CAMERA.width]],
        ]


def built(graphs: Mapping[str, onnx.ModelProto], folder: Path) -> dict[str, Any]:
    """What TensorRT-RTX says of graphs that it builds for one to six images."""
    for precision, model in graphs.items():
        (folder / precision).write_bytes(model.SerializeToString())
    command = [sys.executable, "-c", BUILD, *PRECISIONS]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    answers: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    assert not [answer for answer in answers.values() if "error" in answer]
    assert all(answer["plan"] > 100_000 for answer in answers.values())
    return answers
