"""How a process joins the ROS graph, with the shipped Fast DDS profile.

Without the profile, messages above 0.5 MB do not reach best-effort readers. Fast DDS reads it once, when a process
creates its first participant, so it has to be in the environment before rclpy is imported. Importing this module does
not import rclpy.
"""

import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from scene_completion_ros.errors import SceneCompletionError

PROFILE_VARIABLE = "FASTDDS_DEFAULT_PROFILES_FILE"
OLD_PROFILE_VARIABLE = "FASTRTPS_DEFAULT_PROFILES_FILE"
QOS_VARIABLE = "RMW_FASTRTPS_USE_QOS_FROM_XML"
FIRST_RCLPY_WITH_FASTDDS_3 = 9  # Kilted
WHEELS_MARK = "_ROS_WHEELS_BOOTSTRAP_COMPLETE"


def profile_path() -> Path:
    """Path of the shipped profile, the same in a source checkout, a pip and a colcon installation."""
    return Path(__file__).resolve().parent / "fastdds_shm.xml"


def rclpy_version() -> tuple[str | None, bool]:
    """Version of rclpy, None where it is unknown, and whether it comes from a wheel."""
    for distribution in ("ros-rclpy", "rclpy"):  # the wheel, a ROS 2 distribution
        with suppress(PackageNotFoundError):
            return version(distribution), distribution == "ros-rclpy"
    return None, False


def sourced_prefixes() -> list[str]:
    """Sourced installations that have rclpy, other than this environment."""
    prefixes = filter(None, os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep))
    found = [one for one in prefixes if Path(one, "share/ament_index/resource_index/packages/rclpy").is_file()]
    return [prefix for prefix in found if Path(prefix).resolve() != Path(sys.prefix).resolve()]


def profile_variable() -> str:
    """Name of the environment variable that the installed Fast DDS reads: 3 warns of the name that 2 needs."""
    number, _ = rclpy_version()
    newer = number is None or int(number.partition(".")[0]) >= FIRST_RCLPY_WITH_FASTDDS_3
    return PROFILE_VARIABLE if newer else OLD_PROFILE_VARIABLE


def _chosen_profile() -> str:
    return os.environ.get(PROFILE_VARIABLE) or os.environ.get(OLD_PROFILE_VARIABLE) or ""


def missing_profile() -> dict[str, str]:
    """The variable that chooses the shipped profile for processes yet to be started; none where the user chose one."""
    return {} if _chosen_profile() else {profile_variable(): str(profile_path())}


def use_shipped_profile() -> bool:
    """Choose the shipped profile, unless the user has already chosen one; whether the shipped one is now chosen."""
    os.environ.update(missing_profile())
    return _chosen_profile() == str(profile_path())


def other_middleware() -> str:
    """The RMW implementation that the user has chosen in place of Fast DDS; empty where there is none."""
    chosen = os.environ.get("RMW_IMPLEMENTATION", "")
    return "" if "fastrtps" in chosen else chosen


@contextmanager
def prompt_acknowledgements() -> Iterator[None]:
    """Messages of nodes made meanwhile are acknowledged within hundredths of a second, by the shipped profile alone.

    Reliable readers of Fast DDS acknowledge a heartbeat, of which a writer of ROS 2 sends one in three seconds.
    """
    if not use_shipped_profile():
        yield  # a profile of the user's may lack what ROS 2 sets by itself
        return
    before = os.environ.get(QOS_VARIABLE)
    os.environ[QOS_VARIABLE] = "1"  # read when a node is made
    try:
        yield
    finally:
        del os.environ[QOS_VARIABLE]
        if before is not None:
            os.environ[QOS_VARIABLE] = before


def import_cure() -> str:
    """What to do where rclpy cannot be imported."""
    wheels, libraries = rclpy_version()[1], os.environ.get("LD_LIBRARY_PATH", "").split(os.pathsep)
    if not find_spec("rclpy"):
        return "Source a ROS 2 distribution and use its Python, or pip install '.[ros]' in a checkout"
    if wheels and sourced_prefixes():
        cure = "Use the wheels in a shell that sources no setup.bash, or an environment without them "
        return f"{cure}(python3 -m venv --system-site-packages) for the distribution"
    if not wheels:
        return "Use the Python that the distribution was made for, and source its setup.bash in this shell"
    if os.environ.get(WHEELS_MARK) and str(Path(sys.prefix) / "lib") not in libraries:
        return f"Started from another environment with ROS 2 wheels: unset {WHEELS_MARK} LD_LIBRARY_PATH"
    return "pip install --force-reinstall 'ros-rclpy[fastrtps]' ros-common-interfaces"


def start_cure() -> str:
    """What to do where no node can start, whatever its arguments are."""
    if chosen := other_middleware():
        distribution = os.environ.get("ROS_DISTRO", "<distribution>")
        install = f"sudo apt install ros-{distribution}-{chosen.replace('_', '-')}"
        return f"unset RMW_IMPLEMENTATION, or install it: {install}"
    if os.environ.get("ROS_SECURITY_ENABLE", "").lower() == "true":
        return "Check the keystore of ROS_SECURITY_KEYSTORE, or unset ROS_SECURITY_ENABLE"
    cure = "See `python -c 'import rclpy; rclpy.init()'`; a wrong ROS_* variable is the usual cause, "
    return cure + "or a home that this user may not write: then set ROS_LOG_DIR"


def join_graph(
    make_node: Callable[[Any], Any], resources: ExitStack, arguments: Sequence[str] | None = None
) -> tuple[Any, Any]:
    """A node, and an executor of one thread that it was added to; both end with the resources, and their context.

    Raises SceneCompletionError: ROS refuses the arguments, a variable of the environment or the folder of its log.
    `make_node`: makes the node, given the context; `arguments`: command line with its `--ros-args`, by default that of
    the process.
    """
    import rclpy
    from rclpy.executors import SingleThreadedExecutor

    context = rclpy.Context()
    try:
        rclpy.init(args=None if arguments is None else list(arguments), context=context)
        node = make_node(context)
    except SceneCompletionError:
        raise
    except Exception as error:  # rclpy's have no common base class
        context.try_shutdown()
        cure = f"Check what follows --ros-args. {start_cure()}"
        raise SceneCompletionError(f"ROS 2 does not start ({error})", cure=cure) from error
    resources.callback(context.destroy)  # now, rather than in the random order of the interpreter's end
    resources.callback(context.try_shutdown)
    resources.callback(node.destroy_node)
    executor = SingleThreadedExecutor(context=context)
    executor.add_node(node)
    resources.callback(executor.shutdown)
    return node, executor


def middleware_of_a_node(name: str) -> str:
    """Join the ROS graph with a node and leave it again; the identifier of the RMW implementation."""
    import rclpy

    with ExitStack() as resources:
        join_graph(lambda context: rclpy.create_node(name, context=context), resources, [])
    return str(rclpy.get_rmw_implementation_identifier())


def signalled() -> Callable[[], bool]:
    """Take SIGINT and SIGTERM over; the result returns whether one of them has come."""
    came: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, _: came.append(number))
    return lambda: bool(came)


def steady_timer(node: Any, period_s: float, callback: Callable[[], None], resources: ExitStack) -> Any:
    """A timer of a node, until the resources end; its clock goes on while simulated time stands still."""
    from rclpy.clock import Clock, ClockType

    timer = node.create_timer(period_s, callback, clock=Clock(clock_type=ClockType.STEADY_TIME))
    resources.callback(node.destroy_timer, timer)
    return timer
