"""What the node hears of cameras and words, as frames and vocabularies."""
