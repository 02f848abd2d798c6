"""Images to voxels through engine and kernels: gates, cache, errors and what takes over, on stand-ins for the GPU.

pycuda is `host_cuda`, TensorRT `host_tensorrt`; the kernels are those of the package. That a GPU runs them, only `make
test-gpu` shows.
"""

import dataclasses
import gc
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest

from scene_completion_ros.errors import GpuError, ImageError
from scene_completion_ros.geometry import RigidTransform
from scene_completion_ros.geometry.grids import DEFAULT_GRID_FROM_CAMERA
from scene_completion_ros.inference import encoder
from scene_completion_ros.inference.bundle import StudentBundle, open_student, shipped_students
from scene_completion_ros.inference.completer import Completer
from scene_completion_ros.inference.evidence import NO_EVIDENCE, Evidence
from scene_completion_ros.inference.gpu import device, device_networks, kernels, parity
from scene_completion_ros.inference.gpu.kernels import CompiledKernels
from scene_completion_ros.inference.motion_scale import Scale
from scene_completion_ros.voxels.semantic_voxels import SemanticVoxels
from tests.inference.gpu.conftest import SMALL, Build, picture
from tests.inference.gpu.host_cuda import HostCuda
from tests.inference.gpu.host_kernels import HostCompiler
from tests.inference.gpu.host_tensorrt import HostTensorRt, half_networks
from tests.inference.known_mounting_bundle import CAMERA, GRID, make_known_mounting_bundle, wall_from
from tests.inference.small_bundle import random_query, random_vocabulary, small_space

ON_CPU = ("openvino", "onnxruntime")


def assert_alike(found: SemanticVoxels, expected: SemanticVoxels) -> None:
    """The same but for voxels that lie at a threshold."""
    assert np.mean(found.state != expected.state) < 2e-3
    shape = expected.grid.shape
    ours, theirs = (np.ravel_multi_index(tuple(voxels.index.T), shape) for voxels in (found, expected))
    common, at_ours, at_theirs = np.intersect1d(ours, theirs, return_indices=True)
    assert len(common) > 100 and len(common) >= 0.99 * max(len(ours), len(theirs))
    np.testing.assert_allclose(found.probability[at_ours], expected.probability[at_theirs], atol=5e-3)
    np.testing.assert_allclose(found.confidence[at_ours], expected.confidence[at_theirs], atol=5e-3)
    assert np.mean(found.label[at_ours] != expected.label[at_theirs]) < 0.01
    assert np.unique(expected.label).size > 1


def test_words_are_answered_as_on_the_cpu_and_may_change_between_images(
    bundle: StudentBundle, tensorrt: HostTensorRt, cuda: HostCuda
) -> None:
    speaking = dataclasses.replace(bundle, feature_spaces=(small_space(dimension=24),))
    on_cpu = Completer(speaking, SMALL, encoder=half_networks(speaking), threads=1)
    on_gpu = Completer(speaking, SMALL, engine="tensorrt", threads=1)
    few, many = (random_vocabulary(*sizes, background=2, dimension=24) for sizes in ((4, 6), (30, 90)))
    asked, larger = (random_query(*sizes, dimension=24, seed=1) for sizes in ((1, 2), (9, 9)))
    allocations = 0
    for vocabulary, query in ((few, asked), (many, None), (None, larger), (None, None), (few, asked), (many, larger)):
        cuda.at_once = not cuda.at_once  # whether its work is done as early or as late as may be
        answers = []
        for completer in (on_gpu, on_cpu):
            completer.set_vocabulary(None if vocabulary is None else completer.prepare_vocabulary(vocabulary))
            completer.set_query(None if query is None else completer.prepare_vocabulary(query))
            answers.append(completer.complete(picture(1)))
        found, expected = answers
        assert_alike(found.voxels, expected.voxels)
        assert found.voxels.class_names == expected.voxels.class_names
        assert found.timings_ms.keys() == expected.timings_ms.keys()
        assert [one.phrase for one in found.matches] == ([] if query is None else list(query.names))
        counts = [[len(one.voxels) for one in completion.matches] for completion in answers]
        assert counts[0] == pytest.approx(counts[1], rel=0.03, abs=3)
        if vocabulary is many and query is None:
            allocations = cuda.allocations
    assert cuda.allocations == allocations + 1  # for more phrases at a time


