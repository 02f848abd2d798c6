"""ROS 2: which one is there, whether it loads, what the environment makes of it, and the profile of Fast DDS."""

import os
import platform
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from scene_completion_ros.diagnosis.child import Finding, ProbeError, Status, run_probe
from scene_completion_ros.ros import dds
from scene_completion_ros.ros.dds import rclpy_version

LOAD_LIMIT_S = 60.0
NO_ROS = Finding(Status.NOT_APPLICABLE, "rclpy is not there")
INSTALL_WHEELS = "pip install '.[ros]' in a checkout of scene_completion_ros, or source a ROS 2 distribution"
DISTRIBUTIONS = {3: "Humble", 7: "Jazzy", 9: "Kilted"}  # by the first number of rclpy
FIRST_RCLPY_WITH_DISCOVERY_RANGE = 4  # Iron
DISCOVERY_RANGES = ("SUBNET", "LOCALHOST", "OFF", "SYSTEM_DEFAULT")
HIGHEST_DOMAIN, HIGHEST_SAFE_DOMAIN = 232, 101  # beyond the latter the ports are those that Linux lends to programs
WHEELS_MARK = "_ROS_WHEELS_BOOTSTRAP_COMPLETE"

# What is lost without a package, beside the module that shows that it is there.
OPTIONAL = {
    "tf2_ros": "voxels come in the frame of their image, which needs no tf; bringing them into another frame needs it",
    "cv_bridge": "nothing is lost: images are decoded without it",
    "launch_ros": "ros2 launch does not work; start the node with: python -m scene_completion_ros.ros.node",
    "image_transport": "the node reads raw and compressed topics itself; republishing other transports needs it",
}


def has_rclpy() -> bool:
    """Whether there is an rclpy, working or not."""
    return find_spec("rclpy") is not None


def sourced_prefixes() -> list[str]:
    """Sourced installations of ROS 2 that hold rclpy, other than this environment."""
    prefixes = filter(None, os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep))
    own = Path(sys.prefix).resolve()
    return [prefix for prefix in prefixes if Path(prefix).resolve() != own and _has_package(prefix, "rclpy")]


def check_ros() -> Finding:
    """Is rclpy importable, and whose is it?"""
    distribution = os.environ.get("ROS_DISTRO")
    number, wheels = rclpy_version()
    details = {"ros_distro": distribution, "rclpy": number, "wheels": wheels}
    if not has_rclpy():
        if distribution:
            found = f"ROS_DISTRO is {distribution}, but Python {platform.python_version()} finds no rclpy"
            cure = f"Source it (. /opt/ros/{distribution}/setup.bash) and use the Python that it was made for"
            return Finding(Status.FAILED, found, cure, details)
        found = "not there: `complete` and `replay --offline` work, the node and other replays do not"
        return Finding(Status.WARNING, found, INSTALL_WHEELS, details)
    # Without RMW_IMPLEMENTATION, which is looked at by itself.
    environment = {name: value for name, value in os.environ.items() if name != "RMW_IMPLEMENTATION"}
    try:
        run_probe("module", "rclpy", limit_s=LOAD_LIMIT_S, environment=environment)
    except ProbeError as error:
        return Finding(Status.FAILED, f"rclpy cannot be imported: {error.what}", _import_cure(wheels), details)
    name = distribution or DISTRIBUTIONS.get(_major(number), "unknown distribution")
    where = "from wheels" if wheels else f"in {', '.join(sourced_prefixes()) or 'this Python'}"
    return Finding(Status.OK, f"{name}, rclpy {number or 'of unknown version'} {where}", details=details)


def _import_cure(wheels: bool) -> str:
    libraries = os.environ.get("LD_LIBRARY_PATH", "").split(os.pathsep)
    if wheels and os.environ.get(WHEELS_MARK) and str(Path(sys.prefix) / "lib") not in libraries:
        return f"Started from another environment with ROS 2 wheels: unset {WHEELS_MARK} LD_LIBRARY_PATH"
    if wheels:
        return "pip install --force-reinstall 'ros-rclpy[fastrtps]' ros-common-interfaces"
    return "Use the Python that the distribution was made for, and source its setup.bash in this shell"


def check_mixture() -> Finding:
    """Is a sourced distribution mixed with wheels?"""
    if not has_rclpy():
        return NO_ROS
    _, wheels = rclpy_version()
    sourced = sourced_prefixes()
    details = {"wheels": wheels, "sourced": sourced}
    if wheels and sourced:
        return Finding(
            Status.FAILED,
            f"the wheels of ROS 2 in {sys.prefix} and the sourced {', '.join(sourced)}: their libraries get mixed",
            "Use the wheels in a shell that sources no setup.bash, or an environment without them "
            "(python3 -m venv --system-site-packages) for the distribution",
            details,
        )
    return Finding(Status.OK, "only the wheels" if wheels else "only a distribution", details=details)


