"""Images to voxels without the host between encoder and kernels, on the stand-in of `host_cuda`.

The kernels are those of ``voxel_query.cu``; that a GPU runs them, only `make test-gpu` shows.
"""

from __future__ import annotations

import dataclasses
import gc
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from scene_completion_ros import cli
from scene_completion_ros.errors import GpuError, ImageError
from scene_completion_ros.geometry.transforms import RigidTransform
from scene_completion_ros.inference import encoder
from scene_completion_ros.inference.bundle import DEFAULT_BUNDLE, HEAD, StudentBundle
from scene_completion_ros.inference.completer import Completer, Completion
from scene_completion_ros.inference.encoder import check_engine
from scene_completion_ros.inference.gpu import kernel_provision, kernels, options, requirements
from scene_completion_ros.inference.gpu.kernel_provision import KERNEL_LIMITS, worst
from scene_completion_ros.inference.gpu.options import EngineOptions
from scene_completion_ros.inference.gpu.sealed_file import read_header, write_sealed
from scene_completion_ros.voxels.semantic_voxels import SemanticVoxels, VoxelState
from tests.inference.gpu.conftest import SMALL, Build, picture
from tests.inference.gpu.host_cuda import HostCuda
from tests.inference.gpu.host_kernels import HostCompiler
from tests.inference.gpu.small_gpu_bundle import GpuStudent
from tests.inference.small_bundle import random_head, with_labels
from tests.inference.small_vocabulary import random_query, random_vocabulary, small_space


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


@pytest.mark.parametrize("at_once", [False, True], ids=["late", "at once"])
@pytest.mark.parametrize(("precision", "graphs"), [("fp32", True), ("fp16", True), ("fp16", False)])
def test_voxels_are_those_of_the_same_graph_on_the_cpu(
    build: Build, bundle: GpuStudent, cuda: HostCuda, precision: str, graphs: bool, at_once: bool
) -> None:
    cuda.at_once = at_once
    on_gpu = build(precision, graphs=graphs)
    tried = cuda.graphs
    on_cpu = Completer(bundle, SMALL, engine=f"onnxruntime_{precision}", threads=1)
    for seed in range(2):
        found, expected = (one.complete(picture(seed), stamp_ns=seed) for one in (on_gpu, on_cpu))
        assert found.voxels.stamp_ns == seed
        assert {VoxelState.SURFACE, VoxelState.COMPLETED} <= set(np.unique(expected.voxels.state))
        assert_alike(found.voxels, expected.voxels)
        # In half precision only the one on the CPU rounds between the layers.
        np.testing.assert_allclose(found.alpha, expected.alpha, atol=1e-4 if precision == "fp32" else 5e-3)
        np.testing.assert_allclose(found.probability, expected.probability, atol=2e-2)
        close = np.isclose(found.depth, expected.depth, atol=0.02, equal_nan=True)
        assert close.mean() > 0.98
        assert found.timings_ms.keys() == expected.timings_ms.keys()
        parts = sum(time for stage, time in found.timings_ms.items() if stage != "total")
        assert parts <= found.timings_ms["total"] + 0.01
        assert found.timings_ms["query"] > 0.0
        assert (found.timings_ms["encode"] > 0.0) is not graphs  # all of a graph counts as one
    assert (tried > 0, cuda.graphs - tried) == ((True, 2) if graphs else (False, 0))


