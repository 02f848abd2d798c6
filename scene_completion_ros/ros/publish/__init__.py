"""What the node publishes and saves."""
