"""The protocols, run as commands: what they write and what they refuse."""

import argparse
import json
import runpy
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from scene_completion_ros.errors import ConfigurationError, SceneCompletionError, SequenceError
from scene_completion_ros.inference.bundle import StudentBundle
from scene_completion_ros.inference.text_bank import BankClass, TextBank
from scene_completion_ros.sequences.posed_sequence import PosedSequence
from scene_completion_training.commands import arguments, evaluate_semantics
from scene_completion_training.commands import evaluate as command
from scene_completion_training.foundation import teachers
from scene_completion_training.networks.agglomerated_field import AgglomeratedField
from scene_completion_training.networks.density_field import DensityField
from scene_completion_training.networks.feature_field import FeatureField
from tests.checkout import ROOT
from tests.official_layouts import RAW_DRIVE, write_split
from tests.sequences import test_kitti_raw
from tests.training.evaluation.one_wall import make_street
from tests.training.evaluation.test_lidar_evaluation import FlatWall
from tests.training.small_trainings import SIZE, VIEW, save_checkpoint

raw_drive = test_kitti_raw.drive
results = SimpleNamespace(**runpy.run_path(str(ROOT / "docs" / "make_results.py")))


def run(*options: object) -> int:
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    return command.run(parser.parse_args([str(option) for option in options]))


# depth


