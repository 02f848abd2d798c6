"""Encoders for GPUs: the graphs, what they are measured against, the gates, and the command."""

import dataclasses
import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto

from scene_completion_ros.cli import main
from scene_completion_ros.errors import BundleError, ImageError
from scene_completion_ros.inference.bundle import MANIFEST, StudentBundle
from scene_completion_ros.inference.encoded_image import EncodedImage
from scene_completion_ros.inference.encoder import make_encoder
from scene_completion_ros.inference.gpu_encoders import PRECISIONS, GpuEncoder
from scene_completion_ros.inference.gpu_graph_encoder import GpuGraph
from scene_completion_training.commands.arguments import say_dropped
from scene_completion_training.gpu_export.graph import gpu_graph, to_half
from scene_completion_training.gpu_export.parity import (
    GATES,
    ONNX,
    TORCH,
    Gate,
    Parity,
    ParityCheck,
    Reference,
    canonical_images,
    export_for_gpus,
)
from tests.checkout import run_python
from tests.training.foundation.tiny_models import saved_depth_model
from tests.training.small_students import CAMERA, GRID, make_small_student, make_spatial_student, street_images

FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16)
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


class Spatial(NamedTuple):
    """A student whose encoder gives volume and depth, and its encoders for GPUs by precision.

    Attributes:
        transformer: Its trunk is one.
    """

    bundle: StudentBundle
    transformer: bool
    graphs: dict[str, onnx.ModelProto]

    @property
    def single(self) -> onnx.ModelProto:
        """The encoder in float32."""
        return self.graphs["fp32"]

    def reference(self) -> Reference:
        """What its variants are compared with."""
        return Reference(self.bundle, threads=1)


@pytest.fixture(scope="module", params=["convolutions", "transformer"])
def spatial(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Spatial:
    folder = tmp_path_factory.mktemp("spatial")
    model = saved_depth_model(folder / "tiny") if request.param == "transformer" else None
    bundle = make_spatial_student(folder / "bundle", model)
    return Spatial(bundle, model is not None, graphs_of(bundle))


@pytest.fixture
def copied(student: StudentBundle, tmp_path: Path) -> StudentBundle:
    return student.save(tmp_path / "student", student.read_encoder(), student.load_weights())


def contents(folder: Path | None) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def types(model: onnx.ModelProto) -> dict[str, int]:
    """Element type of every tensor."""
    graph = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True).graph
    found = {value.name: value.type.tensor_type.elem_type for value in (*graph.value_info, *graph.input, *graph.output)}
    return found | {tensor.name: tensor.data_type for tensor in graph.initializer}


@pytest.mark.parametrize("precision", PRECISIONS)
def test_graphs_have_the_same_ports(student: StudentBundle, graphs: dict[str, onnx.ModelProto], precision: str) -> None:
    graph = graphs[precision].graph
    (image,), (features,) = graph.input, graph.output
    (height, width), channels = student.feature_size, student.head.channels
    shapes = [[dimension.dim_value for dimension in port.type.tensor_type.shape.dim] for port in (image, features)]
    assert (image.name, features.name) == ("image", "features")
    assert shapes == [[1, CAMERA.height, CAMERA.width, 3], [1, height, width, channels]]
    assert image.type.tensor_type.elem_type == TensorProto.UINT8
    wanted = TensorProto.FLOAT if precision == "fp32" else TensorProto.FLOAT16
    assert features.type.tensor_type.elem_type == wanted
    assert {node.domain for node in graph.node} == {""}
    assert not {node.op_type for node in graph.node} & {"Shape", "ConstantOfShape", "Expand", "Range", "Loop", "If"}


def test_an_export_is_the_same_again(
    copied: StudentBundle, places: tuple[Path, Path], graphs: dict[str, onnx.ModelProto]
) -> None:
    said: dict[str, str] = {}

    def report(precision: str, size: int, parity: Parity) -> None:
        assert said.setdefault(precision, f"{size} {parity}") == f"{size} {parity}"

    def export(bundle: StudentBundle, *precisions: str) -> StudentBundle:
        return export_for_gpus(bundle, precisions, parity=[places[1]], threads=1, report=report)

    made = export(copied, *PRECISIONS)
    assert said.keys() == set(made.gpu_precisions) == set(PRECISIONS)
    assert made.gpu_encoders["fp16"].reference.startswith(TORCH)
    first = contents(made.folder)
    made = export(made, "fp32")  # the others are made a second time for `graphs`
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
    found, folded = reference.encode(images[0]).features, make_encoder(student, "onnxruntime", threads=1)(images[0])
    hidden = student.head.hidden
    np.testing.assert_array_equal(found[..., hidden:], folded[..., hidden:])
    assert 0.0 < np.abs(found - folded)[..., :hidden].mean() < 1e-2 * np.abs(found).mean()


