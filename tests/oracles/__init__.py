"""What reference implementations computed, in small files, each made by a script of this folder."""

import pathlib

import numpy as np


def load_oracle(name):
    """The arrays of `name`.npz by their names."""
    with np.load(pathlib.Path(__file__).parent / f"{name}.npz") as file:
        return dict(file)


def state_dict(oracle, prefix="weight"):
    """The arrays under `prefix/`, by the names that the reference gives them."""
    return {key.removeprefix(f"{prefix}/"): value for key, value in oracle.items() if key.startswith(f"{prefix}/")}
