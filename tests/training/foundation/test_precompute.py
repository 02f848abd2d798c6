"""Prepared frames get their features once: by hand, and by the command that reads a training configuration."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from scene_completion_ros.cli import main
from scene_completion_ros.sequences.kitti import kitti_odometry
from scene_completion_training.data.augmentation import canonical_image
from scene_completion_training.data.feature_targets import frame_key
from scene_completion_training.data.prepared import PreparedFrame, load_prepared, prepare_sequence
from scene_completion_training.data.voxel_evidence import FusionSettings
from scene_completion_training.foundation.backbone import Backbone
from scene_completion_training.foundation.feature_store import FeatureStore
from scene_completion_training.foundation.precompute import canonical_manifest, precompute
from scene_completion_training.foundation.targets import LiveTargets
from scene_completion_training.viewpoint import STREET_CAMERA

FUSION = FusionSettings(free_samples=20000, views=3)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def frames(synthetic_drive: Path, cache: Path) -> list[PreparedFrame]:
    files = prepare_sequence(kitti_odometry(synthetic_drive), cache, settings=FUSION, workers=1)
    return [load_prepared(file) for file in files]


def test_keys_are_the_places_of_prepared_frames(frames: list[PreparedFrame], cache: Path) -> None:
    (folder,) = (path for path in cache.iterdir() if path.is_dir())
    assert "synthetic-" in folder.name
    assert frame_key(frames[2], "right") == f"{folder.name}/000002/right"


def test_stored_features_are_those_computed_live(
    frames: list[PreparedFrame], folders: dict[str, Path], tmp_path: Path
) -> None:
    backbone = Backbone(folders["dinov2"], 2)
    store = FeatureStore.create(tmp_path, canonical_manifest(backbone, STREET_CAMERA, cell=16, variants=3, seed=4))
    assert precompute(frames[:2], STREET_CAMERA, backbone, store) == 4
    live = LiveTargets(backbone, cell=16, variants=3, seed=4)
    frame = frames[1]
    image = canonical_image(frame.images["left"], frame.cameras["left"], STREET_CAMERA)
    seen = []
    for number in range(3):
        stored = store.get(frame_key(frame, "left"), image, number)
        computed = live.get(frame_key(frame, "left"), image, number)
        assert stored.features.shape == (32, 12, 40)
        assert (stored.shift, stored.mirrored) == (computed.shift, computed.mirrored)
        torch.testing.assert_close(stored.features, computed.features, atol=2e-3, rtol=2e-3)
        seen.append(stored.features)
    assert not torch.allclose(seen[0], seen[1], atol=0.1)
    assert not torch.allclose(seen[0], seen[2], atol=0.1)


def test_only_what_is_missing_is_computed(
    frames: list[PreparedFrame], folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone = Backbone(folders["vit"], 1)
    store = FeatureStore.create(tmp_path, canonical_manifest(backbone, STREET_CAMERA, cell=32, variants=1, seed=0))
    original = backbone.features
    calls = 0

    def dying(images: torch.Tensor, cell: int) -> torch.Tensor:
        nonlocal calls
        calls += 1
        if calls == 4:
            raise KeyboardInterrupt
        return original(images, cell)

    monkeypatch.setattr(backbone, "features", dying)
    with pytest.raises(KeyboardInterrupt):
        precompute(frames, STREET_CAMERA, backbone, store)
    written = {file: file.stat().st_mtime_ns for file in tmp_path.glob("features/**/*.safetensors")}
    assert len(written) == 3
    assert precompute(frames, STREET_CAMERA, backbone, store) == 5
    assert calls == 4 + 5
    assert {file: file.stat().st_mtime_ns for file in written} == written
    assert precompute(frames, STREET_CAMERA, backbone, store) == 0


def test_processes_that_share_a_store_share_its_work(
    frames: list[PreparedFrame], folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two processes in step with each other: whoever finds an image missing computes it, and writes it a step later."""
    backbone = Backbone(folders["dinov2"], 2)
    store = FeatureStore.create(tmp_path, canonical_manifest(backbone, STREET_CAMERA, cell=16, variants=2, seed=4))
    orders = []
    for process in (1, 2):
        order: list[str] = []
        monkeypatch.setattr("os.getpid", lambda process=process: process)
        monkeypatch.setattr(FeatureStore, "save", lambda self, key, features, order=order: order.append(key))
        precompute(frames, STREET_CAMERA, backbone, store)
        orders.append(order)
    assert sorted(orders[0]) == sorted(orders[1])
    done: set[str] = set()
    steps = 0
    while len(done) < len(orders[0]):
        done |= {next(key for key in order if key not in done) for order in orders if len(done) < len(order)}
        steps += 1
    assert steps < len(orders[0])  # in one order each would compute all


def test_the_command_reads_a_training_configuration(
    frames: list[PreparedFrame],
    synthetic_drive: Path,
    cache: Path,
    folders: dict[str, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    configuration = tmp_path / "run.yaml"
    configuration.write_text(
        f"data:\n  root: {synthetic_drive.parent}\n  cache: {cache}\n  fusion: {{free_samples: 20000, views: 3}}\n"
        f"  sources: [{{folder: elsewhere}}]\n"
    )
    output = tmp_path / "features"
    command = ["features", f"--config={configuration}", f"--model={folders['dinov3_vit']}", f"--output={output}"]
    command += ["--layer=1", "--threads=1"]
    chosen = [f"data.sources=[{{folder: {synthetic_drive.name}}}]"]
    assert main([*command, *chosen]) == 0
    assert "8 images, 8 of them new; 2 variants of 32 channels" in capsys.readouterr().out
    store = FeatureStore.open(output, model=Backbone(folders["dinov3_vit"], 1).identity, cell=16)
    assert all(frame_key(frame, camera) in store for frame in frames for camera in ("left", "right"))

    assert main([*command, *chosen]) == 0
    assert "8 images, 0 of them new" in capsys.readouterr().out
    assert main([*command, "--cell=32", *chosen]) == 2
    assert "cell 16, asked for 32" in capsys.readouterr().err
    assert main([*command, "--layer=7", *chosen]) == 2
    assert "no layer 7" in capsys.readouterr().err


def test_importing_is_cheap() -> None:
    code = "import sys, scene_completion_training.foundation.precompute; sys.exit('transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=120).returncode == 0
