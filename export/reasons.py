"""What an error of a model's own code says: where, and why."""

import contextlib
import re

import keras

from keras_dl.compat import all_layers

_LONGEST = 400  # characters of a reason


@contextlib.contextmanager
def unfiltered_errors():
    """Inside the block, Keras raises errors as they are, with the frames of its own code.

    Otherwise their first line is "Exception encountered when calling X.call()", which names no layer and no reason.
    """
    filtered = keras.config.is_traceback_filtering_enabled()
    keras.config.disable_traceback_filtering()
    try:
        yield
    finally:
        if filtered:
            keras.config.enable_traceback_filtering()


def failing_layer(error, model):
    """The innermost layer or operation of a model in which an error occurred: `" in layer 'a' (Dense)"`, or empty."""
    known = {id(x) for x in all_layers(model)} - {id(model)}
    found, trace = None, error.__traceback__
    while trace is not None:
        owner = trace.tb_frame.f_locals.get("self")
        if id(owner) in known or (isinstance(owner, keras.Operation) and not isinstance(owner, keras.layers.Layer)):
            found = owner
        trace = trace.tb_next
    if found is None:
        return ""
    kind = "layer" if isinstance(found, keras.layers.Layer) else "operation"
    return f" in {kind} {found.name!r} ({type(found).__name__})"


def reason(error):
    """The message of an error in one line, without colors, and cut if it is long."""
    text = re.sub(r"\x1b\[[0-9;]*m", "", str(error))
    text = " ".join(text.split())
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."
