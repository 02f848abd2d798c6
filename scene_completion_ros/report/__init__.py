"""Pictures, point-cloud files, the HTML report and the Rerun export of completed voxels."""
