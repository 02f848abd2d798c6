"""What becomes of an image: the inference thread and what it remembers."""
