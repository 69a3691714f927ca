"""Models that generate data."""
