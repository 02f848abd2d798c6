"""Where the voxels of an image lie: by transforms, odometry and parameters."""
