"""Sequence to sequence: one recurrent net reads, another writes, with a fixed vector between them or with attention.

    h_i = RNN(E x_i, h_{i-1})                              encoder; of the reversed source in Sutskever et al.
    s_t = RNN([F y_{t-1}; c_t], s_{t-1})                   decoder
    p(y_t | y_<t, x) = softmax(W [s_t; c_t])               or W maxout([s_t; c_t; F y_{t-1}]), pairs of units

    no c_t, s_0 = h_n                                         Sutskever et al.: each layer's last state is passed on
    c_t = c = tanh(V h_n), s_0 = tanh(V' c)                   Cho et al.: `feed_context`
    c_t = attention(s_{t-1}, h_1 .. h_n), s_0 = tanh(W h_n)   Bahdanau et al.: `attention="additive"`, bidirectional h

Training is by teacher forcing: the decoder sees the true tokens before each one. With `sampling_rate`, it sees at some
places what the model itself would have written there (scheduled sampling, in the two passes of Mihaylova and Martins).
Padding, token 0, is neither read nor scored. The encoder and decoder are in `keras_dl.layers.sequence_codec`, attention
in `keras_dl.layers.alignment`.

References: Sutskever, Vinyals, Le 2014, "Sequence to Sequence Learning with Neural Networks", arXiv:1409.3215. Cho et
al. 2014, arXiv:1406.1078. Bahdanau, Cho, Bengio 2014, arXiv:1409.0473. Bengio et al. 2015, "Scheduled Sampling for
Sequence Prediction with Recurrent Neural Networks", arXiv:1506.03099. Mihaylova, Martins 2019, "Scheduled Sampling for
Transformers", arXiv:1906.07651.

Deviations:
- The GRU's reset gate is applied after the product with the state, as in cuDNN, not before it.
- Bahdanau et al. make s_0 of the backward encoder only; here it is made of both directions. Their output sees s_{t-1}
  in the appendix, and s_t in section 3; here it sees s_t.
- With several layers, only the first one attends, and the others do not see the context. (In Wu et al. 2016 the first
  one attends, too, but all see the context.)
- Initial weights are Keras's. Sutskever et al. draw them from U(-0.08, 0.08).
"""

import contextlib

import keras
from keras import KerasTensor, ops

from keras_dl.arguments import AtLeast, OneOf, Rate, Size, arguments
from keras_dl.base import FunctionalModel
from keras_dl.layers.recurrent import STATES
from keras_dl.layers.sequence_codec import Cell, SequenceDecoder, SequenceEncoder
from keras_dl.models.sequence.searching import SearchingModel, check_pair
from keras_dl.signatures import Signature
from keras_dl.tokens import PADDING, check_sequences, check_token, check_tokens, known_tokens
from keras_dl.tracing import unrolled

# In a file, an encoder of up to this many steps, in all layers and directions, is written without a loop. An integer
# file cannot have a loop, and each step of one costs more than what it computes.
UNROLLED_STEPS = 256

