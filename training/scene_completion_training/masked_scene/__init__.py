"""Masked scene modelling: scenes of occupied voxels, their views and masks, and what a network learns of them."""
