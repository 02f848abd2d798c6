"""Rows of the table of masked scene modelling: each changes what its name says, and nothing else."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from benchmarks.masked_scene import ROWS, TABLE
from scene_completion_training.configuration import read_configuration
from scene_completion_training.stages.masked_scene import MaskedSceneConfiguration


def test_rows_differ_in_what_their_name_says(tmp_path: Path) -> None:
    given = read_configuration(TABLE.config, [], MaskedSceneConfiguration)
    assert (given.masking, given.ratio, given.loss_levels) == ("bottom_up", 0.4, "all")
    found = {row: TABLE.configured(given, row, 1, tmp_path) for row in ROWS}
    changes = {}
    for row, configuration in found.items():
        configuration.completed().check()
        names = {one.name for one in dataclasses.fields(given)} - {"seed", "output"}
        changes[row] = {name for name in names if getattr(configuration, name) != getattr(given, name)}
    assert changes.pop("masked") == set()
    assert changes == {
        "unmasked": {"masking"}, "masked_20": {"ratio"}, "masked_60": {"ratio"}, "masked_80": {"ratio"},
        "last_level": {"loss_levels"}, "top_down": {"masking"}, "zorder": {"network"}, "hilbert": {"network"},
        "not_centred": {"centred"},
    }  # fmt: skip
    assert [found[f"masked_{ratio}"].ratio for ratio in (20, 60, 80)] == [0.2, 0.6, 0.8]
    assert len({repr(configuration) for configuration in found.values()}) == len(ROWS)