def test_weights_of_another_training_fail(copied: StudentBundle, places: tuple[Path, Path], tmp_path: Path) -> None:
    weights = copied.load_weights()
    weights["feature_layer.weight"] = weights["feature_layer.weight"][::-1].copy()
    mixed = copied.save(tmp_path / "student", copied.read_encoder(), weights)
    before = contents(mixed.folder)
    with pytest.raises(BundleError, match="fp32: mean difference of the map is .* where at most 0.001 is allowed"):
        export_for_gpus(mixed, ["fp32"], parity=[places[1]], threads=1)
    assert contents(mixed.folder) == before


def test_one_variant_that_fails_keeps_all_out(copied: StudentBundle, places: tuple[Path, Path]) -> None:
    before = contents(copied.folder)
    exact = Gate(features=0.0, density=1.0, occupied_iou=0.0, labels=0.0, volume=1.0, depth=1.0)
    with pytest.raises(BundleError, match="^parity with .*: fp16: mean difference of the map is [0-9.e-]+ where"):
        export_for_gpus(copied, ["fp32", "fp16"], parity=[places[1]], gates={**GATES, "fp16": exact}, threads=1)
    assert contents(copied.folder) == before


@pytest.fixture(scope="module")
def check(student: StudentBundle, images: NDArray[np.uint8]) -> ParityCheck:
    return ParityCheck(student, images, Reference(student, threads=1).encode)


@pytest.fixture(scope="module")
def exact(student: StudentBundle) -> Encode:
    return Reference(student, threads=1).encode


def test_noise_in_the_map_and_wrong_densities_fail(student: StudentBundle, check: ParityCheck, exact: Encode) -> None:
    parity = check(lambda image: EncodedImage(exact(image).features * np.float32(1.01)))
    assert parity.features_relative == pytest.approx(0.01, rel=1e-3)
    assert next(iter(parity.failures(GATES["fp32"]))).startswith("mean difference of the map is 0.01 ")
    # One unit is off: hardly seen in the map's mean, but in what it is for.
    unit = int(student.head.density_weight.argmax())

    def shifted(image: NDArray[np.uint8]) -> EncodedImage:
        encoded = exact(image)
        encoded.features[..., unit] += 8.0
        return encoded

    said = " ".join(check(shifted).failures(dataclasses.replace(GATES["fp16"], features=10.0)))
    assert "mean difference of the density" in said and "IoU of the occupied voxels" in said
    assert "labels" not in said


def test_wrong_labels_fail_alone(student: StudentBundle, check: ParityCheck, exact: Encode) -> None:
    def shuffled(image: NDArray[np.uint8]) -> EncodedImage:
        features = exact(image).features
        features[..., student.head.hidden :] = features[..., : student.head.hidden - 1 : -1].copy()
        return EncodedImage(features)

    parity = check(shuffled)
    assert (parity.occupied_iou, parity.density_relative) == (1.0, 0.0)
    (said,) = parity.failures(dataclasses.replace(GATES["fp16"], features=10.0))
    assert said.startswith("agreement of the labels is 0.")


def test_a_student_that_sees_nothing_cannot_be_compared(student: StudentBundle, images: NDArray[np.uint8]) -> None:
    blind = dataclasses.replace(student, threshold=1.0)
    with pytest.raises(BundleError, match="nothing occupied in any of 3 images.*--parity-images"):
        ParityCheck(blind, images, Reference(student, threads=1).encode)


def outputs(model: onnx.ModelProto, images: NDArray[np.uint8]) -> list[EncodedImage]:
    graph = GpuGraph(model.SerializeToString(), "test", threads=1)
    return [graph.encode(image) for image in images]


def test_a_graph_gives_volume_and_depth(spatial: Spatial, images: NDArray[np.uint8]) -> None:
    encoder = make_encoder(spatial.bundle, "onnxruntime", threads=1)
    wanted = [encoder.encode(image).copy() for image in images]
    features, volumes, depths = (
        np.stack([getattr(one, name) for one in wanted]) for name in ("features", "volume", "depth")
    )
    assert volumes.shape == (len(images), *GRID.shape) and np.abs(volumes[0] - volumes[1]).max() > 0.1
    assert depths.shape == (len(images), CAMERA.height, CAMERA.width) and np.abs(depths[0] - depths[1]).max() > 0.1
    for one, of_image in zip(outputs(spatial.single, images), wanted, strict=True):
        for found, right, scale in zip(one[:3], of_image[:3], (features, volumes, depths), strict=True):
            np.testing.assert_allclose(found, right, atol=1e-4 * np.abs(scale).max())
    assert not {node.op_type for node in spatial.single.graph.node} & {"Shape", "Expand", "Range", "Gemm"}


