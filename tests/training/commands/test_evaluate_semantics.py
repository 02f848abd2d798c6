from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from scene_completion_ros.errors import ConfigurationError
from scene_completion_training.commands import evaluate as command


def _asked(**changes: object) -> argparse.Namespace:
    values: dict[str, object] = {
        "data": [], "windows": [], "bundle": [], "checkpoint": [], "foundation": None, "prior": False, "probe": False,
        "cluster_on": [], "name_on": [],
        "student": Path("x"), "layer": -1, "clusters": 2, "seed": 0, "every": 1, "output": Path("y"),
    }  # fmt: skip
    return argparse.Namespace(**{**values, **changes})


def test_the_command_refuses_what_it_cannot_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    run = parser.parse_args(
        ["semantics", "--student", "x", "--cluster-on", "a", "--name-on", "b", "--output", "y"]
    ).run_protocol
    with pytest.raises(ConfigurationError, match="nothing to score on"):
        run(_asked())
    with pytest.raises(ConfigurationError, match="nothing to score"):
        run(_asked(data=[tmp_path]))
    same = [tmp_path / group / "run" / "checkpoints" / "last.ckpt" for group in ("a", "b")]
    with pytest.raises(ConfigurationError, match="several are called run"):
        run(_asked(data=[tmp_path], checkpoint=same))
    with pytest.raises(ConfigurationError, match="several are called run"):
        run(_asked(data=[tmp_path], checkpoint=same[:1], bundle=[tmp_path / "run"]))
    for without in (_asked(data=[tmp_path], prior=True, student=None), _asked(data=[tmp_path], bundle=[tmp_path])):
        with pytest.raises(ConfigurationError, match="--student"):
            run(without)
    monkeypatch.delenv("SCENE_COMPLETION_DATA", raising=False)
    with pytest.raises(ConfigurationError, match="its folder is not known"):
        run(_asked(windows=["06"], prior=True))
    with pytest.raises(ConfigurationError, match="is scored as well"):
        run(_asked(data=[tmp_path], name_on=[tmp_path], prior=True))
