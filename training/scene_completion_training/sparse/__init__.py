"""Sparse convolutions on sets of voxels, and the network that is made of them."""
