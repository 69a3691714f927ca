"""An export in the words of the command line: its progress on stderr, and its errors with options as names."""

import contextlib
import functools
import logging
import re

from keras_dl.recipes.training.progress import say
from keras_dl.recipes.training.recipe import OptionError


@contextlib.contextmanager
def worded(quantization):
    """Inside the block, an export says how far it is, and its errors name options."""
    from keras_dl.export.errors import CalibrationMissing, ExportError

    try:
        with _shown(logging.getLogger("keras_dl.export")):
            yield
    except CalibrationMissing as error:
        raise OptionError(
            f"--quantization {quantization} needs real inputs: --calibration FILE.npz, with an array (samples, ...) "
            f"for each input. {error}"
        ) from error
    except ValueError as error:
        raise OptionError(in_options(str(error))) from error
    except ExportError as error:
        if (message := in_options(str(error))) == str(error):
            raise
        raise ExportError(message) from error


@contextlib.contextmanager
def _shown(log):
    """Inside the block, what a log says of its progress goes to stderr."""
    handler, level, propagate = logging.Handler(), log.level, log.propagate
    handler.emit = lambda record: say(record.getMessage())
    log.addHandler(handler)
    log.setLevel(logging.DEBUG if level == logging.DEBUG else logging.INFO)
    log.propagate = False  # a handler of the root, such as absl's, would say it a second time
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.setLevel(level)
        log.propagate = propagate


def in_options(message):
    """The message of an error of the export, with options in the place of arguments."""
    options = {"path": "output", "signatures": "signature", "float_layers": "float-layer"}
    names = "|".join(("format", "quantization", "target", "io", *options))
    shape = r"input_shapes=\{'(\w+)': \(([\d, ]+)\)\}"
    for name, option in (("float_layers", "float-layer"), ("layers", "training-layer")):
        message = message.replace(f"{name}=[...]", f"--{option} NAME").replace(f" {name} names", f" --{option} names")
        message = re.sub(rf"\b{name}=[\[(](.*?)[\])]", functools.partial(_repeated, option), message)
    message = re.sub(shape, lambda x: f"--input-shape {x[1]}={x[2].replace(' ', '')}", message)
    return re.sub(rf"\b({names})='([^']*)'", lambda x: f"--{options.get(x[1], x[1])} {x[2]}", message)


def _repeated(option, found):
    """`--option NAME` for each name of a list in a message."""
    return " ".join(f"--{option} {name}" for name in re.findall(r"'(.*?)'", found[1])) or f"--{option}"
