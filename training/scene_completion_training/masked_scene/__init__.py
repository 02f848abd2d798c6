"""Masked scene modelling: views of scenes of points, their masks, and what a network learns of them."""
