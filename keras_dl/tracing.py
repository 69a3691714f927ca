"""What layers do otherwise while a model is traced for a device: loops are written out, or become one op."""

import contextlib
import contextvars

import keras

from keras_dl.compat import all_layers

_UNROLLED = contextvars.ContextVar("unrolled", default=False)
_FUSING = contextvars.ContextVar("fusing", default=True)

# For a layer of Keras, by its class: the class of this package that computes the same with the same weights, and the
# class of its cell. The modules of those classes add them.
STAND_INS: dict[type, tuple[type, type]] = {}


@contextlib.contextmanager
def unrolled():
    """Within it, the loops of recurrent layers of known length are traced step by step, as with `unroll=True`.

    The calibration of an int8 file, and some devices, do not support loops.
    """
    token = _UNROLLED.set(True)
    try:
        yield
    finally:
        _UNROLLED.reset(token)


def is_unrolled() -> bool:
    """Whether this is within `unrolled()`, which is where a model is traced for a device."""
    return _UNROLLED.get()


def is_fusing() -> bool:
    """Whether a layer may become one fused op here, if the device has such an op."""
    return _FUSING.get()


@contextlib.contextmanager
def without_loops(model, fused=True):
    """Within it, recurrent layers of `model`, also Keras's own, are traced without loops where their length is known.

    Keras's LSTM, GRU and SimpleRNN compute as those of this package: the LSTM as one fused op if it can. Other
    recurrent layers of Keras are unrolled. Weights and values are the same.

    Args:
        model: `keras.Model`.
        fused: bool. Whether fused ops are allowed.

    Yields:
        list of str: the names of the layers that were changed.
    """
    layers = [layer for layer in all_layers(model) if isinstance(layer, keras.layers.RNN)]
    token = _FUSING.set(fused)
    changed = []  # objects, with the attributes that they had
    try:
        for layer in layers:
            if type(layer) in STAND_INS:
                own, own_cell = STAND_INS[type(layer)]
                changed += [_change(layer, __class__=own, use_cudnn=False), _change(layer.cell, __class__=own_cell)]
            elif _can_unroll(layer):
                changed.append(_change(layer, unroll=True))
        with unrolled():
            yield [x.name for x, _ in changed if x in layers]
    finally:
        _FUSING.reset(token)
        for x, before in reversed(changed):
            _change(x, **before)


def _can_unroll(layer):
    """Whether a layer that has no stand-in is unrolled by its attribute. Those of this package go by `is_unrolled`."""
    own = isinstance(layer, tuple(own for own, _ in STAND_INS.values()))
    # Keras fails to unroll one cell of several states if it is in a list.
    alone = isinstance(layer.cell, keras.layers.StackedRNNCells) and len(layer.cell.cells) == 1
    return not (layer.unroll or own or alone)


def _change(x, **attributes):
    """Sets attributes past Keras, which would track them; returns the object and the values before."""
    before = {name: getattr(x, name) for name in attributes if hasattr(x, name)}
    for name, value in attributes.items():
        object.__setattr__(x, name, value)
    return x, before
