"""The node's services: forget what was, stop and go on, keep the map of earlier images in `fusion.map_file`."""

import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.task import Future
from std_srvs.srv import SetBool, Trigger

from scene_completion_ros.errors import SceneCompletionError, in_words
from scene_completion_ros.mapping.map_files import map_bytes, read_map
from scene_completion_ros.ros.inference_thread import InferenceThread
from scene_completion_ros.ros.parameters.schema import NodeParameters
from scene_completion_ros.ros.topics import LOAD_MAP, RESET, SAVE_MAP, SET_ENABLED
from scene_completion_ros.whole_files import write_whole

CLOSE_TIMEOUT_S = 5.0
Keep: TypeAlias = Callable[[InferenceThread, NodeParameters], str]  # saves or loads the map in any thread, and says so


class Services:
    """The services live as long as their node, and say in which state they refuse.

    Saving and loading a map runs in a thread of its own. These services have a callback group of their own, too: while
    an answer is awaited, the executor goes on with everything but another request of them.
    """

    def __init__(
        self,
        node: Any,
        configured: Callable[[], InferenceThread],  # raises SceneCompletionError where the node is not configured
        parameters: Callable[[], NodeParameters],  # gives those of now
        reset: Callable[[], None],  # forgets what the images so far have left behind; raises as `configured`
        # Completes images, or drops them until it is called again or the node is cleaned up; raises as `configured`.
        set_enabled: Callable[[bool], None],
    ) -> None:
        self._node, self._configured, self._parameters = node, configured, parameters
        self._forget, self._enable = reset, set_enabled
        self._running: threading.Thread | None = None
        group = MutuallyExclusiveCallbackGroup()
        node.create_service(Trigger, SAVE_MAP, partial(self._keep, "saved", save_map), callback_group=group)
        node.create_service(Trigger, LOAD_MAP, partial(self._keep, "loaded", load_map), callback_group=group)
        node.create_service(Trigger, RESET, self._reset)
        node.create_service(SetBool, SET_ENABLED, self._set_enabled)

    def close(self) -> None:
        """Wait for a map that is saved or loaded."""
        if self._running is not None:
            self._running.join(CLOSE_TIMEOUT_S)

    async def _keep(self, what: str, keep: Keep, request: Any, response: Any) -> Any:
        try:
            thread, parameters = self._configured(), self._parameters()
            check_kept(parameters)
        except SceneCompletionError as error:
            return self._answer(response, f"not {what}: {error}", success=False)
        done, problem = await self._in_thread(partial(keep, thread, parameters))
        return self._answer(response, f"not {what}: {problem}" if problem else done, success=not problem)

    def _in_thread(self, work: Callable[[], str]) -> Any:
        """A future that becomes what some work in a thread of its own says, and a problem; nothing ends the node."""
        done = Future(executor=self._node.executor)
        done.add_done_callback(lambda _: None)  # which wakes the executor

        def run() -> None:
            try:
                done.set_result((work(), ""))
            except Exception as error:
                done.set_result(("", in_words(error)))

        thread = threading.Thread(target=run, name="service", daemon=True)
        try:
            thread.start()
            self._running = thread
        except RuntimeError as error:  # what a service lets through would end the node
            done.set_result(("", f"{error}. Too many threads may be running (ulimit -u)"))
        return done

    def _reset(self, request: Any, response: Any) -> Any:
        return self._do(response, "reset", self._forget, "forgot stamps, times and earlier images")

    def _set_enabled(self, request: Any, response: Any) -> Any:
        done = "images are completed" if request.data else "images are dropped until ~/set_enabled is called with true"
        what = "enabled" if request.data else "disabled"
        return self._do(response, what, partial(self._enable, request.data), done)

    def _do(self, response: Any, what: str, work: Callable[[], None], done: str) -> Any:
        try:
            work()
        except SceneCompletionError as error:
            return self._answer(response, f"not {what}: {error}", success=False)
        return self._answer(response, done)

    def _answer(self, response: Any, message: str, *, success: bool = True) -> Any:
        """Fill a response of Trigger or SetBool, and log it, as whoever called may not be who looks after the robot."""
        response.success, response.message = success, message
        logger = self._node.get_logger()
        if success:  # two calls, for rclpy raises where one line of the source logs at two severities
            logger.info(message)
        else:
            logger.warning(message)
        return response


def check_kept(parameters: NodeParameters) -> None:
    """Raise SceneCompletionError where there is no map, or no file for it."""
    where = "parameters fusion.enabled, fusion.map_file"
    if not parameters.fusion_enabled:
        raise SceneCompletionError("no images are joined", where=where, cure="Set fusion.enabled to true")
    if not parameters.fusion_map_file:
        raise SceneCompletionError("no file is named", where=where, cure="Start the node with a fusion.map_file")


def save_map(thread: InferenceThread, parameters: NodeParameters) -> str:
    """Write what is remembered, whole or not at all; says so. Raises SceneCompletionError where that cannot be."""
    file, frame = Path(parameters.fusion_map_file), parameters.odometry_frame
    saved = thread.with_memory(lambda memory, _, epoch: memory.saved(frame, epoch))
    try:
        write_whole(file, map_bytes(saved))
    except OSError as error:
        what = f"cannot be written: {error.strerror or error}"
        raise SceneCompletionError(what, where=str(file), cure="The former file is as it was") from error
    return f"saved {len(saved.voxels.place):,} voxels in {frame} to {file}"


def load_map(thread: InferenceThread, parameters: NodeParameters) -> str:
    """Begin the map anew with the saved one; says so. Raises SceneCompletionError, and the map stays, if unusable."""
    file, frame = Path(parameters.fusion_map_file), parameters.odometry_frame
    saved = read_map(file)
    thread.with_memory(lambda memory, names, epoch: memory.load(saved, frame, names, epoch, where=str(file)))
    return f"loaded {len(saved.voxels.place):,} voxels in {frame} from {file}: the next image is joined with them"
