"""The command that makes text banks."""

from pathlib import Path

import pytest

from scene_completion_ros.cli import main
from scene_completion_ros.inference.text_bank import TextBank
from scene_completion_training.foundation.encoded_words import TextEncoder
from tests.training.foundation.tiny_models import saved_sentence_encoder


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved_sentence_encoder(tmp_path_factory.mktemp("models") / "sentences")


def test_phrases_of_the_command_make_a_bank(encoder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "new" / "bank.safetensors"
    command = ["vocabulary", "car", "zebra crossing", "other", f"--encoder={encoder}", f"--output={output}"]
    assert main([*command, "--template=the {} there", "--licence=Apache-2.0"]) == 0
    bank = TextBank.load(output)
    assert f"3 phrases, 0 classes, 0 of the background; 24 channels of sentences; sha256 {bank.sha256}" in (
        capsys.readouterr().out
    )
    assert (bank.phrases, bank.licence) == (("car", "zebra crossing", "other"), "Apache-2.0")
    expected = TextEncoder(encoder).encode(["the car there", "the zebra crossing there", "other"]).numpy()
    assert bank.rows(bank.phrases) == pytest.approx(expected, abs=1e-3)  # stored in half precision


def test_a_file_and_more_phrases_make_a_bank(encoder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, output = tmp_path / "words.yaml", tmp_path / "bank.safetensors"
    file.write_text("template: a {}\nclasses: {car: {phrases: [van]}, tree: {}}\nbackground: [sky]\n")
    command = ["vocabulary", f"--encoder={encoder}", f"--output={output}"]
    assert main([*command, f"--file={file}"]) == 0
    bank = TextBank.load(output)
    assert (bank.template, bank.phrases, bank.background) == ("a {}", ("van", "tree", "sky"), ("sky",))
    assert bank.vocabulary().names == ("car", "tree")
    assert main([*command, f"--file={file}", "--template={}", "--", "lamp post"]) == 0
    changed = TextBank.load(output)
    assert (changed.template, changed.phrases) == ("{}", ("van", "tree", "sky", "lamp post"))

    assert main(command) == 2
    assert "no phrases" in capsys.readouterr().err
    assert main([*command, "car", "--template=street"]) == 2
    assert "0 places for a phrase" in capsys.readouterr().err
    assert main([*command, "car", "--encoder=./nowhere"]) == 2
    assert "no such folder" in capsys.readouterr().err
    assert TextBank.load(output).sha256 == changed.sha256  # what failed has left the bank as it was
