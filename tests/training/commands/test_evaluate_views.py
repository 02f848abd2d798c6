"""`evaluate views` on recordings as their owners lay them out, of fields that are walls at a known depth."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from scene_completion_ros.cli import main
from scene_completion_ros.geometry import RigidTransform
from scene_completion_ros.sequences.opening import open_recording
from scene_completion_training.evaluation.checkpoints import open_checkpoint
from scene_completion_training.evaluation.novel_views import render_view
from scene_completion_training.networks.density_field import DensityField
from scene_completion_training.networks.feature_field import FeatureField, SemanticField
from scene_completion_training.viewpoint import Viewpoint
from tests import official_layouts as layouts
from tests.training.evaluation.test_view_consistency import weights
from tests.training.saved_checkpoint import save_checkpoint

SIZE = {"width": 128, "height": 64, "fx": 100.0, "fy": 100.0, "cx": 63.5, "cy": 31.5}


def wall(ahead: float) -> DensityField:
    """A field that is empty up to a depth and solid beyond, whatever it sees."""
    viewpoint = Viewpoint.of_record({"camera": SIZE})
    field = DensityField(viewpoint.camera, viewpoint.volume.point_code, hidden=16)
    with torch.no_grad():
        for weight in (field.feature_layer.weight, field.position_layer.weight, field.density_layer.weight):
            weight.zero_()
        field.position_layer.weight[0, 2] = -1000.0  # of the inverse depth code
        field.position_layer.bias.fill_(1000.0 * float(field.spec.depth_code_of_inverse(1.0 / ahead)))
        field.density_layer.weight[0, 0] = 100.0
        field.density_layer.bias.fill_(-20.0)
    return field


def saved(folder: Path, field: torch.nn.Module, stage: str = "single_view") -> Path:
    return save_checkpoint(folder / "checkpoints" / "last.ckpt", field, stage, camera=SIZE)


def scores(output: Path, *options: object) -> dict[str, Any]:
    assert main(["evaluate", "views", *map(str, options), "--output", str(output)]) == 0
    found: dict[str, Any] = json.loads((output / "results.json").read_text())
    return found


def test_a_wall_is_seen_moved_by_its_disparity(tmp_path: Path) -> None:
    """f b / z = 100 x 0.5 / 10 = 5 pixels: from half a metre to the right, pixel u shows what was at u + 5.

    Samples a third of a metre apart leave a part of a pixel open, which is 1 / 128.
    """
    (model,) = open_checkpoint(saved(tmp_path / "run", wall(10.0)))
    colour = torch.arange(128.0).expand(64, 128) / 128.0
    source = torch.stack([colour, 1.0 - colour, torch.full_like(colour, 0.25)])
    with torch.inference_mode():
        seen = model.field.observe(255.0 * source[None])
    pose = torch.from_numpy(RigidTransform(np.eye(3), np.array([0.5, 0.0, 0.0])).matrix).float()
    rendered = render_view(seen, model, source, pose, 100)
    expected = (torch.arange(128.0) + 5.0).clamp(max=127.0) / 128.0  # beyond its edge the colour of the edge
    torch.testing.assert_close(rendered[0], expected.expand(64, 128), atol=2e-3, rtol=0.0)
    torch.testing.assert_close(rendered[1:], torch.stack([1.0 - rendered[0], source[2]]), atol=1e-5, rtol=0.0)
    # From 5 m ahead the wall is twice as near: u - 63.5 shows (u - 63.5) / 2.
    pose = torch.from_numpy(RigidTransform(np.eye(3), np.array([0.0, 0.0, 5.0])).matrix).float()
    ahead = render_view(seen, model, source, pose, 100)[0]
    torch.testing.assert_close(ahead[32], ((torch.arange(128.0) - 63.5) / 2.0 + 63.5) / 128.0, atol=4e-3, rtol=0.0)


def test_stereo_of_kitti_raw(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Both cameras of the tiny drive see the same picture, as if all were infinitely far: the farther wall is right."""
    drive = layouts.kitti_raw(tmp_path / "data")
    names = [f"2011_09_26/{layouts.RAW_DRIVE} {number:010d} {side}" for number, side in ((1, "l"), (3, "l"), (3, "r"))]
    split = layouts.write_split(tmp_path / "test_files.txt", [*names, "2011_09_26/2011_09_26_drive_0009_sync 0 l"])
    files = [saved(tmp_path / name, wall(ahead)) for name, ahead in (("near", 5.0), ("far", 79.0))]
    network, linear = weights()
    torch.save(network | linear, tmp_path / "lpips.pth")
    options = ("--data", drive, "--checkpoint", *files, "--frames", split, "--samples", 32)
    output = tmp_path / "out"
    found = scores(output, *options, "--allow-missing", "--lpips", tmp_path / "lpips.pth")
    assert found["frames"] == {"list": "test_files.txt", "listed": 4, "used": 3}
    near, far = found["scores"]["views"]
    assert (near["method"], far["method"], near["target"], near["frames"]) == ("near", "far", "stereo", 2)
    assert far["psnr"] > near["psnr"] + 3.0 and far["ssim"] > near["ssim"] and far["lpips"] < near["lpips"]
    text = (output / "results.md").read_text()
    assert "LPIPS ↓" in text and text in capsys.readouterr().out
    assert main(["evaluate", "views", *map(str, options), "--output", str(output)]) == 2
    assert "1 of its 4 frames are not in the recordings" in capsys.readouterr().err


