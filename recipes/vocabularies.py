"""Vocabularies of closed sets of symbols: text to token ids and back, such as letters, phonemes or characters.

Every vocabulary of this package, also that of subwords, has the methods `encode`, `decode`, `to_json` and `from_json`,
and these four tokens in front: 0 padding, 1 start, 2 end, 3 unknown.
"""

import collections

import numpy as np

PADDING, START, END, UNKNOWN = range(4)
SPECIAL = ("<padding>", "<start>", "<end>", "<unknown>")
REPLACEMENT = "\N{REPLACEMENT CHARACTER}"  # what an unknown token is decoded to


class Symbols:
    """A closed set of symbols, each a token.

    Args:
        symbols: sequence of str, each once. The first gets id 4.
        separator: str that stands between symbols in a text. Empty for texts whose characters are the symbols.

    Raises:
        ValueError: if a symbol is given twice, is empty, or holds the separator, or a symbol has several
            characters where there is no separator.

    Example:

    >>> letters = Symbols("abcdef")
    >>> letters.encode(["bad", "cafe"]).tolist()
    [[5, 4, 7, 2, 0], [6, 4, 9, 8, 2]]
    >>> letters.decode([[5, 4, 7, 2, 9]])
    ['bad']
    """

    def __init__(self, symbols, separator=""):
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
    def of(cls, texts, separator="", size=None):
        """The vocabulary of some texts: all of their symbols, or the `size` most frequent ones; sorted."""
        counts = collections.Counter(symbol for text in texts for symbol in _split(text, separator))
        kept = sorted(counts, key=lambda symbol: (-counts[symbol], symbol))[:size]
        return cls(sorted(kept), separator)

    def __len__(self):
        return len(SPECIAL) + len(self.symbols)

    def encode(self, texts, length=None):
        """Token ids of texts, each with the end token.

        Args:
            texts: sequence of str.
            length: int, of each row. None for that of the longest. What is longer is cut, and has no end token.

        Returns:
            int32, `(len(texts), length)`: 3 for symbols that are not in the vocabulary, 0 after the end.
        """
        rows = [[*(self._ids.get(s, UNKNOWN) for s in _split(text, self.separator)), END] for text in texts]
        tokens = np.full((len(rows), max(map(len, rows), default=0) if length is None else length), PADDING, "int32")
        for row, ids in zip(tokens, rows, strict=True):
            row[: len(ids)] = ids[: len(row)]
        return tokens

    def decode(self, ids):
        """The texts of token ids, up to the end token of each row.

        Args:
            ids: int, `(rows, length)`. Padding and start tokens are left out; what is unknown, or no token of the
                vocabulary, becomes U+FFFD.

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

    def to_json(self):
        """What JSON can hold, and `from_json` takes."""
        return {"kind": "symbols", "separator": self.separator, "special": list(SPECIAL), "symbols": list(self.symbols)}

    @classmethod
    def from_json(cls, document):
        """The vocabulary that `to_json` described.

        Raises:
            ValueError: if the document is of something else.
        """
        if document.get("kind") != "symbols" or tuple(document.get("special", ())) != SPECIAL:
            raise ValueError(f"This is no vocabulary of symbols: {str(document)[:100]}")
        return cls(document["symbols"], document["separator"])


def _split(text, separator):
    return [symbol for symbol in text.split(separator) if symbol] if separator else list(text)
