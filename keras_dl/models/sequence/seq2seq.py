"""Sequence to sequence: one recurrent net reads, another writes; with a fixed vector between them, or with attention.

    h_i = RNN(E x_i, h_{i-1})                              encoder; of the reversed source in Sutskever et al.
    s_t = RNN([F y_{t-1}; c_t], s_{t-1})                   decoder
    p(y_t | y_<t, x) = softmax(W [s_t; c_t])               or W maxout([s_t; c_t; F y_{t-1}]), pairs of units

    no c_t, s_0 = h_n                                         Sutskever et al.: each layer's last state is handed on
    c_t = c = tanh(V h_n), s_0 = tanh(V' c)                   Cho et al.: `feed_context`
    c_t = attention(s_{t-1}, h_1 .. h_n), s_0 = tanh(W h_n)   Bahdanau et al.: `attention="additive"`, bidirectional h

Training is by teacher forcing: the decoder sees the true tokens before each one, or, with `sampling_rate`, at some
places what the model itself would have written there (scheduled sampling, of both papers below the one in two passes).
Padding, token 0, is neither read nor scored. Searches are those of `keras_dl.ops.decoding`, attention is that of
`keras_dl.layers.alignment`.

References: Sutskever, Vinyals, Le 2014, "Sequence to Sequence Learning with Neural Networks", arXiv:1409.3215. Cho et
al. 2014, arXiv:1406.1078. Bahdanau, Cho, Bengio 2014, arXiv:1409.0473. Bengio et al. 2015, "Scheduled Sampling for
Sequence Prediction with Recurrent Neural Networks", arXiv:1506.03099; Mihaylova, Martins 2019, "Scheduled Sampling for
Transformers", arXiv:1906.07651 (two passes).

Deviations:
- The GRU's reset gate is applied after the product with the state, as in cuDNN, not before it.
- Bahdanau et al. make s_0 of the backward encoder alone, here of both directions. Their output sees s_{t-1} in the
  appendix, and s_t in section 3; here s_t.
- With several layers, the first one attends and the others do not see the context (Wu et al. 2016 do it so, and hand
  the context to all).
- Initial weights are Keras's; Sutskever et al. draw them from U(-0.08, 0.08).
"""

import contextlib

import keras
import tensorflow as tf
from keras import ops

from keras_dl.base import FunctionalModel, Signature
from keras_dl.checks import check_choice, check_rate, check_shapes, check_size
from keras_dl.layers.recurrent import unrolled
from keras_dl.layers.sequence_codec import CELLS, STATES, SequenceDecoder, SequenceEncoder
from keras_dl.ops import decoding
from keras_dl.tokens import PADDING, check_ids, check_places, known_tokens

# In a file, an encoder of up to so many steps, in all layers and directions, is written without a loop: an integer file
# cannot have one, and each step of a loop costs more than what it computes.
UNROLLED_STEPS = 256

PRESETS = {
    # Section 3.4: 384M parameters, of which 64M are recurrent; 384,112,000 by these sizes.
    "sutskever2014": dict(
        source_vocabulary_size=160_000,
        target_vocabulary_size=80_000,
        embedding_dim=1000,
        hidden_dim=1000,
        num_layers=4,
        cell="lstm",
        reverse_source=True,
    ),
    # Section 4.1: 15,000 words, 1,000 units, embeddings of rank 100, 500 maxout units of 2 inputs: 24,230,000 weights.
    "cho2014": dict(
        source_vocabulary_size=15_000,
        target_vocabulary_size=15_000,
        embedding_dim=100,
        hidden_dim=1000,
        cell="gru",
        feed_context=True,
        maxout_dim=500,
    ),
    # Appendix A.2.3, RNNsearch: 30,000 words, 1,000 units, embeddings of 620, an alignment of 1,000, 500 maxout units:
    # 81,452,000 weights.
    "bahdanau2015": dict(
        source_vocabulary_size=30_000,
        target_vocabulary_size=30_000,
        embedding_dim=620,
        hidden_dim=1000,
        cell="gru",
        bidirectional=True,
        attention="additive",
        attention_dim=1000,
        maxout_dim=500,
    ),
}


