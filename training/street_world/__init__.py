"""A procedural, seeded street with exact ground truth: own, licence-free data for tests, demos and comparisons.

`town` lays a street out from a seed, `scene` turns it into triangles for embree, `render` and `lidar` look at it
through the rig of `camera_rig`, `ground_truth` says what every voxel holds, and `write` stores drives as posed
sequences and bags.
"""