def test_frames_of_realestate10k(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("video", "other"):
        layouts.realestate10k(tmp_path, name=name)
    split = layouts.write_split(tmp_path / "mine.txt", ["video 2", "video 5"], windows=True)
    options = ("--data", *(tmp_path / "frames" / "test").iterdir(), "--checkpoint", saved(tmp_path / "run", wall(9.0)))
    found = scores(tmp_path / "out", *options, "--frames", split, "--targets", "5", "-5", "--samples", 8)
    assert {(row["target"], row["frames"]) for row in found["scores"]["views"]} == {("5", 2), ("-5", 1)}
    assert found["recordings"] == ["video"]
    assert "LPIPS needs its weights (--lpips), and is left out" in (tmp_path / "out" / "results.md").read_text()
    wrong = ("evaluate", "views", *map(str, options), "--output", str(tmp_path / "no"))
    for more, message in (
        (("--targets", "90"), "no frame has such another view"),
        (("--targets", "left"), "left is no view"),
        (("--targets", "5", "--every", "0"), "every 0 frames"),
        ((), "no rectified stereo pair"),
        (("--consistency",), "no FeatureField in it"),
    ):
        assert main([*wrong, *more]) == 2
        assert message in capsys.readouterr().err


@pytest.mark.parametrize("stage", ["feature_field", "semantic_field"])
def test_features_that_depend_on_the_place_alone_are_consistent(stage: str, tmp_path: Path) -> None:
    """The picture stands still, and so does what is said of its pixels: everything agrees but for rounding."""
    torch.manual_seed(0)
    folder = layouts.realestate10k(tmp_path)
    sequence = open_recording(folder)
    still = sequence.frames[0].images["camera"]
    sequence.frames = [
        type(frame)(frame.stamp_ns, {"camera": still}, frame.world_from_rig) for frame in sequence.frames
    ]
    same = sequence.save(tmp_path / "same")
    kind = SemanticField if stage == "semantic_field" else FeatureField
    field = kind(wall(10.0), target_size=8, channels=4, units=6, expansion=5)
    options = ("--checkpoint", saved(tmp_path / "run", field, stage), "--consistency", "--samples", 8, "--every", 5)
    (row,) = scores(tmp_path / "out", "--data", same, *options, "--cluster-on", folder)["scores"]["consistency"]
    assert (row["method"], row["frames"]) == ("run", 2)  # frames 0 and 5; 10 has none that is three later
    assert row["shared"] > 0.95 and row["same_class"] > 0.99
    assert row["cosine"] > 0.999 and row["l2"] <= row["l1"] < (0.1 if stage == "feature_field" else math.inf)
    (row,) = scores(tmp_path / "out", "--data", folder, *options)["scores"]["consistency"]
    assert row["shared"] < 0.9 and row["cosine"] < 0.9999  # unrelated pictures
    assert (row["same_class"] is None) == (stage == "feature_field")
