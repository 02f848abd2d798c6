"""`evaluate` on drives of KITTI-360 with SSCBench's labels: what is scored, and what is refused."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from scene_completion_ros.cli import main
from scene_completion_ros.evaluation.semantic_classes import COMMON_CLASSES
from scene_completion_ros.geometry import Camera
from scene_completion_training.evaluation.probes import LinearProbe
from scene_completion_training.networks.density_field import DensityField
from scene_completion_training.networks.feature_field import FeatureField
from tests import official_layouts as layouts
from tests.training.evaluation.other_device import DEVICE, OtherDevice
from tests.training.small_trainings import save_checkpoint

INTRINSICS = {"fx": 50.23, "fy": 94.05, "cx": 61.5, "cy": 40.2, "width": 128, "height": 64}
OTHER = "2013_05_28_drive_0009_sync"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two drives with labels in the same folder."""
    root = tmp_path_factory.mktemp("kitti_360")
    for drive, numbers in ((layouts.DRIVE, (0, 5)), (OTHER, (0,))):
        layouts.kitti_360(root, drive=drive, frames=7, posed=range(7))
        layouts.sscbench_labels(root / "preprocess" / "labels", drive=drive, numbers=numbers)
    return root


def untrained(folder: Path, bias: float) -> Path:
    """The checkpoint of an untrained field of features, whose density is about this, before the softplus."""
    torch.manual_seed(0)
    field = FeatureField(DensityField(Camera(**INTRINSICS)), target_size=4, units=4)  # type: ignore[arg-type]
    torch.nn.init.constant_(field.density.density_layer.bias, bias)
    file = folder / "feature_field" / "checkpoints" / "last.ckpt"
    return save_checkpoint(file, field, "feature_field", camera=INTRINSICS)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A field in which everything in the image is occupied."""
    return untrained(tmp_path_factory.mktemp("runs"), 2.0)


def evaluate(root: Path, *options: object, protocol: str = "semantics") -> dict[str, Any] | None:
    """What `evaluate` writes; None where it refuses."""
    output = root / "scores"
    if main(["evaluate", protocol, *map(str, options), "--output", str(output), "--overwrite"]):
        return None
    found: dict[str, Any] = json.loads((output / "results.json").read_text())
    return found


def drive(root: Path, name: str = layouts.DRIVE) -> Path:
    return root / "data_2d_raw" / name


def test_classes_by_a_probe_need_no_names(root: Path, checkpoint: Path, tmp_path: Path) -> None:
    """Every labelled frame is scored, 0 and 5, by a probe that calls everything a bus, or the sky, which is empty."""
    given = ("--sscbench", root / "preprocess" / "labels", "--data", drive(root))
    for number, recall in ((15, 1.0), (10, 0.0)):
        bias = np.where(np.arange(19) == number, np.float32(9.0), np.float32(0.0))
        probe = tmp_path / f"probe_{number}.safetensors"
        LinearProbe(np.zeros((19, 4), np.float32), bias).save(probe)
        found = evaluate(root, *given, "--probed", checkpoint, probe)
        assert found is not None and found["recordings"] == [layouts.DRIVE]
        rows = found["scores"]["sscbench"]
        assert {row["frames"] for row in rows} == {2} and len(rows) == 2 * 3
        direct = [row for row in rows if row["naming"] == "direct"]
        # All that is known is occupied, and the labels reach 10 m.
        assert [row["range_m"] for row in direct] == [12.8, 25.6, 51.2] and len({row["voxels"] for row in direct}) == 1
        assert {row["recall"] for row in direct} == {recall}
    named = [COMMON_CLASSES[number] for number in direct[0]["class_of_label"]]
    assert len(named) == 1 + 19 and named[:5] == ["empty", "road", "sidewalk", "building", "building"]
    assert named[1 + 10] == named[1 + 12] == "empty" and named[1 + 15] == named[1 + 16] == "other-vehicle"


def test_clusters_are_named_on_other_frames(root: Path, checkpoint: Path, tmp_path: Path) -> None:
    """Of the six listed frames one has labels; another one gives the clusters and their names."""
    naming = layouts.write_split(tmp_path / "naming.txt", [f"{layouts.DRIVE} 0 l"])
    scored = layouts.write_split(tmp_path / "scored.txt", [f"{layouts.DRIVE} {number} l" for number in range(1, 7)])
    given = ("--sscbench", root / "preprocess" / "labels", "--data", drive(root), "--frames", scored)
    found = evaluate(root, *given, "--name-frames", naming, "--checkpoint", checkpoint)
    assert found["frames"] == {"list": "scored.txt", "listed": 6, "used": 6}
    assert found["name_frames"] == {"list": "naming.txt", "listed": 1, "used": 1}
    rows = {(row["naming"], row["range_m"]): row for row in found["scores"]["sscbench"]}
    assert len(rows) == 2 * 3 and all(row["frames"] == 1 for row in rows.values())
    direct = rows["direct", 51.2]["class_of_label"]
    assert len(direct) == 1 + 19 and direct[0] == 0 and direct.count(-1) == 2  # as of Cityscapes' sky and rider
    assert direct.count(9) == direct.count(5) == 2  # buildings and walls, buses and trains


def test_a_field_without_surfaces(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Clusters would get their names of nothing, and a table would come of it."""
    naming, scored = (layouts.write_split(tmp_path / f"{k}.txt", [f"{layouts.DRIVE} {k} l"]) for k in (0, 5))
    given = ("--sscbench", root / "preprocess" / "labels", "--data", drive(root), "--frames", scored)
    assert evaluate(root, *given, "--name-frames", naming, "--checkpoint", untrained(tmp_path, -3.0)) is None
    what = "its density has no surfaces: no voxel in view of 1 labelled frames has a density of 0.2 per metre"
    assert f"feature_field: {what}. Train it for more steps: it is that of --student, or" in capsys.readouterr().err


