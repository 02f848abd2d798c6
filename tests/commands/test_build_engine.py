"""What the command says is missing or wrong; `tests/inference/gpu` has it build, on TensorRT-RTX and on stand-ins."""

from pathlib import Path

import pytest

from scene_completion_ros import cli
from scene_completion_ros.inference.bundle import StudentBundle
from scene_completion_ros.inference.gpu.device import cuda_devices
from tests.inference.gpu.small_gpu_bundle import make_gpu_bundle
from tests.inference.small_bundle import make_small_bundle


@pytest.mark.skipif(cuda_devices().names is not None, reason="there is an NVIDIA driver here")
def test_it_says_all_that_is_missing_and_how_to_install_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    student = make_gpu_bundle(tmp_path, ("fp16",))
    monkeypatch.setattr(StudentBundle, "load", lambda folder: student)
    assert cli.main(["build-engine", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert "the NVIDIA driver is missing" in said and "docker run --gpus all" in said
    assert len(said.splitlines()) == 1
    assert cli.main(["build-engine", str(tmp_path), "--precision", "fp32"]) == 2
    assert "in fp32 (it has: fp16)" in capsys.readouterr().err


def test_a_bundle_without_encoders_for_gpus(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_small_bundle(tmp_path)
    assert cli.main(["build-engine", str(tmp_path)]) == 2
    assert f"has no encoder for GPUs in fp16 (it has: none). Run: scene-completion export {tmp_path} --gpu" in (
        capsys.readouterr().err
    )
