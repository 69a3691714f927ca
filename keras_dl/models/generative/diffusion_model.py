"""The base of diffusion models: a net that is trained to see through noise, and the moving average that samples.

    x_t = alpha(t) x_0 + sigma(t) z,    min E |f(x_t, t) - target(x_0, z, t)|^2

The process (`keras_dl.diffusion`) says what noise is added, and the target is the noise, the data, the velocity or the
score. The step of training draws `t` and `z`, and leaves the rest to Keras: loss scales, metrics, callbacks.

Reference for guidance without a classifier: Ho, Salimans 2022, "Classifier-Free Diffusion Guidance", arXiv:2207.12598,
eq. 6.
"""

import keras
import tensorflow as tf
from keras import ops

from keras_dl.base import Model
from keras_dl.models.upkeep import (
    BatchRange,
    FirstBatch,
    SavedSeeds,
    check_finite,
    check_pixels,
    update_average,
)


def broadcast_mask(name: str, mask, data, data_shape):
    """`mask` in the shape of `data`.

    Args:
        name: the name of the mask in messages.
        mask, data: tensors. `data` is `(batch, *data_shape)`.
        data_shape: tuple of int.

    Raises:
        ValueError: if the data have another shape, or the mask does not fit it.
    """
    shape = tuple(data.shape)
    if shape[1:] != tuple(data_shape):
        raise ValueError(f"data has the shape {shape}; it must be {('batch', *data_shape)}.")
    try:
        return tf.broadcast_to(mask, shape)
    except (ValueError, tf.errors.InvalidArgumentError) as error:
        raise ValueError(f"{name} has the shape {tuple(mask.shape)}, which does not fit {shape}.") from error