def test_float16_keeps_what_it_would_spoil(spatial: Spatial, images: NDArray[np.uint8]) -> None:
    half = spatial.graphs["fp16"]
    found = types(half)
    nodes = half.graph.node
    for node in nodes:
        if node.op_type not in ("Cast", "Resize", "Clip"):
            mixed = {found[name] for name in (*node.input, *node.output) if found.get(name) in FLOATS}
            assert len(mixed) == 1, node.name
    single = {node.op_type for node in nodes if found[node.output[0]] == TensorProto.FLOAT}
    kept = {"GridSample", "InstanceNormalization", "Exp", "Tanh", "Reciprocal"}
    if spatial.transformer:
        kept |= {"LayerNormalization", "Softmax", "Erf", "ReduceMean"}
        makers = {name: node for node in nodes for name in node.output}
        scores = [makers[node.input[0]] for node in nodes if node.op_type == "Softmax"]
        assert len(scores) == 4 and {node.op_type for node in scores} == {"MatMul"}
    assert kept <= single
    halves = {node.op_type for node in nodes if found[node.output[0]] == TensorProto.FLOAT16}
    assert halves & kept == set() and {"Conv", "DepthToSpace"} <= halves and "Conv" not in single
    for right, rounded in zip(*(outputs(one, images[:1])[0][:3] for one in (spatial.single, half)), strict=True):
        assert right is not None and rounded is not None
        assert 0.0 < np.abs(right - rounded).mean() < 4e-3 * np.abs(right).mean()


def test_a_wrong_volume_or_depth_fails(spatial: Spatial, images: NDArray[np.uint8]) -> None:
    reference = spatial.reference()
    check = ParityCheck(spatial.bundle, images, reference.encode)

    def with_factors(volume: float = 1.0, depth: float = 1.0) -> Parity:
        def variant(image: NDArray[np.uint8]) -> EncodedImage:
            encoded = reference.encode(image)
            assert encoded.volume is not None and encoded.depth is not None
            factors = np.float32([volume, depth])
            return EncodedImage(encoded.features, encoded.volume * factors[0], encoded.depth * factors[1])

        return check(variant)

    parity = with_factors()
    assert all(parity.failures(gate) == [] for gate in GATES.values())
    assert (parity.volume_relative, parity.depth_relative, parity.density_relative) == (0.0, 0.0, 0.0)
    scaled = with_factors(volume=1.07)
    assert scaled.volume_relative == pytest.approx(0.07, rel=1e-3) and scaled.features_relative == 0.0
    for gate in GATES.values():
        assert next(iter(scaled.failures(gate))).startswith("mean difference of the volume is 0.07 ")
    broken = with_factors(volume=float("nan"))
    assert "mean difference of the volume is nan" in " ".join(broken.failures(GATES["fp16"]))
    for factor, share in ((1.04, "0.04"), (0.95, "0.05"), (float("nan"), "nan")):
        for gate in GATES.values():
            said = " ".join(with_factors(depth=factor).failures(gate))
            assert f"mean share that the depth is off is {share} where" in said
            assert "volume" not in said and "density" not in said


def test_a_new_calibration_names_encoders_it_costs(copied: StudentBundle, capsys: pytest.CaptureFixture[str]) -> None:
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
    arguments = ["export", str(copied.folder), "--parity-images", str(places[1]), "--gpu"]
    assert main([*arguments, "fp16"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("fp16: ") and "encoders for GPUs in fp16" in printed
    assert StudentBundle.load(str(copied.folder)).gpu_precisions == ("fp16",)
    assert main(["export", str(copied.folder)]) == 2
    assert "BUNDLE: is missing" in capsys.readouterr().err


# In a process of its own: the library may end the process where it finds no driver.
BUILD = """
import sys
from pathlib import Path
from scene_completion_ros.inference.bundle import StudentBundle
from scene_completion_ros.inference.gpu.engine_provision import build_plan
from scene_completion_ros.inference.gpu.tensorrt_runtime import load_tensorrt, ports_of

for name, *precisions in (entry.split(":") for entry in sys.argv[1:]):
    bundle = StudentBundle.load(name)
    for precision in precisions:
        ports, tensorrt = ports_of(bundle, precision), load_tensorrt("tensorrt_rtx")
        plan = build_plan(Path(name, precision).read_bytes(), ports, tensorrt, exact=precision == "fp32")
        print(len(plan), *ports)
"""


@pytest.mark.skipif(
    importlib.util.find_spec("tensorrt_rtx") is None,
    reason="TensorRT-RTX is not installed (pip install tensorrt_rtx; x86-64 only)",
)
def test_tensorrt_rtx_builds_every_precision(
    student: StudentBundle, graphs: dict[str, onnx.ModelProto], spatial: Spatial, tmp_path: Path
) -> None:
    """Of a student without a volume, too, once."""
    asked = [(spatial.bundle, spatial.graphs), *([] if spatial.transformer else [(student, graphs)])]
    for number, (bundle, models) in enumerate(asked):
        folder = tmp_path / str(number)
        bundle.save(folder, bundle.read_encoder())
        for precision in PRECISIONS:
            (folder / precision).write_bytes(models[precision].SerializeToString())
    names = [":".join((str(number), *PRECISIONS)) for number in range(len(asked))]
    done = run_python("-c", BUILD, *names, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    built = [line.split() for line in done.stdout.splitlines()]
    assert all(int(size) > 100_000 for size, *_ in built)
    ports = ["image", "features"]
    expected = [[*ports, "volume", "depth"]] * 2 + [ports] * (2 * len(asked) - 2)
    assert [names for _, *names in built] == expected
