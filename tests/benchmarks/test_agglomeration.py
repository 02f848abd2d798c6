"""Rows of the table of the agglomeration: each changes what its name says, and nothing else."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from benchmarks.ablation import checkpoint, run_folder
from benchmarks.agglomeration import ROWS, TABLE, share_maps
from scene_completion_training.configuration import read_configuration
from scene_completion_training.stages.agglomeration import AgglomerationConfiguration


def base() -> AgglomerationConfiguration:
    return read_configuration(TABLE.config, [], AgglomerationConfiguration)


def test_rows_differ_in_what_their_name_says(tmp_path: Path) -> None:
    given = base()
    found = {row: TABLE.configured(given, row, 2, tmp_path) for row in ROWS}
    for row, configuration in found.items():
        configuration.check()
        assert configuration.seed == 2 and configuration.output == str(run_folder(tmp_path, row, 2))
        assert (
            dataclasses.replace(configuration, seed=0, output=given.output, agglomeration=given.agglomeration) == given
        )
    teachers = {row: [teacher.name for teacher in one.agglomeration.teachers] for row, one in found.items()}
    assert (teachers["text"], teachers["dino"], teachers["text_dino"]) == (["text"], ["dino"], ["text", "dino"])
    assert all(len(names) == 3 for row, names in teachers.items() if row not in ("text", "dino", "depth", "text_dino"))
    settings = [one.agglomeration for row, one in found.items() if row != "log1p_sq"]  # that is the default
    assert all(one != given.agglomeration for one in settings)
    assert all(one != other for number, one in enumerate(settings) for other in settings[:number])


def test_losses_of_the_source() -> None:
    """Cosine, L1 and cosine; the mean of its own channels is taken from the last alone, see CUA-O3D, section 3.2."""
    text, dino, depth = TABLE.configured(base(), "source_demean", 0, Path()).agglomeration.teachers
    assert text == base().agglomeration.teachers[0]
    assert (dino.loss, dino.normaliser, dino.demean) == ("l1", "standard", False)
    assert (depth.loss, depth.normaliser, depth.demean) == ("cosine", "none", True)
    scaled = TABLE.configured(base(), "phi_s", 0, Path()).agglomeration
    assert scaled.uncertainty == "fixed" and [one.normaliser for one in scaled.teachers] == ["none", "phi_s", "phi_s"]


def test_rows_of_a_seed_share_their_maps(tmp_path: Path) -> None:
    share_maps(tmp_path, "text", 0)
    assert not run_folder(tmp_path, "text", 0).exists()  # the first one keeps them itself
    kept = run_folder(tmp_path, "text", 0) / "kept_maps"
    kept.mkdir(parents=True)
    (kept / "key.txt").write_text("of seed 0")
    for row, seed in (("dino", 0), ("dino", 0), ("dino", 1)):
        share_maps(tmp_path, row, seed)
    assert (run_folder(tmp_path, "dino", 0) / "kept_maps" / "key.txt").read_text() == "of seed 0"
    assert not run_folder(tmp_path, "dino", 1).exists()


def test_what_is_trained_is_evaluated(tmp_path: Path) -> None:
    other = tmp_path / "other"
    for output, row, seed in ((tmp_path, "text", 0), (other, "text", 1), (tmp_path, "mlp", 1)):
        file = checkpoint(output, row, seed)
        file.parent.mkdir(parents=True)
        file.touch()
    first, second, third = (
        str(checkpoint(*one)) for one in ((tmp_path, "text", 0), (other, "text", 1), (tmp_path, "mlp", 1))
    )
    assert TABLE.methods([tmp_path, other], list(ROWS), [0, 1]) == [
        "--method",
        "text",
        first,
        second,
        "--method",
        "mlp",
        third,
    ]
