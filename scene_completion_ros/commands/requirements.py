"""What this package requires, what of that is installed, and how to install the rest."""

import importlib
import sys
from importlib.metadata import PackageNotFoundError, metadata, requires, version
from typing import Any

PACKAGE = "scene_completion_ros"
# Modules with another name than their distribution. A ROS 2 distribution may bring them without Python's metadata.
MODULES = {"opencv-python-headless": "cv2", "protobuf": "google", "pyyaml": "yaml", "ros-rclpy": "rclpy"}


def required(extra: str = "") -> dict[str, Any]:
    """Specifiers (`packaging.specifiers.SpecifierSet`) by name of what this package, or one of its extras, requires.

    Raises PackageNotFoundError where the package is not installed.
    """
    from packaging.requirements import Requirement

    def applies(one: Requirement, extra: str) -> bool:
        return one.marker is None or one.marker.evaluate({"extra": extra})

    declared = map(Requirement, requires(PACKAGE) or [])
    return {one.name: one.specifier for one in declared if applies(one, extra) and not (extra and applies(one, ""))}


def module_of(distribution: str) -> str:
    """What Python code imports of a distribution."""
    return MODULES.get(distribution, distribution.replace("-", "_"))


def how_to_install(module: str, preferred: str) -> str:
    """What to do where a module, named without those within, is missing; `preferred`: of several extras with it."""
    try:
        extras = set(metadata(PACKAGE).get_all("Provides-Extra") or []) - {"test", "lint", "docs"}  # of developers
        own = module in map(module_of, required())
        bringing = [extra for extra in sorted(extras) if module in map(module_of, required(extra))]
    except ModuleNotFoundError:  # of this package's metadata, or of packaging
        own, bringing = False, []
    extra = preferred if preferred in bringing else next(iter(bringing), "")
    wanted = f"{PACKAGE}[{extra}]" if extra else PACKAGE if own else module
    command = f"nstall it with: {sys.executable} -m pip install '{wanted}'"
    if bringing == ["ros"]:
        return f"Source a ROS 2 distribution, or i{command}. scene-completion replay --offline needs none"
    return f"I{command}" + (", or in a checkout: make test-environment" if bringing else "")


def installed_version(name: str) -> str | None:
    """Version of an installed distribution, or of its module where it has no metadata; None where there is neither."""
    try:
        return version(name)
    except PackageNotFoundError:
        pass
    try:
        return str(getattr(importlib.import_module(module_of(name)), "__version__", "0+unknown"))
    except Exception:  # of a package that is there and broken, anything
        return None
