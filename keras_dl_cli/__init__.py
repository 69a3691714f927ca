"""The command line `keras-dl`: its words, options and exit codes.

It is a package beside `keras_dl` because `import keras_dl` imports Keras and TensorFlow. That takes seconds, and what
needs neither must be fast: help, `--version`, `list`, `inspect` and errors of usage.
`keras_dl.recipes.training.commands` has the work of the other commands.
"""

try:
    import click  # noqa: F401
except ModuleNotFoundError:
    raise SystemExit("keras-dl needs click, which is not installed: pip install 'keras_dl[recipes]'") from None

from keras_dl_cli.files import LANGUAGES, TARGETS
from keras_dl_cli.group import cli
from keras_dl_cli.light import architectures, version
from keras_dl_cli.running import main

__all__ = ["LANGUAGES", "TARGETS", "architectures", "cli", "main", "version"]
