"""How a process joins the ROS graph, with the shipped Fast DDS profile.

Without the profile, messages above 0.5 MB do not reach best-effort readers. Fast DDS reads it once, when a process
creates its first participant, so it has to be in the environment before rclpy is imported. Importing this module does
not import rclpy.
"""

import os
from collections.abc import Callable, MutableMapping, Sequence
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from scene_completion_ros.errors import SceneCompletionError

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

    Returns whether the shipped profile is now chosen. `environment`: variables to change, by default those of this
    process.
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


def join_graph(make_node: Callable[[Any], Any], arguments: Sequence[str] | None = None) -> tuple[Any, Any]:
    """A context of rclpy and a node in it, both for the caller to end.

    Raises SceneCompletionError: ROS refuses the arguments, a variable of the environment or the folder of its log.
    `make_node`: makes the node, given the context; `arguments`: command line with its `--ros-args`, by default that of
    the process.
    """
    import rclpy

    context = rclpy.Context()
    try:
        rclpy.init(args=None if arguments is None else list(arguments), context=context)
        return context, make_node(context)
    except SceneCompletionError:
        raise
    except Exception as error:  # rclpy's have no common base class
        context.try_shutdown()
        cure = "Check what follows --ros-args and the variables ROS_*; ROS_LOG_DIR names a folder for the log"
        raise SceneCompletionError(f"ROS 2 does not start ({error})", cure=cure) from error


def middleware_of_a_node(name: str) -> str:
    """Join the ROS graph with a node and leave it again; the identifier of the RMW implementation."""
    import rclpy

    context, node = join_graph(lambda context: rclpy.create_node(name, context=context), [])
    node.destroy_node()
    context.try_shutdown()
    return str(rclpy.get_rmw_implementation_identifier())
