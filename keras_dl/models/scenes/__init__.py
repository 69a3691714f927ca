"""Models of scenes and shapes in space."""
