"""Pictures, point-cloud files, and the HTML report of completed voxels."""
