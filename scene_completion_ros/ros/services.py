"""The node's services: save the last result, forget what was, stop and go on."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.task import Future
from std_srvs.srv import SetBool, Trigger

from scene_completion_ros.errors import SceneCompletionError
from scene_completion_ros.ros.health.inference_health import Result
from scene_completion_ros.ros.outputs.saving import save_result
from scene_completion_ros.ros.topics import RESET, SAVE, SET_ENABLED

if TYPE_CHECKING:
    from scene_completion_ros.ros.completion_node import CompletionNode

CLOSE_TIMEOUT_S = 5.0


class Services:
    """`~/save`, `~/reset` and `~/set_enabled`; they live as long as their node and say in which state they refuse.

    Saving runs in a thread of its own. Its service has a callback group of its own, too: while its answer is awaited,
    the executor goes on with everything but another request to save.
    """

    def __init__(self, node: Any, served: CompletionNode) -> None:
        self._node = node
        self._served = served
        self._saving: threading.Thread | None = None
        node.create_service(Trigger, SAVE, self._save, callback_group=MutuallyExclusiveCallbackGroup())
        node.create_service(Trigger, RESET, self._reset)
        node.create_service(SetBool, SET_ENABLED, self._set_enabled)

    def close(self) -> None:
        """Wait for files that are just being written."""
        if self._saving is not None:
            self._saving.join(CLOSE_TIMEOUT_S)

    async def _save(self, request: Any, response: Any) -> Any:
        try:
            folder, result = self._served.to_save()
        except SceneCompletionError as error:
            return self._answer(response, "saved", error)
        done = Future(executor=self._node.executor)
        done.add_done_callback(lambda _: None)  # which wakes the executor
        saving = threading.Thread(target=self._write, args=(folder, result, done), name="saving", daemon=True)
        try:
            saving.start()
        except RuntimeError as error:  # what a service lets through would end the node
            cure = "Too many threads may be running (ulimit -u)"
            return self._answer(response, "saved", SceneCompletionError(str(error), cure=cure))
        self._saving = saving
        return self._answer(response, "saved", await done)

    def _write(self, folder: Path, result: Result, done: Any) -> None:
        """Set the future to what was written, or to the error."""
        try:
            files = save_result(folder, result)
        except SceneCompletionError as error:
            done.set_result(error)
        except Exception as error:
            # Nothing may keep the answer from being sent, nor end the node.
            what = f"{type(error).__name__}: {error}"
            done.set_result(SceneCompletionError(what, where=str(folder), cure="Please report this"))
        else:
            done.set_result(f"saved {len(result.voxels)} occupied voxels as {' and '.join(map(str, files))}")

    def _reset(self, request: Any, response: Any) -> Any:
        return self._do(response, "reset", self._served.reset, "forgot stamps, times and the last result")

    def _set_enabled(self, request: Any, response: Any) -> Any:
        said = "images are completed" if request.data else "images are dropped until ~/set_enabled is called with true"
        what = "enabled" if request.data else "disabled"
        return self._do(response, what, lambda: self._served.set_enabled(request.data), said)

    def _do(self, response: Any, what: str, work: Callable[[], None], said: str) -> Any:
        try:
            work()
        except SceneCompletionError as error:
            return self._answer(response, what, error)
        return self._answer(response, what, said)

    def _answer(self, response: Any, what: str, outcome: SceneCompletionError | str) -> Any:
        """Fill a response of Trigger or SetBool, and log it, as whoever called may not be who looks after the robot."""
        response.success = isinstance(outcome, str)
        response.message = outcome if isinstance(outcome, str) else f"not {what}: {outcome}"
        logger = self._node.get_logger()
        if response.success:  # two calls, for rclpy raises where one line of the source logs at two severities
            logger.info(response.message)
        else:
            logger.warning(response.message)
        return response
