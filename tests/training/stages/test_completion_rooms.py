"""Stage `completion` on rooms: trained without eyes that know metres, exported with rounded weights, and scored."""

import json
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import torch

from scene_completion_ros.cli import main
from scene_completion_ros.errors import BundleError, ConfigurationError
from scene_completion_ros.evaluation.semantic_classes import INVALID, ROOM_CLASSES
from scene_completion_ros.inference.bundle import StudentBundle
from scene_completion_training.checkpoints import Checkpoint
from scene_completion_training.networks.sight import TOKEN_WIDTH, PixelHead
from scene_completion_training.runner import make_stage, train
from scene_completion_training.stages.completion import (
    CompletionStage,
    SceneField,
    class_shares,
    read_eyes,
)
from tests.training.small_trainings import small_rooms


@pytest.fixture(scope="module")
def rooms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two views of the rooms of a training seed, in a hand, rendered by the command."""
    folder = tmp_path_factory.mktemp("rooms") / "9"
    command = "room-world --seed 9 --frames 2 --leg 1 --carrier hand --size 128 96 --supersampling 1 --assets"
    assert main([*command.split(), "depth", "label", "voxels", "--output", str(folder)]) == 0
    return folder


@pytest.fixture(scope="module")
def trained(rooms: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoint of a few steps."""
    return train(small_rooms(rooms, tmp_path_factory.mktemp("trained")))