@pytest.mark.parametrize("at_once", [False, True], ids=["late", "at once"])
@pytest.mark.parametrize(("precision", "graphs"), [("fp32", False), ("fp16", True), ("fp16", False)])
@pytest.mark.parametrize("shift", [0.0, 0.11], ids=["at knots", "between knots"])
def test_voxels_of_a_student_with_a_volume_are_those_of_the_cpu(
    build_spatial: Build,
    spatial_bundle: GpuStudent,
    cuda: HostCuda,
    shift: float,
    precision: str,
    graphs: bool,
    at_once: bool,
) -> None:
    cuda.at_once = at_once
    pose = RigidTransform(np.eye(3), np.full(3, shift)) @ spatial_bundle.grid_from_camera
    engine = f"onnxruntime_{precision}"
    on_gpu = build_spatial(precision, graphs=graphs).placed(pose)
    on_cpu = Completer(spatial_bundle, SMALL, grid_from_camera=pose, engine=engine, threads=1)
    tried = cuda.graphs
    for seed in range(2):
        found, expected = (one.complete(picture(seed)) for one in (on_gpu, on_cpu))
        assert_alike(found.voxels, expected.voxels)
        np.testing.assert_allclose(found.alpha, expected.alpha, atol=1e-4 if precision == "fp32" else 5e-3)
        np.testing.assert_allclose(found.depth, expected.depth, rtol=1e-5)  # float32 in both precisions
        np.testing.assert_array_equal(found.transmittance, expected.transmittance)
        assert 0.0 < expected.transmittance.mean() < 0.5
        np.testing.assert_array_equal(found.shown_depth, np.where(found.transmittance, np.inf, found.depth))
    assert cuda.graphs - tried == (2 if graphs else 0)
    seen = {VoxelState.FREE_SEEN, VoxelState.FREE_INFERRED, VoxelState.SURFACE, VoxelState.COMPLETED}
    assert seen <= set(np.unique(expected.voxels.state))
    plain = dataclasses.replace(spatial_bundle, head=dataclasses.replace(spatial_bundle.head, volume=None), volume=None)
    without = Completer(plain, SMALL, grid_from_camera=pose, engine=engine, threads=1).complete(picture(1))
    assert np.abs(without.alpha - expected.alpha).max() > 0.5  # the wall


VOLUME_MUTANTS = {
    "gain": ("total += gain *", "total +="),
    "knot": ("word(knot[sample])", "word(knot[sample] + 1)"),
    "lane": ("between || lane == 0", "between || lane < 2"),
    "step": ("(lane & 2 ? step_y : 0)", "(lane & 2 ? step_x : 0)"),
    "share": ("(lane & 1 ? z : 1.0f - z)", "(lane & 1 ? 1.0f - z : z)"),
}


@pytest.mark.parametrize("mutant", VOLUME_MUTANTS)
def test_kernels_that_misread_a_volume_are_refused(build_spatial: Build, compiler: HostCompiler, mutant: str) -> None:
    """At its knots and between them, though in the grid of the bundle every voxel is a knot."""
    compiler.changed = (VOLUME_MUTANTS[mutant],)
    with pytest.raises(GpuError, match=r"does not compute what the CPU computes: .*alpha error is"):
        build_spatial()


SIGHT_MUTANTS = {
    "said depth": (("if (!(along * scene.edge < ends)) {", "if (!(along * scene.edge < depth)) {"), "sight difference"),
    "no number": (("if (!(along * scene.edge < ends)) {", "if (along * scene.edge >= ends) {"), "sight difference"),
    "occupied voxels": ((">= occupied_from) {", ">= 2.0f) {"), "sight difference"),
    "far": (("depth >= far ?", "depth >= 0.8f * far ?"), "transmittance difference"),
    "steps": (
        ("float(step) + 0.5f;\n        if (!(along", "float(step) + 1.5f;\n        if (!(along"),
        "sight difference",
    ),
}


@pytest.mark.parametrize("mutant", SIGHT_MUTANTS)
def test_kernels_that_see_too_far_or_too_near_are_refused(
    build_spatial: Build, compiler: HostCompiler, mutant: str
) -> None:
    changed, said = SIGHT_MUTANTS[mutant]
    compiler.changed = (changed,)
    with pytest.raises(GpuError, match=rf"does not compute what the CPU computes: .*{said} is"):
        build_spatial()


PHRASE_MUTANTS = {
    "norm": (("norm += value * value;", "norm += value;"), "cosine error"),
    "rest": (("float norm = rest;", "float norm = 0.0f;"), "cosine error"),
    "nearest": (("nearest = fmaxf(nearest, product", "nearest = (product"), "cosine error"),
    "margin": (("top - second >= margin ?", "top - second >= 0.0f ?"), "wrong labels"),
    "second": (("second = fmaxf(second, cosine);", ""), "wrong labels"),
    "sharpness": (("expf((cosine - top) * sharpness)", "expf(cosine - top)"), "confidence error"),
}


