"""Checks of what a model was compiled with, before it is trained or evaluated. Keras trains with it, and says nothing.

They are not in `compile`: a model with a `compile` of its own would lose its optimizer in a `.keras` file.
"""

import keras

from keras_dl.compat import optimizer_map

# The losses of Keras that take probabilities by default, and logits with `from_logits=True`, by the names of functions.
_OF_PROBABILITIES = {
    "binary_crossentropy": "BinaryCrossentropy",
    "binary_focal_crossentropy": "BinaryFocalCrossentropy",
    "categorical_crossentropy": "CategoricalCrossentropy",
    "categorical_focal_crossentropy": "CategoricalFocalCrossentropy",
    "sparse_categorical_crossentropy": "SparseCategoricalCrossentropy",
}


def check_loss(model, loss) -> None:
    """Refuses a loss that the model does not use, or that takes its logits for probabilities.

    Raises:
        ValueError: if the model has a loss of its own and got another, or if it returns logits and the loss is one of
            Keras's cross-entropies without `from_logits=True`.

    Example:

    >>> import keras_dl
    >>> model = keras_dl.MLP(4, 3)
    >>> check_loss(model, "sparse_categorical_crossentropy")
    Traceback (most recent call last):
    ...
    ValueError: loss='sparse_categorical_crossentropy' takes probabilities, and MLP returns logits: compile it with
    keras.losses.SparseCategoricalCrossentropy(from_logits=True).
    """
    name = type(model).__name__
    if loss is not None and model.has_own_loss:
        raise ValueError(f"loss={loss!r} would not be used: {name} has a loss of its own. Compile it without one.")
    if not model.returns_logits:
        return
    for each in keras.tree.flatten(loss):
        wrong = _takes_probabilities(each)
        if wrong:
            raise ValueError(
                f"loss={each!r} takes probabilities, and {name} returns logits: compile it with "
                f"keras.losses.{wrong}(from_logits=True)."
            )


def _takes_probabilities(loss):
    """The class of a cross-entropy of probabilities; None for any other loss."""
    if isinstance(loss, str):
        loss = keras.losses.get(loss)
    if isinstance(loss, keras.Loss):
        known = type(loss).__name__ in _OF_PROBABILITIES.values() and type(loss).__module__.startswith("keras.")
        return type(loss).__name__ if known and not loss.get_config()["from_logits"] else None
    return _OF_PROBABILITIES.get(loss.__name__) if loss in _functions() else None


def _functions():
    return [getattr(keras.losses, name) for name in _OF_PROBABILITIES]


def check_optimizer(optimizer) -> None:
    """Refuses a `keras.optimizers.MultiOptimizer` without a map from variables to optimizers.

    Raises:
        ValueError: if the map is a list of optimizers and layers, for example.

    Example:

    >>> layers = [keras.layers.Dense(2)]
    >>> check_optimizer(keras.optimizers.MultiOptimizer([(keras.optimizers.Adam(), layers)]))
    Traceback (most recent call last):
    ...
    ValueError: optimizer_map is a TrackedList; keras.optimizers.MultiOptimizer takes a keras.optimizers.OptimizerMap,
    whose keys match the paths of variables: OptimizerMap(Adam(1e-4), {r".*head/.*": Adam(1e-2)}).
    """
    given = optimizer_map(optimizer)
    if given is not None and not callable(given):
        raise ValueError(
            f"optimizer_map is a {type(given).__name__}; keras.optimizers.MultiOptimizer takes a "
            "keras.optimizers.OptimizerMap, whose keys match the paths of variables: "
            'OptimizerMap(Adam(1e-4), {r".*head/.*": Adam(1e-2)}).'
        )
