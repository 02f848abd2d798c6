"""The commands that render worlds."""
