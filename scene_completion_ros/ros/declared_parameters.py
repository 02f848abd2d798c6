"""The schema of the parameters on a running rclpy node: declared, read, checked at every change."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor, SetParametersResult
from rclpy.exceptions import InvalidParameterTypeException, InvalidParameterValueException
from rclpy.lifecycle import LifecycleNode

from scene_completion_ros.errors import SceneCompletionError
from scene_completion_ros.ros.parameters import SCHEMA, NodeParameters, ParameterSpec, ParameterValue, unknown_parameter


class ExplainingNode(LifecycleNode):  # type: ignore[misc]  # rclpy has no types where it is not installed
    """A managed rclpy node that explains with the schema why it refuses a parameter change of another node.

    By itself rclpy gives the numbers of types ("expected '2' got '3'"), and no near name for an unknown one.
    """

    def set_parameters_atomically(self, parameter_list: Sequence[Any]) -> Any:
        """Set all of them or none; the answer to requests of others as well."""
        reasons = [self._refusal(change) for change in parameter_list]
        if any(reasons):
            return SetParametersResult(successful=False, reason="; ".join(filter(None, reasons)))
        return super().set_parameters_atomically(parameter_list)

    def _refusal(self, change: Any) -> str | None:
        if not self.has_parameter(change.name):
            return unknown_parameter(change.name)
        spec = next((spec for spec in SCHEMA if spec.name == change.name), None)
        if spec is None:
            return None
        if not spec.live:
            return f"parameter {spec.name} is read-only: give it when the node starts"
        problem = spec.problem(change.value)
        return f"parameter {spec.name}: {problem}" if problem else None


class DeclaredParameters:
    """Declares all parameters on a node, and from then on refuses changes that cannot be used.

    A warning names what was given for this node (parameter file, command line) under a name that no parameter has. A
    value at the start may be no choice or no existing path: the node may have to exist before its folders do. It stays
    in the node until `checked` reads it. Raises SceneCompletionError where a given value is of another type or out of
    range, so that a node cannot hold it. `check_change`: called with what the values would be after a live change, in
    the thread that asks for it; raises SceneCompletionError to refuse it.
    """

    def __init__(self, node: Any, check_change: Callable[[NodeParameters], None] = lambda _: None) -> None:
        self._node, self._check_change = node, check_change
        values: dict[str, Any] = {spec.field: declare(node, spec) for spec in SCHEMA}
        self._at_start = NodeParameters(**values)
        # rclpy has no public way to ask what was given; rclcpp calls it get_parameter_overrides.
        for name in getattr(node, "_parameter_overrides", {}):
            if not node.has_parameter(name):
                node.get_logger().warning(unknown_parameter(name))
        node.add_on_set_parameters_callback(self._on_change)

    def snapshot(self) -> NodeParameters:
        """The values of now, which later changes leave as they are.

        They are read from the node, not kept by the callback: after ours, another callback may still refuse a change.
        To be called in callbacks of the node's default group, as rclpy answers requests for changes there too; then no
        change is half done.
        """
        live: dict[str, Any] = {spec.field: self._node.get_parameter(spec.name).value for spec in SCHEMA if spec.live}
        return replace(self._at_start, **live)

    def checked(self) -> NodeParameters:
        """The values of now. Raises SceneCompletionError where one is none of the choices or no existing path."""
        parameters = self.snapshot()
        for spec in SCHEMA:
            problem = spec.problem(getattr(parameters, spec.field))
            if problem:
                raise SceneCompletionError(problem, where=f"parameter {spec.name}")
        return parameters

    def _on_change(self, changes: Sequence[Any]) -> Any:
        """Answer to any change, also of this process; each value was found right by itself: see `ExplainingNode`."""
        wanted = {change.name: change.value for change in changes}
        specs = [spec for spec in SCHEMA if spec.name in wanted]
        changed: dict[str, Any] = {spec.field: wanted[spec.name] for spec in specs}
        try:
            if changed:
                self._check_change(replace(self.snapshot(), **changed))
        except SceneCompletionError as error:
            names = ", ".join(spec.name for spec in specs)
            return SetParametersResult(successful=False, reason=f"parameter {names}: {error}")
        return SetParametersResult(successful=True)


def declare(node: Any, spec: ParameterSpec) -> ParameterValue:
    """Declare a parameter; its given or default value. Raises SceneCompletionError: given of another type or range."""
    try:
        value: ParameterValue = node.declare_parameter(spec.name, spec.default, descriptor(spec)).value
    except (InvalidParameterTypeException, InvalidParameterValueException) as error:
        cure = f"It must be of type {spec.type_name}: {spec.allowed}"
        raise SceneCompletionError(str(error), where=f"parameter {spec.name}", cure=cure) from error
    return value


def descriptor(spec: ParameterSpec) -> Any:
    """The rcl_interfaces/ParameterDescriptor of a parameter."""
    made = ParameterDescriptor(description=spec.meaning, read_only=not spec.live)
    if spec.bounds and isinstance(spec.default, float):
        low, high = map(float, spec.bounds)
        made.floating_point_range = [FloatingPointRange(from_value=low, to_value=high, step=0.0)]
    elif spec.bounds:
        made.integer_range = [IntegerRange(from_value=int(spec.bounds[0]), to_value=int(spec.bounds[1]), step=1)]
    elif spec.choices or spec.path:
        made.additional_constraints = spec.allowed
    return made
