"""Errors on machines that lack one thing each: made up here, tried in processes of their own."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from scene_completion_ros.errors import GpuError
from scene_completion_ros.inference.gpu.device import explain_failure, gpu_errors
from tests.checkout import make_cuda_driver, run_python

SCRIPT = """
import json, sys
from scene_completion_ros.errors import GpuError
from scene_completion_ros.inference.gpu.device import installed_flavour, missing_parts, require

flavour = sys.argv[1] or installed_flavour()
missing = missing_parts(flavour)
try:
    require(flavour)
    error_text = ""
except GpuError as error:
    error_text = str(error)
print(json.dumps({"flavour": flavour, "parts": [part.part for part in missing], "error_text": error_text}))
"""
TENSORRT = '__version__ = "10.3.0"'

needs_compiler = pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")

Ask = Callable[..., dict[str, object]]


@pytest.fixture
def ask(tmp_path: Path) -> Ask:
    """Asks on a machine that has only the packages that are given, and a driver that sees so many GPUs."""
    packages, libraries = tmp_path / "packages", tmp_path / "libraries"
    packages.mkdir()
    libraries.mkdir()

    def ask(*, flavour: str = "", gpus: int | None = None, error: int = 0, **modules: str) -> dict[str, object]:
        for name, source in modules.items():
            folder = packages / name
            folder.mkdir()
            (folder / "__init__.py").write_text(source, encoding="utf-8")
            (folder / "driver.py").write_text("", encoding="utf-8")
        if gpus is not None:
            make_cuda_driver(libraries, gpus, error)
        variables = {"PYTHONPATH": str(packages)}
        variables["LD_LIBRARY_PATH"] = f"{libraries}:{os.environ.get('LD_LIBRARY_PATH', '')}"
        answer = run_python("-c", SCRIPT, flavour, **variables)
        assert answer.returncode == 0, answer.stderr
        result: dict[str, object] = json.loads(answer.stdout)
        return result

    return ask


def test_a_machine_with_nothing(ask: Ask) -> None:
    answer = ask(flavour="tensorrt")
    assert answer["parts"] == ["the NVIDIA driver", "pycuda", "tensorrt"]
    error_text = str(answer["error_text"])
    for words in ("libcuda.so.1", "pip install pycuda", "pip install tensorrt", "docker run --gpus all", "JetPack"):
        assert words in error_text


@needs_compiler
@pytest.mark.parametrize(
    ("modules", "parts", "expected"),
    [
        ({"tensorrt": TENSORRT}, ["pycuda"], "pycuda is not installed"),
        (
            {"pycuda": "", "tensorrt": "raise ImportError('libnvinfer.so.10: no such file')"},
            ["tensorrt"],
            "tensorrt cannot be imported (ImportError: libnvinfer.so.10: no such file)",
        ),
        ({"pycuda": "", "tensorrt": '__version__ = "8.6.1"'}, ["tensorrt"], "is version 8.6.1, needed is 10.3 to 11.4"),
        ({"pycuda": "", "tensorrt": ""}, ["tensorrt"], "is version unknown, needed is 10.3"),
        ({"pycuda": "", "tensorrt": TENSORRT, "tensorrt_rtx": "raise ImportError"}, [], ""),
    ],
)
def test_what_is_missing_broken_or_of_another_version_is_named(
    ask: Ask, modules: dict[str, str], parts: list[str], expected: str
) -> None:
    answer = ask(gpus=1, **modules)
    assert answer["parts"] == parts and answer["flavour"] == "tensorrt"
    assert expected in str(answer["error_text"])


@pytest.mark.parametrize(
    ("text", "kind", "cure"),
    [  # as CUDA, pycuda and TensorRT have it
        ("cuMemAlloc failed: out of memory", "memory", "nvidia-smi"),
        ("[defaultAllocator.cpp::allocate::57] Error Code 2: OutOfMemory (no further information)", "memory", "nvidia"),
        ("CUDA initialization failure with error: 2. Please check your CUDA installation", "memory", "nvidia-smi"),
        ("cuStreamSynchronize failed: an illegal memory access was encountered", "lost", "Xid"),
        ("cuStreamSynchronize failed: unspecified launch failure", "lost", "Restart the node"),
        ("cuCtxPushCurrent failed: GPU is lost", "lost", "Restart the node"),
        ("Cuda failure: uncorrectable ECC error encountered", "lost", "Restart the node"),
        ("cuModuleLoadDataEx failed: device kernel image is invalid", "unknown", "doctor"),
    ],
)
def test_errors_of_cuda_have_a_kind_and_a_cure(text: str, kind: str, cure: str) -> None:
    error = explain_failure(text, "running the encoder")
    assert error.kind == kind
    assert text in error.what
    assert "running the encoder" in error.what
    assert cure in error.cure
    with pytest.raises(GpuError, match=r"running failed: UnicodeDecodeError: .* can't decode"), gpu_errors("running"):
        b"\xff".decode()  # pycuda's message for a module that does not load may be no text
