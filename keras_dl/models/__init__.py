"""The architectures that are models, grouped by what goes in and what comes out."""
