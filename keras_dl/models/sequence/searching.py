"""Shared by all models that write a sequence token by token: translators, and language models that continue a prompt.

state_0       = encode(source)
log p, state' = decode_step(y_{t-1}, state)          y_0 is the start token, or the last token of the prompt
y             = greedy | beam_search | sample        of these steps, as one graph: `keras_dl.ops.decoding`
"""

import math
import numbers
from collections.abc import Mapping

import tensorflow as tf

from keras_dl.checks import check_shapes, check_size, shape_of
from keras_dl.inputs import check_rows
from keras_dl.ops import decoding
from keras_dl.ops.decoding import Hypotheses
from keras_dl.tokens import PADDING, check_ids


class SearchingModel:
    """Mixin of models that decode: the first state, one step, and three searches.

    A class puts it in front of its base, `class Seq2Seq(SearchingModel, FunctionalModel)`. It has an attribute
    `end_token`, and implements `_read`, `_begin`, `_step` and `_state_shapes`. A language model, which continues
    prompts, also implements `_first_tokens` and `_room`. A translator has `start_token` and `target_length` instead.

    Attributes:
        constant_states: tuple of str. Entries of the state that a step does not change. A search keeps them out of its
            loop.
        padding_token: int. The token that fills up sequences. It is never written, unless it is the end token too.
        unwritten_tokens: tuple of int. Further tokens that a search never writes.
        compiles_searches: bool. Whether XLA compiles the searches.
    """

    constant_states: tuple[str, ...] = ()
    padding_token = PADDING
    unwritten_tokens: tuple[int, ...] = ()
    compiles_searches = False
    returns_logits = True

    def encode(self, source) -> dict:
        """Reads the source: the state that decoding starts from.

        Args:
            source: int, `(batch, n)`: the sequences to translate. For a language model, the prompts to continue.

        Returns:
            dict of tensors `(batch, ...)`, which `decode_step` takes. The class's docstring names them.

        Raises:
            ValueError: if `source` is not int or has another shape. If called eagerly, also if an id is not in the
                vocabulary.
        """
        return self._begin(self._read(source))

    def decode_step(self, tokens, state) -> tuple:
        """The probabilities of the next tokens.

        Args:
            tokens: int, `(batch,)`: the tokens before the next ones. At first the start token. For a language model, at
                first the last token of each prompt.
            state: dict, as `encode` or the step before returned it.

        Returns:
            log_probabilities: float32, `(batch, vocabulary_size)`.
            state: dict, after these tokens.

        Raises:
            ValueError: if `tokens` are not int, or `tokens` or `state` have other names or shapes.
        """
        tokens = check_ids("tokens", tokens)
        check_shapes("tokens", {"tokens": tokens}, {"tokens": (None,)}, "give (batch,), one token per row")
        check_shapes("state", state, self._state_shapes(tokens.shape[0]), "start with encode(source)")
        return self._step(tokens, state)

    def greedy(self, source, max_length: int | None = None) -> Hypotheses:
        """Writes the most probable token at each step, until the end token.

        Args:
            source: int, `(batch, n)`, as for `encode`.
            max_length: int. Number of tokens to write at most, the end token included. None for as many as the model
                has room for.

        Returns:
            `keras_dl.ops.decoding.Hypotheses` of tokens `(batch, max_length)`.

        Raises:
            ValueError: if an argument is out of its range, or an id is not in the vocabulary.
        """
        return self._run(decoding.greedy, source, max_length)

    def beam_search(
        self, source, beam_size: int = 4, max_length: int | None = None, length_penalty: float = 0.0
    ) -> Hypotheses:
        """Writes the most probable sequences that a beam search finds.

        Args:
            source: int, `(batch, n)`, as for `encode`.
            beam_size: int. May be larger than the vocabulary. 1 is the greedy search.
            max_length: int, as for `greedy`.
            length_penalty: float, at least 0: alpha of Wu et al. Vaswani et al. use 0.6.

        Returns:
            `keras_dl.ops.decoding.Hypotheses` of tokens `(batch, beam_size, max_length)`, the best ones first.

        Raises:
            ValueError: if an argument is out of its range, or an id is not in the vocabulary.
        """
        options = dict(
            beam_size=check_size("beam_size", beam_size),
            length_penalty=decoding.check_length_penalty(length_penalty),
        )
        return self._run(decoding.beam_search, source, max_length, **options)

    def sample(
        self, source, max_length: int | None = None, temperature: float = 1.0, seed: int | None = None
    ) -> Hypotheses:
        """Writes tokens drawn from the model's distribution: `p(token) ** (1 / temperature)`, normalized.

        Args:
            source: int, `(batch, n)`, as for `encode`.
            max_length: int, as for `greedy`.
            temperature: float, at least 0. At 0, the most probable token is taken.
            seed: int, at least 0. Equal seeds give equal draws. None for a new one, which follows
                `keras.utils.set_random_seed`.

        Returns:
            `keras_dl.ops.decoding.Hypotheses` of tokens `(batch, max_length)`.

        Raises:
            ValueError: if an argument is out of its range, or an id is not in the vocabulary.
        """
        options = dict(
            temperature=tf.constant(_check_temperature(temperature), "float32"),
            seed=decoding.seed_pair(seed),
        )
        return self._run(decoding.sample, source, max_length, **options)

    # What a class implements

    def _read(self, source):
        """`source`, checked: int32, `(batch, n)`."""
        raise NotImplementedError

    def _begin(self, source) -> dict:
        """`encode`, of a source that is checked."""
        raise NotImplementedError

    def _step(self, tokens, state) -> tuple:
        """`decode_step`, of tokens and a state that are checked."""
        raise NotImplementedError

    def _state_shapes(self, batch_size) -> dict:
        """The shapes of the state, as `keras_dl.checks.check_shapes` takes them."""
        raise NotImplementedError

    def _first_tokens(self, source):
        """The token before the first one: int, or int32 `(batch,)`."""
        return self.start_token

    def _room(self, source) -> tuple[int, int | None]:
        """Number of tokens that a search writes by default, and at most; None for any number."""
        return self.target_length, None

    # The searches

    def _run(self, search, source, max_length, **options):
        """A search as one graph. It is traced once for each shape of the source and each set of Python numbers."""
        source = self._read(source)
        default, most = self._room(source)
        max_length = default if max_length is None else check_size("max_length", max_length)
        if most is not None and max_length > most:
            raise ValueError(f"max_length={max_length} must be at most {most}, the places that are left.")
        # Not an attribute: TensorFlow would write it into every SavedModel.
        graphs = self.__dict__.setdefault("_graphs", {})
        if search not in graphs:

            def graph(source, **options):
                return self._search(search, source, **options)

            graphs[search] = tf.function(graph, autograph=False, jit_compile=self.compiles_searches or None)
        return graphs[search](source, max_length=max_length, **options)

    def _search(self, search, source, **options):
        """The operations of a search of `keras_dl.ops.decoding`, in the graph at hand."""
        state = self._begin(source)
        constant = {name: state.pop(name) for name in self.constant_states if name in state}
        beam_size = options.get("beam_size", 1)
        if beam_size > 1:
            constant = decoding.repeat(constant, beam_size)

        def step(tokens, position, changing):
            log_probabilities, after = self.decode_step(tokens, constant | changing)
            for token in self.unwritten_tokens:
                unwritten = tf.equal(tf.range(log_probabilities.shape[-1]), token)  # (vocabulary,)
                log_probabilities = tf.where(unwritten, -math.inf, log_probabilities)
            return log_probabilities, {name: after[name] for name in changing}

        return search(step, state, self._first_tokens(source), self.end_token, padding=self.padding_token, **options)

    def _served_greedy(self, tokens) -> Hypotheses:
        """The greedy search that a device runs."""
        tokens = self._read(tokens)
        return self._search(decoding.greedy, tokens, max_length=self._room(tokens)[0])


def check_pair(model, inputs) -> None:
    """Refuses inputs of a translator that are not a dict of `source` and `target` with the same number of rows."""
    if not isinstance(inputs, Mapping) or inputs.keys() != {"source", "target"}:
        given = f"a dict of {sorted(inputs)}" if isinstance(inputs, Mapping) else f"a {type(inputs).__name__}"
        raise ValueError(
            f"inputs must be a dict of 'source' and 'target', not {given}: {type(model).__name__} predicts each token "
            "of a target from those before it. To translate, call greedy(source), beam_search(source) or "
            "sample(source)."
        )
    if all(len(shape_of(x) or ()) == 2 for x in inputs.values()):  # others are refused by their rank
        check_rows(inputs)


def _check_temperature(value):
    if isinstance(value, bool) or not isinstance(value, numbers.Real) or not 0 <= value < math.inf:
        raise ValueError(f"temperature={value!r} must be a finite number of at least 0.")
    return float(value)