def test_depth_of_a_raw_drive(
    raw_drive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A report of `extract` is no recording."""
    monkeypatch.setattr(arguments, "open_models", lambda args: [FlatWall()])
    frames = write_split(tmp_path / "list.txt", [f"2011_09_26/{RAW_DRIVE} {number} l" for number in ("0000000001", 77)])
    output = tmp_path / "new" / "out"
    options = ("--frames", frames, "--allow-missing", "--checkpoint", "wall.ckpt")
    report = tmp_path / "report.json"
    assert run("geometry", "--depth", "--data", raw_drive, report, *options, "--output", output) == 0
    text = (output / "results.md").read_text(encoding="utf-8")
    assert text.strip() == capsys.readouterr().out.strip()
    assert "| wall | 1 | Garg crop | 100.0 |" in text
    assert "Frames: list.txt: 1 of 2 listed frames." in text
    content = json.loads((output / "results.json").read_text(), parse_constant=lambda name: pytest.fail(name))
    assert content["recordings"] == [RAW_DRIVE] and content["settings"]["frames"] == str(frames)
    assert [(row["method"], row["frames"]) for row in content["scores"]["depth"]] == [("wall", 1)] * 2


# runs


def test_runs_make_sections_of_a_document_again(street: PosedSequence, student: StudentBundle, tmp_path: Path) -> None:
    street.save(tmp_path / "town" / "sequence")
    document, runs = tmp_path / "results.md", tmp_path / "runs.yaml"
    document.write_text("# Results\n\n<!-- begin: wall -->\nold\n<!-- end: wall -->\n\nafter\n", encoding="utf-8")
    options = f"geometry --data {tmp_path / 'town'} --controls --scans 10"
    runs.write_text(f"document: results.md\nruns:\n  wall: {options}\n  other: {options} --every 2\n")
    made = [str(runs), "--output", str(tmp_path / "out")]
    assert results.main([*made, "--only", "wall"]) == 0
    text = document.read_text(encoding="utf-8")
    assert text.startswith("# Results") and text.endswith("after\n") and "old" not in text
    assert f"Made by `scene-completion evaluate {options}`." in text and "| surface (true depth) | 1 |" in text
    assert results.main(made) == 0
    assert document.read_text(encoding="utf-8").count("<!-- begin: ") == 2  # the second one is added at the end
    runs.write_text("runs: [a]")
    with pytest.raises(ConfigurationError, match="is no list of evaluations"):
        results.main(made)


# occupancy


def test_occupancy_of_a_town(
    street: PosedSequence, student: StudentBundle, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    street.save(tmp_path / "town" / "sequence")
    other = replace(street, name="other").save(tmp_path / "other")
    options = ["--bundle", student.folder, "--controls", "--bodies", "--scans", 10, "--calibrate-on", other]
    assert run("geometry", "--data", tmp_path / "town", *options, "--output", tmp_path / "out") == 0
    written = {path.name for path in (tmp_path / "out").iterdir()}
    assert written == {"results.json", "results.md"}
    assert (tmp_path / "out" / "results.md").read_text(encoding="utf-8") in capsys.readouterr().out
    content = json.loads((tmp_path / "out" / "results.json").read_text(encoding="utf-8"))
    assert content["settings"]["scans"] == "10"
    assert {row["rule"] for row in content["scores"]["lidar"]} >= {"σ > 0.5", "S4C: σ ≥ 0.25", "calibrated"}
    for metric in ("voxels", "obstacles", "bodies"):
        assert "surface + 4 m (true depth)" in {row["method"] for row in content["scores"][metric]}
    nothing = street.save(tmp_path / "bare") and make_street(assets=()).save(tmp_path / "nothing")
    for options, where in ((("--depth",), "--bodies: are of voxels"), (("--profiles",), "--controls and --bodies")):
        with pytest.raises(ConfigurationError, match=where):
            run("geometry", "--data", nothing, "--bundle", other, "--bodies", *options, "--output", tmp_path / "out")
    with pytest.raises(SequenceError, match="no frame has ground truth voxels or LiDAR"):
        run("geometry", "--data", nothing, "--controls", "--output", tmp_path / "out")


# semantics


def test_semantics_refuses_what_it_cannot_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("SCENE_COMPLETION_DATA", raising=False)
    data, student, prior = ("--data", tmp_path), ("--student", "x"), ("--name-on", "other")
    first, second = (tmp_path / group / "run" / "checkpoints" / "last.ckpt" for group in ("a", "b"))
    for options, message in (
        (student, "nothing to score on"),
        ((*student, *data), "nothing to score"),
        ((*student, *data, "--checkpoint", first, second), "several have the name run"),
        ((*student, *data, "--checkpoint", first, "--bundle", tmp_path / "run"), "several have the name run"),
        ((*data, *prior), "--student"),
        ((*student, *data, "--bundle", tmp_path), "--student"),
        ((*student, "--windows", "06", *prior), "its folder is not known"),
        ((*student, *data, "--name-on", tmp_path), "is scored as well"),
    ):
        with pytest.raises(ConfigurationError, match=message):
            run("semantics", *options, "--output", "y")


def test_clusters_stand_next_to_the_prior(
    street: PosedSequence, student: StudentBundle, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(evaluate_semantics, "CLUSTERS", 3)
    torch.manual_seed(0)
    field = FeatureField(DensityField(VIEW.camera()), target_size=19, channels=19, units=6)
    file = save_checkpoint(tmp_path / "mine" / "checkpoints" / "last.ckpt", field, "feature_field", camera=SIZE)
    town, other = street.save(tmp_path / "town"), replace(street, name="other").save(tmp_path / "other")
    output = tmp_path / "scores"
    given = ("semantics", "--student", student.folder, "--data", town, "--output", output, "--checkpoint", file)
    for options, message in (((), "nothing to cluster"), (("--cluster-on", other), "no labelled recordings")):
        with pytest.raises(ConfigurationError, match=message):
            run(*given, *options)
    assert run(*given, "--cluster-on", other, "--name-on", other) == 0
    rows = json.loads((output / "results.json").read_text())["scores"]["semantics"]
    assert len({row["iou"] for row in rows if row["range_m"] == 51.2}) == 1  # the density of the student
    assert list(dict.fromkeys(row["method"] for row in rows)) == ["mine", "class prior of the voxel"]


# open vocabulary


@pytest.fixture(scope="module")
def text_bank(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("bank") / "bank.safetensors"
    phrases, classes = ("car", "road", "automobile"), [BankClass(name, (name,), (0, 0, 0)) for name in ("car", "road")]
    vectors = np.random.default_rng(0).normal(size=(3, 5))
    TextBank(phrases, vectors, "tiny", "abc", classes=tuple(classes)).save(file)
    return file


class TextAlignedTeacher:
    """A teacher in the space of an encoder whose hash is abc."""

    def __init__(self, digest: str = "abc") -> None:
        self.identity = SimpleNamespace(text_encoder="tiny", text_encoder_sha256=digest)

    def features(self, images: torch.Tensor, cell: int) -> torch.Tensor:
        return torch.ones(len(images), 5, images.shape[2] // cell, images.shape[3] // cell)


def test_open_vocabulary_of_a_town(
    street: PosedSequence,
    student: StudentBundle,
    text_bank: Path,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Every row that there is; fields of two runs have a text-aligned teacher and another one each."""
    files, texts = [], {"text_encoder": "tiny", "text_encoder_sha256": "abc"}
    described = {"text": texts, "other": {**texts, "text_encoder": ""}}
    for seed in range(2):
        torch.manual_seed(seed)
        field = AgglomeratedField(DensityField(VIEW.camera()), {"text": 5, "other": 3}, channels=4, units=6)
        file = tmp_path / f"seed{seed}" / "checkpoints" / "last.ckpt"
        files.append(save_checkpoint(file, field, "agglomeration", camera=SIZE, teachers=described))
    monkeypatch.setattr(teachers, "open_teacher", lambda *args, **options: TextAlignedTeacher())
    (tmp_path / "words.yaml").write_text("training_vocabulary: [car]\nwords: {automobile: [car]}\n")
    folders = []
    for name, classes in (("town", (1, 1)), ("training", (1, 9))):
        label = np.asarray(street.asset(0, "voxel_label")).copy()
        label[:, :32][label[:, :32] > 0], label[:, 32:][label[:, 32:] > 0] = classes
        assets = {**street.frames[0].assets, "voxel_label": lambda label=label: label}
        frames = [replace(street.frames[0], assets=assets)]
        folders.append(replace(street, name=name, frames=frames).save(tmp_path / name))
    output = tmp_path / "scores"
    code = run(
        "semantics", "--student", student.folder, "--bank", text_bank, "--words", tmp_path / "words.yaml",
        "--checkpoint", *files, "--foundation", "any",
        "--data", folders[0], "--name-on", folders[1], "--output", output,
    )  # fmt: skip
    assert code == 0
    text = (output / "results.md").read_text()
    assert text in capsys.readouterr().out
    content = json.loads((output / "results.json").read_text(), parse_constant=lambda name: pytest.fail(name))
    rows = content["scores"]["zero_shot"]
    assert {row["method"] for row in rows} == {"class prior: car", "2D", "seed0", "seed1"}
    found = {(row["method"], row["region"], row["range_m"]): row for row in rows}
    prior = found["class prior: car", "all", 51.2]
    assert prior["recordings"].startswith("towns") and prior["mean_iou"] == 1.0
    assert {row["word"] for row in content["scores"]["words"]} >= {"automobile", "mean"}
    bare = make_street(assets=("lidar",)).save(tmp_path / "bare")
    given = ("--student", student.folder, "--bank", text_bank, "--foundation", "any", "--output", output)
    with pytest.raises(ConfigurationError, match="no frame has ground truth"):
        run("semantics", *given, "--data", bare)


def test_open_vocabulary_refuses_what_it_cannot_do(
    student: StudentBundle, text_bank: Path, monkeypatch: pytest.MonkeyPatch, street: PosedSequence, tmp_path: Path
) -> None:
    monkeypatch.setattr(teachers, "open_teacher", lambda *args, **options: TextAlignedTeacher("other"))
    town = street.save(tmp_path / "town")
    field = AgglomeratedField(DensityField(VIEW.camera()), {"text": 5}, channels=4, units=6)
    described = {"text": {"text_encoder": "large", "text_encoder_sha256": "def"}}
    file = tmp_path / "run" / "checkpoints" / "last.ckpt"
    other = save_checkpoint(file, field, "agglomeration", camera=SIZE, teachers=described)
    given = ("--student", student.folder, "--bank", text_bank, "--output", tmp_path / "y", "--data", town)
    for options, message in (
        ((), "nothing to score"),
        (("--bundle", student.folder), "has no feature spaces"),
        (("--name-on", town), "is scored as well"),
        (("--foundation", "any"), "aligned to those of tiny"),
        (("--foundation", "any", "last"), "last is no layer"),
        (("--checkpoint", other), "the student .* has spaces of another encoder only"),
    ):
        with pytest.raises(SceneCompletionError, match=message):
            run("semantics", *given, *options)
