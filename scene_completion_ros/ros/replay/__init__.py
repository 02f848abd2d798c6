"""A recording played through a running node, over DDS."""
