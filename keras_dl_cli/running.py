"""Runs the command line: its exit codes, and one line for each error."""

import contextlib
import importlib.abc
import json
import os
import sys
import traceback

import click

from keras_dl_cli import files, light, recipes  # noqa: F401 - the commands of `cli`
from keras_dl_cli.group import cli
from keras_dl_cli.output import printable

DONE, FAILED, USAGE = 0, 1, 2


def main(arguments=None):
    """Runs the command line and exits with its code.

    Args:
        arguments: list of str. None for the arguments of the process.
    """
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    interrupts = light.module("interrupts")
    try:
        with interrupts.terminating(), interrupts.heard(), _loading_is_said():
            cli.main(arguments, prog_name="keras-dl", standalone_mode=False)
        code = DONE
    except click.exceptions.NoArgsIsHelpError as error:
        code = USAGE
        print(error.format_message(), file=sys.stderr)
    except click.ClickException as error:
        code = USAGE if isinstance(error, click.UsageError) else FAILED
        hint = "" if not getattr(error, "ctx", None) else f" See {error.ctx.command_path} --help."
        _complain(f"{error.format_message()}{hint}", arguments)
    except (click.Abort, KeyboardInterrupt, Exception) as error:
        # click makes an Abort of Ctrl-C, and also of the end of a damaged file.
        error = error.__cause__ if isinstance(error, click.Abort) and error.__cause__ else error
        code, message = _judge(error)
        if "--debug" in arguments:
            traceback.print_exception(error)
        _complain(message, arguments)
    sys.exit(code)


class _Loading(importlib.abc.MetaPathFinder):
    """Finds no module, and says once that the slow ones are asked for."""

    def find_spec(self, name, path=None, target=None):
        if name in ("keras", "tensorflow") and self in sys.meta_path:
            sys.meta_path.remove(self)
            print("Loading TensorFlow.", file=sys.stderr, flush=True)


@contextlib.contextmanager
def _loading_is_said():
    """Inside the block, the import of Keras and TensorFlow, which takes 20 s on a slow disk, begins with a line."""
    loading = _Loading()
    if "keras" not in sys.modules:
        sys.meta_path.insert(0, loading)
    try:
        yield
    finally:
        if loading in sys.meta_path:
            sys.meta_path.remove(loading)


def _judge(error):
    """Exit code and message of an error. Errors that a user can cause need only their message.

    Those of the package go by their names, because importing their classes takes seconds.
    """
    if isinstance(error, click.Abort | KeyboardInterrupt):
        return FAILED, "Ended by SIGTERM." if type(error).__name__ == "Terminated" else "Interrupted."
    names = {kind.__name__ for kind in type(error).__mro__ if kind.__module__.split(".")[0] == "keras_dl"}
    if "OptionError" in names:
        return USAGE, str(error)
    if names & {"ExportError", "Interrupted", "NonFiniteError", "DataError", "ClusterError"}:
        return FAILED, str(error)
    if isinstance(error, ImportError | OSError | ValueError):
        return FAILED, str(error)
    if "No space left on device" in str(error):  # TensorFlow's errors are not Python's
        return FAILED, f"No space left on device: {str(error).splitlines()[0]}"
    return FAILED, f"An error that should not occur: {type(error).__name__}: {error}. See where with --debug."


def _complain(message, arguments):
    """One line on stderr; with --json also a document on stdout."""
    print(f"keras-dl: {printable(message)}", file=sys.stderr)
    if "--json" in arguments:
        print(json.dumps({"error": message}))
