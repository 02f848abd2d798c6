"""Voxels of several cameras and of several moments become one scene; what is worth recording is found."""
