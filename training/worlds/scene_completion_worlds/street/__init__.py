"""A procedural, seeded street with exact ground truth: own, licence-free data for tests, demos and comparisons.

`street_profile`, `street_line` and `town` lay a street out from a seed, and `roadside` furnishes it stretch by stretch.
`scene` turns what is built into triangles for embree, and looks at them through the rig of `camera_rig`, which moves as
`street_line` says. `ground_truth` says what every voxel holds. `drive` hands it out as posed sequences.
"""
