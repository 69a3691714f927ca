"""Small Keras models that are not of this package: each layer of Keras that devices can run, and published networks.

Each model has a layer with more than 1,024 weights in front, since the quantizations of weights leave smaller ones as
they are. The values of the layers are drawn: a bias of 0 or a scale of 1 would hide what the file does with it.
"""

import dataclasses
import functools
from collections.abc import Callable

import keras
import numpy as np
from keras import layers, ops

CHANNELS = 32  # of the inputs; the layer in front makes 48 of them
WIDTH = 48
SIDE, LENGTH, DEPTH = 8, 12, 4


@dataclasses.dataclass(frozen=True)
class Foreign:
    """A model of the pool.

    Attributes:
        build: function without arguments. Returns the model.
        shows: names of the layers in `keras.layers` that the model stands for.
        high: int. Inputs of int32 are below it.
    """

    build: Callable[[], keras.Model]
    shows: tuple[str, ...] = ()
    high: int = 2

    def make(self):
        """The model, with the same values and names at each call. No weight is left constant."""
        keras.backend.clear_session(free_memory=False)  # else layers would be numbered on
        keras.utils.set_random_seed(0)
        model = self.build()
        generator = np.random.default_rng(1)
        for weight in model.weights:
            values = np.asarray(weight)
            if values.dtype.kind == "f" and values.size > 1 and np.ptp(values) == 0:
                weight.assign(values + generator.uniform(-0.2, 0.2, values.shape))
        return model

    def inputs(self, signature, rows, seed):
        """dict of arrays by input name of a `keras_dl.Signature`: standard normal floats, pixels, or ids."""
        generator = np.random.default_rng(seed)

        def one(shape, dtype):
            if shape[3:] == (3,) and dtype == "float32":
                return images_of_classes(generator, *shape[:2])[0]
            if np.dtype(dtype).kind == "f":
                return generator.normal(size=shape).astype(dtype)
            return generator.integers(0, 256 if dtype == "uint8" else self.high, shape).astype(dtype)

        return {name: one((rows, *x.shape[1:]), x.dtype) for name, x in signature.inputs.items()}


def images_of_classes(generator, count, side):
    """Noisy images of ten classes, float32 (count, side, side, 3), and their labels, int (count,)."""
    templates = np.random.default_rng(4).normal(size=(10, 3, 3, 3)).astype("float32")
    labels = generator.integers(0, 10, count)
    images = ops.image.resize(templates[labels], (side, side))
    return np.asarray(images) + generator.normal(0, 0.3, images.shape).astype("float32"), labels


def _shape(kind):
    return {
        "vector": (CHANNELS,),
        "series": (LENGTH, CHANNELS),
        "image": (SIDE, SIDE, CHANNELS),
        "volume": (DEPTH, DEPTH, DEPTH, CHANNELS),
    }[kind]


def _after(kind, *made):
    """A model of the layer in front, then the layers that `made` return, one after the other."""

    def build():
        x = keras.Input(_shape(kind), name="x")
        h = layers.Conv2D(WIDTH, 1, name="front")(x) if kind == "image" else layers.Dense(WIDTH, name="front")(x)
        for make in made:
            h = make()(h)
        return keras.Model(x, h)

    return build


def _merging(make, kind="image"):
    """A model of two layers in front, whose outputs `make()` merges."""

    def build():
        x = keras.Input(_shape(kind), name="x")
        front = [
            layers.Conv2D(WIDTH, 1, name=name) if kind == "image" else layers.Dense(WIDTH, name=name)
            for name in ("left", "right")
        ]
        return keras.Model(x, make()([layer(x) for layer in front]))

    return build


def _attending(make, **options):
    """A model of one layer that attends from a series to itself, and of a residual connection."""

    def build():
        x = keras.Input((LENGTH, CHANNELS), name="x")
        h = layers.Dense(WIDTH, name="front")(x)
        return keras.Model(x, h + make()(h, h, **options))

    return build


