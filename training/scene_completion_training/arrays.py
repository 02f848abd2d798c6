"""Short names of kinds of arrays: those of the robot side."""

from scene_completion_ros.arrays import Bytes, Doubles, Floats, Halves, Integers, Ints, Mask, Random, Reals

__all__ = ["Bytes", "Doubles", "Floats", "Halves", "Integers", "Ints", "Mask", "Random", "Reals"]
