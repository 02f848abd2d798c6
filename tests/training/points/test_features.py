"""Off-the-shelf features of points: by Python and by command line, from a checkpoint or what it was exported to."""

import dataclasses
import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import safetensors
import torch
import yaml

from scene_completion_ros.cli import main
from scene_completion_ros.errors import BundleError, SequenceError
from scene_completion_training import CONFIGS
from scene_completion_training.masked_scenes import POINT_FEATURES
from scene_completion_training.points import features
from scene_completion_training.points.features import (
    NETWORK,
    SHIPPED,
    WEIGHTS,
    PointNetwork,
    open_network,
    principal_colours,
)
from scene_completion_training.points.ply import read_ply
from scene_completion_training.points.scene import PointScene
from scene_completion_training.sparse.hu_net import HUNetSettings, VoxelHUNet
from tests.training.points.rooms import room, save_rooms
from tests.training.small_trainings import save_checkpoint

SETTINGS = HUNetSettings(6, (8, 12), (8, 12), attending=1)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network with random weights, as a training on points leaves it."""
    torch.manual_seed(0)
    remembered = {"columns": list(POINT_FEATURES), "network": asdict(SETTINGS), "data": {"voxel_size": 0.1}, "steps": 7}
    file = tmp_path_factory.mktemp("runs") / "last.ckpt"
    return save_checkpoint(file, VoxelHUNet(SETTINGS), "masked_scene", **remembered)


def of(scene: PointScene, network: Path) -> np.ndarray:
    return np.concatenate(PointNetwork.open(network).of_scene(scene), axis=1)


def test_features_of_points_stand_in_their_order(checkpoint: Path) -> None:
    """They follow from what is around a point, not from where the cloud lies."""
    network, scene = PointNetwork.open(checkpoint), room(0, step=0.1, objects=2)  # nothing on the border of two voxels
    found = of(scene, checkpoint)
    assert found.shape == (len(scene), 20) and found.dtype == np.float16 and np.isfinite(found).all()
    rows = np.array([700, 3, 3])
    some = network.levels(scene.points, scene.colours, scene.normals, rows)
    np.testing.assert_array_equal(np.concatenate(some, axis=1), found[rows])
    moved = dataclasses.replace(scene, points=scene.points + np.float32(32.0))
    np.testing.assert_allclose(of(moved, checkpoint), found, atol=2e-2)
    assert not np.allclose(np.concatenate(network.levels(scene.points), axis=1), found, atol=0.1)
    assert not np.allclose(np.concatenate(network.untrained(5).levels(scene.points), axis=1), found, atol=0.1)


def test_an_exported_network_gives_the_same_with_weights_in_half_precision(checkpoint: Path, tmp_path: Path) -> None:
    assert main(["export", str(checkpoint), str(tmp_path / "small"), "--licence", "Apache-2.0"]) == 0
    scene = room(0, step=0.1)
    np.testing.assert_allclose(of(scene, tmp_path / "small"), of(scene, checkpoint), atol=0.05)
    about = json.loads((tmp_path / "small" / NETWORK).read_text())
    assert (about["name"], about["licence"]) == ("small", "Apache-2.0")
    with pytest.raises(BundleError, match="large"):
        PointNetwork.open(tmp_path / "large")


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_network_is_that_of_its_configuration(name: str) -> None:
    configuration = yaml.safe_load((CONFIGS / f"{name}_masked_scene.yaml").read_text())
    network, edge = open_network(Path(name))
    assert edge == configuration["data"]["voxel_size"]
    assert {"inputs": 6, "encoder": list(network.settings.encoder), "decoder": list(network.settings.decoder)} == (
        configuration["network"]
    )
    folder = Path(features.__file__).with_name(name)
    assert json.loads((folder / NETWORK).read_text())["licence"] == "Apache-2.0"
    assert sum(file.stat().st_size for file in folder.iterdir()) < 12 << 20


def test_a_foreign_network_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    assert main(["export", str(checkpoint), str(tmp_path / "net"), "--licence", "none"]) == 0
    about = json.loads((tmp_path / "net" / NETWORK).read_text())
    for changed, message in (
        ({"network": {**about["network"], "encoder": [10**7, 10**7]}}, "size mismatch"),
        ({"network": {**about["network"], "blocks": 10**9}}, "at most 16 levels and blocks"),
        ({"network": {**about["network"], "attending": 4}}, "no more attending levels"),
        ({"network": 3}, "no network of points"),
        ({"data": {"voxel_size": 0}}, "voxels of 0 m"),
        ({"columns": ["probability"]}, "it was not trained on points"),
    ):
        (tmp_path / "net" / NETWORK).write_text(json.dumps(about | changed))
        with pytest.raises(Exception, match=message) as caught:
            PointNetwork.open(tmp_path / "net")
        assert type(caught.value).__module__ == "scene_completion_ros.errors"
    (tmp_path / "net" / WEIGHTS).unlink()
    with pytest.raises(BundleError, match="cannot be read"):
        open_network(tmp_path / "net")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"points": np.zeros((0, 3), np.float32)}, "arrays of"),
        ({"colours": np.zeros((2, 3), np.float32)}, "of the same points"),
        ({"colours": np.full((4, 3), 255.0)}, "colours are up to 255.*divide bytes by 255"),
        ({"points": np.array([[0, 0, np.nan]] * 4)}, "not finite"),
        ({"points": np.array([[0, 0, 0], [0, 0, 0], [0, 0, 0], [0, 2e5, 0]])}, "they span 200000 m.*Give metres"),
    ],
)
def test_what_is_no_cloud_is_refused(checkpoint: Path, changes: dict[str, np.ndarray], message: str) -> None:
    given = {"points": np.zeros((4, 3)), "colours": np.zeros((4, 3)), "normals": None, **changes}
    with pytest.raises(SequenceError, match=message):
        PointNetwork.open(checkpoint).levels(given["points"], given["colours"], given["normals"])


def test_what_a_scene_lacks_is_said_once(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plain = dataclasses.replace(room(0, step=0.1), name="plain", colours=None, normals=None)
    for _ in range(2):
        PointNetwork.open(checkpoint).of_scene(plain, np.arange(5))
    said = capsys.readouterr().out
    assert said.startswith("plain has no colours and no normals: zeros stand for them") and said.count("\n") == 1
    full = dataclasses.replace(plain, name="full", normals=plain.points, colours=0.0 * plain.points)
    PointNetwork.open(checkpoint).of_scene(full)
    assert not capsys.readouterr().out


def test_principal_components_worked_by_hand() -> None:
    """Features vary most along (1, 1), then along (1, -1); the third component there is not, and stays grey."""
    steps = np.linspace(-1.0, 1.0, 201)
    features = np.concatenate([4.0 * steps[:, None] * [1, 1], steps[:, None] * [1, -1]])
    colours = principal_colours(features).astype(int)
    assert colours[[0, 100, 200], 0].tolist() == [0, 127, 255] and (np.diff(colours[:201, 0]) >= 0).all()
    assert (colours[:201, 1] == 127).all() and abs(colours[201, 1] - colours[401, 1]) == 255
    assert (colours[:, 2] == 127).all()


def test_the_command_writes_features_of_a_cloud(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scene, rooms = room(0, step=0.1), save_rooms(tmp_path / "rooms", range(2), step=0.1)
    made = tmp_path / "made"
    command = ["--model", str(checkpoint), "--output", str(made)]
    assert main(["features", "points", str(rooms / "room_0.ply"), *command]) == 0
    with safetensors.safe_open(made / "features.safetensors", framework="np") as stored:
        assert json.loads(stored.metadata()["levels"]) == [8, 12]
        found = stored.get_tensor("features")
    assert found.dtype == np.float16
    in_bytes = dataclasses.replace(scene, colours=np.rint(255 * scene.colours).astype(np.float32) / 255)
    np.testing.assert_allclose(found, of(in_bytes, checkpoint), atol=5e-3)
    vertex = read_ply(made / "components.ply")["vertex"]
    assert vertex["red"].tolist() == principal_colours(found)[:, 0].tolist()
    assert main(["features", "points", str(rooms), *command]) == 2
    assert "components.ply, features.safetensors exist already" in capsys.readouterr().err
    assert main(["features", "points", str(rooms), *command, "--overwrite"]) == 2
    assert f"{rooms}: 2 scenes, such as room_0, room_1. Name one of them" in capsys.readouterr().err
    assert read_ply(made / "components.ply")["vertex"].tolist() == vertex.tolist()


def test_a_misspelt_network_is_answered_with_those_that_ship() -> None:
    with pytest.raises(
        BundleError, match=r"^roms: there is neither such a file .* network of the package \(rooms\)\. Name the ch"
    ):
        open_network(Path("roms"))