@pytest.mark.parametrize("mutant", PHRASE_MUTANTS)
def test_kernels_that_compare_wrongly_are_refused(build_anew: Build, compiler: HostCompiler, mutant: str) -> None:
    changed, said = PHRASE_MUTANTS[mutant]
    compiler.changed = (changed,)
    with pytest.raises(GpuError, match=rf"does not compute what the CPU computes: .*{said} is"):
        build_anew()


@pytest.mark.parametrize("graphs", [False, True])
def test_words_are_answered_as_on_the_cpu_and_may_change_between_images(
    bundle: GpuStudent, cuda: HostCuda, tmp_path: Path, graphs: bool
) -> None:
    speaking = dataclasses.replace(bundle, feature_spaces=(small_space(dimension=24),))
    on_cpu = Completer(speaking, SMALL, engine="onnxruntime_fp16", threads=1)
    gpu = EngineOptions(precision="fp16", cache=tmp_path, graphs=graphs)
    on_gpu = Completer(speaking, SMALL, engine="tensorrt", threads=1, gpu=gpu)
    few, many = (random_vocabulary(*sizes, background=2, dimension=24) for sizes in ((4, 6), (30, 90)))
    asked, larger = (random_query(*sizes, dimension=24, seed=1) for sizes in ((1, 2), (9, 9)))
    allocations = 0
    for vocabulary, query in ((few, asked), (many, None), (None, larger), (None, None), (few, asked), (many, larger)):
        answers = []
        for completer in (on_gpu, on_cpu):
            completer.use(None if vocabulary is None else completer.prepare_vocabulary(vocabulary))
            completer.ask(None if query is None else completer.prepare_vocabulary(query))
            answers.append(completer.complete(picture(1)))
        found, expected = answers
        assert_alike(found.voxels, expected.voxels)
        assert found.voxels.class_names == expected.voxels.class_names
        assert found.timings_ms.keys() == expected.timings_ms.keys()
        assert [one.phrase for one in found.matches] == ([] if query is None else list(query.names))
        for ours, theirs in zip(found.matches, expected.matches, strict=True):
            places = [index_of(completion)[one.voxels] for completion, one in zip(answers, (ours, theirs), strict=True)]
            _, at_ours, at_theirs = np.intersect1d(*places, return_indices=True)
            assert len(at_ours) >= 0.97 * max(len(ours.voxels), len(theirs.voxels)) - 3
            np.testing.assert_allclose(ours.score[at_ours], theirs.score[at_theirs], atol=0.02)
            np.testing.assert_allclose(ours.probability[at_ours], theirs.probability[at_theirs], atol=0.1)
        if vocabulary is many and query is None:
            allocations = cuda.allocations
    assert cuda.allocations == allocations + 1  # for more phrases at a time


def index_of(completion: Completion) -> np.ndarray:
    voxels = completion.voxels
    return np.ravel_multi_index(tuple(voxels.index.T), voxels.grid.shape)


def test_what_was_given_out_stays_as_it_was(build: Build) -> None:
    completer = build()
    first = completer.complete(picture(0))
    kept = {name: getattr(first.voxels, name).copy() for name in ("state", "index", "probability", "label")}
    alpha, depth = first.alpha.copy(), first.depth.copy()
    second = completer.complete(picture(1))
    assert (second.voxels.state != kept["state"]).any()
    for name, values in kept.items():
        np.testing.assert_array_equal(getattr(first.voxels, name), values)
    np.testing.assert_array_equal(first.depth, depth)
    np.testing.assert_array_equal(first.alpha, alpha)  # it had been asked for in time
    with pytest.raises(GpuError, match="the probability of all voxels was overwritten by the next image"):
        _ = first.probability
    assert second.probability.any()


def test_a_frame_allocates_nothing_on_the_gpu(build: Build, cuda: HostCuda) -> None:
    completer = build()
    before = cuda.allocations
    for seed in range(3):
        completer.complete(picture(seed))
    assert cuda.allocations == before


