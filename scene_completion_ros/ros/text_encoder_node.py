"""A second node: free text in, phrases with embeddings out, of an encoder that the caller brings."""

import functools
import sys
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from typing import Any

import rclpy
from std_msgs.msg import String

from scene_completion_ros.errors import SceneCompletionError
from scene_completion_ros.messages.words import text_of
from scene_completion_ros.ros import dds

NODE_NAME = "text_encoder"
QUERY, VOCABULARY = "text_query", "text_vocabulary"
TO_QUERY, TO_VOCABULARY = "scene_completion/query", "scene_completion/vocabulary"
DEPTH = 10
_SIGNAL_PERIOD_S = 0.2  # how long a signal may wait while no message comes


def serve(query: Callable[[str], str], vocabulary: Callable[[str], str], ros_arguments: Iterable[str]) -> int:
    """Answer messages until SIGINT or SIGTERM; what cannot be answered is warned about.

    `query`, `vocabulary`: make the text for `~/query` or `~/vocabulary` of the node, with embeddings; they raise a
    `SceneCompletionError` for what cannot be encoded.
    """
    stopped = dds.signalled()
    with ExitStack() as resources:
        arguments = [sys.argv[0], *ros_arguments]
        node, executor = dds.join_graph(
            lambda context: rclpy.create_node(NODE_NAME, context=context), resources, arguments
        )

        def answer(topic: str, make: Callable[[str], str], publisher: Any, message: bytes) -> None:
            try:
                publisher.publish(String(data=make(text_of(message, topic))))
            except SceneCompletionError as error:
                node.get_logger().warning(f"not answered: {error}")

        for topic, to, make in ((QUERY, TO_QUERY, query), (VOCABULARY, TO_VOCABULARY, vocabulary)):
            heard = functools.partial(answer, topic, make, node.create_publisher(String, to, DEPTH))
            node.create_subscription(String, topic, heard, DEPTH, raw=True)
        node.get_logger().info(f"ready: phrases on {QUERY} and {VOCABULARY} become {TO_QUERY} and {TO_VOCABULARY}")
        while not stopped():
            executor.spin_once(timeout_sec=_SIGNAL_PERIOD_S)
    return 0
