"""The shipped Fast DDS profile, without which messages above 0.5 MB do not reach best-effort readers.

Fast DDS reads the profile once, when a process creates its first participant, so it has to be in the environment before
rclpy is imported. Nothing here imports rclpy.
"""

from __future__ import annotations

import os
from collections.abc import MutableMapping
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PROFILE_VARIABLE = "FASTDDS_DEFAULT_PROFILES_FILE"
OLD_PROFILE_VARIABLE = "FASTRTPS_DEFAULT_PROFILES_FILE"
FIRST_RCLPY_WITH_FASTDDS_3 = 9  # Kilted


def profile_path() -> Path:
    """Path of the shipped profile, the same in a source checkout, a pip and a colcon installation."""
    return Path(__file__).resolve().parent / "fastdds_shm.xml"


def profile_variable() -> str:
    """Name of the environment variable that the installed Fast DDS reads: 3 warns of the name that 2 needs."""
    for distribution in ("ros-rclpy", "rclpy"):  # the wheel, a ROS 2 distribution
        with suppress(PackageNotFoundError):
            major = int(version(distribution).partition(".")[0])
            return PROFILE_VARIABLE if major >= FIRST_RCLPY_WITH_FASTDDS_3 else OLD_PROFILE_VARIABLE
    return PROFILE_VARIABLE


def use_shipped_profile(environment: MutableMapping[str, str] | None = None) -> bool:
    """Choose the shipped profile, unless the user has already chosen one.

    Args:
        environment: Variables to change, by default those of this process.

    Returns:
        Whether the shipped profile is now chosen.
    """
    variables = os.environ if environment is None else environment
    chosen = variables.get(PROFILE_VARIABLE) or variables.get(OLD_PROFILE_VARIABLE)
    if not chosen:
        chosen = variables[profile_variable()] = str(profile_path())
    return chosen == str(profile_path())


def missing_profile() -> dict[str, str]:
    """The variable that chooses the shipped profile for processes yet to be started; none where the user chose one."""
    variables: dict[str, str] = {}
    if not (os.environ.get(PROFILE_VARIABLE) or os.environ.get(OLD_PROFILE_VARIABLE)):
        use_shipped_profile(variables)
    return variables
