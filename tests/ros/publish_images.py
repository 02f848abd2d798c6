"""Publish large images, best effort, until the standard input ends: a camera driver in a process of its own."""

import select
import sys
from array import array

import rclpy
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Image

WIDTH, HEIGHT = 1280, 720
PERIOD_S = 0.2


def main(topic: str) -> None:
    rclpy.init()
    node = rclpy.create_node("driver")
    publisher = node.create_publisher(Image, topic, QoSProfile(depth=5, reliability=ReliabilityPolicy.BEST_EFFORT))
    message = Image(height=HEIGHT, width=WIDTH, encoding="rgb8", step=3 * WIDTH)
    message.data = array("B", bytes(3 * WIDTH * HEIGHT))
    while not select.select([sys.stdin], [], [], PERIOD_S)[0]:
        publisher.publish(message)
    node.destroy_node()
    rclpy.try_shutdown()


if __name__ == "__main__":
    main(sys.argv[1])
