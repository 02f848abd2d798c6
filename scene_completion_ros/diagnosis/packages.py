"""Python and the packages that this one requires, as its own metadata state them."""

import importlib
import platform
import re
import sys
from importlib.metadata import PackageNotFoundError, metadata, requires, version
from typing import Any

from scene_completion_ros.diagnosis.check import Finding, failed, ok, warning

PACKAGE = "scene_completion_ros"
UNKNOWN = f"{PACKAGE} is not installed, so what it needs is unknown"
INSTALL = "From a checkout of scene_completion_ros: pip install ."
# Modules that are not called like their distribution. A ROS 2 distribution may bring them without Python's metadata.
MODULES = {"opencv-python-headless": "cv2", "protobuf": "google", "pyyaml": "yaml", "ros-rclpy": "rclpy"}
INSTEAD = {"openvino": "onnxruntime"}  # either runs the encoder
FOR_DEVELOPERS = {"test", "lint", "docs"}  # extras without anything that a command needs
REQUIREMENT = re.compile(r"(?P<name>[\w.-]+)\s*(\[[^]]*\])?\s*\(?(?P<specifier>[^;)]*)\)?\s*(;(?P<marker>.*))?")
EXTRA = re.compile(r"""\bextra\s*==\s*["']([\w-]+)["']""")


def check_python(details: dict[str, Any]) -> Finding:
    """Is this version of Python supported?"""
    from packaging.specifiers import SpecifierSet

    found = platform.python_version()
    details.update(version=found, executable=sys.executable, prefix=sys.prefix)
    try:
        needed = metadata(PACKAGE)["Requires-Python"] or ""
    except PackageNotFoundError:
        return warning(f"{found}; {UNKNOWN}", INSTALL)
    if SpecifierSet(needed).contains(found, prereleases=True):
        return ok(f"{found} in {sys.prefix}")
    return failed(f"{found}, {needed} is needed", f"Make an environment with a Python {needed}: make demo PYTHON=...")


def check_packages(details: dict[str, Any]) -> Finding:
    """Are the required packages there, and new enough?"""
    from packaging.specifiers import SpecifierSet

    try:
        needed = {name: SpecifierSet(specifier) for name, specifier in required().items()}
    except PackageNotFoundError:
        return warning(UNKNOWN, INSTALL)
    found = {name: installed_version(name) for name in needed}
    details |= {name: {"required": str(needed[name]), "found": number} for name, number in found.items()}
    missing = [name for name, number in found.items() if number is None]
    replaced = {name: INSTEAD[name] for name in missing if name in INSTEAD and installed_version(INSTEAD[name])}
    wrong = [name for name in missing if name not in replaced]
    wrong += [name for name, number in found.items() if number and not needed[name].contains(number, prereleases=True)]
    if wrong:
        parts = [f"{name} {found[name] or 'is missing'} ({needed[name] or 'any version'} is needed)" for name in wrong]
        quoted = " ".join(f"'{name}{needed[name]}'" for name in wrong)
        return failed(", ".join(parts), f"{sys.executable} -m pip install {quoted}")
    parts = [f"{name} {number}" for name, number in found.items() if number]
    return ok(", ".join([*parts, *(f"{other} in the place of {name}" for name, other in replaced.items())]))


def required(extra: str | None = None) -> dict[str, str]:
    """Version specifiers by name of what this package requires, of no or an extra. Raises PackageNotFoundError."""
    declared = filter(None, (REQUIREMENT.fullmatch(text) for text in requires(PACKAGE) or []))
    wanted = [] if extra is None else [extra]
    return {one["name"]: one["specifier"].strip() for one in declared if EXTRA.findall(one["marker"] or "") == wanted}


def module_of(distribution: str) -> str:
    """What Python code imports of a distribution."""
    return MODULES.get(distribution, distribution.replace("-", "_"))


def how_to_install(module: str, preferred: str) -> str:
    """What to do where a module, named without those within, is missing; `preferred`: of several extras with it."""
    try:
        extras = set(metadata(PACKAGE).get_all("Provides-Extra") or []) - FOR_DEVELOPERS
        own = module in map(module_of, required())
        bringing = [extra for extra in sorted(extras) if module in map(module_of, required(extra))]
    except PackageNotFoundError:
        own, bringing = False, []
    extra = preferred if preferred in bringing else next(iter(bringing), "")
    wanted = f"{PACKAGE}[{extra}]" if extra else PACKAGE if own else module
    command = f"{sys.executable} -m pip install '{wanted}'"
    if bringing == ["ros"]:
        return (
            f"Source a ROS 2 distribution, or install it with: {command}. scene-completion replay --offline needs none"
        )
    return f"Install it with: {command}" + (", or in a checkout: make test-environment" if bringing else "")


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
