"""Image encoders and the density field."""
