"""What planners need, made of completed voxels: a map of the ground, free space, clearing points."""
