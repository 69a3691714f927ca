"""A layer of a module in which annotations are strings."""

from __future__ import annotations

import keras_dl
from keras_dl.arguments import Size, arguments


class Scaled(keras_dl.Layer):
    @arguments
    def __init__(self, factor: Size = 2, **kwargs):
        super().__init__(**kwargs)
