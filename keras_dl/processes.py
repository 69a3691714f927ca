"""Python in a process of its own."""

import sys


def python(*arguments):
    """The command that runs this Python with `arguments`, without modules of the user's folder.

    `python -m MODULE` looks for the module, and for all that it imports, in the working folder first: a `pip.py` there
    would run instead of pip. A script's own folder comes first in the same way. `-P` leaves both out.

    Args:
        arguments: str or path. As on the command line: `"-m"` and a module, or the path of a script.

    Returns:
        list of str.

    Example:

    >>> python("-m", "pip")[1:]
    ['-P', '-m', 'pip']
    """
    return [sys.executable, "-P", *map(str, arguments)]
