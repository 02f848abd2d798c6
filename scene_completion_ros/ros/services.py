"""The node's services: save the last result, forget what was, stop and go on, exchange students."""

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
from scene_completion_ros.ros.topics import RESET, SAVE, SET_ENABLED, SWAP_BUNDLE

if TYPE_CHECKING:
    from scene_completion_ros.ros.completion_node import CompletionNode

CLOSE_TIMEOUT_S = 5.0


class Services:
    """The services live as long as their node, and say in which state they refuse.

    Saving and exchanging students run in threads of their own. Their services have callback groups of their own, too.
    While an answer is awaited, the executor goes on with everything but another request of that service.
    """

    def __init__(self, node: Any, served: CompletionNode) -> None:
        self._node = node
        self._served = served
        self._running: dict[str, threading.Thread] = {}
        node.create_service(Trigger, SAVE, self._save, callback_group=MutuallyExclusiveCallbackGroup())
        node.create_service(Trigger, SWAP_BUNDLE, self._swap, callback_group=MutuallyExclusiveCallbackGroup())
        node.create_service(Trigger, RESET, self._reset)
        node.create_service(SetBool, SET_ENABLED, self._set_enabled)

    def close(self) -> None:
        """Wait for files that are just being written, and for students that are just being exchanged."""
        for thread in self._running.values():
            thread.join(CLOSE_TIMEOUT_S)

    async def _save(self, request: Any, response: Any) -> Any:
        try:
            folder, result = self._served.to_save()
        except SceneCompletionError as error:
            return self._answer(response, "saved", error)
        return self._answer(response, "saved", await self._done("saving", lambda: _saved(folder, result)))

    async def _swap(self, request: Any, response: Any) -> Any:
        try:
            exchange = self._served.to_swap()
        except SceneCompletionError as error:
            return self._answer(response, "exchanged", error)
        return self._answer(response, "exchanged", await self._done("exchange", exchange))

    def _done(self, name: str, work: Callable[[], str]) -> Any:
        """A future that becomes what some work in a thread of its own says, or the error; nothing ends the node."""
        done = Future(executor=self._node.executor)
        done.add_done_callback(lambda _: None)  # which wakes the executor

        def run() -> None:
            outcome: SceneCompletionError | str
            try:
                outcome = work()
            except SceneCompletionError as error:
                outcome = error
            except Exception as error:
                outcome = SceneCompletionError(f"{type(error).__name__}: {error}", cure="Please report this")
            done.set_result(outcome)

        thread = threading.Thread(target=run, name=name, daemon=True)
        try:
            thread.start()
            self._running[name] = thread
        except RuntimeError as error:  # what a service lets through would end the node
            done.set_result(SceneCompletionError(str(error), cure="Too many threads may be running (ulimit -u)"))
        return done

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


def _saved(folder: Path, result: Result) -> str:
    files = save_result(folder, result)
    return f"saved {len(result.voxels)} occupied voxels as {' and '.join(map(str, files))}"
