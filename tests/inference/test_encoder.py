from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper

from scene_completion_ros.bags.reader import demo_drive
from scene_completion_ros.errors import BundleError, GpuError, SceneCompletionError
from scene_completion_ros.inference import encoder
from scene_completion_ros.inference.bundle import DEFAULT_BUNDLE, StudentBundle, open_student, shipped_students
from scene_completion_ros.inference.completer import Completer
from scene_completion_ros.inference.encoder import ENGINES, check_engine, make_networks
from scene_completion_ros.inference.gpu import device, device_networks
from scene_completion_ros.inference.graphs import StepGraph
from scene_completion_ros.inference.scene_query import MOSTLY, shown_share
from scene_completion_ros.voxels.semantic_voxels import VoxelState
from tests.checkout import run_python
from tests.inference.small_bundle import CANONICAL, make_small_bundle, random_head, serialised, tiny_encoder
from tests.inference.test_bundle import edit_manifest, refused

EXACT = ["openvino", "onnxruntime"]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> StudentBundle:
    return make_small_bundle(tmp_path_factory.mktemp("bundle"))


def test_auto_computes_in_bfloat16_where_the_student_passed_and_the_cpu_has_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was measured of other graphs does not count."""
    made = make_small_bundle(tmp_path / "made")
    passed = made.with_bf16({"occupied_iou": 0.99})
    assert passed.passed_bf16 and not made.passed_bf16 and passed.bf16 is not None
    for has, name in ((True, "openvino_bf16"), (False, "openvino")):
        monkeypatch.setattr(encoder, "cpu_has_bf16", lambda has=has: has)
        assert (make_networks(passed).name, make_networks(made).name) == (name, "openvino")
        assert make_networks(passed, "openvino").name == "openvino"
    assert passed.save(tmp_path / "same", passed.read_encoder()).passed_bf16
    assert not passed.save(tmp_path / "other", tiny_encoder(5)).passed_bf16
    edit_manifest(tmp_path / "same", lambda m: m["bf16"]["made_from"].update({"encoder.onnx": "none"}))
    assert "made_from" in str(refused(tmp_path / "same"))


def test_engines_agree(bundle: StudentBundle) -> None:
    image = np.random.default_rng(0).integers(0, 256, (192, 640, 3), dtype=np.uint8)
    first, second = (make_networks(bundle, engine, threads=1)(image) for engine in EXACT)
    assert first.shape == (96, 320, 64)
    assert first.dtype == second.dtype == np.float32
    assert first.std() > 0.1
    np.testing.assert_allclose(first, second, atol=1e-4)
    np.testing.assert_allclose(make_networks(bundle, "openvino_bf16")(image), second, atol=0.05 * np.abs(second).max())


@pytest.mark.parametrize("engine", EXACT)
def test_rows_are_run_in_parts(engine: str) -> None:
    """Five of thirteen at a time, the last five again with some of those before; also of other inputs the next time."""
    rng = np.random.default_rng(0)
    weight = rng.normal(size=(3, 2)).astype(np.float32)
    given, made = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [5, n]) for name, n in (("x", 3), ("y", 2)))
    graph = serialised([helper.make_node("MatMul", ["x", "weight"], ["y"])], given, made, {"weight": weight})
    step = StepGraph(Path("rows.onnx"), graph, [("x", [13, 3])], [("y", [13, 2])], rows=5)
    assert [part.start for part in step.parts] == [0, 5, 8]
    options = encoder._openvino_options(1, bf16=False)
    run = encoder._OpenVinoGraph(options, step) if engine == "openvino" else encoder._OnnxRuntimeGraph(1, step)
    for _ in range(2):
        rows = rng.normal(size=(13, 3)).astype(np.float32)
        np.testing.assert_allclose(run({"x": rows})[0], rows @ weight, atol=1e-5)


def test_int8_weights_are_unpacked_before_bfloat16_computes_with_them() -> None:
    """The same as with weights that were never packed, to the last bit; packed ones take other products."""
    rng = np.random.default_rng(0)
    packed, scale = rng.integers(-127, 128, (384, 384), np.int8), rng.uniform(1e-3, 1e-2, 384).astype(np.float32)
    given, made = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [96, 384]) for name in "xy")
    product, unpack = (
        helper.make_node("MatMul", ["x", "weight"], ["y"]),
        helper.make_node("DequantizeLinear", ["packed", "scale"], ["weight"], axis=1),
    )
    graphs = (
        serialised([unpack, product], given, made, {"packed": packed, "scale": scale}),
        serialised([product], given, made, {"weight": packed.astype(np.float32) * scale}),
    )
    options, ports = encoder._openvino_options(1, bf16=True), ([("x", [96, 384])], [("y", [96, 384])])
    runs = [encoder._OpenVinoGraph(options, StepGraph(Path("product.onnx"), graph, *ports)) for graph in graphs]
    rows = {"x": rng.normal(size=(96, 384)).astype(np.float32)}
    np.testing.assert_array_equal(runs[0](rows)[0], runs[1](rows)[0])


@pytest.mark.parametrize("engine", EXACT)
@pytest.mark.parametrize(
    ("graph", "message"),
    [
        (b"not a graph", "cannot run it"),
        (tiny_encoder(output="map"), "output is .*map"),
        (tiny_encoder(channels=32), "output is .*32"),
    ],
)
def test_foreign_graphs_are_refused(tmp_path: Path, engine: str, graph: bytes, message: str) -> None:
    bundle = StudentBundle(name="foreign", canonical=CANONICAL, head=random_head()).save(tmp_path, graph)
    with pytest.raises(BundleError, match=message) as caught:
        make_networks(bundle, engine)
    assert "encoder.onnx" in caught.value.where


@pytest.mark.parametrize("engine", EXACT)
def test_a_graph_whose_first_run_does_not_end_is_named(
    bundle: StudentBundle, engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoder, "LONGEST_START_S", 0.0)
    with pytest.raises(BundleError, match="encoder.onnx: its first run did not end within 0 s. Export a smaller one"):
        make_networks(bundle, engine)


def test_choice_of_the_engine(bundle: StudentBundle, monkeypatch: pytest.MonkeyPatch) -> None:
    assert make_networks(bundle).name == "openvino"
    with pytest.raises(SceneCompletionError, match=", ".join(ENGINES)):
        make_networks(bundle, "tpu")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "openvino" else object())
    assert make_networks(bundle).name == "onnxruntime"
    with pytest.raises(SceneCompletionError, match="pip install openvino"):
        make_networks(bundle, "openvino")


def test_no_engine_sends_telemetry(bundle: StudentBundle, tmp_path: Path) -> None:
    """OpenVINO has a package that does, unless it runs in a CI job."""
    script = f"""
