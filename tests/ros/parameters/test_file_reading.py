"""Parameter files of robots, read for a node of another namespace."""

from pathlib import Path
from typing import Any

import pytest

from scene_completion_ros.errors import SceneCompletionError
from scene_completion_ros.ros.parameters.file_reading import read_parameters
from scene_completion_ros.ros.parameters.schema import SCHEMA
from tests.checkout import ROOT

SHIPPED = ROOT / "config" / "scene_completion.yaml"


def read(folder: Path, text: str, **options: Any) -> dict[str, object]:
    path = folder / "robot.yaml"
    path.write_text(text, encoding="utf-8")
    return read_parameters(path, **options)


def test_the_shipped_file_holds_all_of_them() -> None:
    assert read_parameters(SHIPPED) == {spec.name: spec.default for spec in SCHEMA}


def test_sections_of_any_namespace_count_and_those_of_others_do_not(tmp_path: Path) -> None:
    found = read(
        tmp_path,
        """
/**:
  ros__parameters: {threads: 2, fusion.enabled: true, use_sim_time: true, qos_overrides: {a: 1}}
front:
  scene_completion:
    ros__parameters: {threads: 3}
/rear/scene_completion:
  ros__parameters: {odometry: {frame: wheels}, bundle: /nowhere}
controller_server:
  ros__parameters: {threads: 99, nothing_of_ours: 1}
""",
        without=("bundle",),
    )
    assert found == {"threads": 3, "fusion.enabled": True, "odometry.frame": "wheels"}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("/**: {ros__parameters: {fusion: {enabeld: true}}}", "parameter fusion.enabeld is unknown.*fusion.enabled"),
        ("/**: {ros__parameters: {fusion.forget_after: 2}}", "written with a decimal point"),
        ("/**: {ros__parameters: {bundle: /nowhere}}", "there is no folder /nowhere"),
        ("amcl: {ros__parameters: {alpha: 2}}", "no parameters of the node scene_completion, but of /amcl"),
        ("threads: 2", "no parameters of the node scene_completion, but of none"),
        ("- 1", "but of none"),
    ],
)
def test_what_cannot_be_meant_is_refused(text: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(SceneCompletionError, match=f"robot.yaml: .*{words}"):
        read(tmp_path, text)
