"""What this package requires, what of that is installed, and how to install the rest."""

import sys
from contextlib import suppress
from importlib import import_module, metadata
from typing import Any

PACKAGE = "scene_completion_ros"
# Modules with another name than their distribution. A ROS 2 distribution may bring them without Python's metadata.
MODULES = {"opencv-python-headless": "cv2", "pyyaml": "yaml", "ros-rclpy": "rclpy"}
OF_DEVELOPERS = {"test", "lint", "docs"}  # extras


def required(extra: str = "") -> dict[str, Any]:
    """Specifiers (`packaging.specifiers.SpecifierSet`) by name of what this package, or one of its extras, requires.

    Raises PackageNotFoundError where the package is not installed.
    """
    from packaging.requirements import Requirement

    own = required() if extra else {}
    declared = map(Requirement, metadata.requires(PACKAGE) or [])
    needed = [one for one in declared if one.marker is None or one.marker.evaluate({"extra": extra})]
    return {one.name: one.specifier for one in needed if one.name not in own}


def module_of(distribution: str) -> str:
    """What Python code imports of a distribution."""
    return MODULES.get(distribution, distribution.replace("-", "_"))


def how_to_install(module: str, preferred: str) -> str:
    """What to do where a module, named without those within, is missing; `preferred`: of several extras with it."""
    own, bringing = False, list[str]()
    with suppress(ModuleNotFoundError):  # of this package's metadata, or of packaging
        extras = set(metadata.metadata(PACKAGE).get_all("Provides-Extra") or []) - OF_DEVELOPERS
        own = module in map(module_of, required())
        bringing = [extra for extra in sorted(extras) if module in map(module_of, required(extra))]
    extra = preferred if preferred in bringing else next(iter(bringing), "")
    wanted = f"{PACKAGE}[{extra}]" if extra else PACKAGE if own else module
    command = f"nstall it with: {sys.executable} -m pip install '{wanted}'"
    if bringing == ["ros"]:
        return f"Source a ROS 2 distribution, or i{command}. scene-completion replay --offline needs none"
    return f"I{command}" + (", or in a checkout: make test-environment" if bringing else "")


def installed_version(name: str) -> str | None:
    """Version of an installed distribution, or of its module where it has no metadata; None where there is neither."""
    with suppress(metadata.PackageNotFoundError):
        return metadata.version(name)
    with suppress(Exception):  # of a package that is there and broken, anything
        return str(getattr(import_module(module_of(name)), "__version__", "0+unknown"))
    return None
