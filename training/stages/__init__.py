"""Training stages, one module a stage."""
