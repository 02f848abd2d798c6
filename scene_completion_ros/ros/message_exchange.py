"""Do images of 2.76 MB get from one process to another? ``python -m ...`` with a topic is the publishing process.

Fast DDS reads its profile when the first participant is created, and the shared-memory segment belongs to the
publisher. Both processes therefore run in the environment that is to be examined and choose no profile themselves.
"""

from __future__ import annotations

import os
import select
import subprocess
import sys
import time
from array import array
from collections.abc import Callable
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.qos import HistoryPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Image
from std_msgs.msg import Header

if TYPE_CHECKING:
    from collections.abc import Iterator

WIDTH, HEIGHT = 1280, 720
BEFORE, AFTER = "before", "after"  # frames of the small messages around the large ones
SMALL_PERIOD_S, LARGE_PERIOD_S = 0.05, 1 / 30  # images as a camera sends them
DISCOVERY_S, SENDING_S, STRAGGLERS_S = 8.0, 8.0, 1.0
LIFETIME_S = 30.0  # of a publisher whose reader forgot it
QOS = QoSProfile(history=HistoryPolicy.KEEP_LAST, depth=100, reliability=ReliabilityPolicy.BEST_EFFORT)


def join_graph() -> str:
    """Join the ROS graph with a node and leave it again; the identifier of the RMW implementation."""
    with _node("scene_completion_doctor"):
        return str(rclpy.get_rmw_implementation_identifier())


def exchange(count: int) -> dict[str, Any]:
    """Start the publishing process and count what arrives of its images, best effort at both ends.

    Small messages go before and after the large ones, so that "nothing arrives" and "large messages are lost" differ.

    Args:
        count: How many images of 1280x720 rgb8 are sent.

    Returns:
        ``connected`` (small messages arrive), ``completed`` (all images were sent), ``sent``, ``received``, and the
        ``bytes`` of an image.
    """
    small: set[str] = set()
    large: set[int] = set()

    def take(message: Any) -> None:
        frame = message.header.frame_id
        if frame in (BEFORE, AFTER):
            small.add(frame)
        elif len(message.data) == image_bytes() and message.data[-1] == int(frame):
            large.add(int(frame))

    topic = f"/scene_completion_doctor_{os.getpid()}"
    with _node("scene_completion_doctor_reader") as node, _publisher(topic, count) as start:
        node.create_subscription(Image, topic, take, QOS)
        executor = SingleThreadedExecutor(context=node.context)
        executor.add_node(node)
        if _spin(executor, lambda: BEFORE in small, DISCOVERY_S):
            start()
            _spin(executor, lambda: AFTER in small, SENDING_S)
            _spin(executor, lambda: len(large) == count, STRAGGLERS_S)
        executor.shutdown()
    return {
        "connected": BEFORE in small,
        "completed": AFTER in small,
        "sent": count,
        "received": len(large),
        "bytes": image_bytes(),
    }


def image_bytes() -> int:
    """Bytes of the pixels of one image."""
    return 3 * WIDTH * HEIGHT


def publish(topic: str, count: int) -> None:
    """Publish small messages until a line comes from the standard input, the images, and small ones until it ends."""
    deadline_s = time.monotonic() + LIFETIME_S
    with _node("scene_completion_doctor_publisher") as node:
        publisher = node.create_publisher(Image, topic, QOS)

        def small_until_input(frame: str) -> None:
            while not select.select([sys.stdin], [], [], SMALL_PERIOD_S)[0] and time.monotonic() < deadline_s:
                publisher.publish(Image(header=Header(frame_id=frame)))

        small_until_input(BEFORE)
        if not sys.stdin.readline():  # the reader has given up
            return
        for index in range(count):
            publisher.publish(_image(index))
            time.sleep(LARGE_PERIOD_S)
        small_until_input(AFTER)


def _image(index: int) -> Any:
    return Image(
        header=Header(frame_id=str(index)),
        height=HEIGHT,
        width=WIDTH,
        encoding="rgb8",
        step=3 * WIDTH,
        data=array("B", bytes([index])) * image_bytes(),
    )


@contextmanager
def _node(name: str) -> Iterator[Any]:
    context = rclpy.Context()
    rclpy.init(args=[], context=context)
    node = rclpy.create_node(f"{name}_{os.getpid()}", context=context, enable_rosout=False)
    try:
        yield node
    finally:
        node.destroy_node()
        context.try_shutdown()
        context.destroy()


@contextmanager
def _publisher(topic: str, count: int) -> Iterator[Callable[[], None]]:
    """The publishing process; calling what is yielded starts the large messages."""
    command = [sys.executable, "-m", "scene_completion_ros.ros.message_exchange", topic, str(count)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, text=True)

    def start() -> None:
        if process.stdin is not None:
            process.stdin.write("\n")
            process.stdin.flush()

    try:
        yield start
    finally:
        process.communicate()  # closes its input, upon which it leaves


def _spin(executor: Any, done: Callable[[], bool], limit_s: float) -> bool:
    deadline_s = time.monotonic() + limit_s
    while not done() and time.monotonic() < deadline_s:
        executor.spin_once(timeout_sec=0.02)
    return done()


if __name__ == "__main__":
    publish(sys.argv[1], int(sys.argv[2]))
