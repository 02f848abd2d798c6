"""Reading and writing rosbag2 and ROS 1 bags, image decoding, transforms: needs no ROS installation."""