def _network(function, side, **options):
    """A published network at a small size, trained for some steps.

    With random weights it would enlarge the rounding of its first layers from layer to layer, as no trained one does.
    """

    def build():
        model = function(input_shape=(side, side, 3), weights=None, classes=10, classifier_activation=None, **options)
        images, labels = images_of_classes(np.random.default_rng(2), 640, side)
        model.compile(keras.optimizers.Adam(3e-3), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        model.fit(images, labels, epochs=3, verbose=0)
        for layer in model.layers:
            if isinstance(layer, layers.BatchNormalization):
                layer.momentum = 0.0  # in so few steps, moving averages would stay near their initial values
        model(images[:128], training=True)
        return model

    return build


def _pixels():
    """Pixels of uint8, rescaled in the model."""
    x = keras.Input((SIDE, SIDE, 3), dtype="uint8", name="x")
    h = layers.Conv2D(WIDTH, 3, padding="same", activation="relu")(layers.Rescaling(1 / 127.5, offset=-1)(x))
    return keras.Model(x, layers.Dense(10)(layers.GlobalAveragePooling2D()(h)))


def _of_audio(make, channels=()):
    """A model of one layer that takes a waveform, with the layer in front at its end."""

    def build():
        x = keras.Input((256, *channels), name="x")
        return keras.Model(x, layers.Dense(WIDTH, name="end")(make()(x)))

    return build


def _argmax():
    x = keras.Input((CHANNELS,), name="x")
    h = layers.Dense(WIDTH, name="front")(x)
    return keras.Model(x, {"scores": h, "best": ops.argmax(h, axis=-1)})


def _several():
    """Two inputs, and three outputs in nested dicts."""
    a, b = keras.Input((CHANNELS,), name="a"), keras.Input((LENGTH, CHANNELS), name="b")
    h = layers.Dense(WIDTH)(a)
    g = layers.Dense(WIDTH)(b)
    return keras.Model({"a": a, "b": b}, {"sum": {"a": h, "b": g}, "both": h[:, None] + g})


class _Subclassed(keras.Model):
    def __init__(self):
        super().__init__(name="subclassed")
        self.first, self.second = layers.Dense(WIDTH, activation="relu"), layers.Dense(10)

    def call(self, x):
        return self.second(self.first(x))


def _normalization():
    layer = layers.Normalization()
    layer.adapt(np.random.default_rng(3).normal(1, 2, (64, WIDTH)).astype("float32"))
    return layer


def _layer(name, kind, *arguments, **options):
    return name, _after(kind, lambda: getattr(layers, name)(*arguments, **options)), (name,)


def _single_layers():
    yield _layer("DepthwiseConv1D", "series", 3)
    yield _layer("DepthwiseConv2D", "image", 3, padding="same")
    yield _layer("SeparableConv1D", "series", 16, 3)
    yield _layer("SeparableConv2D", "image", 16, 3, padding="same")
    yield _layer("Dense", "vector", 10)
    yield _layer("EinsumDense", "series", "btc,cd->btd", output_shape=(None, 40), bias_axes="d")
    yield _layer("BatchNormalization", "image")
    yield _layer("LayerNormalization", "series")
    yield _layer("GroupNormalization", "image", 8)
    yield _layer("RMSNormalization", "series")
    yield _layer("UnitNormalization", "series")
    yield _layer("ReLU", "image", max_value=6.0)
    yield _layer("LeakyReLU", "image")
    yield _layer("PReLU", "image", shared_axes=[1, 2])
    yield _layer("ELU", "image")
    yield _layer("Softmax", "vector")
    yield _layer("Rescaling", "image", 0.5, offset=1.0)
    yield _layer("Resizing", "image", 12, 12)
    yield _layer("CenterCrop", "image", 5, 5)
    yield _layer("Flatten", "image")
    yield _layer("Reshape", "image", (SIDE * SIDE, WIDTH))
    yield _layer("Permute", "series", (2, 1))
    yield _layer("RepeatVector", "vector", 4)
    yield _layer("Discretization", "vector", [-1.0, 0.0, 1.0])
    yield _layer("SimpleRNN", "series", 32, return_sequences=True)
    yield _layer("LSTM", "series", 32, return_sequences=True)
    yield _layer("GRU", "series", 32, return_sequences=True)


def _of_ids():
    """Models that take integers below 64."""

    def embedded():
        x = keras.Input((LENGTH,), dtype="int32", name="x")
        return keras.Model(x, layers.Dense(10)(layers.Embedding(64, WIDTH)(x)))

    def encoded():
        x = keras.Input((LENGTH,), dtype="int32", name="x")
        return keras.Model(x, layers.Dense(WIDTH)(layers.CategoryEncoding(64, "multi_hot")(x)))

    yield "Embedding", embedded, ("Embedding",)
    yield "CategoryEncoding", encoded, ("CategoryEncoding",)


def _of_each_rank():
    for dimensions, kind in ((1, "series"), (2, "image"), (3, "volume")):
        for name in ("MaxPooling", "AveragePooling"):
            yield _layer(f"{name}{dimensions}D", kind, 2)
            yield _layer(f"Global{name}{dimensions}D", kind)
        yield _layer(f"AdaptiveAveragePooling{dimensions}D", kind, 3)
        yield _layer(f"AdaptiveMaxPooling{dimensions}D", kind, 3)
        yield _layer(f"ZeroPadding{dimensions}D", kind)
        yield _layer(f"Cropping{dimensions}D", kind)
        yield _layer(f"UpSampling{dimensions}D", kind)
        yield _layer(f"Conv{dimensions}D", kind, 16, 3, padding="same", activation="relu")
        yield _layer(f"Conv{dimensions}DTranspose", kind, 16, 3, strides=2)


def _called(model, shape):
    model(np.zeros(shape, "float32"))
    return model


def _attention():
    yield "Attention", _merging(lambda: layers.Attention(), "series"), ("Attention",)
    yield "AdditiveAttention", _merging(lambda: layers.AdditiveAttention(), "series"), ("AdditiveAttention",)
    heads = ("MultiHeadAttention",)
    yield "MultiHeadAttention", _attending(lambda: layers.MultiHeadAttention(4, 12)), heads
    causal = _attending(lambda: layers.MultiHeadAttention(4, 12), use_causal_mask=True)
    yield "MultiHeadAttention, causal", causal, heads
    yield "GroupQueryAttention", _attending(lambda: layers.GroupQueryAttention(12, 4, 2)), ("GroupQueryAttention",)


def _wrapped():
    """Layers that hold others, or take more than one line."""
    cells = ("RNN", "StackedRNNCells", "GRUCell", "LSTMCell", "SimpleRNNCell")
    yield "RNN of cells", _after("series", lambda: layers.RNN([getattr(layers, x)(24) for x in cells[2:]])), cells
    yield "Bidirectional", _after("series", lambda: layers.Bidirectional(layers.LSTM(16))), ("Bidirectional",)
    yield "TimeDistributed", _after("series", lambda: layers.TimeDistributed(layers.Dense(10))), ("TimeDistributed",)
    yield "Masking", _after("series", layers.Masking, lambda: layers.GRU(16)), ("Masking",)
    spectral = _after("vector", lambda: layers.SpectralNormalization(layers.Dense(10)))
    yield "SpectralNormalization", spectral, ("SpectralNormalization",)
    yield "Normalization", _after("vector", _normalization), ("Normalization",)
    yield "ConvLSTM1D", _after("image", lambda: layers.ConvLSTM1D(8, 3, padding="same")), ("ConvLSTM1D",)
    yield "ConvLSTM2D", _after("volume", lambda: layers.ConvLSTM2D(8, 3, padding="same")), ("ConvLSTM2D",)
    yield "Conv1D, causal", _after("series", lambda: layers.Conv1D(16, 3, padding="causal")), ("Conv1D",)
    yield "Conv1D, 4 groups", _after("series", lambda: layers.Conv1D(16, 3, groups=4)), ("Conv1D",)
    yield "Conv2D, 4 groups", _after("image", lambda: layers.Conv2D(16, 3, groups=4)), ("Conv2D",)
    yield "Conv2D, dilated", _after("image", lambda: layers.Conv2D(16, 3, dilation_rate=2)), ("Conv2D",)
    yield "STFTSpectrogram", _of_audio(lambda: layers.STFTSpectrogram(frame_length=64), (1,)), ("STFTSpectrogram",)
    yield "MelSpectrogram", _of_audio(lambda: layers.MelSpectrogram(64, 32, num_mel_bins=16)), ("MelSpectrogram",)


def _merged():
    for name in ("Add", "Average", "Concatenate", "Maximum", "Minimum", "Multiply", "Subtract"):
        yield name, _merging(getattr(layers, name)), (name,)
    yield "Dot", _merging(lambda: layers.Dot(axes=-1), "series"), ("Dot",)


def _activated():
    for name in ("celu", "gelu", "hard_sigmoid", "hard_silu", "log_softmax", "mish", "sigmoid", "silu", "softplus"):
        yield f"Activation: {name}", _after("image", functools.partial(layers.Activation, name)), ("Activation",)


def _structured():
    """Models that are unusual in their inputs, outputs or class."""
    yield "uint8 pixels", _pixels, ("Rescaling",)
    yield "keras.ops.argmax", _argmax, ()
    yield "several inputs, nested outputs", _several, ()
    yield "subclassed", lambda: _called(_Subclassed(), (2, CHANNELS)), ()


def _networks():
    applications = keras.applications
    yield "MobileNet", _network(applications.MobileNet, 32, alpha=0.25), ()
    yield "MobileNetV2", _network(applications.MobileNetV2, 32, alpha=0.35), ()
    v3 = _network(applications.MobileNetV3Small, 32, alpha=0.75, include_preprocessing=False)
    yield "MobileNetV3Small", v3, ()


FOREIGN = {
    name: Foreign(build, shows)
    for part in (_single_layers, _of_each_rank, _merged, _activated, _attention, _wrapped, _structured, _networks)
    for name, build, shows in part()
} | {name: Foreign(build, shows, high=64) for name, build, shows in _of_ids()}

# The other layers of Keras, and why no model shows them.
NOT_SHOWN = {
    "nothing to compute at inference": """
        ActivityRegularization AlphaDropout AugMix CutMix Dropout GaussianDropout GaussianNoise Identity MixUp
        RandAugment RandomBrightness RandomColorDegeneration RandomColorJitter RandomContrast RandomCrop
        RandomElasticTransform RandomErasing RandomFlip RandomGaussianBlur RandomGrayscale RandomHue RandomInvert
        RandomPerspective RandomPosterization RandomRotation RandomSaturation RandomSharpness RandomShear
        RandomTranslation RandomZoom SpatialDropout1D SpatialDropout2D SpatialDropout3D
    """,
    "for data pipelines: strings, tables, bounding boxes, histograms": """
        AutoContrast ContrastLimitedAdaptiveHistogramEqualization Equalization HashedCrossing Hashing IntegerLookup
        MaxNumBoundingBoxes Pipeline Solarization StringLookup TextVectorization
    """,
    "runs another framework or a function of yours": "FlaxLayer JaxLayer Lambda TFSMLayer TorchModuleWrapper",
    "a base class": "InputLayer Layer Wrapper",
    "as ConvLSTM2D": "ConvLSTM3D",
    "as Embedding": "ReversibleEmbedding",
}