def check_middleware() -> Finding:
    """Does the RMW implementation load, and can a node join the graph?"""
    if not has_rclpy():
        return NO_ROS
    chosen = os.environ.get("RMW_IMPLEMENTATION")
    try:
        implementation = run_probe("middleware", limit_s=LOAD_LIMIT_S)["implementation"]
    except ProbeError as error:
        return Finding(
            Status.FAILED, f"no node can start: {error.what}", _middleware_cure(chosen, error), {"chosen": chosen}
        )
    details = {"chosen": chosen, "implementation": implementation}
    return Finding(Status.OK, f"{implementation}; a node could join the graph", details=details)


def _middleware_cure(chosen: str | None, error: ProbeError) -> str:
    if error.what.startswith("ImportError"):
        return _import_cure(rclpy_version()[1])
    if chosen and "fastrtps" not in chosen:
        package = f"ros-{os.environ.get('ROS_DISTRO', '<distribution>')}-{chosen.replace('_', '-')}"
        return f"unset RMW_IMPLEMENTATION, or install it: sudo apt install {package}"
    if os.environ.get("ROS_SECURITY_ENABLE", "").lower() == "true":
        return "Check the keystore of ROS_SECURITY_KEYSTORE, or unset ROS_SECURITY_ENABLE"
    return (
        "See whether `python -c 'import rclpy; rclpy.init()'` says more; a wrong ROS_* variable is the usual cause, or "
        "a home that this user may not write: then set ROS_LOG_DIR"
    )


def check_discovery() -> Finding:
    """Do ROS_DOMAIN_ID and the discovery range make sense?"""
    if not has_rclpy():
        return NO_ROS
    domain, reach = os.environ.get("ROS_DOMAIN_ID") or "0", os.environ.get("ROS_AUTOMATIC_DISCOVERY_RANGE")
    local = os.environ.get("ROS_LOCALHOST_ONLY")
    details = {"domain": domain, "range": reach, "localhost_only": local}
    summary = (
        f"domain {domain}, range {reach or 'SUBNET (the default)'}{f', ROS_LOCALHOST_ONLY={local}' if local else ''}"
    )
    if not domain.isdecimal() or int(domain) > HIGHEST_DOMAIN:
        cure = f"export ROS_DOMAIN_ID=0, or another number up to {HIGHEST_SAFE_DOMAIN}, the same on every machine"
        return Finding(Status.FAILED, f"ROS_DOMAIN_ID={domain} is no number from 0 to {HIGHEST_DOMAIN}", cure, details)
    if reach and 0 < _major(rclpy_version()[0]) < FIRST_RCLPY_WITH_DISCOVERY_RANGE:
        cure = "export ROS_LOCALHOST_ONLY=1 to stay on this machine"
        return Finding(Status.WARNING, f"{summary}; this ROS 2 does not know the range yet", cure, details)
    if reach and reach not in DISCOVERY_RANGES:
        cure = f"export ROS_AUTOMATIC_DISCOVERY_RANGE to one of {', '.join(DISCOVERY_RANGES)}"
        return Finding(Status.WARNING, f"{summary}, which does not exist: LOCALHOST is assumed", cure, details)
    if reach and reach == "OFF":
        cure = "export ROS_AUTOMATIC_DISCOVERY_RANGE=SUBNET, or LOCALHOST to stay on this machine"
        return Finding(Status.WARNING, f"{summary}: no node finds another one", cure, details)
    if int(domain) > HIGHEST_SAFE_DOMAIN:
        cure = f"export ROS_DOMAIN_ID=0, or another number up to {HIGHEST_SAFE_DOMAIN}, the same on every machine"
        return Finding(Status.WARNING, f"{summary}: its ports may be taken by other programs", cure, details)
    return Finding(Status.OK, summary, details=details)


def check_optional(name: str) -> Finding:
    """Is a package there that one can do without, and if not, what is lost?"""
    if not has_rclpy():
        return NO_ROS
    prefixes = [sys.prefix, *filter(None, os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep))]
    spec = find_spec(name)
    if (spec is not None and spec.origin) or any(_has_package(prefix, name) for prefix in prefixes):
        return Finding(Status.OK, "found", details={"installed": True})
    found, details = f"not installed: {OPTIONAL[name]}", {"installed": False}
    if name == "cv_bridge" or not sourced_prefixes():
        return Finding(Status.NOT_APPLICABLE, found, details=details)
    package = f"ros-{os.environ.get('ROS_DISTRO', '<distribution>')}-{name.replace('_', '-')}"
    return Finding(Status.WARNING, found, f"sudo apt install {package}", details)


