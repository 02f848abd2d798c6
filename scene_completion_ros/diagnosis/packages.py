"""Python and the packages that this one requires, as its own metadata state them."""

import operator
import platform
import re
import sys
from importlib.metadata import PackageNotFoundError, metadata, requires, version
from itertools import zip_longest

from scene_completion_ros.diagnosis.child import Finding, ProbeError, Status, run_probe

PACKAGE = "scene_completion_ros"
INSTALL = "From a checkout of scene_completion_ros: pip install ."
# Modules that are not called like their distribution. A ROS 2 distribution may bring them without Python's metadata.
MODULES = {"opencv-python-headless": "cv2", "protobuf": "google", "pyyaml": "yaml", "ros-rclpy": "rclpy"}
INSTEAD = {"openvino": "onnxruntime"}  # either runs the encoder
IMPORT_LIMIT_S = 60.0

FOR_DEVELOPERS = {"test", "lint", "docs"}  # extras without anything that a command needs

REQUIREMENT = re.compile(r"(?P<name>[\w.-]+)\s*(\[[^]]*\])?\s*\(?(?P<specifier>[\d\s.,<>=!~*]*)\)?\s*(?P<marker>;.*)?")
EXTRA = re.compile(r"""\bextra\s*==\s*["']([\w-]+)["']""")
CLAUSE = re.compile(r"\s*(>=|<=|==|!=|>|<)\s*([\d.]+)\s*")
COMPARISONS = {">=": operator.ge, "<=": operator.le, "==": operator.eq}
COMPARISONS |= {"!=": operator.ne, ">": operator.gt, "<": operator.lt}


def check_python() -> Finding:
    """Is this version of Python supported?"""
    found = platform.python_version()
    details = {"version": found, "executable": sys.executable, "prefix": sys.prefix}
    try:
        needed = metadata(PACKAGE)["Requires-Python"]
    except PackageNotFoundError:
        return Finding(Status.WARNING, f"{found}; {PACKAGE} is not installed, so what it needs is unknown", INSTALL)
    if not needed or satisfies(found, needed):
        return Finding(Status.OK, f"{found} in {sys.prefix}", details=details)
    cure = f"Make an environment with a Python {needed}, as in: make demo PYTHON=python3.12"
    return Finding(Status.FAILED, f"{found}, {needed} is needed", cure, details)


def check_packages() -> Finding:
    """Are the required packages there, and new enough?"""
    try:
        needed = requirements(requires(PACKAGE) or [])
    except PackageNotFoundError:
        return Finding(Status.WARNING, f"{PACKAGE} is not installed, so what it needs is unknown", INSTALL)
    found = {name: installed_version(name) for name in needed}
    missing = [name for name, number in found.items() if number is None]
    replaced = {name: INSTEAD[name] for name in missing if name in INSTEAD and installed_version(INSTEAD[name])}
    wrong = [name for name in missing if name not in replaced]
    wrong += [name for name, number in found.items() if number and not satisfies(number, needed[name])]
    details = {name: {"required": needed[name], "found": number} for name, number in found.items()}
    if wrong:
        parts = [f"{name} {found[name] or 'is missing'} ({needed[name] or 'any version'} is needed)" for name in wrong]
        quoted = " ".join(f"'{name}{needed[name]}'" for name in wrong)
        return Finding(Status.FAILED, ", ".join(parts), f"{sys.executable} -m pip install {quoted}", details)
    parts = [f"{name} {number}" for name, number in found.items() if number]
    parts += [f"{other} in the place of {name}" for name, other in replaced.items()]
    return Finding(Status.OK, ", ".join(parts), details=details)


def requirements(declared: list[str], extra: str | None = None) -> dict[str, str]:
    """Version specifiers by name, of no or an extra. Raises ValueError where a requirement is written otherwise."""
    found = {}
    for text in declared:
        match = REQUIREMENT.fullmatch(text.strip())
        if match is None:
            raise ValueError(f"requirement {text!r} is not understood")
        if EXTRA.findall(match["marker"]) == [extra] if match["marker"] else extra is None:
            found[match["name"]] = match["specifier"].strip()
    return found


def module_of(distribution: str) -> str:
    """What Python code imports of a distribution."""
    return MODULES.get(distribution, distribution.replace("-", "_"))


def how_to_install(module: str, preferred: str) -> str:
    """What to do where a module, named without those within, is missing; `preferred`: of several extras with it."""
    try:
        declared = requires(PACKAGE) or []
    except PackageNotFoundError:
        declared = []
    extras = sorted(set(EXTRA.findall(" ".join(declared))) - FOR_DEVELOPERS, key=lambda extra: extra != preferred)
    bringing = [extra for extra in extras if module in map(module_of, requirements(declared, extra))]
    own = module in map(module_of, requirements(declared))
    wanted = f"{PACKAGE}[{bringing[0]}]" if bringing else PACKAGE if own else module
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
        found = run_probe("module", module_of(name), limit_s=IMPORT_LIMIT_S)["version"]
    except ProbeError:
        return None
    return str(found or "of unknown version")


def satisfies(number: str, specifier: str) -> bool:
    """Whether a release fits all clauses of a specifier. Raises ValueError where it has an unknown clause."""
    release = _release(number)
    for clause in filter(str.strip, specifier.split(",")):
        match = CLAUSE.fullmatch(clause)
        if match is None:
            raise ValueError(f"version specifier {specifier!r} is not understood")
        pairs = list(zip_longest(release, _release(match[2]), fillvalue=0))
        if not COMPARISONS[match[1]]([mine for mine, _ in pairs], [needed for _, needed in pairs]):
            return False
    return True


def _release(number: str) -> list[int]:
    match = re.match(r"\d+(\.\d+)*", number)
    return [int(part) for part in match[0].split(".")] if match else []