def test_another_pose_has_memory_of_its_own_and_gives_it_back(build: Build, cuda: HostCuda, bundle: GpuStudent) -> None:
    completer = build()
    allocated, pinned = cuda.allocated, cuda.pinned
    here = completer.complete(picture()).voxels
    there = RigidTransform(np.eye(3), np.array([0.4, 0.2, 0.0])) @ bundle.grid_from_camera
    moved = completer.placed(there)
    assert cuda.allocated > allocated
    expected = Completer(bundle, SMALL, grid_from_camera=there, engine="onnxruntime_fp16", threads=1)
    assert_alike(moved.complete(picture()).voxels, expected.complete(picture()).voxels)
    np.testing.assert_array_equal(completer.complete(picture()).voxels.state, here.state)
    del moved
    gc.collect()
    assert (cuda.allocated, cuda.pinned) == (allocated, pinned)


def test_two_cameras_share_the_engine(build: Build, cuda: HostCuda, bundle: GpuStudent) -> None:
    left = build()
    right = Completer(bundle, SMALL, engine="tensorrt", encoder_of=left)
    for seed in (0, 1):
        np.testing.assert_array_equal(
            left.complete(picture(seed)).voxels.state, right.complete(picture(seed)).voxels.state
        )
    assert cuda.retained == 1


def test_the_wrong_image_is_refused_before_the_gpu_is_asked(build: Build, cuda: HostCuda) -> None:
    completer = build()
    with pytest.raises(ImageError):
        completer.complete(picture()[:-1])
    assert cuda.stack == []


def test_too_little_memory_for_the_kernels(build: Build, cuda: HostCuda) -> None:
    completer = build()
    cuda.free = 1_000_000
    with pytest.raises(GpuError, match="out of memory while allocating .* MiB for the voxel query"):
        completer.placed(completer.grid_from_camera)


