"""The schema as a node declares it, and what a running node answers to changes."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from rclpy.parameter import Parameter

from scene_completion_ros.errors import SceneCompletionError
from scene_completion_ros.ros.declared_parameters import DeclaredParameters, ExplainingNode
from scene_completion_ros.ros.parameters import SCHEMA, NodeParameters, read_parameters
from tests.checkout import ROOT


def make_node(context: Any, **overrides: Any) -> Any:
    given = [Parameter(name, value=value) for name, value in overrides.items()]
    return ExplainingNode("parameters", context=context, parameter_overrides=given)


def test_defaults_and_descriptors(context: Any) -> None:
    node = make_node(context)
    assert DeclaredParameters(node).snapshot() == NodeParameters()
    for spec in SCHEMA:
        made = node.describe_parameter(spec.name)
        assert made.description == spec.meaning
        assert made.read_only != spec.live
        assert Parameter.Type(made.type).name == spec.type_name.upper().replace("BOOLEAN", "BOOL")
        assert node.get_parameter(spec.name).value == spec.default
        ranges = [made.integer_range, made.floating_point_range]
        used, other = ranges if spec.type_name == "integer" else ranges[::-1]
        assert [(r.from_value, r.to_value) for r in used] == ([spec.bounds] if spec.bounds else [])
        assert not list(other)
    assert node.describe_parameter("image.qos").additional_constraints == "one of sensor_data, reliable"
    assert node.describe_parameter("grid.file").additional_constraints == "an existing file, or empty"


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("threads", -1, "0 to 256"),
        ("threads", "two", "of type integer: 0 to 256"),
        ("image.transport", "x" * 10_000, "choose one of raw, compressed"),
        ("image.rectified", "yes", "of type boolean: true or false"),
        ("bundle", "/no/bundle", "no folder /no/bundle; name auto, kitti_student, room, street, or an existing folder"),
        ("grid.file", "/nowhere/grid.yaml", "no file /nowhere/grid.yaml; name an existing file, or empty"),
        ("vocabulary", "x" * 10_000, "has 10000 characters, .* shipped, an existing file, or empty"),
        ("vocabulary", "/", "no file /; name shipped, an existing file, or empty"),
        ("vocabulary", "nul\0byte", "no file .*nul"),
    ],
)
def test_wrong_values_at_start_name_parameter_and_what_is_allowed(
    context: Any, name: str, value: Any, words: str
) -> None:
    with pytest.raises(SceneCompletionError, match=words) as caught:
        DeclaredParameters(make_node(context, **{name: value})).checked()
    assert caught.value.where == f"parameter {name}" and len(str(caught.value)) < 300


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("threads", 257, "parameter threads: 257 lies outside of 0 to 256"),
        ("threads", 2.0, "parameter threads: 2.0 is of type double; it must be of type integer: 0 to 256"),
        ("threads", None, "it must be of type integer: 0 to 256"),
        ("threads", True, "True is of type boolean; it must be of type integer"),
        ("camera.height", math.nan, "camera.height: nan is not finite; allowed is 0.0 to 100.0"),
        ("engine", "onnxruntime", "parameter engine is read-only: give it when the node starts"),
        ("thraeds", 2, "thraeds is unknown and has no effect: known are bundle, engine, threads,"),
    ],
)
def test_refused_changes_have_a_reason_and_change_nothing(context: Any, name: str, value: Any, words: str) -> None:
    node = make_node(context)
    parameters = DeclaredParameters(node)
    result = node.set_parameters_atomically([Parameter("image.rectified", value=True), Parameter(name, value=value)])
    assert not result.successful
    assert words in result.reason
    assert parameters.snapshot() == NodeParameters()


def read(folder: Path, text: str, **options: Any) -> dict[str, object]:
    path = folder / "robot.yaml"
    path.write_text(text, encoding="utf-8")
    return read_parameters(path, **options)


def test_the_shipped_file_holds_all_of_them() -> None:
    assert read_parameters(ROOT / "config" / "scene_completion.yaml") == {spec.name: spec.default for spec in SCHEMA}


def test_sections_of_any_namespace_count_and_those_of_others_do_not(tmp_path: Path) -> None:
    found = read(
        tmp_path,
        """
/**:
  ros__parameters: {threads: 2, scale.wait: true, use_sim_time: true, qos_overrides: {a: 1}}
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
    assert found == {"threads": 3, "scale.wait": True, "odometry.frame": "wheels"}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("/**: {ros__parameters: {scale: {wiat: true}}}", "parameter scale.wiat is unknown.*scale.wait"),
        ("/**: {ros__parameters: {sync.timeout: 2}}", "written with a decimal point"),
        ("/**: {ros__parameters: {bundle: /nowhere}}", "there is no folder /nowhere"),
        ("amcl: {ros__parameters: {alpha: 2}}", "no parameters of the node scene_completion, but of /amcl"),
        ("threads: 2", "no parameters of the node scene_completion, but of none"),
        ("- 1", "but of none"),
    ],
)
def test_what_cannot_be_meant_is_refused(text: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(SceneCompletionError, match=f"robot.yaml: .*{words}"):
        read(tmp_path, text)
