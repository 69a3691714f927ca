"""A baseline that learns nothing: the label of the nearest training image."""

import numpy as np

from keras_dl.extras import require
from keras_dl.recipes.training import pipelines

MOST_PIXELS = 10**9  # of the training images together; beyond, searching among them takes longer than training


def nearest_neighbour(outcome):
    """Accuracy of the nearest raw training image by the distance of pixels, or of guessing where that is too slow.

    Returns:
        `(name, accuracy)`.
    """
    data = outcome.data
    if data.num_train * np.prod(data.input_shape) > MOST_PIXELS:
        return "guessing", 1 / len(data.labels)
    neighbors = require("sklearn.neighbors", extra="recipes")
    x_train, y_train, x_test, y_test = pipelines.as_arrays(pipelines.images(outcome.options))
    classifier = neighbors.KNeighborsClassifier(1).fit(x_train, y_train)
    return "nearest neighbour", float(classifier.score(x_test, y_test))