def test_foreign_poses(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Those of the world in the camera: scans of other frames would lie anywhere, and a table would come of it."""
    data = layouts.kitti_360(tmp_path, frames=7, posed=range(7))
    given = ("--data", data, "--checkpoint", checkpoint)
    file = tmp_path / "data_poses" / layouts.DRIVE / "cam0_to_world.txt"
    poses = np.array([line.split()[1:] for line in file.read_text().splitlines()], np.float64).reshape(-1, 4, 4)
    file.write_text("".join(f"{k} {layouts.row(pose)}\n" for k, pose in enumerate(np.linalg.inv(poses))))
    for protocol in ("geometry", "views"):
        assert evaluate(tmp_path, *given, protocol=protocol) is None
        assert "The poses have another convention" in capsys.readouterr().err


def test_checkpoints_are_evaluated_on_the_gpu(
    root: Path, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where there is one: nothing mixes its tensors with others."""
    for module in ("checkpoints", "semantic_evaluation"):
        monkeypatch.setattr(f"scene_completion_training.evaluation.{module}.accelerator", lambda: DEVICE)
    names = layouts.write_split(tmp_path / "naming.txt", [f"{layouts.DRIVE} 5 l"])
    scored = layouts.write_split(tmp_path / "scored.txt", [f"{layouts.DRIVE} 0 l"])
    given = ("--data", drive(root), "--frames", scored, "--checkpoint", checkpoint)
    for protocol, *options in (
        ("geometry", "--scans", 3),
        ("semantics", "--sscbench", root / "preprocess" / "labels", "--name-frames", names),
        ("views", "--samples", 4, "--consistency", "--targets", 1),
    ):
        with OtherDevice():
            assert evaluate(root, *given, *options, protocol=protocol) is not None


def test_what_is_refused(root: Path, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    labels, field = root / "preprocess" / "labels", checkpoint
    scored = layouts.write_split(tmp_path / "scored.txt", [f"{layouts.DRIVE} {number} l" for number in (0, 5)])
    naming = layouts.write_split(tmp_path / "naming.txt", [f"{layouts.DRIVE} 5 l"])
    missing = layouts.write_split(tmp_path / "missing.txt", [f"{layouts.DRIVE} {number} l" for number in (0, 9)])
    probe = tmp_path / "probe.safetensors"
    LinearProbe(np.zeros((19, 9), np.float32), np.zeros(19, np.float32)).save(probe)
    data = ("--data", drive(root))
    sscbench = ("--sscbench", labels, *data)
    others = ("--name-on", drive(root, OTHER), "--allow-missing")
    for options, message in (
        ((*sscbench, "--checkpoint", field), "no labelled frames"),
        ((*sscbench, "--checkpoint", field, "--frames", scored, "--name-frames", naming), "1 frames give names"),
        ((*sscbench, "--checkpoint", field, "--name-on", drive(root)), "2 frames give names"),
        ((*sscbench, "--checkpoint", field, *others, "--cluster-on", drive(root)), "is scored as well"),
        ((*sscbench, "--checkpoint", field, "--frames", missing), "1 of its 2 frames are not in the recordings"),
        ((*sscbench, "--checkpoint", field, "--student", root), "checkpoints alone"),
        ((*sscbench,), "nothing to score"),
        ((*sscbench, "--probed", field, probe), "is for features of size 9"),
        (("--sscbench", root, *data, "--checkpoint", field), "no labels NNNNNN_1_1.npy"),
        (("--sscbench", labels, "--data", drive(root, OTHER), "--checkpoint", field), "1 of 2566 labelled frames"),
        ((*data, "--bundle", root, "--name-frames", naming), "--name-frames"),
        (("--sscbench", labels, "--data", tmp_path, "--checkpoint", field), "no images"),
    ):
        assert evaluate(root, *options) is None
        assert message in capsys.readouterr().err
