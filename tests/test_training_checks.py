"""What would train or answer wrongly without a word: raw columns, scaled pixels, losses, optimizers."""

import warnings

import keras
import numpy as np
import pytest
from keras.optimizers import SGD, MultiOptimizer, OptimizerMap
from transformer_models import shaken

import keras_dl

SPARSE = keras.losses.SparseCategoricalCrossentropy


def warned(call):
    """The warnings of this package that a call gives."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        call()
    return [str(x.message) for x in caught if "adapt" in str(x.message) or "pixels" in str(x.message)]


def test_training_on_raw_columns_is_said_once():
    rows, labels = np.random.default_rng(0).normal(500, 100, (8, 4)), np.arange(8) % 2
    series = np.random.default_rng(0).normal(500, 100, (8, 5, 4))
    for make, x in (
        (lambda: keras_dl.MLP(4, 2, hidden_dims=(3,)), rows),
        (lambda: keras_dl.ResidualMLP(4, 2, hidden_dim=4, mlp_dim=4, num_blocks=1), rows),
        (lambda: keras_dl.RecurrentNetwork(4, 2, hidden_dims=(3,)), series),
    ):
        model = make()
        model.compile("sgd", SPARSE(from_logits=True))

        def fit(model=model, x=x):
            model.fit(x, labels, verbose=0)

        assert warned(lambda model=model, x=x: model(x)) == []
        (message,) = warned(fit)
        assert message.startswith(f"{type(model).__name__} was not adapted")
        assert warned(fit) == []
        adapted = make()
        adapted.adapt(x)
        adapted.compile("sgd", SPARSE(from_logits=True))
        assert warned(lambda model=adapted, x=x: fit(model, x)) == []
    plain = keras_dl.RecurrentNetwork(4, 2, hidden_dims=(3,), standardize=False)
    plain.compile("sgd", SPARSE(from_logits=True))
    assert warned(lambda: plain.fit(series, labels, verbose=0)) == []


def test_an_adapted_model_from_a_file_is_not_warned_of(tmp_path):
    model = keras_dl.MLP(4, 2, hidden_dims=(3,))
    rows = np.random.default_rng(0).normal(500, 100, (8, 4))
    model.adapt(rows)
    model.compile("sgd", SPARSE(from_logits=True))
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert warned(lambda: loaded.fit(rows, np.arange(8) % 2, verbose=0)) == []


def test_pixels_that_were_scaled_before_are_said_once():
    raw = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3)).astype("float32")
    normalized = (raw - np.float32(120)) / 60

    def make(**options):
        sizes = dict(patch_size=8, num_layers=1, hidden_dim=8, mlp_dim=8, num_heads=2)
        return keras_dl.ViT((16, 16, 3), 2, **sizes | options)

    for images, range_ in ((raw / 255, "0 to 1"), (raw / 127.5 - 1, "-1 to 1"), (normalized, "-2 to 2.25")):
        model = make()
        (message,) = warned(lambda model=model, x=images: (model(x), model(x)))
        assert message.startswith(f"images has values from {range_}, and the model takes raw pixels in [0, 255]")
        # Only the first call looks.
        model = make()
        assert warned(lambda model=model, x=images: (model(raw), model(x))) == []
    quiet = [make(), make(), make(), make(mean=0.5, std=0.25)]  # whose constants are for pixels in [0, 1]
    for model, images in zip(quiet, (raw, raw * 0, raw.astype("uint8"), raw / 255), strict=True):
        assert warned(lambda model=model, x=images: model(x)) == []
    vae = keras_dl.VAE((8, 8, 1), 2, (4,))
    assert len(warned(lambda: vae(raw[:, :8, :8, :1] / 255))) == 1


@pytest.mark.parametrize(
    "loss",
    [
        "sparse_categorical_crossentropy",
        "categorical_crossentropy",
        keras.losses.binary_crossentropy,
        SPARSE(),
        keras.losses.CategoricalCrossentropy(label_smoothing=0.1),
        ["sparse_categorical_crossentropy"],
    ],
)
def test_a_loss_of_probabilities_is_refused_where_logits_come(loss):
    x, y = np.random.default_rng(0).normal(size=(4, 3)), np.zeros(4)
    model = keras_dl.MLP(3, 2, hidden_dims=())
    model.compile("sgd", loss)
    for call in (model.fit, model.evaluate, model.train_on_batch):
        with pytest.raises(ValueError, match=r"takes probabilities, and MLP returns logits: compile it with keras\."):
            call(x, y)


def test_losses_that_fit_are_taken():
    x = np.random.default_rng(0).normal(size=(4, 3))
    for loss, y in (
        (SPARSE(from_logits=True), np.zeros(4)),
        ("mse", np.zeros((4, 2))),
        (lambda y, logits: keras.ops.mean(logits, axis=-1), np.zeros((4, 2))),
        (keras_dl.losses.SmoothedCrossentropy(), np.ones(4)),
    ):
        model = keras_dl.MLP(3, 2, hidden_dims=())
        model.adapt(x)
        model.compile("sgd", loss)
        assert np.isfinite(model.fit(x, y, verbose=0).history["loss"]).all()
    regression = keras_dl.MLP(3, 1, hidden_dims=(), task="regression")
    regression.adapt(x, np.arange(4.0))
    regression.compile("sgd", "binary_crossentropy")  # odd, but these are no logits
    regression.fit(x, np.zeros(4), verbose=0)


def test_which_models_return_logits():
    series = dict(num_features=2, num_outputs=2, hidden_dims=(3,))
    sizes = dict(num_layers=1, hidden_dim=8, mlp_dim=8, num_heads=2)
    for expected, models in (
        (
            True,
            (
                keras_dl.MLP(3, 2),
                keras_dl.ResNet((8, 8, 3), 2, num_blocks=(1,), filters=(4,), stem="cifar", block="basic"),
                keras_dl.RecurrentNetwork(**series),
                keras_dl.TCN(**series, task="classification"),
                keras_dl.NodeClassifier(4, 2),
                keras_dl.Seq2Seq(9, 9, 4, 4),
                keras_dl.RecurrentLM(9, 4, hidden_dims=(4,)),
                keras_dl.TransformerLM(9, 8, **sizes),
                keras_dl.Transformer(9, source_length=6, target_length=6, **sizes),
            ),
        ),
        (
            False,
            (
                keras_dl.MLP(3, 2, task="regression"),
                keras_dl.RecurrentNetwork(**series, task="regression"),
                keras_dl.TCN(**series),
                keras_dl.GraphPredictor(4, 2, 1),
                keras_dl.TransformerEncoder(9, 8, **sizes),
                keras_dl.Autoencoder((8, 8, 1), 2, (4,)),
            ),
        ),
    ):
        for model in models:
            assert model.returns_logits is expected, type(model).__name__


def test_a_model_with_a_loss_of_its_own_takes_no_other():
    images = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 1)).astype("float32")
    vae = keras_dl.VAE((8, 8, 1), 2, (4,))
    vae.compile("sgd", "mse")
    for call in (vae.fit, vae.evaluate):
        with pytest.raises(ValueError, match="loss='mse' would not be used: VAE has a loss of its own"):
            call(images, verbose=0)
    vae.compile("sgd")  # as the error says, although Keras keeps the loss of the first `compile`
    assert np.all(np.isfinite(vae.evaluate(images, verbose=0)))
    flow = keras_dl.ContinuousFlow(2)
    flow.compile("sgd", "mse")
    with pytest.raises(ValueError, match="ContinuousFlow has a loss of its own"):
        flow.fit(images.reshape(-1, 2), verbose=0)
    autoencoder = keras_dl.Autoencoder((8, 8, 1), 2, (4,))
    autoencoder.compile("adam", "mse")
    before = np.asarray(autoencoder.evaluate(images, verbose=0))
    autoencoder.fit(images, epochs=5, verbose=0)
    assert autoencoder.evaluate(images, verbose=0) < before


def test_learning_rates_by_layer(tmp_path):
    """A head that learns, and a body that hardly moves; a file keeps both."""
    x = np.random.default_rng(0).normal(size=(8, 4))
    y = np.arange(8) % 2

    def movements(model):
        before = {v.path: v.numpy() for v in model.trainable_variables}
        model.fit(x, y, verbose=0)
        return {v.path: np.abs(v.numpy() - before[v.path]).max() for v in model.trainable_variables}

    model = keras_dl.MLP(4, 2, hidden_dims=(3,))
    model.adapt(x)
    model.compile(MultiOptimizer(OptimizerMap(SGD(1e-5), {".*head/.*": SGD(1.0)})), SPARSE(from_logits=True))
    model.save(tmp_path / "model.keras")
    for each in (model, keras.models.load_model(tmp_path / "model.keras")):
        moved = movements(each)
        assert min(moved["head/kernel"], moved["head/bias"]) > 1e-3
        assert 0 < moved["hidden_1/kernel"] < 1e-4

    model.compile(MultiOptimizer([(SGD(1e-5), model.layers[:-1]), (SGD(1.0), model.layers[-1:])]))
    with pytest.raises(ValueError, match=r"optimizer_map is a TrackedList; .*OptimizerMap.*paths of variables"):
        model.fit(x, y, verbose=0)


def test_paths_of_a_transformer_name_its_blocks():
    sizes = dict(num_layers=2, hidden_dim=8, mlp_dim=8, num_heads=2, dropout_rate=0.0)
    model = shaken(keras_dl.TransformerEncoder(9, 8, pooler=True, **sizes))
    tokens = np.array([[5, 7, 3, 0], [4, 8, 2, 1]], "int32")
    targets = {"pooled": np.zeros((2, 8)), "states": np.zeros((2, 4, 8))}
    rates = OptimizerMap(SGD(0.0), {".*/block_1/.*": SGD(1e-3), ".*/pool/.*": SGD(1e-1)})
    model.compile(MultiOptimizer(rates), "mse", jit_compile=False)
    before = {v.path: v.numpy() for v in model.trainable_variables}
    model.fit({"tokens": tokens}, targets, verbose=0)
    for variable in model.trainable_variables:
        moves = "/block_1/" in variable.path or "/pool/" in variable.path
        same = np.array_equal(variable.numpy(), before[variable.path])
        assert same is not moves or "key_bias" in variable.path, variable.path
