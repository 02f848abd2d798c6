from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from scene_completion_ros.errors import BundleError
from scene_completion_ros.geometry import RigidTransform, VoxelGrid
from scene_completion_ros.inference.bundle import ENCODER, HEAD, MANIFEST, WEIGHTS, StudentBundle
from scene_completion_ros.inference.calibration import Calibration
from tests.inference.small_bundle import CANONICAL, make_small_bundle, random_head, road_head, tiny_encoder


def edit_manifest(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    manifest = json.loads((folder / MANIFEST).read_text())
    change(manifest)
    (folder / MANIFEST).write_text(json.dumps(manifest))


def replace_head(folder: Path, **tensors: np.ndarray | None) -> None:
    """Replaces tensors of the head (None removes one) and puts the hash right."""
    content = safetensors.numpy.load_file(folder / HEAD)
    for name, tensor in tensors.items():
        if tensor is None:
            del content[name]
        else:
            content[name] = tensor
    data = safetensors.numpy.save(content)
    (folder / HEAD).write_bytes(data)
    edit_manifest(folder, lambda m: m["sha256"].update({HEAD: hashlib.sha256(data).hexdigest()}))


def refused(folder: Path) -> BundleError:
    with pytest.raises(BundleError) as caught:
        StudentBundle.load(folder)
    assert str(folder) in caught.value.where
    assert caught.value.cure
    return caught.value


def test_everything_comes_back(tmp_path: Path) -> None:
    grid = VoxelGrid((1.0, -2.0, 3.0), 0.1, (10, 20, 30), "lidar")
    pose = RigidTransform.from_quaternion((0.5, -0.5, 0.5, 0.5), (0.3, 0.0, -0.1))
    saved = make_small_bundle(
        tmp_path / "student",
        calibration=Calibration("piecewise_linear", (0.0, 0.3), (0.01, 0.8)),
        threshold=0.4,
        height_above_ground=1.2,
        pitch_range=(-0.1, 0.2),
        focal_range=(0.3, 0.7),
        depth_range=(2.0, 60.0),
        class_names=("road", "car"),
        class_colours=((1, 2, 3), (4, 5, 6)),
        grid=grid,
        grid_from_camera=pose,
        provenance={"windows": ["00", "01"], "steps": 5},
        licence="CC BY-NC-SA 3.0",
    )
    loaded = StudentBundle.load(tmp_path / "student")
    for bundle in (saved, loaded):
        assert bundle.canonical == CANONICAL
        assert bundle.calibration.alpha == (0.0, 0.3)
        assert bundle.threshold == 0.4
        assert bundle.height_above_ground == 1.2
        assert bundle.pitch_range == (-0.1, 0.2)
        assert bundle.focal_range == (0.3, 0.7)
        assert bundle.depth_range == (2.0, 60.0)
        assert bundle.class_names == ("road", "car")
        assert bundle.class_colours == ((1, 2, 3), (4, 5, 6))
        assert bundle.grid == grid
        np.testing.assert_allclose(bundle.grid_from_camera.matrix, pose.matrix, atol=1e-12)
        assert bundle.provenance == {"windows": ["00", "01"], "steps": 5}
        assert bundle.licence == "CC BY-NC-SA 3.0"
        assert bundle.feature_size == (96, 320)
        for name, tensor in road_head().tensors().items():
            np.testing.assert_array_equal(getattr(bundle.head, name), tensor)
        assert bundle.encoder_path.read_bytes() == tiny_encoder()


def test_saving_leaves_no_temporary_files(tmp_path: Path) -> None:
    make_small_bundle(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([ENCODER, HEAD, MANIFEST])


def test_weights_beside_the_bundle(tmp_path: Path) -> None:
    bundle = make_small_bundle(tmp_path)
    with pytest.raises(BundleError, match=WEIGHTS):
        bundle.load_weights()
    bundle.save(tmp_path, tiny_encoder(), {"stem": np.arange(6, dtype=np.float16).reshape(2, 3)})
    loaded = StudentBundle.load(tmp_path)
    np.testing.assert_array_equal(loaded.load_weights()["stem"], [[0, 1, 2], [3, 4, 5]])
    (tmp_path / WEIGHTS).write_bytes(b"x" + (tmp_path / WEIGHTS).read_bytes()[1:])
    with pytest.raises(BundleError, match="sha256"):
        loaded.load_weights()
    (tmp_path / WEIGHTS).unlink()
    StudentBundle.load(tmp_path)  # the robot does not need them


def test_an_unsaved_bundle_has_no_encoder() -> None:
    with pytest.raises(BundleError, match="has not been saved"):
        _ = StudentBundle(name="new", canonical=CANONICAL, head=random_head()).encoder_path


def test_a_diverged_head_is_not_saved(tmp_path: Path) -> None:
    head = random_head()
    head.density_weight[3] = np.nan
    with pytest.raises(BundleError, match="density_weight: holds NaN"):
        StudentBundle(name="new", canonical=CANONICAL, head=head).save(tmp_path, tiny_encoder())
    assert not list(tmp_path.iterdir())


def test_a_folder_without_a_bundle(tmp_path: Path) -> None:
    assert MANIFEST in refused(tmp_path / "nowhere").what


@pytest.mark.parametrize("name", [ENCODER, HEAD])
def test_a_changed_file_is_refused(tmp_path: Path, name: str) -> None:
    make_small_bundle(tmp_path)
    content = bytearray((tmp_path / name).read_bytes())
    content[-1] ^= 1
    (tmp_path / name).write_bytes(bytes(content))
    error = refused(tmp_path)
    assert name in error.where
    assert "sha256" in error.what


@pytest.mark.parametrize("name", [ENCODER, HEAD])
def test_a_missing_file_is_named(tmp_path: Path, name: str) -> None:
    make_small_bundle(tmp_path)
    (tmp_path / name).unlink()
    error = refused(tmp_path)
    assert name in error.where
    assert "missing" in error.what


def test_a_newer_schema_asks_for_an_update(tmp_path: Path) -> None:
    make_small_bundle(tmp_path)
    edit_manifest(tmp_path, lambda m: m.update(schema_version=2))
    error = refused(tmp_path)
    assert "schema_version" in error.where
    assert "Update" in error.cure


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"density_bias": None}, "tensor density_bias: is missing"),
        ({"hidden_bias": np.zeros(63, dtype=np.float32)}, r"tensor hidden_bias: is float32 \(63,\)"),
        ({"positional_weight": np.zeros((64, 39), dtype=np.float16)}, "tensor positional_weight: is float16"),
        ({"density_weight": np.full(64, np.nan, dtype=np.float32)}, "tensor density_weight: holds NaN"),
    ],
)
def test_bad_tensors_are_named(tmp_path: Path, tensors: dict[str, np.ndarray | None], message: str) -> None:
    make_small_bundle(tmp_path)
    replace_head(tmp_path, **tensors)
    with pytest.raises(BundleError, match=message):
        StudentBundle.load(tmp_path)
    assert HEAD in refused(tmp_path).where


