"""A pack trains both parts where nothing else is there, and holds as many frames as fit."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

from scene_completion_ros.cli import main
from scene_completion_training import CONFIGS
from scene_completion_training.checkpoints import Checkpoint
from scene_completion_training.data import completion_samples
from scene_completion_training.data.completion_samples import CompletionDataSettings, CompletionSource
from scene_completion_training.data.taught_voxels import cells_of
from tests.training.foundation.tiny_models import saved_depth_model
from tests.training.small_trainings import curves, write_configuration
from tests.training.stages.test_completion import CAMERA, VOLUME, configured


class Ensemble:
    """Knows of all cells what follows from the image."""

    key = "tiny"

    def __init__(self, members: list[str], viewpoint: Any) -> None:
        self.shape = cells_of(viewpoint.volume.grid).shape

    def of(self, image: np.ndarray, pose: object) -> tuple[np.ndarray, np.ndarray]:
        """As `TaughtVoxels` has it."""
        return np.full(self.shape, image.mean(), np.uint8), np.full(self.shape, image[0, 0, 0] // 4, np.uint8)


@contextmanager
def taught() -> Iterator[None]:
    """Towns are taught as real streets are."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(completion_samples, "TOWNS", "none")
        patch.setattr(completion_samples, "TaughtVoxels", Ensemble)
        yield


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with towns, a trunk, a configuration, the training of that in `whole`, and a pack of all its frames."""
    folder = tmp_path_factory.mktemp("work")
    rendered = "world street --seed 5 --frames 4 --rate 2 --size 160 64 --supersampling 1 --output"
    assert main([*rendered.split(), str(folder / "towns/a")]) == 0
    description = folder / "towns/a/sequence/sequence.json"
    description.write_text(description.read_text().replace('"role": "training",', ""))
    for name in ("towns/b", "other"):
        shutil.copytree(folder / "towns/a", folder / name)
    weights = saved_depth_model(folder / "trunk") / "model.safetensors"
    values = safetensors.torch.load_file(weights)
    safetensors.torch.save_file({name: value.half() for name, value in values.items()}, weights)
    sources = [CompletionSource("towns/*", last=0.5), CompletionSource("other", last=0.5, share=4.0)]
    watched = [CompletionSource("other", first=0.5)]
    data = CompletionDataSettings(str(folder), sources, watched, str(folder / "cache"))
    data = dataclasses.replace(data, teachers=["tiny"], augmentations=2, workers=0)
    configuration = configured(folder / "other", folder / "whole", data=data, camera=CAMERA, volume=VOLUME)
    configuration.pixels.data.augmentations = 2
    configuration.encoder_weights, configuration.validate_every = str(folder / "trunk"), 2
    file = write_configuration(folder / "config.yaml", configuration)
    with taught():
        assert main(["train", "--config", str(file)]) == 0
    assert packed(folder, folder / "pack") == 0
    return folder


@pytest.fixture
def pack(reference: Path, tmp_path: Path) -> Path:
    """A copy of the whole pack."""
    return Path(shutil.copytree(reference / "pack", tmp_path / "pack"))


def test_a_pack_trains_the_same(reference: Path, pack: Path, tmp_path: Path) -> None:
    """Nothing else is there: no recordings, no ensemble, no model, no prepared samples."""
    gone = reference.rename(reference.with_name("gone"))
    try:
        places = [f"output={tmp_path / 'run'}", f"data.cache={tmp_path / 'cache'}"]
        assert main(["train", "--pack", str(pack), *places]) == 0
    finally:
        gone.rename(reference)
    for last in ("pixels/checkpoints/last.ckpt", "checkpoints/last.ckpt"):
        here, there = (Checkpoint.read(folder / last) for folder in (tmp_path / "run", reference / "whole"))
        for name, value in {**there.state, **there.trunk_weights}.items():
            assert torch.equal({**here.state, **here.trunk_weights}[name], value), name
        for name in ("frames", "images_sha256", "focal_range", "height_range", "pitch_range"):
            assert here.record[name] == there.record[name]
    losses = [curves(folder, "loss/", "validation/") for folder in (tmp_path / "run", reference / "whole")]
    assert losses[0] == losses[1] and max(v for (name, _), v in losses[1].items() if name == "loss/taught") > 0.0


def packed(reference: Path, output: Path, *options: str) -> int:
    """Packs what the reference has prepared."""
    with taught():
        return main(["pack", "--config", str(reference / "config.yaml"), str(output), *options])


def weight(folder: Path) -> int:
    """Bytes of all files."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def test_as_many_frames_as_fit(reference: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of every source some; and of each as many samples are drawn as of all of its frames."""
    assert packed(reference, tmp_path / "none", "--size", "1K") != 0
    least = re.search(r"one frame of each source and the trunk need ([\d.]+) MB", capsys.readouterr().err)
    assert least is not None and not (tmp_path / "none").exists()
    for size, counts in ((f"{least[1]}M", (1, 1, 1)), (f"{weight(reference / 'pack') / 1e6 - 0.01}M", (4, 2, 2))):
        folder = tmp_path / size
        assert packed(reference, folder, "--size", size) == 0
        printed = capsys.readouterr().out
        assert f"{counts[0] + counts[1]} of 6 frames" in printed and f"{counts[2]} of 2 frames" in printed
        assert weight(folder) <= float(size[:-1]) * 1e6
        assert len(list(folder.glob("*/*/*.jpg"))) == len(list(folder.glob("*/*/*.xz"))) == sum(counts)
        one, two, other = json.loads((folder / "manifest.json").read_text())["recordings"]["training"]
        assert (len(one["frames"]) + len(two["frames"]), len(other["frames"])) == counts[:2]
        drawn = [each["share"] * len(each["frames"]) ** 0.5 for each in (one, two, other)]
        assert [drawn[0] + drawn[1], drawn[2]] == pytest.approx([2 * 2**0.5, 4.0 * 2**0.5])


