"""The robot's GPU: kernels for the voxel query and the march. Nothing here is imported where there is no GPU."""
