"""The schema as a node declares it, and what a running node answers to changes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import rclpy
from rcl_interfaces.msg import SetParametersResult
from rclpy.parameter import Parameter

from scene_completion_ros.errors import SceneCompletionError
from scene_completion_ros.ros.parameters.declared import (
    DeclaredParameters,
    ExplainingNode,
    declare,
    descriptor,
    unknown_parameters,
)
from scene_completion_ros.ros.parameters.schema import SCHEMA, NodeParameters, ParameterSpec


@pytest.fixture(scope="module")
def context() -> Iterator[Any]:
    context = rclpy.Context()
    rclpy.init(context=context, args=[])
    yield context
    context.try_shutdown()
    context.destroy()


def make_node(context: Any, **overrides: Any) -> Any:
    given = [Parameter(name, value=value) for name, value in overrides.items()]
    return ExplainingNode("parameters", context=context, parameter_overrides=given)


def declared(context: Any, **overrides: Any) -> NodeParameters:
    return DeclaredParameters(make_node(context, **overrides)).checked()


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
    assert node.describe_parameter("image.qos").additional_constraints == "one of auto, sensor_data, reliable"
    assert node.describe_parameter("grid.file").additional_constraints == "an existing file, or empty"


def test_a_number_with_fractions_has_a_range_without_steps(context: Any) -> None:
    node = make_node(context)
    spec = ParameterSpec("fraction", 0.5, "A fraction.", bounds=(0, 1), live=True)
    assert declare(node, spec) == 0.5
    (bounds,) = descriptor(spec).floating_point_range
    assert (bounds.from_value, bounds.to_value, bounds.step) == (0.0, 1.0, 0.0)
    assert node.set_parameters([Parameter("fraction", value=0.123)])[0].successful
    assert "Max: 1.0" in node.set_parameters([Parameter("fraction", value=1.5)])[0].reason


def test_overrides_are_read(context: Any, grid_file: Path) -> None:
    given = {"threads": 3, "image.transport": "compressed", "image.rectified": True, "grid.file": str(grid_file)}
    assert declared(context, **given) == NodeParameters(
        threads=3, image_transport="compressed", image_rectified=True, grid_file=str(grid_file)
    )


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("threads", -1, "0 to 256"),
        ("threads", "two", "of type integer: 0 to 256"),
        ("image.transport", "theora", "choose one of raw, compressed"),
        ("image.rectified", "yes", "of type boolean: true or false"),
        (
            "bundle",
            "/no/bundle",
            "no folder /no/bundle; name auto, kitti_student, street_large, an existing folder, or hf:",
        ),
        ("bundle", "hf:student", "'hf:student' is no name of a bundle on the hub; write hf:owner/name"),
        ("grid.file", "/nowhere/grid.yaml", "no file /nowhere/grid.yaml; name an existing file, or empty"),
    ],
)
def test_wrong_values_at_start_name_parameter_and_what_is_allowed(
    context: Any, name: str, value: Any, words: str
) -> None:
    with pytest.raises(SceneCompletionError, match=words) as caught:
        declared(context, **{name: value})
    assert caught.value.where == f"parameter {name}"


def test_what_a_node_can_hold_is_checked_when_it_is_needed(context: Any, tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    parameters = DeclaredParameters(make_node(context, bundle=str(bundle)))
    assert parameters.snapshot().bundle == str(bundle)
    with pytest.raises(SceneCompletionError, match="no folder"):
        parameters.checked()
    bundle.mkdir()
    assert parameters.checked() == NodeParameters(bundle=str(bundle))


def test_unknown_names_are_warned_about_with_what_they_may_mean(context: Any) -> None:
    node = make_node(context, thraeds=2, use_sim_tme=True, wheel_radius=0.1, threads=1)
    DeclaredParameters(node)
    misspelt, of_rclpy, foreign = unknown_parameters(node)
    assert misspelt == "parameter thraeds is unknown and has no effect: did you mean threads?"
    assert of_rclpy.endswith("did you mean use_sim_time?")
    assert "wheel_radius" in foreign
    assert all(spec.name in foreign for spec in SCHEMA)


def test_rclpy_itself_refuses_what_this_process_sets(context: Any) -> None:
    node = make_node(context)
    parameters = DeclaredParameters(node)
    refused = [Parameter("threads", value=257), Parameter("threads", value=2.0), Parameter("engine", value="openvino")]
    assert not any(result.successful for result in node.set_parameters(refused))
    assert parameters.snapshot() == NodeParameters()


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("threads", 257, "parameter threads: 257 lies outside of 0 to 256"),
        ("threads", 2.0, "parameter threads: 2.0 is of type double; it must be of type integer: 0 to 256"),
        ("threads", None, "it must be of type integer: 0 to 256"),
        ("engine", "onnxruntime", "parameter engine is read-only: give it when the node starts"),
        ("thraeds", 2, "did you mean threads?"),
    ],
)
def test_refused_changes_have_a_reason_and_change_nothing(context: Any, name: str, value: Any, words: str) -> None:
    node = make_node(context)
    parameters = DeclaredParameters(node)
    result = node.set_parameters_atomically([Parameter("image.rectified", value=True), Parameter(name, value=value)])
    assert not result.successful
    assert words in result.reason
    assert parameters.snapshot() == NodeParameters()


def test_every_live_value_is_held_against_the_schema(context: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also what rclpy itself lets through: choices and paths, none of which is live yet."""
    schema = (
        ParameterSpec("image_qos", "sensor_data", "Q.", choices=("sensor_data", "reliable"), live=True),
        ParameterSpec("grid_file", "", "G.", path="file", live=True),
    )
    monkeypatch.setattr("scene_completion_ros.ros.parameters.declared.SCHEMA", schema)
    node = make_node(context)
    parameters = DeclaredParameters(node)
    changes = [Parameter("image.qos", value="telepathy"), Parameter("grid.file", value="/nowhere")]
    asked_by_others = node.set_parameters_atomically(changes).reason
    set_by_this_process = "; ".join(result.reason for result in node.set_parameters(changes))
    assert asked_by_others == set_by_this_process
    assert "parameter image.qos: 'telepathy' is not allowed; choose one of sensor_data, reliable" in asked_by_others
    assert "parameter grid.file: there is no file /nowhere" in asked_by_others
    assert parameters.snapshot() == NodeParameters()
    assert node.set_parameters([Parameter("image.qos", value="reliable")])[0].successful
    assert parameters.snapshot() == NodeParameters(image_qos="reliable")


