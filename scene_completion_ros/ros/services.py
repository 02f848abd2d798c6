"""The node's services: forget what was, stop and go on, keep the map."""

import threading
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.task import Future
from std_srvs.srv import SetBool, Trigger

from scene_completion_ros.errors import SceneCompletionError
from scene_completion_ros.ros.topics import RESET, SET_ENABLED

CLOSE_TIMEOUT_S = 5.0


class Services:
    """The services live as long as their node, and say in which state they refuse.

    What takes long runs in a thread of its own. The services of such work have a callback group of their own, too:
    while an answer is awaited, the executor goes on with everything but another request of those services. What the
    services do raises SceneCompletionError where it is refused.
    """

    def __init__(
        self,
        node: Any,
        # By the names of services of what takes long: a participle, and what gives the work for any thread, which
        # then says what it has done.
        lengthy: Mapping[str, tuple[str, Callable[[], Callable[[], str]]]],
        reset: Callable[[], None],  # forgets what the images so far have left behind
        # Completes images, or drops them until it is called again or the node is cleaned up.
        set_enabled: Callable[[bool], None],
    ) -> None:
        self._node, self._forget, self._enable = node, reset, set_enabled
        self._running: threading.Thread | None = None
        one_by_one = MutuallyExclusiveCallbackGroup()
        for name, (what, to_work) in lengthy.items():
            node.create_service(Trigger, name, partial(self._work, what, to_work), callback_group=one_by_one)
        node.create_service(Trigger, RESET, self._reset)
        node.create_service(SetBool, SET_ENABLED, self._set_enabled)

    def close(self) -> None:
        """Wait for what takes long."""
        if self._running is not None:
            self._running.join(CLOSE_TIMEOUT_S)

    async def _work(self, what: str, to_work: Callable[[], Callable[[], str]], request: Any, response: Any) -> Any:
        try:
            work = to_work()
        except SceneCompletionError as error:
            return self._answer(response, what, error)
        return self._answer(response, what, await self._done(work))

    def _done(self, work: Callable[[], str]) -> Any:
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

        thread = threading.Thread(target=run, name="service", daemon=True)
        try:
            thread.start()
            self._running = thread
        except RuntimeError as error:  # what a service lets through would end the node
            done.set_result(SceneCompletionError(str(error), cure="Too many threads may be running (ulimit -u)"))
        return done

    def _reset(self, request: Any, response: Any) -> Any:
        return self._do(response, "reset", self._forget, "forgot stamps, times and earlier images")

    def _set_enabled(self, request: Any, response: Any) -> Any:
        done = "images are completed" if request.data else "images are dropped until ~/set_enabled is called with true"
        what = "enabled" if request.data else "disabled"
        return self._do(response, what, lambda: self._enable(request.data), done)

    def _do(self, response: Any, what: str, work: Callable[[], None], done: str) -> Any:
        try:
            work()
        except SceneCompletionError as error:
            return self._answer(response, what, error)
        return self._answer(response, what, done)

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
