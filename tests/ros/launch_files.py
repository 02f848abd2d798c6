"""Launch files without `launch`: what they declare and would start, and the command lines of that."""

import ast
import importlib.util
import sys
from collections.abc import ItemsView, KeysView, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
LAUNCH = REPOSITORY / "launch"
ACTIONS = REPOSITORY / "scene_completion_ros" / "ros" / "launching" / "actions.py"
SUBSTITUTIONS = ("LaunchConfiguration", "PathJoinSubstitution", "FindPackageShare")


class Recorded:
    """Stands in for any class of launch and launch_ros: keeps what it was made with."""

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        self.arguments, self.settings = arguments, settings

    @property
    def kind(self) -> str:
        return type(self).__name__

    def perform(self, context: Mapping[str, str]) -> str:
        """The text of a substitution."""
        if self.kind == "FindPackageShare":
            return str(REPOSITORY)
        if self.kind == "PathJoinSubstitution":
            return "/".join(resolved(part, context) for part in self.arguments[0])
        return context[self.arguments[0]]


class LaunchFile:
    """A launch file, executed with stand-ins for the classes of launch and launch_ros.

    Attributes:
        entities: What its launch description holds.
    """

    def __init__(self, path: Path, patch: pytest.MonkeyPatch) -> None:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        shared = ast.parse(ACTIONS.read_text(encoding="utf-8"))
        for node in (*tree.body, *shared.body):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("launch"):
                for name in (node.module, node.module.split(".")[0]):
                    if not isinstance(sys.modules.get(name), SimpleNamespace):
                        patch.setitem(sys.modules, name, SimpleNamespace(__path__=[]))  # type: ignore[arg-type]
                for alias in node.names:
                    setattr(sys.modules[node.module], alias.name, type(alias.name, (Recorded,), {}))
        patch.delitem(sys.modules, "scene_completion_ros.ros.launching.actions", raising=False)
        module: dict[str, Any] = {"__name__": "launch_file"}
        exec(compile(tree, str(path), "exec"), module)  # noqa: S102 - our own file
        (found,) = module["generate_launch_description"]().arguments
        self.entities: list[Recorded] = list(found)

    def of_kind(self, kind: str) -> list[Recorded]:
        return [entity for entity in self.entities if entity.kind == kind]

    def declared(self) -> dict[str, dict[str, Any]]:
        """Launch argument -> default, description, choices."""
        return {entity.arguments[0]: entity.settings for entity in self.of_kind("DeclareLaunchArgument")}

    def context(self, **given: str) -> dict[str, str]:
        """Values of all launch arguments: those given, else the defaults."""
        assert set(given) <= set(self.declared())
        defaults = {name: settings["default_value"] for name, settings in self.declared().items()}
        return {name: resolved(value, {}) for name, value in {**defaults, **given}.items() if value is not None}

    def started(self, **given: str) -> list[Recorded]:
        """What it starts with these launch arguments."""
        (opaque,) = self.of_kind("OpaqueFunction")
        found: list[Recorded] = opaque.settings["function"](self.context(**given))
        return found


def as_text(value: Any, context: Mapping[str, str]) -> Any:
    """All that an entity, or a setting of one, was made with, in a form that can be compared; RViz files are read."""
    if isinstance(value, Recorded) and value.kind in SUBSTITUTIONS:
        return value.perform(context)
    if isinstance(value, Recorded):
        return value.kind, as_text(value.arguments, context), as_text(value.settings, context)
    if isinstance(value, Mapping):
        return [(name, as_text(part, context)) for name, part in value.items()]
    if isinstance(value, list | tuple | KeysView | ItemsView):
        return [as_text(part, context) for part in value]
    if isinstance(value, str) and value.endswith(".rviz") and Path(value).is_file():
        return Path(value).read_text(encoding="utf-8")
    return value


def resolved(value: Any, context: Mapping[str, str]) -> Any:
    """A setting with the launch arguments put in."""
    return value.perform(context) if isinstance(value, Recorded) else value


def launch_can_run() -> bool:
    """Whether launch, launch_ros and this package are installed for real."""
    for name in ("launch", "launch_ros", "ament_index_python"):
        spec = importlib.util.find_spec(name)
        if spec is None or spec.origin is None:  # the folder `launch/` of a checkout looks like a package as well
            return False
    from ament_index_python.packages import PackageNotFoundError, get_package_share_directory

    try:
        get_package_share_directory("scene_completion_ros")
    except PackageNotFoundError:
        return False
    return True
