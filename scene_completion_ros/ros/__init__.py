"""The ROS 2 side: the only subpackage that imports rclpy and message packages."""