PRESETS = {
    # Section 3.4: 384M parameters, of which 64M are recurrent. These sizes have 384,112,000.
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
class Seq2Seq(SearchingModel, FunctionalModel):
    """Encoder-decoder of recurrent nets, with or without attention.

    `fit({"source": ..., "target": ...})` trains by teacher forcing, without further targets. Each token of the target
    is predicted from those before it, and padding has the sample weight 0. A target ends with `end_token`; the model
    puts the start token in front. (Keras drops your own sample weights unless you also give the target as `y`.) Compile
    it with a loss of logits that honors sample weights, and with metrics as `weighted_metrics`:

        model.compile("adam", keras.losses.SparseCategoricalCrossentropy(
            from_logits=True, reduction="mean_with_sample_weight"), weighted_metrics=["accuracy"])

    The state of decoding (`encode`, `decode_step`) has these entries:

    - `hidden_0` and so on, with `cell_0` and so on for LSTMs: float, `(batch, hidden_dim)`. The decoder's state.
    - with `feed_context`, `context`: float, `(batch, hidden_dim)`.
    - with attention, `memory`: float, `(batch, n, width)`; `memory_mask`: bool, `(batch, n)`, True = a token; `keys`:
      float, `(batch, n, attention_dim)`.

    Args:
        source_vocabulary_size: int. Ids are 0 to that minus 1; 0 is padding.
        target_vocabulary_size: int.
        embedding_dim: int. Width of both embeddings.
        hidden_dim: int. Width of every recurrent layer, in each direction.
        num_layers: int. Layers of the encoder, and of the decoder.
        cell: "lstm" or "gru".
        bidirectional: bool. Whether the encoder reads in both directions.
        reverse_source: bool. Whether it reads the last token first.
        attention: None, or "additive".
        attention_dim: int. Hidden width of the attention.
        feed_context: bool. Whether the decoder sees the vector of the source at every step. Not with attention.
        maxout_dim: int. Units of the maxout layer before the softmax; 0 for none.
        dropout_rate: float in [0, 1). For embeddings, between layers and before the softmax; never from step to step.
        sampling_rate: float in [0, 1). Share of the tokens that the decoder sees in training that are its own.
        sampling_steps: int. That share rises from 0 to `sampling_rate` over this many steps of the optimizer.
        source_length: int. Tokens of a source on a device. Training takes any number.
        target_length: int. Tokens of the longest translation, the end included, unless a search is told otherwise.
        start_token: int. The token before a target's first.
        end_token: int. A target's last token.
        seed: int or None. For the scheduled sampling.

    Call arguments:
        inputs: dict of `source`, int `(batch, n)`, and `target`, int `(batch, m)`, both of any length of at least 1. 0
            is padding, wherever it stands. A row of nothing but padding is an empty source: the encoder's state stays
            zero, and attention gives a context of zeros.

    Returns:
        float32, `(batch, m, target_vocabulary_size)`: logits of each target token, which depend on the source and on
        the target tokens before it.

    Raises:
        ValueError: if an argument is out of its range, or if source or target have the length 0. If called eagerly,
            also if an id is not in its vocabulary; in a graph such an id is read as padding.

    Example:

    >>> model = Seq2Seq(30, 40, embedding_dim=8, hidden_dim=16, bidirectional=True, attention="additive")
    >>> source = ops.array([[5, 6, 7, 2], [8, 2, 0, 0]])
    >>> model({"source": source, "target": ops.array([[9, 2], [2, 0]])}).shape
    TensorShape([2, 2, 40])
    >>> model.greedy(source, max_length=6).tokens.shape
    TensorShape([2, 6])
    >>> model.beam_search(source, beam_size=3, max_length=6, length_penalty=0.6).tokens.shape
    TensorShape([2, 3, 6])
    """

    presets = PRESETS
    constant_states = ("context", "memory", "memory_mask", "keys")
    compiles_searches = True

    @arguments
    def __init__(
        self,
        source_vocabulary_size: AtLeast(2),
        target_vocabulary_size: AtLeast(2),
        embedding_dim: Size = 256,
        hidden_dim: Size = 256,
        num_layers: Size = 1,
        cell: Cell = "lstm",
        bidirectional: bool = False,
        reverse_source: bool = False,
        attention: OneOf(None, "additive") = None,
        attention_dim: Size = 128,
        feed_context: bool = False,
        maxout_dim: AtLeast(0) = 0,
        dropout_rate: Rate = 0.0,
        sampling_rate: Rate = 0.0,
        sampling_steps: Size = 1000,
        source_length: Size = 32,
        target_length: Size = 32,
        start_token: Size = 1,
        end_token: Size = 2,
        seed: int | None = None,
        dtype=None,
        **kwargs,
    ):
        if feed_context and attention:
            raise ValueError(f"feed_context={feed_context} needs attention=None: attention feeds a context of its own.")
        check_token("start_token", start_token, target_vocabulary_size, "target_vocabulary_size")
        check_token("end_token", end_token, target_vocabulary_size, "target_vocabulary_size")
        passes_on = "memory" if attention else "context" if feed_context else "state"
        nets = (embedding_dim, hidden_dim, num_layers, cell, dropout_rate, passes_on)

        source = keras.Input((None,), dtype="int32", name="source")
        target = keras.Input((None,), dtype="int32", name="target")
        encoder = SequenceEncoder(source_vocabulary_size, *nets, bidirectional, reverse_source, name="encoder")
        decoder = SequenceDecoder(target_vocabulary_size, *nets, attention_dim, maxout_dim, start_token, name="decoder")
        logits = decoder(target, encoder(source))  # (batch, m, target_vocabulary_size)
        super().__init__(inputs={"source": source, "target": target}, outputs=logits, **kwargs)
        self.seed_generator = keras.random.SeedGenerator(seed)

    @property
    def encoder(self) -> SequenceEncoder:
        """The layer that reads."""
        return self.get_layer("encoder")

    @property
    def decoder(self) -> SequenceDecoder:
        """The layer that writes."""
        return self.get_layer("decoder")

    def __call__(self, inputs, *args, **kwargs):
        check_pair(self, inputs)
        return super().__call__(inputs, *args, **kwargs)

    # Training

    def train_step(self, data):
        inputs, target, weights = self._scored(data)
        if self.sampling_rate:
            inputs = inputs | {"target": self._sampled(inputs)}
        return super().train_step((inputs, target, weights))

    def test_step(self, data):
        return super().test_step(self._scored(data))

    def _scored(self, data):
        """Inputs, target, and the weights that keep padding out of losses and metrics."""
        inputs, target, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        check_pair(self, inputs)
        target = inputs["target"] if target is None else target
        check_sequences("target", target)
        target = known_tokens("target", target, self.target_vocabulary_size)
        weights = ops.cast(target != PADDING, "float32")  # (batch, m)
        if sample_weight is not None:
            sample_weight = ops.cast(sample_weight, "float32")
            weights *= sample_weight if len(sample_weight.shape) == 2 else ops.reshape(sample_weight, (-1, 1))
        return inputs, target, weights

    def _sampled(self, inputs):
        """The target, with some tokens as the model itself predicts them from the true ones before."""
        written = ops.argmax(ops.stop_gradient(self(inputs, training=False)), axis=-1)  # (batch, m)
        share = ops.minimum(ops.cast(self.optimizer.iterations, "float32") / self.sampling_steps, 1.0)
        draw = keras.random.uniform(ops.shape(written), seed=self.seed_generator)
        target = ops.cast(inputs["target"], "int32")
        own = ops.logical_and(draw < share * self.sampling_rate, target != PADDING)
        return ops.where(own, ops.cast(written, "int32"), target)

    # Decoding

    def alignment(self, source, target):
        """Where the decoder looks before it writes each target token.

        Args:
            source: int, `(batch, n)`.
            target: int, `(batch, m)`, without a start token.

        Returns:
            float, `(batch, m, n)`: attention weights, whose rows sum to 1. They are 0 at padding of the source.

        Raises:
            ValueError: if the model has no attention, or source or target are not ids.
        """
        if not self.attention:
            raise ValueError(f"attention={self.attention!r}: this model has no alignment. Make one with attention.")
        target = check_tokens("target", target, self.target_vocabulary_size)
        return self.decoder(target, self.encoder(self._read(source)), alignment=True)

    def _read(self, source):
        return check_tokens("source", source, self.source_vocabulary_size)

    def _begin(self, source):
        return self.decoder.prepared(self.encoder(source))

    def _step(self, tokens, state):
        outputs = self.decoder(tokens, state)
        return ops.log_softmax(outputs["logits"]), {name: outputs.get(name, x) for name, x in state.items()}

    def _state_shapes(self, batch_size):
        units = self.hidden_dim
        shapes = {f"{name}_{i}": (batch_size, units) for i in range(self.num_layers) for name in STATES[self.cell]}
        if self.feed_context:
            shapes["context"] = (batch_size, units)
        if self.attention:
            shapes["memory"] = (batch_size, "n", units * (1 + self.bidirectional))
            shapes["memory_mask"] = (batch_size, "n")
            shapes["keys"] = (batch_size, "n", self.attention_dim)
        return shapes

    def serving_signatures(self, batch_size: int = 1) -> dict[str, Signature]:
        """The entry points of a device; `keras_dl.export.beam_search` drives the first two.

        - `encode(tokens: int32, (batch_size, source_length))` returns the state by name.
        - `decode_step(tokens: int32, (batch_size,), and the state)` returns `log_probabilities`, float32, `(batch_size,
          target_vocabulary_size)`; the new state; and with attention `alignment`, float32, `(batch_size,
          source_length)`.
        - `translate(tokens: int32, (batch_size, source_length))` returns the greedy translation: `tokens`, int32,
          `(batch_size, target_length)`, and `lengths`, int32, `(batch_size,)`.
        """
        source = KerasTensor((batch_size, self.source_length), "int32", name="tokens")
        tokens = KerasTensor((batch_size,), "int32", name="tokens")
        states = {}
        for name, shape in sorted(self._state_shapes(batch_size).items()):
            shape = tuple(self.source_length if n == "n" else n for n in shape)
            states[name] = KerasTensor(shape, "bool" if name == "memory_mask" else "float32", name=name)

        def encode(tokens):
            with self._unrolling():
                return _in_float32(self.encode(tokens))

        def decode_step(tokens, **state):
            outputs = _in_float32(self.decoder(tokens, state))
            return {"log_probabilities": ops.log_softmax(outputs.pop("logits"))} | outputs

        def translate(tokens):
            with self._unrolling():
                written = self._served_greedy(tokens)
            return {"tokens": written.tokens, "lengths": written.lengths}

        return {
            "encode": Signature(encode, {"tokens": source}),
            "decode_step": Signature(decode_step, {"tokens": tokens, **states}),
            "translate": Signature(translate, {"tokens": source}),
        }

    def _unrolling(self):
        steps = self.source_length * self.num_layers * (1 + self.bidirectional)
        return unrolled() if steps <= UNROLLED_STEPS else contextlib.nullcontext()


def _in_float32(tensors):
    return {name: x if x.dtype == "bool" else ops.cast(x, "float32") for name, x in tensors.items()}
