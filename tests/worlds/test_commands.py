"""`scene-completion world`: what it writes, and what it refuses."""

import argparse
import dataclasses
import os
import signal
from pathlib import Path
from types import SimpleNamespace

import pytest

from scene_completion_ros.bags.reader import BagReader
from scene_completion_ros.cli import main
from scene_completion_ros.evaluation.truth import OCCLUDED, VISIBLE
from scene_completion_ros.sequences.opening import voxel_truth
from scene_completion_ros.sequences.posed_sequence import PosedSequence
from scene_completion_worlds.commands import world
from scene_completion_worlds.street.camera_rig import LEFT, RIGHT, SIDE_LEFT, SIDE_RIGHT
from scene_completion_worlds.street.street_line import StreetKind
from tests.training.evaluation.one_wall import make_street


def test_street(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = f"world street --seed 1001 --frames 1 --size 160 48 --bag --output {tmp_path}/out".split()
    assert main(command) == 0
    assert "validation town 1001" in capsys.readouterr().out
    sequence = PosedSequence.load(tmp_path / "out" / "sequence")
    truth = voxel_truth(sequence, 0)
    assert truth.occupied.shape == (256, 256, 32)
    assert (truth.regions[VISIBLE] & truth.occupied).sum() > 1000
    assert (truth.regions[OCCLUDED] & truth.occupied).sum() > 1000
    with BagReader(tmp_path / "out" / "bag") as reader:
        assert len(list(reader.images(reader.choose_image_topic()))) == 1
    assert main(command) == 2
    assert f"--output {tmp_path}/out: bag, sequence exist already. Name another folder, or" in capsys.readouterr().err


def test_side_cameras_are_in_the_folder(tmp_path: Path) -> None:
    command = f"world street-kitti360 --seed 2001 --frames 1 --size 160 48 --output {tmp_path}/out".split()
    assert main(command) == 0
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"sequence"}
    sequence = PosedSequence.load(tmp_path / "out" / "sequence")
    assert set(sequence.cameras) == {LEFT, RIGHT, SIDE_LEFT, SIDE_RIGHT}
    expected = sequence.cameras[SIDE_LEFT]
    assert (expected.distortion_model, expected.width) == ("equidistant", expected.height)
    assert sequence.image(0, SIDE_RIGHT).shape == (expected.height, expected.width, 3)
    assert sequence.provenance["role"] == "test" and sequence.provenance["street"] in {one.value for one in StreetKind}
    left = sequence.rig_from_camera[SIDE_LEFT]
    assert left.rotation[:, 2] == pytest.approx((0.0, 1.0, 0.0), abs=0.02)


def test_of_two_that_write_one_folder_the_slower_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The slower one begins first, and loses nothing of the other; nor does a killed one."""

    def drive(args: argparse.Namespace) -> SimpleNamespace:  # of no time
        town = dataclasses.replace(make_street(assets=()), name=f"town {args.seed}")
        return SimpleNamespace(sequence=lambda **_: town, role="training")

    monkeypatch.setattr(world, "_drive", drive)
    slower, faster = (f"world street --seed {seed} --output {tmp_path}/out".split() for seed in (4, 3))
    save, found = PosedSequence.save, dict[Path, bytes]()

    def overtaken(sequence: PosedSequence, folder: Path) -> None:
        save(sequence, folder)
        if not os.fork():
            monkeypatch.setattr(PosedSequence, "save", lambda *_: os.kill(os.getpid(), signal.SIGKILL))
            main(faster)
        assert os.waitstatus_to_exitcode(os.wait()[1]) == -signal.SIGKILL
        monkeypatch.setattr(PosedSequence, "save", save)
        assert main(faster) == 0
        found.update({file: file.read_bytes() for file in (tmp_path / "out").rglob("*") if file.is_file()})

    monkeypatch.setattr(PosedSequence, "save", overtaken)
    assert main(slower) == 2
    assert (
        f"world: {tmp_path}/out/sequence: File exists. Move it away, or name another place" in capsys.readouterr().err
    )
    assert {file: file.read_bytes() for file in (tmp_path / "out").rglob("*") if file.is_file()} == found
    assert PosedSequence.load(tmp_path / "out" / "sequence").name == "town 3"
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"sequence"}


@pytest.mark.parametrize("kind", ["street", "room"])
@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("--seed 3000", "seed 3000 belongs to no role: worlds are training 0-999"),
        ("--seed 5 --frames 0", "--frames: 0 is not positive"),
        ("--seed 5 --size 64 0", "--size: 0 is not positive"),
        ("--seed 5 --rate 0", "--rate: 0.0 is out of range"),
    ],
)
def test_bad_input_is_refused(
    kind: str, words: str, found: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["world", kind, *words.split(), "--output", str(tmp_path)]) == 2
    assert found in capsys.readouterr().err
