"""Rooms with exact depth, classes, things and voxels: furnished floor plans and walks, by way of `street`."""
