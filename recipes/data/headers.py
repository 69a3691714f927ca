"""What the start of a picture's file says: its size, its colors, and how it is turned."""

import pathlib
from typing import NamedTuple

import tensorflow as tf

from keras_dl.extras import require
from keras_dl.files import FileError

SUFFIXES = (".jpg", ".jpeg", ".png")
FORMATS = ("JPEG", "MPO", "PNG")  # as Pillow calls them; cameras write MPO, which begins with a JPEG
CONVERT = "Convert it to PNG or JPEG."
ORIENTATION = 0x0112  # EXIF's tag
PLAIN = 1  # the orientation of what is seen as it is stored


class Header(NamedTuple):
    """What the start of a picture's file says.

    Attributes:
        size: `(height, width)` as it is stored.
        mode: str. Pillow's mode.
        turn: int in [1, 8]. EXIF's orientation: how the camera says that it is seen.
    """

    size: tuple[int, int]
    mode: str
    turn: int = PLAIN

    @property
    def seen(self):
        """`(height, width)` as it is seen."""
        return self.size if self.turn < 5 else self.size[::-1]


def header(file) -> Header:
    """The `Header` of a picture.

    Raises:
        FileError: if it is not a PNG or JPEG.
    """
    image = require("PIL.Image", extra="recipes")
    file = pathlib.Path(file)
    if file.suffix.lower() not in SUFFIXES:
        raise FileError(file, f"is of a kind that is not read. {CONVERT}")
    try:
        with image.open(file) as opened:
            kind, (width, height), mode = opened.format, opened.size, opened.mode
            turn = opened.getexif().get(ORIENTATION, PLAIN) if kind in ("JPEG", "MPO") else PLAIN
    except FileNotFoundError:
        raise
    except (OSError, SyntaxError, ValueError, image.DecompressionBombError) as error:
        raise FileError(file, f"is no picture: {_first_line(error, file)}. Delete it, or save it again.") from error
    if kind not in FORMATS:
        raise FileError(file, f"holds {kind}, in spite of its name. {CONVERT}")
    return Header((height, width), mode, turn if turn in range(1, 9) else PLAIN)


def upright(image, turn):
    """A stored image as it is seen.

    Args:
        image: array or tensor `(height, width, channels)`.
        turn: int tensor, `()`: EXIF's orientation, in [1, 8].
    """

    def applied(change, to, image):
        return tf.cond(tf.reduce_any(tf.equal(turn, to)), lambda: change(image), lambda: image)

    image = applied(lambda x: tf.transpose(x, (1, 0, 2)), (5, 6, 7, 8), tf.convert_to_tensor(image))
    image = applied(lambda x: tf.reverse(x, (1,)), (2, 3, 6, 7), image)
    return applied(lambda x: tf.reverse(x, (0,)), (3, 4, 7, 8), image)


def _first_line(error, file):
    if not file.stat().st_size:
        return "it is empty"
    return str(error).splitlines()[0].split(" '")[0].rstrip(".") if str(error) else type(error).__name__
