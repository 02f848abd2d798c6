"""What the launch files share; needs no ROS."""
