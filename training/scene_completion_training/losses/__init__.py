"""Losses, those of one thing in one file."""
