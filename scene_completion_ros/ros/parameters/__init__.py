"""The node's parameters: their schema, and what is made of it."""
