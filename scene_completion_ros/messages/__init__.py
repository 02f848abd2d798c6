"""Content of messages, without ROS: images, clouds, transforms, the order of stamps. Bags and node read through it."""
