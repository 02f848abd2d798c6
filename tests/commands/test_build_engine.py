"""What the command says is missing or wrong; `tests/inference/gpu/test_tensorrt_rtx.py` has it build."""

from __future__ import annotations

from pathlib import Path

import pytest

from scene_completion_ros import cli
from scene_completion_ros.inference.bundle import StudentBundle
from scene_completion_ros.inference.gpu.requirements import cuda_devices
from tests.inference.gpu.small_gpu_bundle import make_gpu_bundle
from tests.inference.small_bundle import make_small_bundle

no_driver = pytest.mark.skipif(cuda_devices().names is not None, reason="there is an NVIDIA driver here")


@pytest.fixture
def bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A bundle with encoders for GPUs in fp16 and fp32."""
    student = make_gpu_bundle(tmp_path / "bundle", ("fp16", "fp32"))
    monkeypatch.setattr(StudentBundle, "load", lambda folder: student)
    return tmp_path / "bundle"


@no_driver
def test_it_says_all_that_is_missing_and_how_to_install_it(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["build-engine", str(bundle), "--flavour", "tensorrt"]) == 2
    said = capsys.readouterr().err
    assert "engine tensorrt: the NVIDIA driver is missing" in said
    assert "docker run --gpus all" in said
    assert len(said.splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--precision", "fp8"], "'fp8' is no precision. Use one of fp32, fp16, int8"),
        (["--precision", "int8"], "encoders for GPUs in fp16, fp32 only, not in int8"),
        (["--batch", "4", "1"], "4 to 1 is no range of batch sizes"),
        (["--workspace", "1"], "1 MiB lie outside of"),
        (["--dla", "7"], "there is no core 7"),
        (["--dla", "0", "--batch", "1", "2"], "one fixed batch size"),
        (["--no-device", "--flavour", "tensorrt"], "Take --flavour tensorrt_rtx"),
    ],
)
def test_bad_arguments_are_said_before_anything_is_looked_for(
    bundle: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    assert cli.main(["build-engine", str(bundle), *arguments]) == 2
    assert said in capsys.readouterr().err


def test_a_bundle_without_encoders_for_gpus(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_small_bundle(tmp_path)
    assert cli.main(["build-engine", str(tmp_path)]) == 2
    assert "has no encoder for GPUs" in capsys.readouterr().err
