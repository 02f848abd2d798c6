"""What the student, and the one behind it, say of an image."""
