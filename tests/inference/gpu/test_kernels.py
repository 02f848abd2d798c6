"""Compiles ``voxel_query.cu`` for GPUs, which needs none."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from scene_completion_ros.errors import GpuError, SceneCompletionError
from scene_completion_ros.inference.bundle import StudentBundle
from scene_completion_ros.inference.gpu import kernels, voxel_pipeline
from scene_completion_ros.inference.gpu.device import explain_failure
from scene_completion_ros.inference.gpu.kernels import (
    SOURCE,
    CompiledKernels,
    KernelSizes,
    compile_kernels,
    compile_with_nvcc,
)
from scene_completion_ros.voxels.occupancy_kernel import BINS
from scene_completion_ros.voxels.semantic_voxels import VoxelState
from tests.inference.small_bundle import PLAIN_STUDENT

ARCHITECTURES = ((7, 5), (8, 6), (8, 7), (8, 9), (9, 0), (12, 0))
# Two blocks of 256 threads fit on a processor with 65536 registers where a thread takes 128, four where it takes 64.
REGISTERS = {
    "query_density": 128,
    **dict.fromkeys(("see_rays", "march_rays", "classify", "offsets", "compact", "query_labels", "query_phrases"), 64),
}

needs_compiler = pytest.mark.skipif(
    kernels.find_nvrtc() is None and shutil.which("nvcc") is None,
    reason="neither nvidia-cuda-nvrtc nor nvcc is installed",
)


@needs_compiler
@pytest.mark.parametrize("capability", ARCHITECTURES, ids=lambda cc: f"sm_{cc[0]}{cc[1]}")
@pytest.mark.parametrize("half", [True, False], ids=["float16", "float32"])
def test_no_kernel_spills_on_any_gpu(capability: tuple[int, int], half: bool) -> None:
    head = StudentBundle.load(PLAIN_STUDENT).head
    assert_fits(compile_kernels(KernelSizes.of(head, half_features=half), capability))


@needs_compiler
@pytest.mark.parametrize("half", [True, False], ids=["float16", "float32"])
@pytest.mark.parametrize(("channels", "units"), [(32, 32), (64, 64), (96, 96)])
def test_no_kernel_of_a_smaller_student_spills_on_an_orin(channels: int, units: int, half: bool) -> None:
    assert_fits(compile_kernels(KernelSizes(channels, units, 19, half), (8, 7)))


@needs_compiler
@pytest.mark.parametrize("capability", ARCHITECTURES, ids=lambda cc: f"sm_{cc[0]}{cc[1]}")
@pytest.mark.parametrize("half", [True, False], ids=["float16", "float32"])
@pytest.mark.parametrize("units", [0, 64])
def test_no_kernel_of_a_student_with_a_volume_spills(capability: tuple[int, int], half: bool, units: int) -> None:
    made = compile_kernels(KernelSizes(128, units, 19 if units else 1, half, volume=True), capability)
    assert_fits(made, without=("march_rays",) if units else ("march_rays", "query_labels", "query_phrases"))


def assert_fits(made: CompiledKernels, without: tuple[str, ...] = ("see_rays",)) -> None:
    assert made.cubin[:4] == b"\x7fELF"
    assert set(made.resources) == {*kernels.KERNELS} - {*without} == {*made.names}
    for name, found in made.resources.items():
        assert (found.spilled, found.stack) == (0, 0), name
        assert 0 < found.registers <= REGISTERS[name], name


@needs_compiler
def test_a_student_without_classes_has_no_kernel_for_them() -> None:
    made = compile_kernels(KernelSizes(64, 0, 1, True), (8, 7))
    assert set(made.resources) == {*kernels.KERNELS} - {"query_labels", "query_phrases", "see_rays"}


def test_what_ptxas_says_is_read() -> None:
    log = """ptxas info    : Compiling entry function 'march_rays' for 'sm_87'
ptxas info    : Function properties for march_rays
    24 bytes stack frame, 8 bytes spill stores, 12 bytes spill loads
