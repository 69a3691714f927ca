"""Tokenizers: text to token ids and back, by a closed set of symbols or by subwords.

Both classes have the methods `encode`, `decode`, `to_json` and `from_json`. A run saves its tokenizers as
`vocabularies.json`, and every file exported from it holds them in its metadata:

    from keras_dl.export import inspect, load
    from keras_dl.text import Subwords, read_vocabularies

    words = Subwords.from_json(inspect(path)["metadata"]["vocabularies"]["subwords"])
    words = read_vocabularies("runs/transformer/vocabularies.json")["subwords"]

The first four token ids are the same everywhere: 0 padding, 1 start, 2 end, 3 unknown.
"""

import base64
import collections
import io
import os
from collections.abc import Iterable, Sequence
from typing import Self

import numpy as np

from keras_dl.extras import require
from keras_dl.files import read_json, reading
from keras_dl.tokens import PADDING

START, END, UNKNOWN = 1, 2, 3  # behind padding, which is 0
SPECIAL = ("<padding>", "<start>", "<end>", "<unknown>")
REPLACEMENT = "\N{REPLACEMENT CHARACTER}"  # what an unknown token is decoded to


class Symbols:
    """A closed set of symbols, each a token.

    Args:
        symbols: sequence of str without repetition. The first one has the id 4.
        separator: str between the symbols of a text. Empty for texts whose characters are the symbols.

    Raises:
        ValueError: if a symbol is repeated, is empty, or contains the separator; or if a symbol has several characters
            and there is no separator.

    Example:

    >>> letters = Symbols("abcdef")
    >>> letters.encode(["bad", "cafe"]).tolist()
    [[5, 4, 7, 2, 0], [6, 4, 9, 8, 2]]
    >>> letters.decode([[5, 4, 7, 2, 9]])
    ['bad']
    """

    def __init__(self, symbols: Iterable[str], separator: str = ""):
        symbols = tuple(symbols)
        repeated = [symbol for symbol, count in collections.Counter(symbols).items() if count > 1]
        if repeated:
            raise ValueError(f"symbols has {repeated[0]!r} more than once.")
        for symbol in symbols:
            whole = len(symbol) == 1 if not separator else symbol and separator not in symbol
            if not whole:
                what = f"text without {separator!r}" if separator else "one character"
                raise ValueError(f"symbols has {symbol!r}; with separator={separator!r} each must be {what}.")
        self.symbols = symbols
        self.separator = separator
        self._ids = {symbol: i for i, symbol in enumerate(symbols, len(SPECIAL))}

    @classmethod
    def of(cls, texts: Iterable[str], separator: str = "", size: int | None = None) -> Self:
        """The vocabulary of some texts: all of their symbols, or the `size` most frequent ones, sorted."""
        counts = collections.Counter(symbol for text in texts for symbol in _split(text, separator))
        kept = sorted(counts, key=lambda symbol: (-counts[symbol], symbol))[:size]
        return cls(sorted(kept), separator)

    def __len__(self) -> int:
        return len(SPECIAL) + len(self.symbols)

    def encode(self, texts: Sequence[str], length: int | None = None) -> np.ndarray:
        """Token ids of texts, each with the end token.

        Args:
            texts: sequence of str.
            length: int. Length of each row. None for that of the longest. A longer text is cut, and has no end token.

        Returns:
            int32, `(len(texts), length)`: 3 for symbols that are not in the vocabulary, 0 after the end.
        """
        rows = [[*(self._ids.get(s, UNKNOWN) for s in _split(text, self.separator)), END] for text in texts]
        tokens = np.full((len(rows), max(map(len, rows), default=0) if length is None else length), PADDING, "int32")
        for row, ids in zip(tokens, rows, strict=True):
            row[: len(ids)] = ids[: len(row)]
        return tokens

    def decode(self, ids) -> list[str]:
        """The texts of token ids, up to the end token of each row.

        Args:
            ids: int, `(rows, length)`. Padding and start tokens are skipped. The unknown token and ids outside of the
                vocabulary become U+FFFD.

        Returns:
            list of str.
        """
        texts = []
        for row in np.asarray(ids):
            end = np.flatnonzero(row == END)
            row = row[: end[0]] if len(end) else row
            texts.append(self.separator.join(self._symbol(i) for i in row if i not in (PADDING, START)))
        return texts

    def _symbol(self, i):
        place = int(i) - len(SPECIAL)
        return self.symbols[place] if 0 <= place < len(self.symbols) else REPLACEMENT

    def to_json(self) -> dict:
        """The vocabulary as a dict that JSON can hold. `from_json` reads it."""
        return {"kind": "symbols", "separator": self.separator, "special": list(SPECIAL), "symbols": list(self.symbols)}

    @classmethod
    def from_json(cls, document: dict) -> Self:
        """The vocabulary of a dict from `to_json`.

        Raises:
            ValueError: if the dict describes something else.
        """
        types = {"kind": str, "special": list, "symbols": list, "separator": str}
        if not _has(document, types, "symbols") or tuple(document["special"]) != SPECIAL:
            raise ValueError(f"This is not a vocabulary of symbols: {str(document)[:100]}")
        if not all(isinstance(symbol, str) for symbol in document["symbols"]):
            raise ValueError(f"symbols must be text: {str(document['symbols'])[:100]}")
        return cls(document["symbols"], document["separator"])


