"""The command `keras-dl`, and the options that several of its commands share."""

import contextlib
import json
import logging

import click

from keras_dl_cli import light
from keras_dl_cli.output import only_results_on_stdout, printable

CONTEXT = dict(help_option_names=["-h", "--help"], max_content_width=100)


def _show_version(context, option, wanted):
    if wanted:
        click.echo(f"keras-dl {light.version()}")
        context.exit()


@click.group(context_settings=CONTEXT)
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_show_version, help="Show the version."
)
def cli():
    """Train, measure and export the architectures of keras_dl.

    \b
    Results go to stdout, progress to stderr. Exit codes: 0 done, 1 the work
    or a proof failed, 2 wrong usage.

    \b
    Start with:
      keras-dl list
      keras-dl train cnn
      keras-dl export runs/cnn --quantization int8 --target ethos-u55-128
      keras-dl export runs/cnn --quantization none,float16,int8
      keras-dl inspect runs/cnn/exports/cnn-int8-ethos-u55-128.tflite
      keras-dl snippet runs/cnn/exports/cnn-none-cpu.tflite --language python
    """


class _Command(click.Command):
    """A command that refuses a second value of an option that takes one, of which click would use the last."""

    def parse_args(self, context, words):
        _, _, given = self.make_parser(context).parse_args(args=list(words))
        for option in self.params:
            once = isinstance(option, click.Option) and not (option.multiple or option.count or option.is_flag)
            if once and (times := given.count(option)) > 1:
                raise click.UsageError(f"{option.opts[0]} is given {times} times; it takes one value.", context)
        return super().parse_args(context, words)


def command(group, name):
    """Turns a function that returns `(document, text)` into a command, with the options that all commands have."""

    def decorate(function):
        as_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON document on stdout.")
        debug = click.option("--debug", is_flag=True, help="Show the traceback of an error, and notices of libraries.")

        def run(as_json, debug, **options):
            if debug:
                logging.getLogger("keras_dl.export").setLevel(logging.DEBUG)
            with contextlib.nullcontext() if debug else light.module("notices").hidden(), only_results_on_stdout():
                document, text = function(**options)
            click.echo(json.dumps(document, indent=2, allow_nan=False) if as_json else printable(text))

        run.__doc__ = function.__doc__
        run.__click_params__ = getattr(function, "__click_params__", [])
        return group.command(name, cls=_Command)(as_json(debug(run)))

    return decorate


data_dir_option = click.option(
    "--data-dir",
    type=click.Path(file_okay=False),
    help="Folder of TensorFlow Datasets. [default: ~/tensorflow_datasets]",
)


own_data_option = click.option(
    "--data",
    type=click.Path(),
    help="The own data of the run, if it is not where it was. Its files must be the same.",
)


trust_option = click.option(
    "--trust",
    is_flag=True,
    help="The file is from someone whom you trust: allow ops that touch files, run Python or use a network, and Python "
    "in Lambda layers.",
)