def test_a_student_that_completes_cells_takes_no_memory_for_a_frame_and_may_be_moved(
    cuda: HostCuda, tensorrt: HostTensorRt, tmp_path: Path
) -> None:
    logits = np.random.default_rng(0).normal(-1.0, 2.0, GRID.shape).astype(np.float32)
    cells = make_known_mounting_bundle(tmp_path / "student", volume=logits, depth=9.0)
    upright = RigidTransform(DEFAULT_GRID_FROM_CAMERA.rotation, np.array([0.0, 0.0, 1.6]))
    on_gpu = Completer(cells, CAMERA, engine="tensorrt", grid=GRID, threads=1, upright_from_camera=upright)
    sensed = np.zeros((2, CAMERA.height // 2, CAMERA.width // 2), np.float32)
    allocations = cuda.allocations
    for evidence in (NO_EVIDENCE, Evidence(Scale(1.2, 0.05)), Evidence(None, sensed)):
        launched = len(cuda.launched)
        found = on_gpu.complete(on_gpu.see(wall_from(0.1)), 7, evidence=evidence)
        assert found.alpha.any() and found.ground is not None
        assert cuda.launched[launched:] == [*kernels.OF_CELLS, *kernels.SHARED, "query_labels"]
    assert cuda.allocations == allocations
    assert on_gpu.mounted(None).complete(wall_from(0.1)).alpha.any()
    away = on_gpu.placed(RigidTransform(np.eye(3), np.array([500.0, 0.0, 0.0])) @ on_gpu.grid_from_camera)
    unseen = away.complete(wall_from(0.1))
    assert not away.in_view.any() and not unseen.voxels.state.any() and not unseen.alpha.any()


@pytest.mark.parametrize("name", shipped_students())
def test_every_shipped_student_passes_the_gate_on_kernels_compiled_for_the_cpu(
    name: str, cuda: HostCuda, tensorrt: HostTensorRt, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On one of the images, and all voxels of the student's own grid."""
    monkeypatch.setattr(parity, "gate_images", lambda *size, of_all=parity.gate_images: of_all(*size)[:1])
    cuda.free = 2**34
    bundle = open_student(name)
    networks = device_networks.DeviceNetworks(bundle, lambda: encoder.cpu_networks(bundle, encoder.cpu_engine()))
    assert networks.name == "tensorrt_fp16" and list(tmp_path.glob("**/student-*"))


MUTANTS = {
    "density": ("log1pf(expf", "(expf", "IoU of the occupied voxels"),
    "list": ("of_host[place] = voxel;", "of_host[place] = voxel + 1;", "IoU of the occupied voxels"),
    "labels": ("+ bias[k];", "+ 3.0f * bias[k];", "agreement of the labels"),
    "no number": (
        "total = sum_of_lanes(total) + bias;",
        "total = sum_of_lanes(total) / 0.0f * 0.0f;",
        "probability nan",
    ),
}


@pytest.mark.parametrize("mutant", MUTANTS)
def test_kernels_that_compute_something_else_are_refused_with_the_numbers(
    build_anew: Build, compiler: HostCompiler, tmp_path: Path, mutant: str
) -> None:
    right, wrong, number = MUTANTS[mutant]
    compiler.changed = ((right, wrong),)
    with pytest.raises(GpuError, match=rf"the GPU does not compute what the CPU computes: .*{number}"):
        build_anew()
    assert not list(tmp_path.glob("**/student-*"))


@pytest.mark.parametrize(
    ("step", "text", "expected"),
    [
        ("runtime", "CUDA initialization failure with error: 35", "starting TensorRT's runtime failed: .* error: 35"),
        ("engine", "Error Code 2: OutOfMemory (no further information)", "out of memory while deserialising"),
        ("context", "", "making an execution context failed: TensorRT gave no reason"),
        ("features", "API Usage Error", "setting the address of the features failed: API Usage Error"),
        ("run", "an illegal memory access was encountered", "the device was lost while running the engine"),
    ],
)
def test_refusals_of_tensorrt_are_raised_in_its_words_and_leave_nothing_open(
    build: Build, build_anew: Build, tensorrt: HostTensorRt, step: str, text: str, expected: str
) -> None:
    build()  # the engine is there: what fails is to run it
    gc.collect()
    tensorrt.failing[step] = text
    tensorrt.ended.clear()
    with pytest.raises(GpuError, match=expected):
        build()
    gc.collect()
    assert tensorrt.live == []
    assert tensorrt.ended == [part for part in ("context", "engine", "runtime") if part in tensorrt.ended]


def test_engines_and_kernels_are_built_once_and_again_where_the_driver_or_tensorrt_refuses_them(
    build_anew: Build,
    compiler: HostCompiler,
    tensorrt: HostTensorRt,
    cuda: HostCuda,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    tmp_path: Path,
) -> None:
    build_anew()
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert sum("built after" in line and "IoU of the occupied voxels" in line for line in warnings) == 1
    gc.collect()
    build_anew()
    assert (tensorrt.builds, len(compiler.compiled)) == (1, 1)
    gc.collect()
    cuda.unloadable = 1
    build_anew()
    assert (tensorrt.builds, len(compiler.compiled)) == (2, 2)
    assert "is not used: the kernels that an earlier start made do not load" in caplog.text
    gc.collect()
    tensorrt.refused = 1
    completer = build_anew()
    assert (tensorrt.builds, len(compiler.compiled)) == (3, 3)
    assert "is not used: deserialising the engine failed" in caplog.text
    caplog.clear()
    assert completer.complete(picture()).alpha.any()
    del completer
    gc.collect()
    tensorrt.refused = 2
    with pytest.raises(GpuError, match="refused by what built them .*TensorRT may not know this GPU"):
        build_anew()

    def of_a_newer_compiler(sizes: Any, compute_capability: Any, *, check: Any) -> None:
        check(CompiledKernels(b"of CUDA 99", sizes.kernels, "NVRTC"))

    monkeypatch.setattr(device_networks, "compile_kernels", of_a_newer_compiler)
    next(tmp_path.glob("**/student-*")).unlink()
    with pytest.raises(GpuError, match="the kernels that NVRTC made do not load.*a compiler that is no newer"):
        build_anew()


def test_two_cameras_share_the_engines(build: Build, cuda: HostCuda, bundle: StudentBundle) -> None:
    left = build()
    right = Completer(bundle, SMALL, engine="tensorrt", encoder=left.encoder)
    copied = cuda.copied
    found, other = (one.complete(picture(1)) for one in (left, right))
    copied = cuda.copied - copied
    assert copied == 2 * (found.voxels.state.nbytes + 2 * found.depth.nbytes)  # depth and transmittance
    np.testing.assert_array_equal(found.voxels.state, other.voxels.state)
    assert cuda.retained == 1
    with pytest.raises(ImageError):
        left.complete(picture()[:-1])
    assert cuda.stack == []  # no other context is disturbed between images


def test_a_lost_device_is_an_error_and_its_memory_is_not_read_again(build: Build, cuda: HostCuda) -> None:
    completer = build()
    first = completer.complete(picture())
    cuda.broken = "cuStreamSynchronize failed: an illegal memory access was encountered"
    with pytest.raises(GpuError, match="the device was lost while completing an image.*Restart"):
        completer.complete(picture(1))
    assert cuda.stack == []
    cuda.broken = ""
    with pytest.raises(GpuError, match="overwritten"):
        _ = first.alpha
    assert min(completer.complete(picture()).timings_ms.values()) >= 0.0


@pytest.mark.parametrize(
    ("what", "expected"),
    [
        ("no room", "TensorRT cannot: GPU: out of memory"),
        ("kernels", "IoU of the occupied voxels"),
        ("version", "TypeError: module_from_buffer"),
        ("grid", "the GPU cannot: grid: 20x20x10 voxels are more than the 1000"),
    ],
)
def test_with_auto_the_cpu_takes_over_and_the_reason_is_logged(
    build_anew: Build,
    compiler: HostCompiler,
    cuda: HostCuda,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    what: str,
    expected: str,
) -> None:
    monkeypatch.setattr(encoder, "gpu_is_there", lambda: True)
    if what == "no room":
        cuda.free = 100_000
    elif what == "kernels":
        compiler.changed = (MUTANTS["density"][:2],)
    elif what == "version":  # of pycuda: an unforeseen error
        error = TypeError("module_from_buffer() takes another argument")
        monkeypatch.setattr(cuda.driver, "module_from_buffer", Mock(side_effect=error))
    else:
        monkeypatch.setattr(device, "LARGEST_GRID", 1000)
    with pytest.raises(GpuError):
        build_anew()
    completer = build_anew(engine="auto")
    assert completer.engine in ON_CPU
    assert expected in caplog.text
    assert completer.complete(picture()).alpha.any()
    caplog.clear()