class DiffusionModel(SavedSeeds, FirstBatch, Model):
    """A model of a `network` from noisy data and times to a prediction, and of its moving `average`.

    A subclass's constructor builds the network and hands it to `_hold`. Its arguments `process` and `averaging` are
    attributes, as are `num_classes` and `label_dropout` where the class has labels.

    The network is a functional model of a dict: `"images"` (or `data_name`), float32; `"times"`, float32, as
    `process.condition` gives them; and, with `num_classes`, `"labels"`, int32, of which `num_classes` is "none". It
    returns the prediction. `call` takes the same dict with the times of the process, and returns float32.

    Attributes:
        predicts: "noise", "data", "velocity" or "score": what the network returns.
        weighting: str. How the process weighs the errors of different times.
        inner_range: what the pixels 0 and 255 are for the network. None for data that are not pixels.
        data_name: the name of the data in inputs and outputs.
        step_count: int64 variable. Training steps so far.
    """

    has_own_loss = True
    predicts = "noise"
    weighting = "simple"
    inner_range = (-1.0, 1.0)
    data_name = "images"
    num_classes: int | None = None
    label_dropout = 0.0

    def _hold(self, make_network, averaging, seed):
        """Keeps the nets. `make_network` is called with a name, again for the moving average, if there is one."""
        self.network = make_network("network")
        self.average = None
        if averaging:
            self.average = make_network("average")
            self.average.trainable = False
            self.average.set_weights(self.network.get_weights())
        # Half precision would round the times. Each layer casts what it takes.
        self.autocast = self.network.autocast = False
        if self.average is not None:
            self.average.autocast = False
        self.step_count = self.add_weight(
            shape=(), dtype="int64", initializer="zeros", trainable=False, name="step_count"
        )
        self.seed_generator = keras.random.SeedGenerator(seed)
        self.batch_range = BatchRange()
        self.label_range = BatchRange("label_range")
        self.built = True

    def get_config(self):
        return super().get_config() | {"process": keras.saving.serialize_keras_object(self.process)}

    @property
    def data_shape(self) -> tuple[int, ...]:
        """The shape of one example."""
        return tuple(self.network.input[self.data_name].shape[1:])

    # Pixels and noise.

    def to_inner(self, data, seed=None):
        """Data as the network takes them: float32.

        A subclass can add noise to pixels here, which are whole numbers; training gives it a seed for that.
        """
        data = ops.cast(data, "float32")
        if self.inner_range is None:
            return data
        low, high = self.inner_range
        return data * ((high - low) / 255.0) + low

    def from_inner(self, data):
        """The inverse of `to_inner`. Pixels are clipped to [0, 255], and not rounded."""
        if self.inner_range is None:
            return data
        low, high = self.inner_range
        return ops.clip((data - low) * (255.0 / (high - low)), 0.0, 255.0)

    def draw_noise(self, count, num_steps: int = 1, seed=None):
        """Standard normal noise for `num_steps` steps of a sampler: float32, `(num_steps * count, *data_shape)`.

        Args:
            count: int. Number of examples.
            num_steps: int.
            seed: int or `keras.random.SeedGenerator`; None for the model's own.
        """
        seed = self.seed_generator if seed is None else seed
        return keras.random.normal((num_steps * count, *self.data_shape), seed=seed, dtype="float32")

    # Predictions.

    def call(self, inputs, training=False):
        self._check_inputs(inputs)
        network = self.network if training or self.average is None else self.average
        inputs = dict(inputs) | {"times": self.process.condition(inputs["times"])}
        return ops.cast(network(inputs, training=training), "float32")

    def _check_inputs(self, inputs):
        names = set(self.network.input)
        if not isinstance(inputs, dict) or set(inputs) != names:
            found = sorted(inputs) if isinstance(inputs, dict) else type(inputs).__name__
            raise ValueError(f"inputs has {found}; {type(self).__name__} takes a dict of {sorted(names)}.")
        shape, wanted = tuple(inputs[self.data_name].shape), self.data_shape
        if len(shape) != len(wanted) + 1 or any(
            a is not None and a != b for a, b in zip(shape[1:], wanted, strict=True)
        ):
            raise ValueError(f"{self.data_name} has the shape {shape}; it must be {('batch', *wanted)}.")

    def compute_output_shape(self, inputs_shape):
        return (inputs_shape[self.data_name][0], *self.network.output_shape[1:])

    def compute_output_spec(self, inputs, training=False):
        shape = self.compute_output_shape({name: x.shape for name, x in inputs.items()})
        return keras.KerasTensor(shape, "float32")

    def guided(self, x, t, labels=None, guidance=0.0):
        """What the moving average of the network returns, with guidance: `(1 + w) f(x, t, label) - w f(x, t, none)`.

        Args:
            x: float, `(batch, ...)`: noisy data in the inner range.
            t: `(batch,)` times of the process.
            labels: int, `(batch,)`, or None: without labels.
            guidance: float, w. 0 for the net's own predictions.

        Returns:
            float32, the shape of the network's output.

        Raises:
            ValueError: if labels are given to a model without classes, or guidance without labels.
        """
        x, t = tf.convert_to_tensor(x), tf.convert_to_tensor(t)
        inputs = {self.data_name: x, "times": t}
        if self.num_classes is None:
            if labels is not None or guidance:
                raise ValueError(f"labels and guidance={guidance} need a model with classes, and num_classes is None.")
            return self(inputs, training=False)
        none = tf.fill(tf.shape(t), self.num_classes)
        if labels is None:
            if guidance:
                raise ValueError(f"guidance={guidance} needs labels.")
            return self(inputs | {"labels": none}, training=False)
        labels = tf.cast(labels, "int32")
        if not guidance:
            return self(inputs | {"labels": labels}, training=False)
        # One batch of both.
        both = {name: tf.concat([value, value], 0) for name, value in inputs.items()}
        both["labels"] = tf.concat([labels, none], 0)
        return self._beyond(*tf.split(self(both, training=False), 2), guidance)

    def _beyond(self, with_label, without, guidance):
        return (1.0 + guidance) * with_label - guidance * without

    def predict_as(self, wanted: str, x, t, labels=None, guidance=0.0):
        """`guided`, converted to "noise", "data", "velocity" or "score"."""
        prediction = self.guided(x, t, labels, guidance)
        return self.process.convert(prediction, x, t, self.predicts, wanted)

    # Training.

    def example_losses(self, prediction, inputs, targets):
        """The loss of each example: float32, `(batch,)`.

        Args:
            prediction: float32, what `call` returned for `inputs`.
            inputs: dict: the noisy data, `"times"` and perhaps `"labels"`.
            targets: dict of `"data"` and `"noise"`, float32.
        """
        t = inputs["times"]
        error = prediction - self.process.target(self.predicts, targets["data"], t, targets["noise"])
        losses = ops.mean(ops.square(error), axis=list(range(1, len(error.shape))))
        return losses if self.weighting == "simple" else losses * self.process.weights(self.weighting, t)

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        losses = self.example_losses(y_pred, x, y)
        if sample_weight is not None:
            losses = losses * ops.cast(sample_weight, losses.dtype)
        return ops.mean(losses) + sum(self.losses)  # and those of regularizers

    def corrupt(self, data, labels, t, noise, keep_label=None, seed=None):
        """The inputs and targets of training: noisy data, and what they were made of.

        Args:
            data: as `fit` takes them.
            labels: int, `(batch,)`, or None.
            t: `(batch,)` times of the process.
            noise: float, the shape of the data.
            keep_label: bool, `(batch,)`: False makes a label "none". None keeps all.
            seed: for `to_inner`.
        """
        data = self.to_inner(data, seed)
        inputs = {self.data_name: self.process.perturb(data, t, noise), "times": t}
        if self.num_classes is not None:
            labels = tf.cast(labels, "int32")
            inputs["labels"] = labels if keep_label is None else tf.where(keep_label, labels, self.num_classes)
        return inputs, {"data": data, "noise": noise}

    def _unpacked(self, data):
        data, labels, weights = keras.utils.unpack_x_y_sample_weight(data)
        name = type(self).__name__
        if self.num_classes is None and labels is not None:
            raise ValueError(f"y was given: this {name} has no classes. Fit it on data alone, or give num_classes.")
        if self.num_classes is not None and labels is None:
            raise ValueError(f"y=None: this {name} has num_classes={self.num_classes}. Give labels: fit(x, labels).")
        return data, labels, weights

    def train_step(self, data):
        data, labels, weights = self._unpacked(data)
        self.batch_range.update_state(data)
        if labels is not None:
            self.label_range.update_state(labels)
        count, seed = ops.shape(data)[0], self.seed_generator
        keep = None
        if self.num_classes is not None and self.label_dropout:
            keep = keras.random.uniform((count,), seed=seed) >= self.label_dropout
        times = self.process.draw_times(count, seed)
        inputs, targets = self.corrupt(data, labels, times, self.draw_noise(count), keep, seed)
        logs = super().train_step((inputs, targets, weights))
        self.step_count.assign_add(1)
        if self.average is not None:
            update_average(self.network, self.average, self.averaging, self.step_count)
        return logs

    def test_step(self, data):
        """The loss of the moving average, with the same noise and the same spread of times for each batch."""
        data, labels, weights = self._unpacked(data)
        count = ops.shape(data)[0]
        times = self.process.evaluation_times(count)
        inputs, targets = self.corrupt(data, labels, times, self.draw_noise(count, seed=0), seed=1)
        return super().test_step((inputs, targets, weights))

    def _check_first_batch(self):
        super()._check_first_batch()
        if self.num_classes is not None:
            self.check_labels(*self.label_range.observed()[:2])

    def check_labels(self, lowest, highest):
        """Refuses labels that are no classes of the model.

        Args:
            lowest, highest: numbers: the range of some labels.
        """
        if not 0 <= lowest <= highest < self.num_classes:
            raise ValueError(
                f"labels has values from {lowest:g} to {highest:g}; num_classes={self.num_classes} has the classes 0 "
                f"to {self.num_classes - 1}."
            )

    def _check_batch(self, lowest, highest, rows):
        check_finite(lowest, highest)
        if self.inner_range is not None:
            check_pixels(self, lowest, highest)
