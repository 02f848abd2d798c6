"""The command that makes text banks."""

from pathlib import Path

import pytest

from scene_completion_ros.cli import main
from scene_completion_ros.inference.text_bank import TextBank
from scene_completion_training.foundation.encoded_words import TextEncoder
from tests.training.foundation.tiny_models import saved_sentence_encoder


def test_phrases_and_a_file_make_a_bank(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    encoder = saved_sentence_encoder(tmp_path / "sentences")
    file, output = tmp_path / "words.yaml", tmp_path / "new" / "bank.safetensors"
    command = ["vocabulary", f"--encoder={encoder}", f"--output={output}"]
    assert main([*command, "car", "other"]) == 0
    bank = TextBank.load(output)
    assert f"2 phrases, 0 classes, 0 of the background; 24 channels of sentences; sha256 {bank.sha256}" in (
        capsys.readouterr().out
    )
    assert (bank.template, bank.phrases) == ("a photo of a {} on the street", ("car", "other"))

    words = "template: the {} there\nlicence: MIT\nclasses: {car: {phrases: [van]}, tree: {}}\nbackground: [sky]\n"
    file.write_text(words)
    assert main([*command, f"--file={file}", "--", "lamp post"]) == 2
    assert (
        f"--output {output}: exists already. Name another file, or replace former results with --overwrite"
        in capsys.readouterr().err
    )
    assert TextBank.load(output).phrases == ("car", "other")
    command.append("--overwrite")
    assert main([*command, f"--file={file}", "--", "lamp post"]) == 0
    bank = TextBank.load(output)
    assert (bank.template, bank.licence, bank.background) == ("the {} there", "MIT", ("sky",))
    assert bank.phrases == ("van", "tree", "sky", "lamp post") and bank.vocabulary().names == ("car", "tree")
    expected = TextEncoder(encoder).encode([f"the {phrase} there" for phrase in bank.phrases]).numpy()
    assert bank.rows(bank.phrases) == pytest.approx(expected, abs=1e-3)  # stored in half precision

    assert main(command) == 2
    assert "no phrases" in capsys.readouterr().err
    file.write_text("template: street\nphrases: [car]\n")
    assert main([*command, f"--file={file}"]) == 2
    assert "0 places for a phrase" in capsys.readouterr().err
    assert main([*command, "car", "--encoder=./nowhere"]) == 2
    assert "no such folder" in capsys.readouterr().err
    assert TextBank.load(output).sha256 == bank.sha256  # what failed has left the bank as it was
