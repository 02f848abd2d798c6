"""Fast DDS: the profile that large images need."""

import os
import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scene_completion_ros.diagnosis.findings import Finding, Status
from scene_completion_ros.diagnosis.ros_environment import NO_ROS, has_rclpy
from scene_completion_ros.ros import dds

IMAGE_BYTES = 3 * 1280 * 720  # rgb8
DEFAULT_SEGMENT_BYTES = 512 * 1024


@dataclass(frozen=True)
class Profile:
    """What a profile says of the participants of ROS."""

    is_default: bool  # it has a participant profile that is taken where none is named
    segment_bytes: int | None  # size of the shared-memory segment; None without shared memory


def read_profile(path: Path) -> Profile:
    """Read a profile file of Fast DDS.

    Raises OSError where it cannot be read; ElementTree.ParseError where it is no XML; ValueError where a size is no
    number.
    """
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
