"""What the node records of itself, and the judgement in `/diagnostics`."""
