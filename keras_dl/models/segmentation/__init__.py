"""Models that give each pixel a class, or each object a mask."""
