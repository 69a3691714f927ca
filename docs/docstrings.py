"""Docstrings as Markdown: what a terminal shows needs small changes to look right on a page."""

import re
import textwrap

EXAMPLE = re.compile(r"^( *)>>> .*\n(?:\1\S.*(?:\n|\Z))*", re.MULTILINE)
RETURNS = re.compile(r"^( *)Returns:\n((?:\1    .*(?:\n|\Z)|\n(?=\1    ))+)", re.MULTILINE)
LIST = re.compile(r"^( *)(?!- )(\S.*)\n(?=\1- )", re.MULTILINE)


def markdown(text: str) -> str:
    """A docstring for mkdocstrings: each example is a block of code, and an empty line stands before each list.

    What a call takes is a list of arguments as any other. What it returns is a paragraph, for it has no name.
    """
    text = re.sub(r"^( *)Call arguments:$", r"\1Other Args: Call arguments:", text, flags=re.MULTILINE)
    text = RETURNS.sub(lambda match: f"{match[1]}**Returns:** {textwrap.dedent(match[2])}", text)
    text = EXAMPLE.sub(lambda match: _fenced(match[0], match[1]), text)
    return lists(text)


def lists(text: str) -> str:
    """The text with an empty line before each list, which Python-Markdown needs."""
    return LIST.sub(r"\1\2\n\n", text)


def _fenced(example, indent):
    return f"{indent}```pycon\n{example.rstrip()}\n{indent}```\n"
