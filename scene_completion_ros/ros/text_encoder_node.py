"""A node beside the completing one: free text in, phrases with embeddings out, of an encoder that the caller brings."""

import functools
import signal
import sys
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from typing import Any, Protocol

import rclpy
from rclpy.executors import SingleThreadedExecutor
from std_msgs.msg import String

from scene_completion_ros.errors import SceneCompletionError
from scene_completion_ros.messages.words import text_of

NODE_NAME = "text_encoder"
QUERY, VOCABULARY = "text_query", "text_vocabulary"
TO_QUERY, TO_VOCABULARY = "scene_completion/query", "scene_completion/vocabulary"
DEPTH = 10
_SIGNAL_PERIOD_S = 0.2  # how long a signal may wait while no message comes


class Answers(Protocol):
    """What makes the texts with embeddings; raises a `SceneCompletionError` for what cannot be encoded."""

    def query(self, text: str) -> str:
        """The text for `~/query` of the node."""

    def vocabulary(self, text: str) -> str:
        """The text for `~/vocabulary` of the node."""


def serve(answers: Answers, ros_arguments: Iterable[str]) -> int:
    """Answer messages until SIGINT or SIGTERM; what cannot be answered is warned about."""
    stopped = False

    def stop(*_: object) -> None:
        nonlocal stopped
        stopped = True

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    context = rclpy.Context()
    with ExitStack() as resources:
        rclpy.init(args=[sys.argv[0], *ros_arguments], context=context)
        resources.callback(context.try_shutdown)
        node = rclpy.create_node(NODE_NAME, context=context)
        resources.callback(node.destroy_node)

        def answer(topic: str, make: Callable[[str], str], publisher: Any, message: bytes) -> None:
            try:
                publisher.publish(String(data=make(text_of(message, topic))))
            except SceneCompletionError as error:
                node.get_logger().warning(f"not answered: {error}")

        for topic, to, make in ((QUERY, TO_QUERY, answers.query), (VOCABULARY, TO_VOCABULARY, answers.vocabulary)):
            heard = functools.partial(answer, topic, make, node.create_publisher(String, to, DEPTH))
            node.create_subscription(String, topic, heard, DEPTH, raw=True)
        executor = SingleThreadedExecutor(context=context)
        executor.add_node(node)
        resources.callback(executor.shutdown)
        node.get_logger().info(f"ready: phrases on {QUERY} and {VOCABULARY} become {TO_QUERY} and {TO_VOCABULARY}")
        while not stopped:
            executor.spin_once(timeout_sec=_SIGNAL_PERIOD_S)
    return 0