def test_the_node_may_refuse_what_the_values_would_be_together(context: Any) -> None:
    seen: list[NodeParameters] = []

    def check(parameters: NodeParameters) -> None:
        seen.append(parameters)
        if parameters.image_rectified and parameters.threads == 2:
            raise SceneCompletionError("not with two threads", where="camera_info", cure="Take one")

    node = make_node(context, threads=2)
    parameters = DeclaredParameters(node, check)
    result = node.set_parameters([Parameter("image.rectified", value=True)])[0]
    assert result.reason == "parameter image.rectified: camera_info: not with two threads. Take one"
    assert parameters.snapshot() == NodeParameters(threads=2)
    assert node.set_parameters([Parameter("use_sim_time", value=False)])[0].successful  # nothing of ours
    changes = [Parameter("image.rectified", value=True), Parameter("threads", value=1)]
    assert node.set_parameters_atomically(changes).successful
    assert seen == [NodeParameters(threads=2, image_rectified=True), NodeParameters(threads=1, image_rectified=True)]


def test_what_another_callback_refuses_afterwards_changes_nothing(context: Any) -> None:
    node = make_node(context)
    parameters = DeclaredParameters(node)
    ours = node._on_set_parameters_callbacks[0]
    asked: list[Any] = []

    def refuse(changes: Any) -> Any:
        asked.append(changes)
        return SetParametersResult(successful=False, reason="no")

    node.remove_on_set_parameters_callback(ours)
    node.add_on_set_parameters_callback(refuse)
    node.add_on_set_parameters_callback(ours)  # the newest is asked first
    assert not node.set_parameters([Parameter("threads", value=2)])[0].successful
    assert asked
    assert parameters.snapshot() == NodeParameters()
