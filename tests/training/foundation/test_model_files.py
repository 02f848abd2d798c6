"""Where models are, and what their files say without being run."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from scene_completion_training.foundation.model_files import (
    description_folder,
    joint_sha256,
    model_name,
    read_normalisation,
    sha256,
    weight_files,
)

from scene_completion_ros.errors import BundleError, ConfigurationError


def test_folders_of_installed_packages_are_found_without_importing_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "packaged_weights"
    (package / "model").mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert description_folder("package:packaged_weights/model") == package / "model"
    assert model_name("package:packaged_weights/model") == "package:packaged_weights/model"
    assert "packaged_weights" not in sys.modules
    for spec in ("package:packaged_weights/nowhere", "package:packaged_weights/../..", "package:packaged_weights//etc"):
        with pytest.raises(ConfigurationError, match="no such folder in it"):
            description_folder(spec)


@pytest.mark.parametrize("spec", ["package:no_such_package/model", "package:a.b/model", "package:", "package:../x"])
def test_packages_that_are_not_there_are_named(spec: str) -> None:
    with pytest.raises(ConfigurationError, match=f"{spec}: not installed"):
        description_folder(spec)


def test_the_hash_of_several_files_follows_from_each(tmp_path: Path) -> None:
    files = [tmp_path / "b", tmp_path / "a"]
    for file in files:
        file.write_text(file.name)
    assert joint_sha256(files[:1]) == sha256(files[0])
    both = joint_sha256(files)
    assert both == joint_sha256(files[::-1])
    files[0].write_text("changed")
    assert joint_sha256(files) != both


def test_colours_stand_where_either_generation_writes_them(tmp_path: Path) -> None:
    assert read_normalisation(tmp_path, (0.1, 0.2, 0.3)).mean == pytest.approx((25.5, 51.0, 76.5))
    processor = {"image_processor": {"image_mean": [0.5] * 3, "image_std": [0.25] * 3}, "tokenizer": {}}
    (tmp_path / "processor_config.json").write_text(json.dumps(processor))
    found = read_normalisation(tmp_path)
    assert (found.mean[0], found.deviation[0]) == pytest.approx((127.5, 63.75))
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"image_mean": [0.0] * 3}))
    assert read_normalisation(tmp_path).mean == (0.0, 0.0, 0.0)
    (tmp_path / "preprocessor_config.json").unlink()
    (tmp_path / "processor_config.json").write_text(json.dumps({"image_processor": {"image_std": 0}}))
    with pytest.raises(BundleError, match=r"processor_config\.json: no mean and deviation"):
        read_normalisation(tmp_path)


@pytest.mark.parametrize(
    "named", [{}, [], {"a": "model-2.safetensors"}, {"a": "x" * 9000}, {"a": "../model-1"}, {"a": []}]
)
def test_parts_that_are_not_there_are_named(named: object, tmp_path: Path) -> None:
    (tmp_path / "model-1.safetensors").touch()
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "model-1.safetensors", "b": []}}))
    assert weight_files(str(tmp_path)) == [tmp_path / "model-1.safetensors"]
    index.write_text(json.dumps({"weight_map": named}))
    with pytest.raises(BundleError, match=r"index\.json: names .*, which are not there"):
        weight_files(str(tmp_path))