import sys
from scene_completion_ros.inference.encoder import make_networks
from scene_completion_ros.inference.bundle import open_student
for engine in ("openvino", "onnxruntime"):
    make_networks(open_student({str(bundle.folder)!r}), engine)
print(any(name.startswith("openvino_telemetry") for name in sys.modules))
"""
    ran = run_python("-c", script, HOME=str(tmp_path), CI="", TF_BUILD="", JENKINS_URL="")
    assert ran.stdout.split()[-1:] == ["False"], ran.stderr
    assert not (tmp_path / "intel").exists()


SEEN = (VoxelState.FREE_SEEN, VoxelState.SURFACE)


def test_the_share_of_an_image_that_shows_something() -> None:
    """By hand: 23 rows of windows of 8 pixels, 4 apart; six see the chessboard above, whose deviation is 10."""
    image = np.full((96, 96, 3), 100, np.uint8)
    assert shown_share(image) == 0.0
    rows, columns = np.mgrid[:24, :96]
    image[:24] = np.where((rows + columns)[..., None] % 2, 110, 90)
    assert shown_share(image) == pytest.approx(6 / 23)
    covered = np.zeros((96, 96), np.bool_)
    assert shown_share(image, covered) == 1.0  # nothing to judge by
    covered[:48] = True
    assert shown_share(image, covered) == pytest.approx(6 / 11)
    image[:24] = np.where((rows + columns)[..., None] % 2, 101, 100)  # as noise of a sensor is
    assert shown_share(image) == 0.0


@pytest.mark.parametrize(
    "name", [pytest.param(one, marks=[pytest.mark.slow] * (one != DEFAULT_BUNDLE.name)) for one in shipped_students()]
)
def test_nothing_is_certain_of_images_that_show_nothing(name: str) -> None:
    camera, (photograph, *_) = demo_drive()
    student = open_student(name)
    completer = Completer(student, camera, threads=2)
    forward, _, up = np.moveaxis(completer.grid.centres(), -1, 0)
    height = up + student.height_above_ground
    reach = forward.max()
    obstacles = completer.in_view & (height > 0.4) & (height < 2.0) & (forward > reach / 4.0)
    seeing = completer.complete(photograph)
    assert np.isin(seeing.voxels.state, SEEN).any() and seeing.shown > MOSTLY
    noise = np.random.default_rng(0).integers(0, 256, photograph.shape, dtype=np.uint8)
    for image in (np.zeros_like(photograph), noise):
        found = completer.complete(image)
        if image is not noise:
            assert found.shown == 0.0 and not np.isin(found.voxels.state, SEEN).any()
        # No student may be sure that all of it is free.
        assert found.probability[obstacles].mean() > 0.02


@pytest.mark.parametrize("name", shipped_students())
def test_tensorrt_takes_every_shipped_student_or_names_what_the_machine_lacks(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = open_student(name)
    if not device.cuda_devices().names:
        for start in (make_networks, lambda student, engine: check_engine(student, engine, student.grid)):
            with pytest.raises(GpuError, match="the NVIDIA driver is missing|a GPU is not seen"):
                start(bundle, "tensorrt")
    monkeypatch.setattr(device, "require", lambda flavour: None)
    monkeypatch.setattr(device_networks, "require_compiler", lambda: None)
    check_engine(bundle, "tensorrt", bundle.grid)
