"""Initial values of weights: those that several references share, and what Keras's initializers need.

`keras.initializers.TruncatedNormal` draws again what is beyond two deviations. So its actual deviation is 0.88 of its
argument, as in TensorFlow 1. torch's `trunc_normal_` has the absolute bounds -2 and 2. With a deviation of 0.02 these
are 100 deviations away: it is a normal distribution.
"""

from keras import initializers


def new_initializer(initializer):
    """An initializer that draws other numbers than `initializer`, from the same distribution.

    An object of Keras draws the same numbers again for each weight that it is given to.

    Args:
        initializer: as Keras takes it: a name, a config, an object or a function.
    """
    initializer = initializers.get(initializer)
    return initializer.clone() if isinstance(initializer, initializers.Initializer) else initializer
