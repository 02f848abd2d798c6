"""What the node hears: images, calibration, transforms, brought together."""