@pytest.fixture(scope="module")
def exported(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the command exports of it."""
    folder = tmp_path_factory.mktemp("exported") / "plain"
    assert main(["export", str(trained), str(folder), "--name", "plain", "--licence", "none"]) == 0
    return folder


def test_a_student_of_rooms_has_their_classes_and_keeps_no_published_trunk(trained: Path, exported: Path) -> None:
    bundle = StudentBundle.load(exported)
    assert bundle.class_names == ROOM_CLASSES[1:] and len(set(bundle.class_colours)) == len(ROOM_CLASSES) - 1
    assert bundle.takes_pose and bundle.height_range is not None and bundle.height_range[0] > 1.0
    stored = Checkpoint.read(trained)
    assert stored.state["pixels.factor.2.weight"].shape[0] == 2  # a factor and a shift for each image
    weights = safetensors.numpy.load_file(exported / "weights.safetensors")
    assert weights and not any(name.startswith("encoder.") for name in weights)


def test_a_trunk_that_differs_in_one_weight_takes_that_along(trained: Path, tmp_path: Path) -> None:
    stored = Checkpoint.read(trained)
    published = str(stored.configuration["encoder_weights"])
    encoder, _, before = read_eyes("", published, stored.viewpoint)
    name = "trunk.neck.reassemble_stage.layers.3.resize.weight"
    other = encoder.state_dict()[name].numpy() + 0.5
    safetensors.numpy.save_file({name: other}, tmp_path / "eyes.safetensors")
    changed, _, eyes = read_eyes(str(tmp_path / "eyes.safetensors"), published, stored.viewpoint)
    assert eyes.own == {name} and not eyes.metric and eyes.key != before.key
    np.testing.assert_array_equal(changed.state_dict()[name].numpy(), other)
    kept = next(key for key in encoder.state_dict() if key != name and key.endswith("weight"))
    np.testing.assert_array_equal(changed.state_dict()[kept].numpy(), encoder.state_dict()[kept].numpy())
    key = next(key for key in encoder.state_dict() if key.endswith(".attention.q_proj.weight"))
    older = {key.replace("q_proj", "attention.query"): encoder.state_dict()[key].numpy() + 0.5}  # transformers 5.17
    safetensors.numpy.save_file(older, tmp_path / "older.safetensors")
    _, _, eyes = read_eyes(str(tmp_path / "older.safetensors"), published, stored.viewpoint)
    assert eyes.own == {key}  # exports keep what has these names
    safetensors.numpy.save_file({"trunk.nothing": other}, tmp_path / "unknown.safetensors")
    with pytest.raises(BundleError, match="nothing"):
        read_eyes(str(tmp_path / "unknown.safetensors"), published, stored.viewpoint)


def test_rooms_are_scored_in_parts_of_their_own_reach(rooms: Path, exported: Path, tmp_path: Path) -> None:
    given = ["--bundle", str(exported), "--data", str(rooms), "--every", "1"]
    assert main(["evaluate", "geometry", *given, "--controls", "--output", str(tmp_path / "geometry")]) == 0
    found = json.loads((tmp_path / "geometry" / "results.json").read_text())
    text = json.dumps(found)
    assert all(f'"range_m": {reach}' in text for reach in (1.6, 3.2, 6.4)) and "surface (depth of plain)" in text


def test_tokens_may_be_kept_from_depth(rooms: Path, tmp_path: Path) -> None:
    """Such a head is one whose tokens say nothing but classes: it reads the same from the same weights."""
    with pytest.raises(ConfigurationError, match="nothing reads the tokens"):
        make_stage(small_rooms(rooms, tmp_path, merging=False))
    stage = make_stage(small_rooms(rooms, tmp_path, merging=False, naming=8))
    assert isinstance(stage, CompletionStage)
    lean = stage.field.pixels.eval()
    size, channels, depth = (*lean.prior.shape[2:],), 12, 16
    whole = PixelHead(
        size, lean.spec, channels=channels, tokens=depth, classes=len(stage.field.names), shifted=True, naming=8
    )
    state, merge = whole.state_dict(), lean.state_dict()["merge.0.weight"]
    state |= lean.state_dict() | {name: 0.0 * state[name] for name in state if name.startswith("tokens.")}
    rest = torch.randn(len(merge), TOKEN_WIDTH, 3, 3)  # of what the tokens do not say
    whole.load_state_dict(state | {"merge.0.weight": torch.cat([merge, rest], dim=1)})
    maps = [torch.randn(1, count, *size) for count in (channels, 1)]
    tokens, ground = torch.randn(1, depth, 3, 4), torch.rand(1, 2, *size)
    with torch.no_grad():
        for found, expected in zip(lean(*maps, tokens, ground), whole.eval()(*maps, tokens, ground), strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)
    rebuilt = SceneField.rebuilt(stage.field.state_dict(), stage.viewpoint)
    rebuilt.load_state_dict(stage.field.state_dict())
    assert rebuilt.pixels.tokens is None


def test_a_start_that_says_two_things_is_refused(rooms: Path, exported: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="with its mean, which go on"):
        make_stage(small_rooms(rooms, tmp_path, start_from=str(exported), only_pixels=True))
    with pytest.raises(ConfigurationError, match="no such branch"):
        make_stage(small_rooms(rooms, tmp_path, fit_naming=2))
    with pytest.raises(ConfigurationError, match="its head for pixels stays"):
        make_stage(small_rooms(rooms, tmp_path, naming=8, fit_naming=2, pixels_from=str(exported)))
    stage = make_stage(small_rooms(rooms, tmp_path, naming=8, pixels_from=str(exported)))
    with pytest.raises(ConfigurationError, match="naming"):  # that head has no such branch, and none would learn it
        stage.start(stage.make_data())
    with pytest.raises(ConfigurationError, match="mean_of"):
        make_stage(small_rooms(rooms, tmp_path, start_from=str(exported), mean_of=2))
    stage = make_stage(small_rooms(rooms, tmp_path, start_from=str(exported), widths=(8, 16)))
    with pytest.raises(ConfigurationError, match="for the same camera, volume and widths"):
        stage.start(stage.make_data())


def test_a_head_and_a_decoder_of_two_trainings_go_on_together(
    rooms: Path, trained: Path, exported: Path, tmp_path: Path
) -> None:
    """The decoder learns, from where it was, on a head that stays; branches that neither had are silent at first."""
    branches = {"naming": 8, "trusting": True}
    head = train(small_rooms(rooms, tmp_path / "head", only_pixels=True, fit_naming=60, **branches))
    both = {"start_from": str(exported), "pixels_from": str(head)}
    stage = make_stage(small_rooms(rooms, tmp_path, **both, **branches))
    assert isinstance(stage, CompletionStage)
    data = stage.make_data()
    data.setup("fit")
    stage.start(data)
    seen, before = Checkpoint.read(head).state, StudentBundle.load(exported).load_weights()
    for name, value in stage.field.state_dict().items():
        if name.startswith("pixels."):
            assert torch.equal(value, seen[name]), name
        elif ".trust." in name:
            assert not value.any()
        else:
            np.testing.assert_array_equal(value.numpy().astype(np.float16), before[f"field.{name}"])
    learns = {name.split(".")[0] for name, value in stage.field.named_parameters() if value.requires_grad}
    assert learns == {"spatial"}
    assert main(["export", str(head), str(tmp_path / "out"), "--name", "named", "--licence", "none"]) == 0
    assert "field.pixels.naming.0.weight" in StudentBundle.load(tmp_path / "out").load_weights()


def test_tokens_alone_name_what_they_were_fitted_to(
    rooms: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of tokens that know one of three classes, most are named right, and hardly any before."""
    stage = make_stage(small_rooms(rooms, tmp_path, naming=32, fit_naming=300))
    assert isinstance(stage, CompletionStage) and stage.field.pixels.naming is not None
    generator = torch.Generator().manual_seed(0)
    classes = torch.randint(0, 3, (40, 4, 6), generator=generator)
    width = stage.field.pixels.naming[0].in_channels
    tokens = torch.randn(3, width, generator=generator)[classes].permute(0, 3, 1, 2)
    tokens = (tokens + 0.3 * torch.randn(tokens.shape, generator=generator)).half()
    pixels = (classes + 1).repeat_interleave(3, dim=1).repeat_interleave(3, dim=2).to(torch.uint8)
    data = stage.make_data()
    data.setup("fit")
    monkeypatch.setattr(data, "tokens", lambda: zip(tokens[:30], pixels[:30], strict=True))

    def right() -> float:
        assert stage.field.pixels.naming is not None
        with torch.no_grad():
            found = stage.field.pixels.naming(tokens[30:].float()).argmax(dim=1)
        return float((found == classes[30:]).float().mean())

    assert right() < 0.5
    stage.start(data)
    assert right() > 0.8


def test_shares_of_classes_are_those_of_pixels_that_are_known() -> None:
    classes = torch.tensor([[1, 2, INVALID, 1], [2, 2, 1, 1]])
    found = class_shares(classes, 3, torch.Size((1, 2)))
    torch.testing.assert_close(found[:, 0], torch.tensor([[0.25, 0.75], [0.75, 0.0], [0.0, 0.0]]))
