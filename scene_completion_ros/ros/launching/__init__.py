"""What the launch file is made of; needs no ROS."""