@keras.saving.register_keras_serializable(package="keras_dl")
class Seq2Seq(FunctionalModel):
    """Encoder-decoder of recurrent nets, with or without attention.

    `fit({"sources": ..., "targets": ...})` trains by teacher forcing, without further targets: token t of the targets
    is predicted from those before it, and padding has the sample weight 0. Targets end with `end_token`; the start
    token is put in front by the model. (Keras drops sample weights of one's own unless the targets are given once more,
    as targets.) Compile it with a loss of logits that honours sample weights, and metrics as `weighted_metrics`:

        model.compile("adam", keras.losses.SparseCategoricalCrossentropy(
            from_logits=True, reduction="mean_with_sample_weight"), weighted_metrics=["accuracy"])

    Args:
        source_vocabulary_size: int. Ids are 0 to that minus 1; 0 is padding.
        target_vocabulary_size: int.
        embedding_dim: int. Width of both embeddings.
        hidden_dim: int. Width of every recurrent layer, in each direction.
        num_layers: int. Of encoder and decoder each.
        cell: "lstm" or "gru".
        bidirectional: bool. Whether the encoder reads in both directions.
        reverse_source: bool. Whether it reads the last token first.
        attention: None, or "additive".
        attention_dim: int. Hidden width of the attention.
        feed_context: bool. Whether the decoder sees the vector of the source at every step. Not with attention.
        maxout_dim: int. Units of the maxout layer before the softmax; 0 for none.
        dropout_rate: float in [0, 1). Of embeddings, between layers and before the softmax; never from step to step.
        sampling_rate: float in [0, 1). Share of the tokens that the decoder sees in training that are its own.
        sampling_steps: int. That share rises from 0 to `sampling_rate` over so many steps of the optimizer.
        source_length: int. Of the sources that a device takes. Training takes any.
        target_length: int. Of the longest translation, the end included, unless a search is told otherwise.
        start_token: int.
        end_token: int.
        seed: int or None. Of the scheduled sampling.

    Call arguments:
        inputs: dict of `sources`, int `(batch, source_length)`, and `targets`, int `(batch, target_length)`: any
            lengths of at least 1. 0 is padding, wherever it stands. A row that is all padding is an empty source: the
            encoder's state stays zero, and attention gives a context of zeros.

    Returns:
        float32, `(batch, target_length, target_vocabulary_size)`: logits of each target token, which depend on the
        source and on the target tokens before it.

    Raises:
        ValueError: if an argument is out of its range; if sources or targets have the length 0; and if, called eagerly,
            an id is out of its vocabulary. In a graph or a file such an id is read as padding.

    Example:

    >>> model = Seq2Seq(30, 40, embedding_dim=8, hidden_dim=16, bidirectional=True, attention="additive")
    >>> sources = ops.array([[5, 6, 7, 2], [8, 2, 0, 0]])
    >>> model({"sources": sources, "targets": ops.array([[9, 2], [2, 0]])}).shape
    TensorShape([2, 2, 40])
    >>> model.translate(sources, max_length=6).tokens.shape
    TensorShape([2, 6])
    >>> model.beam_search(sources, beam_size=3, max_length=6, length_penalty=0.6).tokens.shape
    TensorShape([2, 3, 6])
    """

    presets = PRESETS

    def __init__(
        self,
        source_vocabulary_size,
        target_vocabulary_size,
        embedding_dim=256,
        hidden_dim=256,
        num_layers=1,
        cell="lstm",
        bidirectional=False,
        reverse_source=False,
        attention=None,
        attention_dim=128,
        feed_context=False,
        maxout_dim=0,
        dropout_rate=0.0,
        sampling_rate=0.0,
        sampling_steps=1000,
        source_length=32,
        target_length=32,
        start_token=1,
        end_token=2,
        seed=None,
        dtype=None,
        **kwargs,
    ):
        source_vocabulary_size = check_size("source_vocabulary_size", source_vocabulary_size, 2)
        target_vocabulary_size = check_size("target_vocabulary_size", target_vocabulary_size, 2)
        check_choice("cell", cell, tuple(CELLS))
        check_choice("attention", attention, (None, "additive"))
        if feed_context and attention:
            raise ValueError(f"feed_context={feed_context} goes with attention=None alone: attention feeds its own.")
        for name, token in (("start_token", start_token), ("end_token", end_token)):
            if check_size(name, token) >= target_vocabulary_size:
                raise ValueError(f"{name}={token} must be in [1, target_vocabulary_size={target_vocabulary_size}).")
        network = dict(
            embedding_dim=check_size("embedding_dim", embedding_dim),
            hidden_dim=check_size("hidden_dim", hidden_dim),
            num_layers=check_size("num_layers", num_layers),
            cell=cell,
            dropout_rate=check_rate("dropout_rate", dropout_rate),
            dtype=dtype,
        )
        looks_at = "memory" if attention else "context" if feed_context else "state"
        encoder = SequenceEncoder(
            source_vocabulary_size,
            bidirectional=bidirectional,
            reverse_source=reverse_source,
            keeps=looks_at,
            name="encoder",
            **network,
        )
        decoder = SequenceDecoder(
            target_vocabulary_size,
            looks_at=looks_at,
            attention_dim=check_size("attention_dim", attention_dim),
            maxout_dim=check_size("maxout_dim", maxout_dim, 0),
            start_token=start_token,
            name="decoder",
            **network,
        )
        inputs = {name: keras.Input((None,), dtype="int32", name=name) for name in ("sources", "targets")}
        logits = decoder(inputs["targets"], encoder(inputs["sources"]))
        super().__init__(inputs=inputs, outputs=logits, dtype=dtype, **kwargs)

        self.source_vocabulary_size = source_vocabulary_size
        self.target_vocabulary_size = target_vocabulary_size
        self.embedding_dim = embedding_dim
        self.hidden_dim = hidden_dim
        self.num_layers = num_layers
        self.cell = cell
        self.bidirectional = bidirectional
        self.reverse_source = reverse_source
        self.attention = attention
        self.attention_dim = attention_dim
        self.feed_context = feed_context
        self.maxout_dim = maxout_dim
        self.dropout_rate = dropout_rate
        self.sampling_rate = check_rate("sampling_rate", sampling_rate)
        self.sampling_steps = check_size("sampling_steps", sampling_steps)
        self.source_length = check_size("source_length", source_length)
        self.target_length = check_size("target_length", target_length)
        self.start_token = start_token
        self.end_token = end_token
        self.seed = seed
        self.seed_generator = keras.random.SeedGenerator(seed)
        # Compiled once for each shape of the sources and each set of the other arguments.
        self._search = tf.function(self._searched, autograph=False, jit_compile=True)

    @property
    def encoder(self):
        """The layer that reads: `keras_dl.layers.sequence_codec.SequenceEncoder`."""
        return self.get_layer("encoder")

    @property
    def decoder(self):
        """The layer that writes: `keras_dl.layers.sequence_codec.SequenceDecoder`."""
        return self.get_layer("decoder")

    def train_step(self, data):
        inputs, targets, weights = self._scored(data)
        if self.sampling_rate:
            inputs = inputs | {"targets": self._sampled(inputs)}
        return super().train_step((inputs, targets, weights))

    def test_step(self, data):
        return super().test_step(self._scored(data))

    def _scored(self, data):
        """Inputs, targets and the weights that keep padding out of losses and metrics."""
        inputs, targets, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        targets = inputs["targets"] if targets is None else targets
        check_places("targets", targets)
        targets = known_tokens("targets", targets, self.target_vocabulary_size)
        weights = ops.cast(targets != PADDING, "float32")
        if sample_weight is not None:
            sample_weight = ops.cast(sample_weight, "float32")
            weights *= sample_weight if len(sample_weight.shape) == 2 else ops.reshape(sample_weight, (-1, 1))
        return inputs, targets, weights

    def _sampled(self, inputs):
        """The targets, some of them as the model itself predicts them from the true ones before."""
        written = ops.argmax(ops.stop_gradient(self(inputs, training=False)), axis=-1)
        share = ops.minimum(ops.cast(self.optimizer.iterations, "float32") / self.sampling_steps, 1.0)
        draw = keras.random.uniform(ops.shape(written), seed=self.seed_generator)
        targets = ops.cast(inputs["targets"], "int32")
        own = ops.logical_and(draw < share * self.sampling_rate, targets != PADDING)
        return ops.where(own, ops.cast(written, "int32"), targets)

    def encode(self, sources):
        """What decoding starts from: dict of tensors `(batch, ...)`.

        Args:
            sources: int, `(batch, source_length)`.

        Returns:
            dict of the decoder's first state, `hidden_0` and so on, with `cell_0` and so on for LSTMs; `context` with
            `feed_context`; `memory`, `memory_mask` and `keys` with attention.

        Raises:
            ValueError: if sources are no int, or of another shape; eagerly also if an id is out of the vocabulary.
        """
        return self.decoder.prepared(self.encoder(self._sources(sources)))

    def decode_step(self, tokens, state):
        """The next token's probabilities.

        Args:
            tokens: int, `(batch,)`: the tokens before; `start_token` at first.
            state: dict, as `encode` or the step before gave it.

        Returns:
            log_probabilities: float32, `(batch, target_vocabulary_size)`.
            state: dict, with the decoder's new state.

        Raises:
            ValueError: if tokens are no int, or tokens or state have other names or shapes; it says which.
        """
        tokens = check_ids("tokens", tokens)
        check_shapes("tokens", {"tokens": tokens}, {"tokens": (None,)}, "take (batch,), one of each row")
        check_shapes("state", state, self._state_shapes(tokens.shape[0]), "start with encode(sources)")
        outputs = self.decoder(tokens, state)
        return ops.log_softmax(outputs["logits"]), {name: outputs.get(name, x) for name, x in state.items()}

    def _state_shapes(self, batch_size):
        """The shapes of what `encode` gives, with the source's length open."""
        units = self.hidden_dim
        shapes = {f"{name}_{i}": (batch_size, units) for i in range(self.num_layers) for name in STATES[self.cell]}
        if self.feed_context:
            shapes["context"] = (batch_size, units)
        if self.attention:
            shapes["memory"] = (batch_size, "length", units * (1 + self.bidirectional))
            shapes["memory_mask"] = (batch_size, "length")
            shapes["keys"] = (batch_size, "length", self.attention_dim)
        return shapes

    def translate(self, sources, max_length=None):
        """The greedy translation.

        Args:
            sources: int, `(batch, source_length)`.
            max_length: int. Tokens at most, the end included; None for `target_length`.

        Returns:
            `keras_dl.ops.decoding.Hypotheses` of tokens `(batch, max_length)`.

        Raises:
            ValueError: if `max_length` is no positive integer, sources are no int, or an id is out of the vocabulary.
        """
        return self._search(self._sources(sources), self._length(max_length), None, 0.0)

    def beam_search(self, sources, beam_size=4, max_length=None, length_penalty=0.0):
        """The best translations that a beam search finds.

        Args:
            sources: int, `(batch, source_length)`.
            beam_size: int. May be larger than the vocabulary.
            max_length: int. Tokens at most, the end included; None for `target_length`.
            length_penalty: float, at least 0: alpha of Wu et al.

        Returns:
            `keras_dl.ops.decoding.Hypotheses` of tokens `(batch, beam_size, max_length)`.

        Raises:
            ValueError: if an argument is out of its range, sources are no int, or an id is out of the vocabulary.
        """
        beam_size = check_size("beam_size", beam_size)
        length_penalty = decoding.check_length_penalty(length_penalty)
        return self._search(self._sources(sources), self._length(max_length), beam_size, length_penalty)

    def align(self, sources, targets):
        """Where the decoder looks before it writes each target token.

        Args:
            sources: int, `(batch, source_length)`.
            targets: int, `(batch, target_length)`.

        Returns:
            float, `(batch, target_length, source_length)`: rows sum to 1; 0 at padding of the source.

        Raises:
            ValueError: if the model has no attention, or sources or targets are no ids.
        """
        if not self.attention:
            raise ValueError(f"attention={self.attention!r}: there is no alignment to be had.")
        targets = check_ids("targets", targets)
        return self.decoder(targets, self.encoder(self._sources(sources)), alignment=True)

    def _sources(self, sources):
        sources = ops.cast(check_ids("sources", sources), "int32")
        if len(sources.shape) != 2:
            raise ValueError(f"sources has the shape {tuple(sources.shape)}; it must be (batch, source_length).")
        check_places("sources", sources)
        return known_tokens("sources", sources, self.source_vocabulary_size)

    def _length(self, max_length):
        return self.target_length if max_length is None else check_size("max_length", max_length)

    def _searched(self, sources, max_length, beam_size, length_penalty):
        """The greedy search, or with `beam_size` that of a beam."""
        state = self.encode(sources)
        changing = {name: x for name, x in state.items() if name.startswith(("hidden_", "cell_"))}
        rest = {name: x for name, x in state.items() if name not in changing}
        if beam_size is not None:
            rest = decoding.repeat(rest, beam_size)

        def step(tokens, position, changing):
            log_probabilities, state = self.decode_step(tokens, rest | changing)
            return log_probabilities, {name: state[name] for name in changing}

        ends = (self.start_token, self.end_token)
        if beam_size is None:
            return decoding.greedy(step, changing, *ends, max_length)
        return decoding.beam_search(step, changing, *ends, beam_size, max_length, length_penalty)

    def serving_signatures(self, batch_size=1):
        """What a device runs: dict of `Signature`; the first two are what `keras_dl.export.beam_search` takes.

        `encode(tokens: int32, (batch_size, source_length))` returns the state by name;
        `decode_step(tokens: int32, (batch_size,), and the state)` returns `log_probabilities`, float32, `(batch_size,
        target_vocabulary_size)`, the new state, and with attention `alignment`, float32, `(batch_size, source_length)`;
        `translate(tokens: int32, (batch_size, source_length))` returns the greedy translation, `tokens`, int32,
        `(batch_size, target_length)`, and `lengths`, int32, `(batch_size,)`.
        """
        sources = keras.KerasTensor((batch_size, self.source_length), "int32", name="tokens")
        tokens = keras.KerasTensor((batch_size,), "int32", name="tokens")
        spec = self.encoder.compute_output_spec(sources)
        if self.attention:
            spec["keys"] = keras.KerasTensor((batch_size, self.source_length, self.attention_dim))
        states = {
            name: keras.KerasTensor(x.shape, x.dtype if x.dtype == "bool" else "float32", name=name)
            for name, x in sorted(spec.items())
        }

        def encode(tokens):
            with self._unrolling():
                return _in_float32(self.encode(tokens))

        def decode_step(tokens, **state):
            outputs = _in_float32(self.decoder(tokens, state))
            return {"log_probabilities": ops.log_softmax(outputs.pop("logits"))} | outputs

        def translate(tokens):
            with self._unrolling():
                found = self._searched(tokens, self.target_length, None, 0.0)
            return {"tokens": found.tokens, "lengths": found.lengths}

        return {
            "encode": Signature(encode, {"tokens": sources}),
            "decode_step": Signature(decode_step, {"tokens": tokens, **states}),
            "translate": Signature(translate, {"tokens": sources}),
        }

    def _unrolling(self):
        steps = self.source_length * self.num_layers * (1 + self.bidirectional)
        return unrolled() if steps <= UNROLLED_STEPS else contextlib.nullcontext()


def _in_float32(tensors):
    return {name: x if x.dtype == "bool" else ops.cast(x, "float32") for name, x in tensors.items()}
