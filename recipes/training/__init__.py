"""The runner of recipes and its helpers."""
