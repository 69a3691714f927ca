"""What the commands print: results alone on stdout, as tables and outlines that a terminal can show."""

import contextlib
import os
import sys


@contextlib.contextmanager
def only_results_on_stdout():
    """Sends all that is written to stdout to stderr, from Python and from libraries below it."""
    sys.stdout.flush()
    stdout = os.dup(1)
    os.dup2(2, 1)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        os.dup2(stdout, 1)
        os.close(stdout)


def table(rows):
    """Rows of cells as text in columns; the first row is the header."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]) - 1)] + [0]
    return "\n".join("  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in rows)


def outline(value, depth=0):
    """A nested document as indented lines."""
    lines = []
    for key, entry in value.items():
        head = f"{'  ' * depth}{_in_line(key)}"
        if isinstance(entry, dict) and any(isinstance(v, dict) for v in entry.values()):
            lines += [head, outline(entry, depth + 1)]
        elif isinstance(entry, dict):
            lines.append(f"{head}  " + _in_line(", ".join(f"{k} {v}" for k, v in entry.items()) or "none"))
        else:
            lines.append(f"{head}  {_in_line(entry)}")
    return "\n".join(lines)


def _in_line(value):
    """A value as text without line breaks, which would look like further entries."""
    return str(value).replace("\n", "\\n")


def printable(text):
    """Text with escapes for what a terminal would obey: names and metadata come from files of others."""
    return "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text)
