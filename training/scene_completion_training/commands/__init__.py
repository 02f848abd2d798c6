"""Subcommands of `scene-completion` for offline training; torch is imported inside their functions only."""