def damage(file: Path) -> None:
    """Changes a byte in the middle."""
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize("name", ["configuration.yaml", "trunk/model.safetensors.xz", "training/0001/000001.xz"])
def test_a_damaged_file_is_refused(name: str, pack: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    damage(pack / name)
    places = [f"output={tmp_path / 'run'}", f"data.cache={tmp_path / 'cache'}"]
    assert main(["train", "--pack", str(pack), *places]) != 0
    assert re.search(rf"{name}: is damaged.*Copy the pack again", capsys.readouterr().err)


def test_another_pack_is_refused(
    reference: Path, pack: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One of another configuration or version; and what cannot be packed."""
    train = ["train", "--pack", str(pack)]
    other = json.loads((reference / "config.yaml").read_text())
    other["camera"]["width"] = 96
    (tmp_path / "other.yaml").write_text(json.dumps(other))
    for line, said in (
        ([*train, "--config", str(tmp_path / "other.yaml")], "packed with other values of camera.*Pack this"),
        ([*train, "data.teachers=[]"], "packed with other values of data.teachers"),
        ([*train, "--config", str(CONFIGS / "single_view.yaml")], "packed with other values of stage"),
        ([*train, "--from", "room", "--data", str(reference / "other"), "--output", str(tmp_path)], "exclude each"),
        (
            ["pack", "--config", str(reference / "config.yaml"), str(pack)],
            "configuration.yaml, manifest.json",
        ),
        (["pack", "--config", str(reference / "config.yaml"), str(reference), "--overwrite"], "is no pack"),
        (["pack", "--config", str(CONFIGS / "single_view.yaml"), str(tmp_path / "new")], "cannot be packed"),
        (["pack", "--config", str(reference / "config.yaml"), str(tmp_path / "new"), "start_from=room"], "start_from"),
    ):
        assert main(line) != 0
        assert re.search(said, capsys.readouterr().err), line
    manifest = json.loads((pack / "manifest.json").read_text())
    (pack / "manifest.json").write_text(json.dumps(manifest | {"format": 99}))
    assert main(train) != 0 and "in format 99, this one reads" in capsys.readouterr().err
