"""Parts of keras_dl without what `import keras_dl` imports, which is Keras and TensorFlow."""

import contextlib
import importlib
import importlib.util
import sys
import types


@contextlib.contextmanager
def without_keras():
    """Lets modules of keras_dl be imported alone: without what `keras_dl` imports, which is Keras and TensorFlow.

    Within it, `keras_dl` and `keras_dl.export` are empty packages. Afterwards they are as if nothing was imported. If
    they are there already, they stay.
    """
    if "keras_dl" in sys.modules:
        yield
        return
    try:
        for name in ("keras_dl", "keras_dl.export"):
            package = types.ModuleType(name)
            package.__path__ = list(importlib.util.find_spec(name).submodule_search_locations)
            sys.modules[name] = package
        yield
    finally:
        for name in [name for name in sys.modules if name.split(".")[0] == "keras_dl"]:
            del sys.modules[name]


def module(name):
    """A module of keras_dl that needs neither Keras nor TensorFlow."""
    with without_keras():
        return importlib.import_module(f"keras_dl.{name}")


def architectures():
    """The rows of `keras_dl.architectures`."""
    return module("architectures").ARCHITECTURES


def version():
    """The version of keras_dl: str."""
    return module("version").__version__