def _split(text, separator):
    return [symbol for symbol in text.split(separator) if symbol] if separator else list(text)


class Subwords:
    """A vocabulary of subwords by SentencePiece: frequent words are one token, rare words are several.

    It is a model file of SentencePiece, so that its libraries for C++, Android, iOS and browsers read the same
    vocabulary on a device. `to_json` holds the file in base64 as `model`.

    References: Kudo, Richardson 2018, "SentencePiece", arXiv:1808.06226; Sennrich et al. 2016, arXiv:1508.07909, for
    byte-pair encoding, the kind that `learn` uses: it counts merges, so that equal texts give equal files.

    Args:
        model: bytes. A model file of SentencePiece with the four special tokens first.

    Raises:
        ImportError: if SentencePiece is not installed; the extra `text` installs it.
        ValueError: if `model` is something else.

    Example:

    >>> words = Subwords.learn(["the cat sat on the mat", "the rat sat"], 40)
    >>> tokens = words.encode(["the cat", "the mat sat on the rat"])
    >>> words.decode(tokens)
    ['the cat', 'the mat sat on the rat']
    """

    def __init__(self, model: bytes):
        processor = require("sentencepiece", extra="text").SentencePieceProcessor()
        try:
            processor.LoadFromSerializedProto(model)
        except (RuntimeError, TypeError) as error:
            raise ValueError(f"This is not a model file of SentencePiece: {model[:20]!r}") from error
        if (processor.pad_id(), processor.bos_id(), processor.eos_id(), processor.unk_id()) != (0, 1, 2, 3):
            raise ValueError("The SentencePiece model must have padding, start, end and unknown as tokens 0 to 3.")
        self.model = bytes(model)
        self._processor = processor

    @classmethod
    def learn(cls, texts: Iterable[str], vocabulary_size: int) -> Self:
        """The vocabulary of some texts. Equal texts in the same order give equal vocabularies.

        Args:
            texts: sequence of str. Each character in them becomes a token.
            vocabulary_size: int. Number of tokens, including the four special ones; fewer if the texts have fewer.

        Returns:
            `Subwords`.

        Raises:
            ValueError: if there is no text, or there are more characters than tokens.
        """
        sentencepiece = require("sentencepiece", extra="text")
        texts = list(texts)
        if not any(text.strip() for text in texts):
            raise ValueError("texts holds no text to learn from.")
        file = io.BytesIO()
        try:
            sentencepiece.SentencePieceTrainer.train(
                sentence_iterator=iter(texts),
                model_writer=file,
                model_type="bpe",
                vocab_size=vocabulary_size,
                hard_vocab_limit=False,
                character_coverage=1.0,
                normalization_rule_name="identity",  # the default's table of Unicode would be most of the file
                max_sentence_length=1 << 20,
                num_threads=1,
                minloglevel=2,
                pad_id=PADDING,
                bos_id=START,
                eos_id=END,
                unk_id=UNKNOWN,
            )
        except RuntimeError as error:
            raise ValueError(f"vocabulary_size={vocabulary_size} does not fit these texts: {error}") from error
        return cls(file.getvalue())

    def __len__(self) -> int:
        return self._processor.GetPieceSize()

    def encode(self, texts: Sequence[str], length: int | None = None) -> np.ndarray:
        """Token ids of texts, each with the end token.

        Args:
            texts: sequence of str.
            length: int. Length of each row. None for that of the longest. A longer text is cut, and has no end token.

        Returns:
            int32, `(len(texts), length)`: 3 for characters that are not in the vocabulary, 0 after the end.
        """
        rows = [[*ids, END] for ids in self._processor.EncodeAsIds(list(texts))]
        tokens = np.full((len(rows), max(map(len, rows), default=0) if length is None else length), PADDING, "int32")
        for row, ids in zip(tokens, rows, strict=True):
            row[: len(ids)] = ids[: len(row)]
        return tokens

    def decode(self, ids) -> list[str]:
        """The texts of token ids, up to the end token of each row.

        Args:
            ids: int, `(rows, length)`. Padding and start tokens are skipped. Ids outside of the vocabulary count as
                unknown.

        Returns:
            list of str.
        """
        texts = []
        for row in np.asarray(ids).astype("int64"):
            end = np.flatnonzero(row == END)
            row = row[: end[0]] if len(end) else row
            row = np.where((row < 0) | (row >= len(self)), UNKNOWN, row)
            texts.append(self._processor.DecodeIds([int(i) for i in row if i not in (PADDING, START)]))
        return texts

    def pieces(self, ids) -> list[str]:
        """The subwords of one row of token ids, with `_` for a space: list of str, without padding."""
        return [self._processor.IdToPiece(int(i)).replace("\N{LOWER ONE EIGHTH BLOCK}", "_") for i in ids if i > 0]

    def to_json(self) -> dict:
        """The vocabulary as a dict that JSON can hold. `from_json` reads it."""
        return {"kind": "subwords", "library": "sentencepiece", "model": base64.b64encode(self.model).decode()}

    @classmethod
    def from_json(cls, document: dict) -> Self:
        """The vocabulary of a dict from `to_json`.

        Raises:
            ValueError: if the dict describes something else.
        """
        if not _has(document, {"kind": str, "model": str}, "subwords"):
            raise ValueError(f"This is not a vocabulary of subwords: {str(document)[:100]}")
        return cls(base64.b64decode(document["model"], validate=True))


