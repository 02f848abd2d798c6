"""A procedural, seeded street with exact ground truth: own, licence-free data for tests, demos and comparisons.

`street_profile`, `street_line` and `town` lay a street out from a seed, and `roadside` furnishes it stretch by stretch.
`scene` makes triangles for embree of it, and renders them through the rig of `camera_rig`, which moves along
`street_line`. `ground_truth` voxelises them. `drive` makes posed sequences.
"""
