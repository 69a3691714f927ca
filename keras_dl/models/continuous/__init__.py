"""Models whose layers are differential equations."""
