"""Publish a large voxel cloud best effort, until it is ended; run as a process of its own."""

import sys
import time

from scene_completion_ros.ros import dds

MOST = 200  # a machine that loses most of them anyway is not waited for

if __name__ == "__main__":
    dds.use_shipped_profile()
    import rclpy
    from rclpy.qos import qos_profile_sensor_data
    from sensor_msgs.msg import PointCloud2

    from scene_completion_ros.ros.messages import voxels_message
    from tests.voxels.samples import some_voxels

    rclpy.init()
    node = rclpy.create_node("cloud_publisher")
    publisher = node.create_publisher(PointCloud2, "/cloud", qos_profile_sensor_data)
    message = voxels_message(some_voxels(int(sys.argv[1]), stamp_ns=5), "front_optical")
    while not publisher.get_subscription_count():
        time.sleep(0.05)
    for _ in range(MOST):
        time.sleep(0.1)
        publisher.publish(message)
    node.destroy_node()
    rclpy.shutdown()
