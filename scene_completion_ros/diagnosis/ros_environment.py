"""ROS 2: which one is there, whether it loads, what the environment makes of it, and the profile of Fast DDS."""

import importlib
import os
import platform
import sys
import xml.etree.ElementTree as ElementTree
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from scene_completion_ros.diagnosis.check import Finding, failed, in_words, not_applicable, ok, warning
from scene_completion_ros.errors import SceneCompletionError
from scene_completion_ros.ros import dds
from scene_completion_ros.ros.dds import middleware_of_a_node, rclpy_version

INSTALL_WHEELS = "pip install '.[ros]' in a checkout of scene_completion_ros, or source a ROS 2 distribution"
DISTRIBUTIONS = {3: "Humble", 7: "Jazzy", 9: "Kilted"}  # by the first number of rclpy
FIRST_RCLPY_WITH_DISCOVERY_RANGE = 4  # Iron
DISCOVERY_RANGES = ("SUBNET", "LOCALHOST", "OFF", "SYSTEM_DEFAULT")
HIGHEST_DOMAIN, HIGHEST_SAFE_DOMAIN = 232, 101  # beyond the latter the ports are those that Linux lends to programs
WHEELS_MARK = "_ROS_WHEELS_BOOTSTRAP_COMPLETE"
IMAGE_BYTES = 3 * 1280 * 720  # rgb8
DEFAULT_SEGMENT_BYTES = 512 * 1024

# What is lost without a package, beside the module that shows that it is there.
OPTIONAL = {
    "tf2_ros": "voxels come in the frame of their image, which needs no tf; bringing them into another frame needs it",
    "cv_bridge": "nothing is lost: images are decoded without it",
    "launch_ros": "ros2 launch does not work; start the node with: python -m scene_completion_ros.ros.node",
    "image_transport": "the node reads raw and compressed topics itself; republishing other transports needs it",
}


def sourced_prefixes() -> list[str]:
    """Sourced installations of ROS 2 that hold rclpy, other than this environment."""
    own = Path(sys.prefix).resolve()
    return [prefix for prefix in _prefixes() if Path(prefix).resolve() != own and _has_package(prefix, "rclpy")]


def check_ros(details: dict[str, Any]) -> Finding:
    """Is rclpy importable, and whose is it?"""
    distribution = os.environ.get("ROS_DISTRO")
    number, wheels = rclpy_version()
    details.update(ros_distro=distribution, rclpy=number, wheels=wheels)
    if not find_spec("rclpy") and distribution:
        found = f"ROS_DISTRO is {distribution}, but Python {platform.python_version()} finds no rclpy"
        return failed(
            found, f"Source it (. /opt/ros/{distribution}/setup.bash) and use the Python that it was made for"
        )
    if not find_spec("rclpy"):
        found = "not there: `complete` and `replay --offline` work, the node and other replays do not"
        return warning(found, INSTALL_WHEELS)
    os.environ.pop("RMW_IMPLEMENTATION", None)  # which is looked at by itself
    importlib.import_module("rclpy")
    name = distribution or DISTRIBUTIONS.get(_major(number), "unknown distribution")
    where = "from wheels" if wheels else f"in {', '.join(sourced_prefixes()) or 'this Python'}"
    return ok(f"{name}, rclpy {number or 'of unknown version'} {where}")


def import_cure() -> str:
    """What to do where rclpy cannot be imported."""
    _, wheels = rclpy_version()
    libraries = os.environ.get("LD_LIBRARY_PATH", "").split(os.pathsep)
    if wheels and os.environ.get(WHEELS_MARK) and str(Path(sys.prefix) / "lib") not in libraries:
        return f"Started from another environment with ROS 2 wheels: unset {WHEELS_MARK} LD_LIBRARY_PATH"
    if wheels:
        return "pip install --force-reinstall 'ros-rclpy[fastrtps]' ros-common-interfaces"
    return "Use the Python that the distribution was made for, and source its setup.bash in this shell"


