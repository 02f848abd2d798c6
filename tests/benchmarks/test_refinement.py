"""Rows of the table of refined students: each changes what its name says."""

from __future__ import annotations

from pathlib import Path

from benchmarks.refinement import ROWS, TABLE
from scene_completion_training.configuration import read_configuration
from scene_completion_training.stages.supervised_scene import SupervisedSceneConfiguration


def test_rows_differ_in_what_their_name_says(tmp_path: Path) -> None:
    given = read_configuration(TABLE.config, [], SupervisedSceneConfiguration)
    assert "{seed}" in given.start_from and given.data.threshold == 0.1
    found = {row: TABLE.configured(given, row, 1, tmp_path) for row in ROWS}
    for row, configuration in found.items():
        configuration.check()
        kinds = {kind for source in configuration.data.sources for kind in source.kinds}
        refines = row != "supervised"
        assert configuration.target == ("occupancy" if refines else "classes")
        assert kinds == ({"predicted"} if refines else {"exact", "lidar"})
        assert configuration.data.threshold == (0.1 if refines else None)
        assert configuration.frozen is row.endswith("_frozen")
        assert bool(configuration.start_from) is row.startswith("pretrained")
        assert configuration.views == given.views and configuration.steps == given.steps
    assert len({repr(configuration) for configuration in found.values()}) == len(ROWS)