def test_a_pickle_is_not_a_head(tmp_path: Path) -> None:
    make_small_bundle(tmp_path)
    data = b"\x80\x04N."
    (tmp_path / HEAD).write_bytes(data)
    edit_manifest(tmp_path, lambda m: m["sha256"].update({HEAD: hashlib.sha256(data).hexdigest()}))
    assert "safetensors" in refused(tmp_path).what


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (lambda m: m.pop("threshold"), "threshold"),
        (lambda m: m.update(threshold=1.5), "threshold"),
        (lambda m: m.update(threshold="high"), "threshold"),
        (lambda m: m["canonical_camera"].update(fx=0.0), "canonical_camera"),
        (lambda m: m["canonical_camera"].update(width=640.5), "canonical_camera.width"),
        (lambda m: m["point_code"].update(frequencies=[1.0, 2.0]), "head.code"),
        (lambda m: m["point_code"].update(near=100.0), "point_code.near"),
        (lambda m: m["point_code"].update(minimum_depth=0.0), "point_code.minimum_depth"),
        (lambda m: m["grid"].update(voxel_size=-0.2), "grid"),
        (lambda m: m["grid"].update(grid_from_camera=[1.0] * 16), "grid"),
        (lambda m: m["grid"].update(grid_from_camera=[1.0] * 15), "grid.grid_from_camera"),
        (lambda m: m["calibration"].update(kind="magic"), "calibration"),
        (lambda m: m.update(focal_range=[0.7, 0.5]), "focal_range"),
        (lambda m: m.update(class_colours=[]), "class_colours"),
        (lambda m: m["normalisation"].update(mean=[1.0]), "normalisation.mean"),
        (lambda m: m.pop("sha256"), "sha256"),
        (lambda m: m["sha256"].pop(HEAD), f"sha256.{HEAD}"),
        (lambda m: m.update(provenance="a bag"), "provenance"),
    ],
)
def test_bad_fields_are_named(tmp_path: Path, change: Callable[[dict[str, Any]], Any], field: str) -> None:
    make_small_bundle(tmp_path)
    edit_manifest(tmp_path, change)
    assert f"field {field}" in refused(tmp_path).where


@pytest.mark.parametrize("content", [b"{", b"[1]", b"\xff\xfe"])
def test_a_manifest_that_is_no_json_object(tmp_path: Path, content: bytes) -> None:
    make_small_bundle(tmp_path)
    (tmp_path / MANIFEST).write_bytes(content)
    assert MANIFEST in refused(tmp_path).where


def test_unknown_fields_of_later_writers_are_ignored(tmp_path: Path) -> None:
    make_small_bundle(tmp_path)
    edit_manifest(tmp_path, lambda m: m.update(feature_spaces={"clip": {}}))
    StudentBundle.load(tmp_path)
