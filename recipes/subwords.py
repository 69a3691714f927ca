"""Vocabularies of subwords, learned from texts by SentencePiece: frequent words are one token, rare ones several.

A vocabulary is SentencePiece's own model file, so that its C++ library (or its packages for Android, iOS and the
browser) reads on a device exactly what was learned here: `to_json` holds the file, in base64, under `model`, and every
exported file carries that in its metadata.

As in every vocabulary of this package, token 0 is padding, 1 start, 2 end, 3 unknown.

Reference: Kudo, Richardson 2018, "SentencePiece", arXiv:1808.06226; Sennrich et al. 2016, arXiv:1508.07909, for
byte-pair encoding, which it is told to use: merges are counted, so that the same texts give the same file.
"""

import base64
import io

import numpy as np

from keras_dl.extras import require

PADDING, START, END, UNKNOWN = range(4)


class Subwords:
    """A vocabulary of subwords.

    Args:
        model: bytes. A SentencePiece model file with the four tokens in front.

    Raises:
        ValueError: if `model` is something else.

    Example:

    >>> words = Subwords.learn(["the cat sat on the mat", "the rat sat"], 40)
    >>> tokens = words.encode(["the cat", "the mat sat on the rat"])
    >>> words.decode(tokens)
    ['the cat', 'the mat sat on the rat']
    """

    def __init__(self, model):
        processor = require("sentencepiece", extra="recipes").SentencePieceProcessor()
        try:
            processor.LoadFromSerializedProto(model)
        except (RuntimeError, TypeError) as error:
            raise ValueError(f"This is no model file of SentencePiece: {model[:20]!r}") from error
        if (processor.pad_id(), processor.bos_id(), processor.eos_id(), processor.unk_id()) != (0, 1, 2, 3):
            raise ValueError("The SentencePiece model must have padding, start, end and unknown as tokens 0 to 3.")
        self.model = bytes(model)
        self._processor = processor

    @classmethod
    def learn(cls, texts, vocabulary_size):
        """The vocabulary of some texts. The same texts in the same order give the same vocabulary.

        Args:
            texts: sequence of str. Every character in them becomes a token.
            vocabulary_size: int. Tokens, the four in front included; less where the texts do not have so many.

        Returns:
            `Subwords`.

        Raises:
            ValueError: if there is no text, or more characters than tokens.
        """
        sentencepiece = require("sentencepiece", extra="recipes")
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

    def __len__(self):
        return self._processor.GetPieceSize()

    def encode(self, texts, length=None):
        """Token ids of texts, each with the end token.

        Args:
            texts: sequence of str.
            length: int, of each row. None for that of the longest. What is longer is cut, and has no end token.

        Returns:
            int32, `(len(texts), length)`: 3 for characters that are not in the vocabulary, 0 after the end.
        """
        rows = [[*ids, END] for ids in self._processor.EncodeAsIds(list(texts))]
        tokens = np.full((len(rows), max(map(len, rows), default=0) if length is None else length), PADDING, "int32")
        for row, ids in zip(tokens, rows, strict=True):
            row[: len(ids)] = ids[: len(row)]
        return tokens

    def decode(self, ids):
        """The texts of token ids, up to the end token of each row.

        Args:
            ids: int, `(rows, length)`. Padding and start tokens are left out; what is no token of the vocabulary counts
                as unknown.

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

    def pieces(self, ids):
        """The subwords of one row of token ids, a space as `_`: list of str, without padding."""
        return [self._processor.IdToPiece(int(i)).replace("\N{LOWER ONE EIGHTH BLOCK}", "_") for i in ids if i > 0]

    def to_json(self):
        """What JSON can hold, and `from_json` takes."""
        return {"kind": "subwords", "library": "sentencepiece", "model": base64.b64encode(self.model).decode()}

    @classmethod
    def from_json(cls, document):
        """The vocabulary that `to_json` described.

        Raises:
            ValueError: if the document is of something else.
        """
        if document.get("kind") != "subwords":
            raise ValueError(f"This is no vocabulary of subwords: {str(document)[:100]}")
        return cls(base64.b64decode(document["model"]))
