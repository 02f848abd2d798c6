"""Procedural worlds with exact ground truth: towns to drive through and rooms to walk through."""
