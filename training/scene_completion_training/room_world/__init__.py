"""Rooms with exact depth, classes, things and voxels: floor plans that are furnished at random, and walks through them.

It stands on the ray caster, the textures and the drives of `street_world`.
"""
