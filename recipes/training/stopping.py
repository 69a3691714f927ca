"""Early stopping: when a training ends before its last epoch, and the weights of which epoch it keeps.

A rule is a function of a variant's history and of nothing else, so that a resumed run decides as an uninterrupted one.
The rule reads `val_loss` and `val_accuracy` of each epoch, measured on `Data.validation`. The test split is not used.
"""

from typing import NamedTuple

import numpy as np


class Verdict(NamedTuple):
    """The decision of a rule after an epoch.

    Attributes:
        stop: bool. Whether the training ends here.
        keep: int. The epoch, counted from 1, whose weights are kept.
    """

    stop: bool
    keep: int


def rising_loss(history, window):
    """Stops where the validation loss is above its mean over the `window` epochs before; keeps the last weights.

    As the code of Kipf and Welling does, from epoch `window + 2` on.

    Args:
        history: list of one dict an epoch, with `val_loss`.
        window: int.

    Returns:
        `Verdict`.

    Example:

    >>> falling = [{"val_loss": 1.0 / epoch} for epoch in range(1, 13)]
    >>> rising_loss(falling, window=10)
    Verdict(stop=False, keep=12)
    >>> rising_loss([*falling, {"val_loss": 0.3}], window=10)
    Verdict(stop=True, keep=13)
    """
    losses = [row["val_loss"] for row in history]
    stop = len(losses) > window + 1 and losses[-1] > np.mean(losses[-window - 1 : -1])
    return Verdict(bool(stop), len(history))


def patience(history, epochs):
    """Stops after `epochs` in which neither the validation loss nor the accuracy was as good as ever before.

    The weights that are kept are those of the last epoch in which both were: as the code of Velickovic et al. does.

    Args:
        history: list of one dict an epoch, with `val_loss` and `val_accuracy`.
        epochs: int.

    Returns:
        `Verdict`.

    Example:

    >>> rows = [{"val_loss": loss, "val_accuracy": 0.5} for loss in (3, 2, 1, 4)]
    >>> patience([*rows, {"val_loss": 5, "val_accuracy": 0.4}], epochs=1)
    Verdict(stop=True, keep=3)
    """
    least_loss, best_accuracy, keep, waited = np.inf, 0.0, 0, 0
    for epoch, row in enumerate(history, 1):
        as_low, as_good = row["val_loss"] <= least_loss, row["val_accuracy"] >= best_accuracy
        keep = epoch if as_low and as_good else keep
        waited = 0 if as_low or as_good else waited + 1
        least_loss, best_accuracy = min(least_loss, row["val_loss"]), max(best_accuracy, row["val_accuracy"])
    return Verdict(waited >= epochs, keep)
