"""The schema as a node declares it."""
# ruff: noqa: E402

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields
from typing import Any

from tests.ros.rclpy_required import require_rclpy

require_rclpy()

import pytest
import rclpy
from rclpy.parameter import Parameter

from scene_completion_ros.errors import SceneCompletionError
from scene_completion_ros.ros.parameters import NodeParameters, declare_parameters


@pytest.fixture(scope="module")
def context() -> Iterator[Any]:
    context = rclpy.Context()
    rclpy.init(context=context, args=[])
    yield context
    context.try_shutdown()
    context.destroy()


def declared(context: Any, **overrides: Any) -> tuple[Any, NodeParameters]:
    given = [Parameter(name, value=value) for name, value in overrides.items()]
    node = rclpy.create_node("parameters", context=context, parameter_overrides=given)
    return node, declare_parameters(node)


def test_defaults_and_descriptors(context: Any) -> None:
    node, values = declared(context)
    assert values == NodeParameters()
    for entry in fields(NodeParameters):
        descriptor = node.describe_parameter(entry.name)
        assert descriptor.description == entry.metadata["description"]
        assert descriptor.read_only
    assert node.describe_parameter("threads").integer_range[0].to_value == 256
    assert node.describe_parameter("image_qos").additional_constraints == "one of sensor_data, reliable"
    assert not node.set_parameters([Parameter("threads", value=2)])[0].successful


def test_overrides_are_read(context: Any) -> None:
    _, values = declared(context, threads=3, image_transport="compressed", rectified=True)
    assert values == NodeParameters(threads=3, image_transport="compressed", rectified=True)


@pytest.mark.parametrize(
    ("name", "value", "cure"),
    [
        ("threads", -1, "0 to 256"),
        ("threads", "two", "integer"),
        ("image_transport", "theora", "raw, compressed"),
        ("rectified", "yes", "boolean"),
    ],
)
def test_wrong_values_name_parameter_and_cure(context: Any, name: str, value: Any, cure: str) -> None:
    with pytest.raises(SceneCompletionError, match=cure) as caught:
        declared(context, **{name: value})
    assert caught.value.where == f"parameter {name}"
