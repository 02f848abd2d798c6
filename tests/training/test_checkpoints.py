"""Checkpoints of other authors and other versions, and what of them a bundle keeps."""

from pathlib import Path

import pytest
import torch

from scene_completion_ros.errors import BundleError
from scene_completion_ros.geometry import VoxelGrid
from scene_completion_ros.inference.bundle import StudentBundle
from scene_completion_training.checkpoints import KEY, Checkpoint
from scene_completion_training.export import export_bundle, without_places
from scene_completion_training.networks.density_field import DensityField, MultiViewField
from scene_completion_training.viewpoint import Viewpoint
from tests.test_untrusted_files import Bomb
from tests.training.small_trainings import save_checkpoint


def test_a_foreign_checkpoint_is_refused_without_running_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pickle that would write a file when loaded is refused and writes nothing."""
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": Bomb()}, "foreign.ckpt")
    with pytest.raises(BundleError, match="not a checkpoint"):
        Checkpoint.read(Path("foreign.ckpt"))
    assert not Path("exploded").exists()


def test_a_checkpoint_says_which_version_wrote_it(teacher: Path, tmp_path: Path) -> None:
    """One of a later format is refused; so are weights of another field."""
    content = torch.load(teacher, weights_only=True)
    assert content[KEY]["format"] == 1 and content[KEY]["version"]
    file = tmp_path / "changed.ckpt"
    assert isinstance(Checkpoint.read(teacher).field_of(MultiViewField), MultiViewField)
    torch.save({**content, KEY: {**content[KEY], "format": 9, "version": "7.1"}}, file)
    with pytest.raises(BundleError, match=r"scene_completion_ros 7\.1 wrote this checkpoint in format 9.*up to 1"):
        Checkpoint.read(file)
    torch.save({**content, KEY: {**content[KEY], "configuration": {"stage": "single_view"}}}, file)
    with pytest.raises(BundleError, match=r"no weights of a DensityField"):
        Checkpoint.read(file).field_of(DensityField)


def test_a_bundle_remembers_a_camera_near_the_ground(tmp_path: Path) -> None:
    camera = {"width": 64, "height": 32, "field_of_view": 100.0, "height_above_ground": 0.4}
    viewpoint = Viewpoint.of_record({"camera": camera})
    field = DensityField(viewpoint.camera, viewpoint.volume.point_code, hidden=16)
    checkpoint = save_checkpoint(tmp_path / "last.ckpt", field, "single_view", camera=camera)
    made = export_bundle(checkpoint, tmp_path / "bundle", name="robot", licence="none", provenance={})
    bundle = StudentBundle.load(made.folder)
    assert (bundle.canonical, bundle.height_above_ground) == (viewpoint.camera, 0.4)
    assert bundle.grid == VoxelGrid((0.0, -6.4, -0.55), 0.05, (256, 256, 32))
    assert (bundle.point_code.near, bundle.point_code.far, bundle.depth_range) == (0.75, 20.0, (0.75, 20.0))


def test_a_bundle_names_no_file_of_the_machine_that_trained() -> None:
    places = ("output", "start_from", "teacher", "features_from", "encoder_weights")
    files = dict.fromkeys(places, "/home/ada/last.ckpt")
    features = {"targets": "/home/ada/features", "model": "/home/ada/dinov2", "layer": 11}
    data = {"root": "/home/ada", "cache": "/home/ada/cache", "sources": []}
    kept = without_places({"steps": 4, **files, "features": features, "data": data})
    assert kept == {"steps": 4, "features": {"model": "dinov2", "layer": 11}, "data": {"sources": []}}