def _has_package(prefix: str, name: str) -> bool:
    return Path(prefix, "share/ament_index/resource_index/packages", name).is_file()


def _major(number: str | None) -> int:
    first = (number or "").partition(".")[0]
    return int(first) if first.isdecimal() else 0


IMAGE_BYTES = 3 * 1280 * 720  # rgb8
DEFAULT_SEGMENT_BYTES = 512 * 1024


@dataclass(frozen=True)
class Profile:
    """What a profile says of the participants of ROS."""

    is_default: bool  # it has a participant profile that is taken where none is named
    segment_bytes: int | None  # size of the shared-memory segment; None without shared memory


def read_profile(path: Path) -> Profile:
    """A profile of Fast DDS. Raises OSError, ElementTree.ParseError; ValueError where a size is no number."""
    root = ElementTree.parse(path).getroot()
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
    participant = next((p for p in root.iter("participant") if p.get("is_default_profile") == "true"), None)
    if participant is None:
        return Profile(is_default=False, segment_bytes=DEFAULT_SEGMENT_BYTES)
    segments = {
        _text(descriptor, "transport_id"): int(_text(descriptor, "segment_size") or DEFAULT_SEGMENT_BYTES)
        for descriptor in root.iter("transport_descriptor")
        if _text(descriptor, "type").upper() == "SHM"
    }
    chosen = [(element.text or "").strip() for element in participant.iterfind(".//userTransports/transport_id")]
    sizes = [segments[name] for name in chosen if name in segments]
    builtin = next((element.text or "" for element in participant.iter("useBuiltinTransports")), "true")
    if builtin.strip().lower() != "false":
        sizes.append(DEFAULT_SEGMENT_BYTES)
    return Profile(is_default=True, segment_bytes=max(sizes, default=None))


def check_profile() -> Finding:
    """Is a profile chosen, can it be read, and has its segment room for an image?"""
    if not has_rclpy():
        return NO_ROS
    middleware = os.environ.get("RMW_IMPLEMENTATION", "")
    if middleware and "fastrtps" not in middleware:
        return Finding(Status.NOT_APPLICABLE, f"RMW_IMPLEMENTATION is {middleware}")
    variable, path = chosen_profile(os.environ)
    transports = os.environ.get("FASTDDS_BUILTIN_TRANSPORTS")
    details: dict[str, Any] = {"variable": variable, "file": path, "builtin_transports": transports}
    if not path:
        other = f" (FASTDDS_BUILTIN_TRANSPORTS is {transports})" if transports else ""
        found = f"none chosen{other}: the node brings its own, but camera drivers, bag players and viewers started here"
        return Finding(Status.WARNING, f"{found} lose images above 0.5 MB for best-effort readers", _export(), details)
    try:
        profile = read_profile(Path(path))
    except OSError as error:
        return Finding(Status.FAILED, f"{variable}={path}: {error.strerror}", _export(), details)
    except (ElementTree.ParseError, ValueError) as error:
        return Finding(Status.FAILED, f"{variable}={path} is no profile: {error}", _export(), details)
    details["segment_bytes"] = profile.segment_bytes
    if not profile.is_default:
        found = f'{path} has no participant with is_default_profile="true", so nodes do not take it'
        return Finding(Status.FAILED, found, _export(), details)
    if profile.segment_bytes is None:
        return Finding(Status.WARNING, f"{path} uses no shared memory", _export(), details)
    found = f"{path} has a shared-memory segment of {profile.segment_bytes / 1e6:.2f} MB"
    if profile.segment_bytes < IMAGE_BYTES:
        found += f", a raw image of 1280x720 has {IMAGE_BYTES / 1e6:.2f} MB"
        return Finding(Status.FAILED, found, f"{_export()}, or enlarge segment_size", details)
    return Finding(Status.OK, found, details=details)


def chosen_profile(environment: Mapping[str, str]) -> tuple[str, str]:
    """The variable that the installed Fast DDS reads, and the file that it names; empty where none does."""
    names = [dds.profile_variable()]
    if names == [dds.PROFILE_VARIABLE]:  # which rmw_fastrtps still reads the old name for
        names.append(dds.OLD_PROFILE_VARIABLE)
    return next(((name, environment[name]) for name in names if environment.get(name)), (names[0], ""))


def _export() -> str:
    return f"export {dds.profile_variable()}={dds.profile_path()}"


def _text(element: ElementTree.Element, name: str) -> str:
    return (element.findtext(name) or "").strip()