def test_a_grid_that_the_kernels_cannot_count_is_for_the_cpu(
    build: Build, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(options, "LARGEST_GRID", 1000)
    monkeypatch.setattr(encoder, "gpu_is_offered", lambda bundle: True)
    with pytest.raises(GpuError, match="voxels, at most 1000 are allowed on a GPU"):
        build()
    completer = build(engine="auto")
    assert completer.engine in ("openvino", "onnxruntime")
    assert "at most 1000 are allowed on a GPU" in caplog.text


def test_kernels_that_the_driver_does_not_take_are_told_with_the_cure(
    build_anew: Build, compiler: HostCompiler, cuda: HostCuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    def of_a_newer_compiler(sizes: Any, compute_capability: Any, *, check: Any) -> Any:
        check(kernels.CompiledKernels(b"of CUDA 99", sizes.kernels, {}, "NVRTC"))

    monkeypatch.setattr(kernel_provision, "compile_kernels", of_a_newer_compiler)
    with pytest.raises(GpuError, match="the kernels that NVRTC made do not load.*a compiler that is no newer"):
        build_anew()


def test_a_gpu_that_the_bundle_does_not_use_is_told_of(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(encoder, "cuda_devices", lambda: requirements.CudaDevices(("Orin",)))
    plain = dataclasses.replace(StudentBundle.load(DEFAULT_BUNDLE), gpu_encoders={})
    assert encoder.make_encoder(plain, "auto", threads=1).name in ("openvino", "onnxruntime")
    assert "the bundle has no encoder for the GPU that is there" in caplog.text


def test_kernels_are_compiled_once_for_one_gpu(
    build_anew: Build, compiler: HostCompiler, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    for _ in range(2):
        build_anew()
        gc.collect()
    assert [sizes.half_features for sizes in compiler.compiled] == [True]
    build_anew("fp32")
    assert [sizes.half_features for sizes in compiler.compiled] == [True, False]
    (kept,) = (
        path for path in (tmp_path / "engines").glob("kernels-*") if b'"half_features": true' in path.read_bytes()
    )
    kept.write_bytes(kept.read_bytes()[:-1])
    build_anew()
    assert len(compiler.compiled) == 3
    assert f"{kept} is not used: it has" in caplog.text
    caplog.clear()  # a record holds the error, which holds the frames, which hold the encoder


MUTANTS = {
    "density": (("log1pf(expf", "(expf"), "alpha error is 0"),
    "states": (("what = seen ? SURFACE : COMPLETED", "what = SURFACE"), "state difference is 0"),
    "list": (("of_host[place] = voxel;", "of_host[place] = voxel + 1;"), "wrong entries is"),
    "no list": (("*total = *total_of_host =", "*total ="), "wrong entries is"),
    "labels": (("+ bias[k];", "+ 3.0f * bias[k];"), "wrong labels is"),
}


@pytest.mark.parametrize("mutant", MUTANTS)
def test_kernels_that_miss_the_gate_are_refused_with_the_numbers(
    build_anew: Build, compiler: HostCompiler, tmp_path: Path, mutant: str
) -> None:
    changed, said = MUTANTS[mutant]
    compiler.changed = (changed,)
    with pytest.raises(GpuError, match=rf"voxel query does not compute what the CPU computes: .*{said}[ .\d]* where"):
        build_anew()
    assert not list((tmp_path / "engines").glob("kernels-*"))


def test_what_is_not_a_number_on_one_map_misses() -> None:
    good = dataclasses.replace(KERNEL_LIMITS, alpha_error=1e-5)
    for order in ((good, float("nan")), (float("nan"), good)):
        found = [one if one is good else dataclasses.replace(good, alpha_error=one) for one in order]
        (missed,) = worst(found).misses
        assert missed.startswith("alpha error is nan")
    assert not worst([good, good]).misses


def test_with_auto_the_cpu_takes_over_from_kernels_that_miss(
    build_anew: Build, compiler: HostCompiler, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    compiler.changed = (MUTANTS["density"][0],)
    monkeypatch.setattr(encoder, "gpu_is_offered", lambda bundle: True)
    assert build_anew(engine="auto").engine in ("openvino", "onnxruntime")
    assert "alpha error is" in caplog.text
    caplog.clear()


def test_with_auto_the_cpu_takes_over_where_the_grid_does_not_fit(
    build: Build, cuda: HostCuda, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(encoder, "gpu_is_offered", lambda bundle: True)
    build("fp16")  # engine and kernels are there; what they need:
    gc.collect()
    before = cuda.free
    alone = encoder.make_encoder  # only the encoder

    def without_room(*arguments: Any, **options: Any) -> Any:
        made = alone(*arguments, **options)
        if made.name.startswith("tensorrt"):
            cuda.free = 50_000
        return made

    monkeypatch.setattr("scene_completion_ros.inference.completer.make_encoder", without_room)
    completer = build(engine="auto")
    assert completer.engine in ("openvino", "onnxruntime")
    assert "the CPU runs everything, because the GPU cannot: GPU: out of memory" in caplog.text
    assert completer.complete(picture()).alpha.any()
    caplog.clear()
    assert cuda.allocated == 0 and cuda.free <= before


def test_kernels_that_do_not_load_are_compiled_again(
    build_anew: Build, compiler: HostCompiler, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    build_anew()
    (kept,) = (tmp_path / "engines").glob("kernels-*")
    header = read_header(kept)
    write_sealed(kept, {"key": header["key"], "record": header["record"]}, b"code of another driver")
    build_anew()
    assert len(compiler.compiled) == 2
    assert f"{kept} is not used: GPU: loading the kernels failed" in caplog.text


def test_cached_kernels_need_no_compiler(
    build_anew: Build, compiler: HostCompiler, monkeypatch: pytest.MonkeyPatch
) -> None:
    build_anew()
    monkeypatch.setattr(kernel_provision, "compile_kernels", kernels.compile_kernels)
    monkeypatch.setattr(kernels, "find_nvrtc", lambda: None)
    monkeypatch.setenv("PATH", "")
    assert build_anew().complete(picture()).alpha.any()


def test_another_head_is_compared_anew(
    build_anew: Build, bundle: GpuStudent, compiler: HostCompiler, tmp_path: Path
) -> None:
    build_anew()
    other = dataclasses.replace(bundle, sha256={**bundle.sha256, HEAD: "0" * 64})
    Completer(other, SMALL, engine="tensorrt", threads=1, gpu=EngineOptions(cache=tmp_path / "engines"))
    assert len(compiler.compiled) == 2


def test_a_lost_device_is_said_and_what_it_may_have_overwritten_is_not_given_out(build: Build, cuda: HostCuda) -> None:
    completer = build()
    first = completer.complete(picture())
    cuda.broken = "cuStreamSynchronize failed: an illegal memory access was encountered"
    with pytest.raises(GpuError, match="the device was lost while running the kernels.*Restart"):
        completer.complete(picture(1))
    assert cuda.stack == []
    cuda.broken = ""
    with pytest.raises(GpuError, match="overwritten"):
        _ = first.alpha
    assert min(completer.complete(picture()).timings_ms.values()) >= 0.0


def test_the_command_builds_engine_and_kernels_which_the_node_then_finds(
    build_anew: Build,
    bundle: GpuStudent,
    compiler: HostCompiler,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(StudentBundle, "load", lambda folder: bundle)
    monkeypatch.setattr(requirements, "require", lambda flavour, device: None)
    monkeypatch.setattr(requirements, "installed_flavour", lambda: "tensorrt")
    command = ["build-engine", str(tmp_path), "--cache", str(tmp_path / "engines")]
    for said in ("was built", "is there already"):
        assert cli.main(command) == 0
        lines = capsys.readouterr().out.splitlines()
        assert [line.rsplit(" ", 2)[-2:] == said.split()[-2:] for line in lines if ".engine " in line] == [True, True]
        (alpha,) = (line for line in lines if line.startswith("alpha error against the CPU's voxel query: "))
        assert 0.0 < float(alpha.split(": ")[1].split(",")[0]) < 1e-3
    build_anew()
    assert len(compiler.compiled) == 1


def test_the_command_says_how_far_volume_and_depth_are_off(
    cuda: HostCuda,
    spatial_bundle: GpuStudent,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(StudentBundle, "load", lambda folder: spatial_bundle)
    monkeypatch.setattr(requirements, "require", lambda flavour, device: None)
    monkeypatch.setattr(requirements, "installed_flavour", lambda: "tensorrt")
    assert cli.main(["build-engine", str(tmp_path), "--cache", str(tmp_path / "engines")]) == 0
    said = [line.split(": ")[0] for line in capsys.readouterr().out.splitlines() if "CPU's encoder" in line]
    names = ("map error", "channel error", "largest error")
    further = [f"{name} of the {what} against the CPU's encoder" for what in ("volume", "depth") for name in names]
    assert said == [*(f"{name} against the CPU's encoder" for name in names), *further]


def test_a_student_that_the_kernels_cannot_run_is_refused_when_configured(
    bundle: GpuStudent, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(encoder, "require", lambda flavour: None)
    monkeypatch.setattr(kernel_provision, "has_compiler", lambda: True)
    options = EngineOptions(cache=tmp_path)
    odd = dataclasses.replace(bundle, head=with_labels(random_head(channels=48), 5))
    check_engine(bundle, "tensorrt", options, bundle.grid)
    with pytest.raises(GpuError, match="48 hidden units .* multiples of 32"):
        check_engine(odd, "tensorrt", options, bundle.grid)


def test_without_a_compiler_kernels_have_to_be_there_when_configured(
    bundle: GpuStudent, build_anew: Build, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(encoder, "require", lambda flavour: None)
    monkeypatch.setattr(kernel_provision, "has_compiler", lambda: False)
    options = EngineOptions(cache=tmp_path / "engines")
    with pytest.raises(GpuError, match="neither NVRTC nor nvcc.*nvidia-cuda-nvrtc"):
        check_engine(bundle, "tensorrt", options, bundle.grid)
    build_anew()  # of another machine, say: with a compiler
    check_engine(bundle, "tensorrt", options, bundle.grid)
