"""Compiles the kernels for GPUs, which needs none."""

import re
from pathlib import Path

import pytest

from scene_completion_ros.errors import GpuError
from scene_completion_ros.inference import cells, march
from scene_completion_ros.inference.bundle import open_student, shipped_students
from scene_completion_ros.inference.gpu import device_scene, kernels
from scene_completion_ros.inference.gpu.device import explain_failure
from scene_completion_ros.inference.gpu.kernels import CompiledKernels, KernelSizes, compile_kernels
from scene_completion_ros.voxels import occupancy, occupancy_kernel
from scene_completion_ros.voxels.semantic_voxels import VoxelState

ARCHITECTURES = ((7, 5), (8, 6), (8, 7), (8, 9), (9, 0), (12, 0))
# Two blocks of 256 threads fit on a processor with 65536 registers where a thread takes 128, four where it takes 64.
MOST_REGISTERS = {"query_density": 128}
USUAL_REGISTERS = 64

needs_compiler = pytest.mark.skipif(not kernels.nvrtc_libraries(), reason="nvidia-cuda-nvrtc is not installed")


TAKEN = re.compile(
    r"Compiling entry function '(\w+)'.*?"
    r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads.*?Used (\d+) registers",
    re.DOTALL,
)
"""What ptxas says of a kernel: its name, bytes a thread that lie in memory or are spilled, and registers a thread."""


@needs_compiler
@pytest.mark.parametrize("capability", ARCHITECTURES, ids=lambda cc: f"sm_{cc[0]}{cc[1]}")
def test_no_kernel_of_any_student_spills_on_any_gpu(capability: tuple[int, int]) -> None:
    students = [KernelSizes.of(open_student(name)) for name in shipped_students()]
    if capability == (8, 7):
        students += [KernelSizes(size, 19, channels=size) for size in (32, 64, 96)]
        students += [KernelSizes(0, 1, channels=128), KernelSizes(64, 40, context=64)]
    for sizes in students:
        made = compile_kernels(sizes, capability)
        assert made.cubin[:4] == b"\x7fELF"
        found = TAKEN.findall(made.log)
        assert {name for name, *_ in found} == {*made.names}
        for name, *in_memory, registers in found:
            assert in_memory == ["0"] * 3, name
            assert 0 < int(registers) <= MOST_REGISTERS.get(name, USUAL_REGISTERS), name


def test_numbers_of_the_kernels_are_those_of_their_twins() -> None:
    text = "\n".join(path.read_text() for path in sorted(kernels.FOLDER.glob("*.cu")))
    defined = {name: float(value) for name, value in re.findall(r"#define (\w+) ([\d.]+(?:e-?\d+)?)f?\s", text)}
    expected: dict[str, float] = {
        **{name: getattr(device_scene, name) for name in ("LANES", "RUN", "SPAN", "THREADS")},
        **{
            name: getattr(cells, name)
            for name in ("STRIDE", "CERTAIN", "LEAST_CLASS", "FARTHEST_FROM_LEVEL", "PRIOR_EDGE", "STANDS_M")
        },
        "SCALES": len(cells.DISTANCES_M),
        "COARSE": occupancy_kernel.COARSE,
        "LAST": occupancy_kernel.LAST,
        "SPENT": march.SPENT,
        "SEEN": occupancy.SEEN,
        **{state.name: state for state in VoxelState if state is not VoxelState.UNOBSERVED},
    }
    assert defined == expected
    assert [0.5 * 4.0**number for number in range(3)] == list(cells.DISTANCES_M)
    for name, dtype in (("Scene", device_scene.SCENE), ("Volume", device_scene.VOLUME)):
        body = re.search(rf"struct {name} {{(.*?)}};", text, re.DOTALL)
        assert body is not None
        names = re.findall(r"(\w+)(?:\[(\d+)\])?[,;]", re.sub(r"//.*", "", body[1]))
        assert sum(int(count or 1) for _, count in names) * 4 == dtype.itemsize, name


def test_what_cannot_compile_is_named_with_the_cure(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "libnvrtc.so").write_text("no library")
    for libraries, message in (
        ([], "NVRTC was not found.*pip install nvidia-cuda-nvrtc"),
        ([tmp_path / "libnvrtc.so", Path("libc.so.6")], "libnvrtc.so failed for sm_87 .*; libc.so.6 failed for sm_87"),
    ):
        monkeypatch.setattr(kernels, "nvrtc_libraries", lambda given=libraries: given)
        with pytest.raises(GpuError, match=message):
            compile_kernels(KernelSizes(0, 1, channels=64), (8, 7))


def test_what_the_driver_does_not_take_is_compiled_by_the_next_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    """The package's NVRTC may be newer than the driver, and the toolkit's not."""
    sizes, tried = KernelSizes(0, 1, channels=64), []

    def refused(made: CompiledKernels) -> None:
        tried.append(made.compiler)
        if made.compiler in too_new:
            raise GpuError(f"the kernels that {made.compiler} made do not load")

    def lost(made: CompiledKernels) -> None:
        raise explain_failure("an illegal memory access was encountered", f"loading what {made.compiler} made")

    monkeypatch.setattr(kernels, "nvrtc_libraries", lambda: [Path("package"), Path("toolkit")])
    monkeypatch.setattr(kernels, "nvrtc_cubin", lambda *arguments: (b"", ""))
    too_new = {"package"}
    assert compile_kernels(sizes, (8, 7)).compiler == "package"
    assert compile_kernels(sizes, (8, 7), check=refused).compiler == "toolkit"
    too_new.add("toolkit")
    with pytest.raises(GpuError, match=r"that package made do not load; the kernels that toolkit made do"):
        compile_kernels(sizes, (8, 7), check=refused)
    assert tried == 2 * ["package", "toolkit"]
    with pytest.raises(GpuError, match="the device was lost while loading what package made"):  # no other is tried
        compile_kernels(sizes, (8, 7), check=lost)
