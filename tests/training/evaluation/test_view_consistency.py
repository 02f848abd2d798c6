"""`evaluate views`: flow between views and their scores by hand, and fields that are walls at a known depth."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from scene_completion_ros.cli import main
from scene_completion_ros.errors import BundleError
from scene_completion_ros.geometry import RigidTransform
from scene_completion_ros.sequences.opening import open_recording
from scene_completion_training.evaluation.checkpoints import open_checkpoint
from scene_completion_training.evaluation.novel_views import (
    NovelView,
    PerceptualDistance,
    TokenConsistency,
    agreement,
    not_hidden,
    render_view,
    warped,
)
from scene_completion_training.evaluation.semantic_evaluation import FeatureFieldModel
from scene_completion_training.networks.density_field import DensityField
from scene_completion_training.networks.feature_field import FeatureField
from scene_completion_training.viewpoint import Viewpoint
from tests import official_layouts as layouts
from tests.training.foundation.tiny_models import saved_model
from tests.training.small_trainings import save_checkpoint

H, W = 6, 10


def flow(right: float, down: float = 0.0) -> np.ndarray:
    return np.broadcast_to(np.float32([right, down]), (H, W, 2)).copy()


def test_warping_reads_where_pixels_went() -> None:
    values = np.arange(W, dtype=np.float32)[None, :, None] + np.zeros((H, 1, 2), np.float32)
    found = warped(values, flow(1.5))
    np.testing.assert_allclose(found[:, :8, 1], np.broadcast_to(np.arange(8) + 1.5, (H, 8)))
    assert (found[:, 9:] == 0.0).all()


def test_forward_and_backward_have_to_agree() -> None:
    """2 pixels to the right and back: hidden are the two columns that leave the picture."""
    shown = not_hidden(flow(2.0), flow(-2.0))
    assert shown[:, :8].all() and not shown[:, 8:].any()
    # Off by e, e^2 < 0.01 (4 + (2 - e)^2) + 0.5: 0.7^2 = 0.49 < 0.5569, and 0.8^2 = 0.64 > 0.5544.
    assert not_hidden(flow(2.0), flow(-1.3))[:, :8].all()
    assert not not_hidden(flow(2.0), flow(-1.2)).any()
    # Downwards likewise, and of one pixel alone.
    assert not_hidden(flow(0.0, 1.0), flow(0.0, -1.0)).sum() == (H - 1) * W
    back = flow(0.0)
    back[2, 3] = 5.0
    assert np.argwhere(~not_hidden(flow(0.0), back)).tolist() == [[2, 3]]


def test_agreement_of_shared_pixels() -> None:
    """One pixel is equal, one has (3, 0) and (0, 4): L1 7, L2 5, cosine 0."""
    first, second = np.float32([[1, 2], [3, 0]]), np.float32([[1, 2], [0, 4]])
    found = agreement(first, second)
    assert found == pytest.approx({"l1": 3.5, "l2": 2.5, "cosine": 0.5})
    assert agreement(first[:0], second[:0]) == {}


CHANNELS = {0: (64, 3, 11), 3: (192, 64, 5), 6: (384, 192, 3), 8: (256, 384, 3), 10: (256, 256, 3)}


def weights(features: str = "features.{}") -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """AlexNet whose first two features are red and green as they are, and whose others are nothing; linear weights."""
    network = {}
    for layer, (out, inputs, size) in CHANNELS.items():
        network[f"{features.format(layer)}.weight"] = torch.zeros(out, inputs, size, size)
        network[f"{features.format(layer)}.bias"] = torch.zeros(out)
    for channel in range(2):
        network[f"{features.format(0)}.weight"][channel, channel, 5, 5] = 1.0
    linear = {f"lin{k}.model.1.weight": torch.ones(1, out, 1, 1) for k, (out, *_) in enumerate(CHANNELS.values())}
    linear["lin0.model.1.weight"][0, :2, 0, 0] = torch.tensor([0.3, 0.5])
    return network, linear


def test_red_and_green_are_as_far_apart_as_their_weights_say(tmp_path: Path) -> None:
    """Red has the unit feature (1, 0), green (0, 1): 0.3 x 1 + 0.5 x 1. White has (r, g) / |(r, g)|."""
    network, linear = weights()
    torch.save({**network, "classifier.6.bias": torch.zeros(3)}, tmp_path / "alexnet.pth")
    torch.save(linear, tmp_path / "alex.pth")
    distance = PerceptualDistance.open([tmp_path / "alexnet.pth", tmp_path / "alex.pth"])
    red, green, white = (np.zeros((64, 48, 3), np.float32) for _ in range(3))
    red[..., 0], green[..., 1], white[...] = 1.0, 1.0, 1.0
    assert distance(red, red) == 0.0
    assert distance(red, green) == pytest.approx(0.8, abs=1e-5)
    r, g = (1.0 + 0.030) / 0.458, (1.0 + 0.088) / 0.448
    length = (r * r + g * g) ** 0.5
    assert distance(white, red) == pytest.approx(0.3 * (r / length - 1) ** 2 + 0.5 * (g / length) ** 2, abs=1e-5)


def test_what_holds_no_weights_is_refused(tmp_path: Path) -> None:
    network, linear = weights()
    file = tmp_path / "weights.pth"
    torch.save(network, file)
    with pytest.raises(BundleError, match=r"lin0\.weight.*alexnet-owt"):
        PerceptualDistance.open([file])
    torch.save({**network, **linear, "features.3.weight": torch.zeros(192, 5, 5, 5)}, file)
    with pytest.raises(BundleError, match="no weights of LPIPS with AlexNet"):
        PerceptualDistance.open([file])
    torch.save(Path, file)  # a pickle that would run something
    with pytest.raises(BundleError, match="no weights of LPIPS"):
        PerceptualDistance.open([file])


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
    assert main(["evaluate", "views", *map(str, options), "--output", str(output), "--overwrite"]) == 0
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
    assert main(["evaluate", "views", *map(str, options), "--output", str(output), "--overwrite"]) == 2
    assert "1 of its 4 frames are not in the recordings" in capsys.readouterr().err


def test_frames_of_realestate10k(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("video", "other"):
        layouts.realestate10k(tmp_path, name=name)
    split = layouts.write_split(tmp_path / "mine.txt", ["video 2", "video 5"], windows=True)
    options = ("--data", *(tmp_path / "frames" / "test").iterdir(), "--checkpoint", saved(tmp_path / "run", wall(9.0)))
    found = scores(tmp_path / "out", *options, "--frames", split, "--targets", "5", "-5", "--samples", 8)
    assert {(row["target"], row["frames"]) for row in found["scores"]["views"]} == {("5", 2), ("-5", 1)}
    assert found["recordings"] == ["video"]
    assert " | – |\n" in (tmp_path / "out" / "results.md").read_text()  # LPIPS, whose weights are not there
    wrong = ("evaluate", "views", *map(str, options), "--output", str(tmp_path / "no"))
    for more, message in (
        (("--targets", "90"), "no frame has such another view"),
        (("--targets", "left"), "left is no view"),
        ((), "no rectified stereo pair"),
        (("--consistency",), "no FeatureField in it"),
        (("--consistency", "--targets", "stereo"), "compares frames of one camera"),
    ):
        assert main([*wrong, *more]) == 2
        assert message in capsys.readouterr().err


def test_features_that_depend_on_the_place_alone_are_consistent(tmp_path: Path) -> None:
    """The picture stands still, and so do its features: everything agrees but for rounding."""
    torch.manual_seed(0)
    folder = layouts.realestate10k(tmp_path)
    sequence = open_recording(folder)
    still = sequence.frames[0].images["camera"]
    sequence.frames = [
        type(frame)(frame.stamp_ns, {"camera": still}, frame.world_from_rig) for frame in sequence.frames
    ]
    same = sequence.save(tmp_path / "same")
    field = FeatureField(wall(10.0), target_size=8, channels=4, units=6, expansion=5)
    file = saved(tmp_path / "run", field, "feature_field")
    options = ("--checkpoint", file, "--consistency", "--samples", 8, "--every", 5)
    (row,) = scores(tmp_path / "out", "--data", same, *options)["scores"]["consistency"]
    assert (row["method"], row["frames"]) == ("run", 2)  # frames 0 and 5; 10 has none that is three later
    assert row["shared"] > 0.95
    assert row["cosine"] > 0.999 and row["l2"] <= row["l1"] < 0.1
    (row,) = scores(tmp_path / "out", "--data", folder, *options)["scores"]["consistency"]
    assert row["shared"] < 0.9 and row["cosine"] < 0.9999  # unrelated pictures


def test_consistency_of_tokens_by_hand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two plain pictures whose tokens are (1, 0, 0) and (0.6, 0.8, 0): L1 1.2, L2 √0.8, cosine 0.6."""
    field = FeatureField(wall(10.0), target_size=3, channels=4, units=6, expansion=5)
    model = FeatureFieldModel.open(saved(tmp_path / "run", field, "feature_field"))
    pictures = [torch.tensor(colour)[:, None, None].expand(3, 64, 128) for colour in ([9.0, 0, 0], [6.0, 8.0, 0.0])]
    monkeypatch.setattr(model, "image", lambda sequence, index: pictures[index])
    colours = SimpleNamespace(name="colours", features=torch.nn.functional.avg_pool2d)
    method = TokenConsistency(model, colours, 16)  # type: ignore[arg-type]
    view = NovelView(None, 0, "1", 1, "camera")  # type: ignore[arg-type]
    expected = {"shared": 1.0, "l1": 1.2, "l2": 0.8**0.5, "cosine": 0.6}
    assert method.answer(view).values == pytest.approx(expected, abs=1e-5)
    model.field.target_mean.copy_(torch.tensor([3.0, 0.0, 0.0]))  # (6, 0, 0) and (3, 8, 0)
    assert method.answer(view).values["cosine"] == pytest.approx(3.0 / 73.0**0.5, abs=1e-5)
    # Between the middles of two cells, 16 pixels apart, tokens change evenly.
    halves = torch.cat([pictures[0][..., :64], pictures[1][..., 64:]], dim=2)
    model.field.target_mean.zero_()
    codes = method._codes(halves)
    share = (64.0 - 55.5) / 16.0
    mixed = (1.0 - share) * np.array([1.0, 0.0, 0.0]) + share * np.array([0.6, 0.8, 0.0])
    np.testing.assert_allclose(codes[30, 64], mixed / np.linalg.norm(mixed), atol=1e-5)


@pytest.mark.parametrize("layout", [layouts.realestate10k, layouts.kitti_360])
def test_tokens_stand_next_to_the_field(layout: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    field = FeatureField(wall(10.0), target_size=32, channels=4, units=6, expansion=5)
    file, model = saved(tmp_path / "run", field, "feature_field"), saved_model("dinov2", tmp_path / "tiny")
    options: list[object] = ["--checkpoint", file, "--data", layout(tmp_path), "--targets", "1", "--samples", 8]
    options += ["--foundation", model, 2]
    ours, theirs = scores(tmp_path / "out", *options, "--consistency")["scores"]["consistency"]
    assert (ours["method"], theirs["method"]) == ("run", "tokens of tiny")
    assert theirs["frames"] == ours["frames"] > 0 and theirs["shared"] == ours["shared"]
    assert 0.0 < theirs["l2"] <= theirs["l1"] and -1.0 < theirs["cosine"] < 1.0
    assert main(["evaluate", "views", *map(str, options), "--output", str(tmp_path / "no")]) == 2
    assert "--foundation: tokens render no views" in capsys.readouterr().err