def check_mixture(details: dict[str, Any]) -> Finding:
    """Is a sourced distribution mixed with wheels?"""
    details.update(wheels=rclpy_version()[1], sourced=sourced_prefixes())
    if details["wheels"] and details["sourced"]:
        sourced = ", ".join(details["sourced"])
        return failed(
            f"the wheels of ROS 2 in {sys.prefix} and the sourced {sourced}: their libraries get mixed",
            "Use the wheels in a shell that sources no setup.bash, or an environment without them "
            "(python3 -m venv --system-site-packages) for the distribution",
        )
    return ok("only the wheels" if details["wheels"] else "only a distribution")


def check_middleware(details: dict[str, Any]) -> Finding:
    """Does the RMW implementation load, and can a node join the graph?"""
    details["chosen"] = os.environ.get("RMW_IMPLEMENTATION")
    try:
        details["implementation"] = middleware_of_a_node("scene_completion_doctor")
    except ImportError as error:
        return failed(f"no node can start: {in_words(error)}", import_cure())
    except SceneCompletionError as error:
        return failed(f"no node can start: {error.what}", middleware_cure())
    return ok(f"{details['implementation']}; a node could join the graph")


def middleware_cure() -> str:
    """What to do where no node can start."""
    chosen = os.environ.get("RMW_IMPLEMENTATION")
    if chosen and "fastrtps" not in chosen:
        return f"unset RMW_IMPLEMENTATION, or install it: {_apt(chosen)}"
    if os.environ.get("ROS_SECURITY_ENABLE", "").lower() == "true":
        return "Check the keystore of ROS_SECURITY_KEYSTORE, or unset ROS_SECURITY_ENABLE"
    return (
        "See whether `python -c 'import rclpy; rclpy.init()'` says more; a wrong ROS_* variable is the usual cause, or "
        "a home that this user may not write: then set ROS_LOG_DIR"
    )


def check_discovery(details: dict[str, Any]) -> Finding:
    """Do ROS_DOMAIN_ID and the discovery range make sense?"""
    domain, reach = os.environ.get("ROS_DOMAIN_ID") or "0", os.environ.get("ROS_AUTOMATIC_DISCOVERY_RANGE")
    local = os.environ.get("ROS_LOCALHOST_ONLY")
    details.update(domain=domain, range=reach, localhost_only=local)
    summary = f"domain {domain}, range {reach or 'SUBNET (the default)'}"
    summary += f", ROS_LOCALHOST_ONLY={local}" if local else ""
    another = f"export ROS_DOMAIN_ID=0, or another number up to {HIGHEST_SAFE_DOMAIN}, the same on every machine"
    if not domain.isdecimal() or int(domain) > HIGHEST_DOMAIN:
        return failed(f"ROS_DOMAIN_ID={domain} is no number from 0 to {HIGHEST_DOMAIN}", another)
    if reach and 0 < _major(rclpy_version()[0]) < FIRST_RCLPY_WITH_DISCOVERY_RANGE:
        cure = "export ROS_LOCALHOST_ONLY=1 to stay on this machine"
        return warning(f"{summary}; this ROS 2 does not know the range yet", cure)
    if reach and reach not in DISCOVERY_RANGES:
        cure = f"export ROS_AUTOMATIC_DISCOVERY_RANGE to one of {', '.join(DISCOVERY_RANGES)}"
        return warning(f"{summary}, which does not exist: LOCALHOST is assumed", cure)
    if reach == "OFF":
        cure = "export ROS_AUTOMATIC_DISCOVERY_RANGE=SUBNET, or LOCALHOST to stay on this machine"
        return warning(f"{summary}: no node finds another one", cure)
    if int(domain) > HIGHEST_SAFE_DOMAIN:
        return warning(f"{summary}: its ports may be taken by other programs", another)
    return ok(summary)


