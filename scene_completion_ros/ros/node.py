"""`scene_completion_node`: completed semantic occupancy from a camera, as a ROS 2 node."""

import gc
import os
import sys
import traceback
from collections.abc import Sequence
from contextlib import ExitStack
from typing import NoReturn

from scene_completion_ros.errors import SceneCompletionError, in_words
from scene_completion_ros.ros import dds
from scene_completion_ros.ros.topics import NODE_NAME

SIGNAL_PERIOD_S = 0.2  # how long a signal may wait while no message comes


def main() -> NoReturn:
    """Run the node and end the process with its exit status."""
    status = run()
    # Nodes and their entities refer to each other: only the collector ends them, and with them the DDS participant. Its
    # 35 MB of shared memory would otherwise stay until the machine is started again.
    gc.collect()
    sys.stdout.flush()
    sys.stderr.flush()
    # All that matters has been closed. Tearing down compilers and engines takes seconds on a busy machine, and their
    # static destructors have been seen to wait for each other for ever.
    os._exit(status)


def run(arguments: Sequence[str] | None = None) -> int:
    """Run the node until SIGINT or SIGTERM.

    This function handles the signals, and rclpy does not. The handler of rclpy shuts the context down under the running
    inference, races with its own executor and skips the transition to the state `finalized`. Returns exit status: 0
    after a signal, 1 where the node could not start (with `autostart`: be configured). `arguments`: command line with
    its `--ros-args`, by default that of the process.
    """
    stopped = dds.signalled()
    dds.use_shipped_profile()  # before the first import of rclpy
    # And of NumPy: products of points by a rotation gain nothing from threads, which then wait at full load.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    from scene_completion_ros.messages.drop_reasons import DropReason
    from scene_completion_ros.ros.completion_node import CompletionNode
    from scene_completion_ros.ros.declared_parameters import ExplainingNode

    with ExitStack() as resources:
        try:
            node, executor = dds.join_graph(
                lambda context: ExplainingNode(NODE_NAME, context=context), resources, arguments
            )
            completion = CompletionNode(node)
            resources.callback(completion.close)
            completion.start()
        except SceneCompletionError as error:
            print(f"scene_completion_node cannot start: {error}", file=sys.stderr)
            return 1
        while not stopped():
            try:
                executor.spin_once(timeout_sec=SIGNAL_PERIOD_S)
            except Exception as error:  # of a callback: what called it comes to nothing, the node goes on
                if not node.context.ok():
                    raise
                trace = "".join(traceback.format_tb(error.__traceback__)[-1:])
                completion.counters.drop(DropReason.INTERNAL_ERROR, f"{in_words(error)}\n{trace}")
    return 0


if __name__ == "__main__":
    main()