ptxas info    : Used 62 registers, used 1 barriers, 400 bytes cmem[0]
"""
    assert kernels._resources(log) == {"march_rays": kernels.KernelResources(62, 20, 24)}


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="no nvcc")
def test_nvcc_takes_the_same_source() -> None:
    nvcc = shutil.which("nvcc")
    assert nvcc is not None
    made = compile_with_nvcc(nvcc, KernelSizes(64, 32, 19, True), (8, 6))
    assert made.compiler == "nvcc" and {found.spilled for found in made.resources.values()} == {0}


@needs_compiler
def test_a_gpu_that_the_compiler_does_not_know_is_named() -> None:
    with pytest.raises(SceneCompletionError, match="sm_31"):
        compile_kernels(KernelSizes(64, 0, 1, True), (3, 1))


def test_without_a_compiler_both_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "find_nvrtc", lambda: None)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(SceneCompletionError, match="neither NVRTC nor nvcc.*nvidia-cuda-nvrtc"):
        compile_kernels(KernelSizes(64, 0, 1, True), (8, 7))


def test_what_the_driver_does_not_take_is_compiled_by_the_next_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    """The package's NVRTC may be newer than the driver, and the toolkit's nvcc beside it not."""

    def made_by(name: str) -> CompiledKernels:
        return CompiledKernels(b"", (), {}, name)

    def takes_none_of(*names: str) -> Callable[[CompiledKernels], None]:
        def check(made: CompiledKernels) -> None:
            if made.compiler in names:
                raise GpuError(f"the kernels that {made.compiler} made do not load")

        return check

    monkeypatch.setattr(kernels, "find_nvrtc", lambda: Path("nvrtc"))
    monkeypatch.setattr(shutil, "which", lambda name: name)
    monkeypatch.setattr(kernels, "compile_with_nvrtc", lambda *arguments: made_by("NVRTC"))
    monkeypatch.setattr(kernels, "compile_with_nvcc", lambda *arguments: made_by("nvcc"))
    sizes = KernelSizes(64, 0, 1, True)
    assert compile_kernels(sizes, (8, 7)).compiler == "NVRTC"
    assert compile_kernels(sizes, (8, 7), check=takes_none_of()).compiler == "NVRTC"
    assert compile_kernels(sizes, (8, 7), check=takes_none_of("NVRTC")).compiler == "nvcc"
    with pytest.raises(GpuError, match=r"kernels that NVRTC made do not load; the kernels that nvcc made do"):
        compile_kernels(sizes, (8, 7), check=takes_none_of("NVRTC", "nvcc"))

    def lost(made: CompiledKernels) -> None:
        raise explain_failure("an illegal memory access was encountered", f"loading what {made.compiler} made")

    with pytest.raises(GpuError, match="the device was lost while loading what NVRTC made"):  # and nvcc is not tried
        compile_kernels(sizes, (8, 7), check=lost)


@pytest.mark.parametrize("sizes", [(48, 0), (0, 0), (64, 40)])
def test_sizes_that_the_threads_cannot_share_are_refused(sizes: tuple[int, int]) -> None:
    with pytest.raises(SceneCompletionError, match="multiples of 32"):
        KernelSizes(*sizes, classes=1, half_features=True)


def test_both_sides_divide_the_work_alike() -> None:
    text = SOURCE.read_text(encoding="utf-8")
    defined = dict(re.findall(r"^#define (\w+) (\d+)$", text, re.MULTILINE))
    for name in ("LANES", "RUN", "SPAN", "THREADS"):
        assert int(defined[name]) == getattr(voxel_pipeline, name)
    assert int(defined["BINS"]) == BINS
    for name in ("FREE_SEEN", "FREE_INFERRED", "SURFACE", "COMPLETED"):
        assert int(defined[name]) == VoxelState[name]
    kernels_there = re.findall(r'^extern "C" __global__ void __launch_bounds__\([^)]*\) (\w+)\(', text, re.MULTILINE)
    assert tuple(kernels_there) == kernels.KERNELS
