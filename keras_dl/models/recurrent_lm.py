"""A recurrent language model: characters or other tokens, each predicted from all before it.

    h_t = network(E[x_t], h_{t-1})                     the layers of `RecurrentNetwork`
    log P(x_{t+1} | x_1 .. x_t) = log softmax(W h_t + b)
    log_2 P(text) = sum_t log_2 P(x_{t+1} | x_1 .. x_t),   bits a character = -log_2 P(text) / characters

References: Mikolov et al. 2010, "Recurrent neural network based language model", Interspeech; Graves 2013, "Generating
Sequences With Recurrent Neural Networks", arXiv:1308.0850, section 3, for characters and LSTMs.

Deviations: Graves joins every layer to the input and to the output; here each layer reads the one below. He carries the
state from one text to the next; here each begins with zeros.
"""

import keras
import tensorflow as tf
from keras import KerasTensor, ops

from keras_dl.base import Model, Signature, next_states
from keras_dl.checks import check_size
from keras_dl.layers.recurrent import unrolled
from keras_dl.layers.transformer import PADDING, TokenEmbedding, check_token, check_tokens
from keras_dl.models.recurrent import RecurrentNetwork


@keras.saving.register_keras_serializable(package="keras_dl")
class RecurrentLM(Model):
    """Language model: from tokens of a text to logits of each next one.

    Token 0 is padding, at the end of a text; it is never drawn. What is behind a token does not touch its logits, so
    that texts of several lengths make a batch. Train it with a loss that leaves padding out, such as
    `keras_dl.losses.SmoothedCrossentropy(0.0)`.

    Args:
        vocabulary_size: int. Tokens, padding included.
        embedding_dim: int. Width of a token's vector.
        cell: "rnn", "irnn", "lstm" or "gru".
        hidden_dims: sequence of int. Units of each layer.
        dropout_rate: float in [0, 1). Of what goes from layer to layer and to the head; never in time.
        bptt_steps: int, or None. Truncates the gradient in time, see `keras_dl.SimpleRNN`.
        num_steps: int. Tokens of the text that a device takes. Training takes any number.
        start_token: int. The token before a text's first.
        end_token: int. A text's last token.

    Call arguments:
        tokens: int, `(batch, n)`, which begin with `start_token`. An id outside of the vocabulary raises an error
            eagerly; in a graph it counts as padding.

    Returns:
        float32, `(batch, n, vocabulary_size)`: logits of the token after each.

    Raises:
        ValueError: if an argument is none of the above; it says which.

    Example:

    >>> model = RecurrentLM(50, embedding_dim=8, hidden_dims=(16,))
    >>> model(keras.ops.array([[1, 9, 7]])).shape
    TensorShape([1, 3, 50])
    >>> model.generate([[1, 9, 7]], length=5, seed=0).shape
    TensorShape([1, 5])
    """

    def __init__(
        self,
        vocabulary_size,
        embedding_dim=64,
        cell="lstm",
        hidden_dims=(256,),
        dropout_rate=0.0,
        bptt_steps=None,
        num_steps=128,
        start_token=1,
        end_token=2,
        dtype=None,
        **kwargs,
    ):
        vocabulary_size = check_size("vocabulary_size", vocabulary_size, 3)
        embedding_dim = check_size("embedding_dim", embedding_dim)
        num_steps = check_size("num_steps", num_steps)
        start_token = check_token("start_token", start_token, vocabulary_size)
        end_token = check_token("end_token", end_token, vocabulary_size)

        tokens = keras.Input((None,), dtype="int32", name="tokens")
        vectors = TokenEmbedding(vocabulary_size, embedding_dim, dtype=dtype, name="embedding")(tokens)
        network = RecurrentNetwork(
            embedding_dim,
            vocabulary_size,
            cell=cell,
            hidden_dims=hidden_dims,
            dropout_rate=dropout_rate,
            pooling=None,
            standardize=False,
            bptt_steps=bptt_steps,
            dtype=dtype,
            name="network",
        )
        super().__init__(inputs=tokens, outputs=network(vectors), dtype=dtype, **kwargs)

        self.vocabulary_size = vocabulary_size
        self.embedding_dim = embedding_dim
        self.cell = cell
        self.hidden_dims = network.hidden_dims
        self.dropout_rate = network.dropout_rate
        self.bptt_steps = bptt_steps
        self.num_steps = num_steps
        self.start_token = start_token
        self.end_token = end_token

    def initial_states(self, batch_size=1):
        """The states before a text: as `RecurrentNetwork.initial_states`."""
        return self.get_layer("network").initial_states(batch_size)

    def step(self, tokens, states):
        """One token of a text.

        Args:
            tokens: int, `(batch,)`.
            states: dict as `initial_states` gives it, or as this returned it for the token before.

        Returns:
            logits: float32, `(batch, vocabulary_size)`, of the next token.
            states: dict.
        """
        return self.get_layer("network").step(self.get_layer("embedding")(tokens), states)

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

    def serving_signatures(self, batch_size=1):
        """What a device runs: dict of `Signature`.

        - `sequence(tokens: int32, (batch_size, num_steps))` returns `{"log_probabilities": float32, (batch_size,
          num_steps, vocabulary_size)}` of the token after each.
        - `step(tokens: int32, (batch_size,); states)` returns `log_probabilities`, float32 `(batch_size,
          vocabulary_size)`, and the states after it. States are as in `RecurrentNetwork`: `hidden_1`, of an LSTM also
          `memory_1`, and so on; zeros at first, and `next_hidden_1` and so on come back.
        """

        def sequence(tokens):
            with unrolled():
                return {"log_probabilities": ops.log_softmax(self(tokens, training=False))}

        def step(tokens, **states):
            logits, states = self.step(tokens, states)
            return {"log_probabilities": ops.log_softmax(logits)} | next_states(states)

        states = {
            name: KerasTensor(x.shape, "float32", name=name) for name, x in self.initial_states(batch_size).items()
        }
        return {
            "sequence": Signature(
                sequence, {"tokens": KerasTensor((batch_size, self.num_steps), "int32", name="tokens")}
            ),
            "step": Signature(step, {"tokens": KerasTensor((batch_size,), "int32", name="tokens")} | states),
        }