def _has(document, types, kind):
    """Whether a document is a dict of this kind that has the keys of `types` with values of these types."""
    return (
        isinstance(document, dict)
        and all(isinstance(document.get(name), of) for name, of in types.items())
        and document["kind"] == kind
    )


def read_vocabularies(path: str | os.PathLike) -> dict[str, Symbols | Subwords]:
    """The tokenizers in the `vocabularies.json` of a run, by name.

    Args:
        path: str or path.

    Raises:
        FileError: if the file is damaged or holds something else. A ValueError.
        OSError: if the file does not exist, or cannot be read.

    Example:

    >>> import json, pathlib, tempfile
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "vocabularies.json"
    >>> _ = path.write_text(json.dumps({"letters": Symbols("ab").to_json()}))
    >>> read_vocabularies(path)["letters"].decode([[5, 4]])
    ['ba']
    """
    what, cure = "a file of vocabularies", "Copy it again from the folder of the run."
    document = read_json(path, what, cure)
    with reading(path, what, cure):
        return tokenizers(document)


def tokenizers(document: dict) -> dict[str, Symbols | Subwords]:
    """The tokenizers of a dict of documents from `to_json`, as a run or the metadata of a file has them, by name.

    Raises:
        ValueError: if a document describes something else.

    Example:

    >>> tokenizers({"letters": Symbols("ab").to_json()})["letters"].decode([[5, 4]])
    ['ba']
    """
    kinds = {name: Subwords if _has(x, {"kind": str}, "subwords") else Symbols for name, x in document.items()}
    return {name: kinds[name].from_json(x) for name, x in document.items()}
