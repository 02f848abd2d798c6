"""What is said to be missing, on machines that lack one thing each: made up here, tried in processes of their own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from scene_completion_ros.errors import GpuError
from scene_completion_ros.inference.encoder import check_engine, make_encoder
from scene_completion_ros.inference.gpu.options import EngineOptions
from scene_completion_ros.inference.gpu.requirements import cuda_devices, version_problem
from tests.checkout import run_python
from tests.inference.small_bundle import make_small_bundle

SCRIPT = """
import json, sys
from scene_completion_ros.errors import GpuError
from scene_completion_ros.inference.gpu.requirements import installed_flavour, missing_parts, require

flavour = sys.argv[1] or installed_flavour()
missing = missing_parts(flavour, device=sys.argv[2] == "device")
try:
    require(flavour, device=sys.argv[2] == "device")
    said = ""
except GpuError as error:
    said = str(error)
print(json.dumps({"flavour": flavour, "parts": [part.part for part in missing], "said": said}))
"""

needs_compiler = pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")

Ask = Callable[..., dict[str, object]]


@pytest.fixture
def ask(tmp_path: Path) -> Ask:
    """Asks on a machine that has only the packages and the driver that are given."""
    packages, libraries = tmp_path / "packages", tmp_path / "libraries"
    packages.mkdir()
    libraries.mkdir()

    def ask(*, flavour: str = "", device: bool = True, driver: str = "", **modules: str) -> dict[str, object]:
        for name, source in modules.items():
            folder = packages / name
            folder.mkdir()
            (folder / "__init__.py").write_text(source, encoding="utf-8")
            (folder / "driver.py").write_text("", encoding="utf-8")
        if driver:
            source_file = tmp_path / "cuda.c"
            source_file.write_text(driver, encoding="utf-8")
            library = libraries / "libcuda.so.1"
            subprocess.run(["cc", "-shared", "-fPIC", "-o", str(library), str(source_file)], check=True)
        variables = {"PYTHONPATH": str(packages)}
        variables["LD_LIBRARY_PATH"] = f"{libraries}:{os.environ.get('LD_LIBRARY_PATH', '')}"
        answer = run_python("-c", SCRIPT, flavour, "device" if device else "no device", **variables)
        assert answer.returncode == 0, answer.stderr
        result: dict[str, object] = json.loads(answer.stdout)
        return result

    return ask


def driver(count: int, error: int = 0) -> str:
    return (
        f"int cuInit(unsigned flags) {{ return {error}; }}\n"
        f"int cuDeviceGetCount(int *count) {{ *count = {count}; return 0; }}\n"
        "int cuDeviceGetName(char *name, int size, int device) { name[0] = 'G'; name[1] = 0; return 0; }\n"
    )


TENSORRT = '__version__ = "10.3.0"'


def test_a_machine_with_nothing(ask: Ask) -> None:
    answer = ask(flavour="tensorrt")
    assert answer["parts"] == ["the NVIDIA driver", "pycuda", "tensorrt"]
    said = str(answer["said"])
    for words in ("libcuda.so.1", "pip install pycuda", "pip install tensorrt", "docker run --gpus all", "JetPack"):
        assert words in said


@needs_compiler
@pytest.mark.parametrize(("count", "error"), [(0, 0), (2, 100)])
def test_a_driver_without_a_gpu(ask: Ask, count: int, error: int) -> None:
    answer = ask(driver=driver(count, error), pycuda="", tensorrt=TENSORRT)
    assert answer["parts"] == ["a GPU"]
    assert f"CUDA error {error}" in str(answer["said"])


@needs_compiler
@pytest.mark.parametrize(
    ("modules", "part", "said"),
    [
        ({"tensorrt": TENSORRT}, "pycuda", ["pycuda is not installed", "nvcc"]),
        (
            {"pycuda": "", "tensorrt": "raise ImportError('libnvinfer.so.10: no such file')"},
            "tensorrt",
            ["tensorrt cannot be imported (ImportError: libnvinfer.so.10: no such file)"],
        ),
        *(
            (
                {"pycuda": "", "tensorrt": f"__version__ = {version!r}"},
                "tensorrt",
                [f"is version {named}, needed is 10.3"],
            )
            for version, named in (("8.6.1", "8.6.1"), ("10.2.0", "10.2.0"), ("12.0.0", "12.0.0"), ("", "unknown"))
        ),
    ],
)
def test_what_is_missing_broken_or_of_another_version_is_named(
    ask: Ask, modules: dict[str, str], part: str, said: list[str]
) -> None:
    answer = ask(driver=driver(1), **modules)
    assert answer["parts"] == [part]
    assert all(words in str(answer["said"]) for words in said)


@needs_compiler
def test_with_everything_nothing_is_missing(ask: Ask) -> None:
    answer = ask(driver=driver(1), pycuda="", tensorrt=TENSORRT, tensorrt_rtx="raise ImportError")
    assert answer == {"flavour": "tensorrt", "parts": [], "said": ""}


def test_the_builder_alone_needs_no_device(ask: Ask) -> None:
    answer = ask(flavour="tensorrt_rtx", device=False, tensorrt_rtx='__version__ = "1.7.1.116"')
    assert answer["parts"] == []


@pytest.mark.parametrize("version", ["10.3.0", "10.13.3.9", "11.0.0.42", "11.4.1", "11.9.0"])
def test_versions_that_are_taken(version: str) -> None:
    assert not version_problem("tensorrt", version)


@pytest.mark.parametrize("version", ["0.9", "2.0.0"])
def test_versions_of_tensorrt_rtx(version: str) -> None:
    assert "1.0 to 1.7" in version_problem("tensorrt_rtx", version)
    assert not version_problem("tensorrt_rtx", "1.7.1.116")


@pytest.mark.skipif(cuda_devices().names is not None, reason="there is an NVIDIA driver here")
def test_tensorrt_is_refused_before_anything_is_built(tmp_path: Path) -> None:
    bundle = make_small_bundle(tmp_path)
    with pytest.raises(GpuError, match="the NVIDIA driver is missing"):
        check_engine(bundle, "tensorrt", EngineOptions(flavour="tensorrt"), bundle.grid)
    with pytest.raises(GpuError, match="the NVIDIA driver is missing"):
        make_encoder(bundle, "tensorrt", gpu=EngineOptions(flavour="tensorrt"))
    for engine in ("auto", "openvino", "onnxruntime"):
        check_engine(bundle, engine, EngineOptions(), bundle.grid)
