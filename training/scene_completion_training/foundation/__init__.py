"""2D foundation models as feature targets: their tokens, shifted grids, and a store on disk."""
