"""Where models are, and what their files say without being run."""

import json
import sys
from pathlib import Path

import pytest

from scene_completion_ros.errors import BundleError, ConfigurationError
from scene_completion_training.foundation.model_files import description_folder, model_name, weight_files


def test_installed_packages_are_found_without_importing_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