def check_optional(name: str, details: dict[str, Any]) -> Finding:
    """Is a package there that one can do without, and if not, what is lost?"""
    spec = find_spec(name)
    there = any(_has_package(prefix, name) for prefix in [sys.prefix, *_prefixes()])
    details["installed"] = there or bool(spec is not None and spec.origin)
    if details["installed"]:
        return ok("found")
    found = f"not installed: {OPTIONAL[name]}"
    return not_applicable(found) if name == "cv_bridge" or not sourced_prefixes() else warning(found, _apt(name))


def check_profile(details: dict[str, Any]) -> Finding:
    """Is a profile chosen, can it be read, and has its segment room for an image?"""
    middleware = os.environ.get("RMW_IMPLEMENTATION", "")
    if middleware and "fastrtps" not in middleware:
        return not_applicable(f"RMW_IMPLEMENTATION is {middleware}")
    variable = dds.profile_variable()
    path = os.environ.get(variable, "")
    if variable == dds.PROFILE_VARIABLE and not path:  # rmw_fastrtps still reads the old name
        path = os.environ.get(dds.OLD_PROFILE_VARIABLE, "")
        variable = dds.OLD_PROFILE_VARIABLE if path else variable
    transports = os.environ.get("FASTDDS_BUILTIN_TRANSPORTS")
    details.update(variable=variable, file=path, builtin_transports=transports)
    export = f"export {dds.profile_variable()}={dds.profile_path()}"
    if not path:
        other = f" (FASTDDS_BUILTIN_TRANSPORTS is {transports})" if transports else ""
        found = f"none chosen{other}: the node brings its own, but camera drivers, bag players and viewers started here"
        return warning(f"{found} lose images above 0.5 MB for best-effort readers", export)
    try:
        size = details["segment_bytes"] = segment_bytes(Path(path))
    except OSError as error:
        return failed(f"{variable}={path}: {error.strerror}", export)
    except (ElementTree.ParseError, ValueError) as error:
        return failed(f"{variable}={path} is no profile: {error}", export)
    if size is None:
        return failed(f'{path} has no participant with is_default_profile="true", so nodes do not take it', export)
    if not size:
        return warning(f"{path} uses no shared memory", export)
    found = f"{path} has a shared-memory segment of {size / 1e6:.2f} MB"
    if size < IMAGE_BYTES:
        found += f", a raw image of 1280x720 has {IMAGE_BYTES / 1e6:.2f} MB"
        return failed(found, f"{export}, or enlarge segment_size")
    return ok(found)


def segment_bytes(path: Path) -> int | None:
    """Size of the shared-memory segment in a profile of Fast DDS; 0 without shared memory, None if nodes ignore it.

    Raises OSError, ElementTree.ParseError; ValueError where a size is no number.
    """
    root = ElementTree.parse(path).getroot()
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
    participant = next((p for p in root.iter("participant") if p.get("is_default_profile") == "true"), None)
    if participant is None:
        return None
    segments = {
        _text(descriptor, "transport_id"): int(_text(descriptor, "segment_size") or DEFAULT_SEGMENT_BYTES)
        for descriptor in root.iter("transport_descriptor")
        if _text(descriptor, "type").upper() == "SHM"
    }
    chosen = [(element.text or "").strip() for element in participant.iterfind(".//userTransports/transport_id")]
    sizes = [segments[name] for name in chosen if name in segments]
    if _text(participant, ".//useBuiltinTransports").lower() != "false":
        sizes.append(DEFAULT_SEGMENT_BYTES)
    return max(sizes, default=0)


def _prefixes() -> list[str]:
    return [prefix for prefix in os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep) if prefix]


def _has_package(prefix: str, name: str) -> bool:
    return Path(prefix, "share/ament_index/resource_index/packages", name).is_file()


def _apt(name: str) -> str:
    return f"sudo apt install ros-{os.environ.get('ROS_DISTRO', '<distribution>')}-{name.replace('_', '-')}"


def _major(number: str | None) -> int:
    first = (number or "").partition(".")[0]
    return int(first) if first.isdecimal() else 0


def _text(element: ElementTree.Element, name: str) -> str:
    return (element.findtext(name) or "").strip()
