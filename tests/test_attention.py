"""Attention: equality with Keras's and torch's, what masks and orders change, the chunked form against the whole."""

import pathlib

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops

from keras_dl import AdditiveAttention, LuongAttention, MultiHeadAttention
from keras_dl.ops.attention import causal_mask, chunked_attention, dot_product_attention, masked_softmax

ORACLE = pathlib.Path(__file__).parent / "oracles" / "attention.npz"


def _normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def _gradients(function, *inputs):
    """The outputs, and the gradients of a weighted sum of the first of them."""
    inputs = [tf.convert_to_tensor(x) for x in inputs]
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        outputs = tf.nest.flatten(function(*inputs))
        weights = tf.cast(_normal(*outputs[0].shape, seed=9), outputs[0].dtype)
        total = tf.reduce_sum(outputs[0] * weights)
    return outputs, tape.gradient(total, inputs)


# Multi-head attention against others


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("use_bias", [False, True])
@pytest.mark.parametrize("other_key", [False, True])
def test_equals_keras(causal, use_bias, other_key):
    """Outputs, weights and gradients of every weight, with a mask of each kind."""
    query, value, key = _normal(3, 5, 6), _normal(3, 7, 4, seed=1), _normal(3, 7, 8, seed=2) if other_key else None
    options = dict(num_heads=2, key_dim=3, value_dim=5, use_bias=use_bias, output_shape=9, kernel_regularizer="l2")
    theirs = keras.layers.MultiHeadAttention(**options)
    ours = MultiHeadAttention.from_config(theirs.get_config()) if causal else MultiHeadAttention(**options)
    mask = np.random.default_rng(3).random((3, 5, 7)) < 0.7
    mask[..., 0] = True  # Keras gives a mean of everything where nothing is kept
    call = dict(key=key, attention_mask=mask, use_causal_mask=causal, return_attention_scores=True)
    if other_key:
        call |= dict(key_mask=np.arange(7) < np.array([[7], [5], [1]]), query_mask=np.ones((3, 5), bool))
    theirs(query, value, **call)
    ours(query, value, **call)
    theirs.set_weights([_normal(*w.shape, seed=10 + i) for i, w in enumerate(theirs.get_weights())])
    ours.set_weights(theirs.get_weights())
    found = []
    for layer in (ours, theirs):
        with tf.GradientTape() as tape:
            output, weights = layer(query, value, **call)
            total = tf.reduce_sum(output * _normal(3, 5, 9, seed=5)) + sum(layer.losses)
        found.append([output, weights, *tape.gradient(total, layer.trainable_variables)])
    assert len(found[0]) == (10 if use_bias else 6)
    for a, b in zip(*found, strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("output_shape", [None, 9, (9,)])
def test_shapes_ahead_equal_keras(output_shape):
    """`compute_output_shape` before there are weights, and a symbolic call, where the lengths are known and not."""
    for batch, queries, keys in ((3, 5, 7), (None, None, None)):
        shapes = (batch, queries, 6), (batch, keys, 4), (batch, keys, 8)
        for given in (shapes, shapes[:2]):
            theirs = keras.layers.MultiHeadAttention(2, 3, output_shape=output_shape)
            ours = MultiHeadAttention(2, 3, output_shape=output_shape)
            expected = theirs.compute_output_shape(*given)
            assert expected == (batch, queries, 6 if output_shape is None else 9)
            assert ours.compute_output_shape(*given) == expected
            assert ours.compute_output_shape(*map(list, given)) == expected
            inputs = [keras.KerasTensor(shape) for shape in given]
            for spec in (ours(*inputs), ours.compute_output_spec(*inputs)):
                assert (spec.shape, spec.dtype) == (expected, theirs(*inputs).dtype)
            output, weights = ours(*inputs, return_attention_scores=True)
            assert (output.shape, weights.shape) == (expected, (batch, 2, queries, keys))


def test_shapes_that_do_not_go_together_are_refused_as_by_keras():
    shapes = (3, 5, 6), (3, 7, 4), (3, 8, 4)
    for layer in (keras.layers.MultiHeadAttention(2, 3), MultiHeadAttention(2, 3)):
        with pytest.raises(ValueError, match=r"\(3, 7, 4\).*\(3, 8, 4\)|\(3, 8, 4\).*\(3, 7, 4\)"):
            layer.compute_output_shape(*shapes)
        with pytest.raises(ValueError, match="key"):
            layer.build(*shapes)
        layer.build(*shapes[:2])
        with pytest.raises(ValueError, match="key"):
            layer(*map(keras.KerasTensor, shapes))
    with pytest.raises(ValueError, match=r"query of shape \(3, 6\) must be \(batch, length, width\)"):
        MultiHeadAttention(2, 3).compute_output_shape((3, 6), (3, 7, 4))


def test_padding_from_a_layer_before_equals_keras():
    tokens = np.array([[3, 1, 2, 0, 0], [1, 1, 2, 3, 0]])
    embedding = keras.layers.Embedding(4, 6, mask_zero=True)
    theirs, ours = keras.layers.MultiHeadAttention(2, 3), MultiHeadAttention(2, 3)
    for layer in (theirs, ours):
        layer.build((2, 5, 6), (2, 5, 6))
    ours.set_weights(theirs.get_weights())
    expected, found = (layer(x, x) for layer, x in ((theirs, embedding(tokens)), (ours, embedding(tokens))))
    real = tokens != 0
    np.testing.assert_allclose(found.numpy()[real], expected.numpy()[real], atol=1e-6)
    np.testing.assert_array_equal(found._keras_mask, real)


@pytest.mark.parametrize("case", ["self", "causal", "cross"])
@pytest.mark.parametrize("chunk_size", [None, 2])
def test_equals_torch(case, chunk_size):
    with np.load(ORACLE) as file:
        saved = {name.removeprefix(f"{case}/"): file[name] for name in file.files if name.startswith(f"{case}/")}
    query, key, value = saved["query"], saved["key"], saved["value"]
    heads = saved["weights"].shape[1]
    layer = MultiHeadAttention(heads, 8 // heads, use_bias="state/in_proj_bias" in saved, chunk_size=chunk_size)
    layer.build(query.shape, value.shape, key.shape)
    layer.load_torch({name[6:]: x for name, x in saved.items() if name.startswith("state/")})
    masks = dict(attention_mask=saved.get("attention_mask"), value_mask=saved.get("padding"))
    query, key, value = map(tf.constant, (query, key, value))
    with tf.GradientTape() as tape:
        tape.watch([query, key, value])
        same = case != "cross"  # one tensor is all three there, and torch's gradient is the sum
        output = layer(query, query if same else value, None if same else key, **masks)
        total = tf.reduce_sum(output * saved["upstream"])
    np.testing.assert_allclose(output, saved["output"], atol=2e-6)
    gradients = tape.gradient(total, [query, key])
    np.testing.assert_allclose(gradients[0], saved["query_gradient"], atol=1e-5)
    if not same:
        np.testing.assert_allclose(gradients[1], saved["key_gradient"], atol=1e-5)
    if chunk_size is None:
        _, weights = layer(query, value, key, return_attention_scores=True, **masks)
        np.testing.assert_allclose(weights, saved["weights"], atol=1e-6)


def test_refuses_weights_of_another_layer():
    layer = MultiHeadAttention(2, 4)
    with pytest.raises(ValueError, match="must be built"):
        layer.load_torch({})
    layer.build((None, 5, 8), (None, 5, 8))
    before = layer.get_weights()
    with pytest.raises(ValueError, match=r"missing: q_proj_weight \(8, 8\)"):
        layer.load_torch({"in_proj_bias": np.zeros(24)})
    with pytest.raises(ValueError, match=r"q_proj_weight is \(6, 8\), the model takes \(8, 8\)"):
        layer.load_torch({"in_proj_weight": np.zeros((18, 8))})
    for a, b in zip(before, layer.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


# Truths


@pytest.mark.parametrize("chunk_size", [None, 3])
def test_order_of_the_keys_changes_nothing(chunk_size):
    query, memory = _normal(2, 4, 6), _normal(2, 7, 6, seed=1)
    layer = MultiHeadAttention(2, 3, chunk_size=chunk_size)
    order = np.random.default_rng(0).permutation(7)
    np.testing.assert_allclose(layer(query, memory[:, order]), layer(query, memory), atol=1e-6)
    assert np.abs(layer(query, memory[:, order], memory) - layer(query, memory)).max() > 1e-3  # values alone


@pytest.mark.parametrize("chunk_size", [None, 2])
def test_causal_output_does_not_depend_on_what_follows(chunk_size):
    tokens = _normal(1, 6, 8)
    layer = MultiHeadAttention(2, 4, chunk_size=chunk_size)
    before = layer(tokens, tokens, use_causal_mask=True)
    for t in range(6):
        other = tokens.copy()
        other[:, t] += 10.0
        moved = np.abs(layer(other, other, use_causal_mask=True) - before).max((0, 2))
        np.testing.assert_array_equal(moved[:t], 0)
        assert moved[t] > 1e-3


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
@pytest.mark.parametrize("chunk_size", [None, 2])
def test_nothing_to_look_at_gives_zeros(dtype, chunk_size):
    """As output, weights and gradients; the other queries are as without the empty one."""
    query, key, value = (tf.cast(_normal(1, 3, n, 4, seed=n), dtype) for n in (2, 5, 5))
    mask = np.ones((1, 1, 2, 5), bool)
    mask[..., 0, :] = False

    def attend(*inputs):
        if chunk_size:
            return chunked_attention(*inputs, mask, chunk_size=chunk_size)
        return dot_product_attention(*inputs, mask)

    outputs, gradients = _gradients(attend, query, key, value)
    for x in (*outputs, *gradients):
        assert np.isfinite(tf.cast(x, "float32")).all()
    for x in (*outputs, gradients[0]):
        np.testing.assert_array_equal(x[..., 0, :], 0)
    alone, _ = dot_product_attention(query[..., 1:, :], key, value)
    np.testing.assert_allclose(outputs[0][..., 1:, :], alone, atol=1e-6 if dtype == "float32" else 1e-2)


@pytest.mark.parametrize("scores", [[1e4, -1e4, 0.0, 7.0], [-300.0, -300.5, 1e4, -301.0], [-1e4, -2e4, 0.0, 5.0]])
def test_softmax_is_exact_whatever_is_masked(scores):
    """With no large negative number in it that would swallow scores, or be swallowed by them."""
    mask = np.array([True, True, False, True])
    found = masked_softmax(ops.array([scores], "float32"), mask)[0]
    kept = np.array(scores, "float64")[mask]
    expected = np.exp(kept - kept.max()) / np.exp(kept - kept.max()).sum()
    np.testing.assert_allclose(np.asarray(found)[mask], expected, rtol=1e-5, atol=1e-30)
    assert found[2] == 0


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("chunked", [False, True])
def test_no_keys_give_zeros(chunked, masked):
    attend = chunked_attention if chunked else lambda *x, **options: dot_product_attention(*x, **options)[0]
    inputs = [np.ones(shape, "float32") for shape in ((2, 3, 4), (2, 0, 4), (2, 0, 5))]
    output = attend(*inputs, **({"mask": np.ones((2, 3, 0), bool), "causal": True} if masked else {}))
    np.testing.assert_array_equal(output, np.zeros((2, 3, 5)))


@pytest.mark.parametrize("shape", [(0, 3, 4), (2, 0, 4)])
def test_no_rows_and_no_queries_give_none(shape):
    x, memory = np.ones(shape, "float32"), np.ones((shape[0], 3, 4), "float32")
    mask = np.ones((shape[0], 3), bool)
    assert MultiHeadAttention(2, 4)(x, x, use_causal_mask=True).shape == shape
    for layer in (AdditiveAttention(5), LuongAttention("general", "predictive")):
        context, weights = layer(x, memory, mask=mask)
        assert (context.shape, weights.shape) == (shape, (*shape[:2], 3))


@pytest.mark.parametrize("use_bias", [False, True])
@pytest.mark.parametrize("value_dim", [None, 5])
def test_self_attention_by_one_product_equals_the_call(use_bias, value_dim):
    """Outputs and gradients, in training, where it differs."""
    layer = MultiHeadAttention(2, 4, value_dim, use_bias=use_bias, bias_initializer="random_normal")
    tokens, found = tf.constant(_normal(3, 5, 8)), []
    mask = np.arange(5) < np.array([[[5]], [[3]], [[1]]])
    layer.build(tokens.shape, tokens.shape)
    for attend in (
        lambda x: layer(x, x, attention_mask=mask, use_causal_mask=True, training=True),
        lambda x: layer.attend_to_itself(x, mask, use_causal_mask=True, training=True),
        lambda x: layer.attend_to_itself(x, mask, use_causal_mask=True),
    ):
        with tf.GradientTape() as tape:
            tape.watch(tokens)
            output = attend(tokens)
            total = tf.reduce_sum(output * _normal(3, 5, 8, seed=5))
        found.append([output, *tape.gradient(total, [tokens, *layer.trainable_variables])])
    for other in found[1:]:
        for a, b in zip(found[0], other, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


def test_cached_decoding_equals_the_whole():
    """Keys and values are appended step by step into a cache of fixed size, whose rest is masked."""
    tokens = _normal(2, 5, 8)
    layer = MultiHeadAttention(2, 4)
    whole = layer(tokens, tokens, use_causal_mask=True)
    keys, values = np.full((2, 2, 9, 4), 1e3, "float32"), np.full((2, 2, 9, 4), 1e3, "float32")
    for t in range(5):
        key, value = layer.project(tokens[:, t : t + 1])
        keys[:, :, t], values[:, :, t] = key[:, :, 0], value[:, :, 0]
        output = layer.attend(tokens[:, t : t + 1], ops.array(keys), ops.array(values), np.arange(9)[None] <= t)
        np.testing.assert_allclose(output[:, 0], whole[:, t], atol=1e-6)


# The chunked form


@pytest.mark.parametrize("masked", ["none", "keys", "full", "causal", "both"])
@pytest.mark.parametrize("chunk_size", [1, 4, 5, 64])
def test_chunked_equals_whole(masked, chunk_size):
    """Outputs and gradients, also where the last chunk is not full."""
    query, key, value = _normal(2, 3, 9, 4), _normal(2, 3, 11, 4, seed=1), _normal(2, 3, 11, 6, seed=2)
    rng = np.random.default_rng(4)
    mask = {"keys": rng.random((2, 1, 1, 11)) < 0.6, "full": rng.random((2, 3, 9, 11)) < 0.6}
    options = dict(mask=mask.get("keys" if masked == "both" else masked), causal=masked in ("causal", "both"))
    expected = _gradients(lambda *x: dot_product_attention(*x, **options)[0], query, key, value)
    found = _gradients(lambda *x: chunked_attention(*x, chunk_size=chunk_size, **options), query, key, value)
    for a, b in zip(tf.nest.flatten(found), tf.nest.flatten(expected), strict=True):
        np.testing.assert_allclose(a, b, atol=3e-6)


@pytest.mark.parametrize("jit", [False, True])
def test_chunked_equals_whole_when_compiled(jit):
    query, key, value = _normal(2, 9, 4), _normal(2, 11, 4, seed=1), _normal(2, 11, 6, seed=2)
    expected = _gradients(lambda *x: dot_product_attention(*x, causal=True)[0], query, key, value)

    @tf.function(jit_compile=jit)
    def compiled(*inputs):
        return _gradients(lambda *x: chunked_attention(*x, causal=True, chunk_size=4), *inputs)

    for a, b in zip(tf.nest.flatten(compiled(query, key, value)), tf.nest.flatten(expected), strict=True):
        np.testing.assert_allclose(a, b, atol=3e-6)


@pytest.mark.parametrize("form", ["chunked", "whole"])
def test_no_tensor_of_the_chunked_form_is_quadratic(form):
    """In neither direction: XLA's program has no array of queries x keys. That of the whole form has."""
    attend = dict(
        whole=lambda *x: dot_product_attention(*x)[0], chunked=lambda *x: chunked_attention(*x, chunk_size=64)
    )
    compiled = tf.function(lambda x: _gradients(attend[form], x, x, x)[1], jit_compile=True)
    program = compiled.experimental_get_compiler_ir(tf.zeros((1, 1024, 4)))(stage="hlo")
    assert ("1024,1024" in program) == (form == "whole")
    assert "1024,64" in program or form == "whole"


def test_chunked_takes_any_length():
    @tf.function(input_signature=[tf.TensorSpec((None, None, 4))])
    def compiled(x):
        return chunked_attention(x, x, x, causal=True, chunk_size=4)

    for length in (1, 4, 7):
        x = _normal(2, length, 4)
        np.testing.assert_allclose(compiled(x), dot_product_attention(x, x, x, causal=True)[0], atol=1e-6)


@pytest.mark.parametrize("chunk_size", [None, 16])
def test_dropout_keeps_the_mean(chunk_size):
    """And the gradient of the chunked form drops what its output dropped: it is the difference quotient's."""
    x = tf.constant(_normal(1, 40, 4))
    layer = MultiHeadAttention(1, 4, dropout=0.4, chunk_size=chunk_size, seed=1)
    expected = layer(x, x)
    draws = np.stack([layer(x, x, training=True) for _ in range(200)])
    error = np.abs(draws.mean(0) - expected) / (draws.std(0) / len(draws) ** 0.5)
    assert error.max() < 4.8  # standard errors, of 160 numbers
    assert draws.std(0).min() > 1e-3
    attend = chunked_attention if chunk_size else lambda *a, **k: dot_product_attention(*a, **k)[0]
    dropped = lambda v: attend(x, x, v, dropout_rate=0.4, seed=7)  # noqa: E731
    _, (gradient,) = _gradients(dropped, x + 0.0)
    # Linear in the values: so the gradient is exact.
    change = np.asarray(dropped(x + 1.0) - dropped(x), "float64")
    np.testing.assert_allclose(
        (change * _normal(1, 40, 4, seed=9)).sum((0, 1)), gradient.numpy().sum((0, 1)), atol=1e-3
    )


def test_chunked_layer_exports_a_loop(tmp_path):
    from keras_dl.export import export

    tokens = keras.Input((10, 8))
    model = keras.Model(tokens, MultiHeadAttention(2, 4, chunk_size=4)(tokens, tokens, use_causal_mask=True))
    report = export(model, tmp_path / "chunked.tflite", calibration=[{"keras_tensor": _normal(3, 10, 8)}])
    assert (report.flex_ops, report.custom_ops) == (0, 0)
    assert report.ops["WHILE"] == 1


# Alignment


def _by_hand(layer, score, query, memory):
    """The scores of one query, by the equations."""
    weights = {w.name: w.numpy().astype("float64") for w in layer.weights}
    if score == "dot":
        return memory @ query
    if score == "general":
        return memory @ (query @ weights["kernel"])
    hidden = query @ weights["query_kernel"] + memory @ weights["memory_kernel"] + weights.get("bias", 0.0)
    return (np.tanh(hidden) @ weights["vector"])[:, 0]


def _softmax(scores):
    weights = np.exp(scores - scores.max())
    return weights / weights.sum()


@pytest.mark.parametrize("score", ["additive", "dot", "general", "concat"])
def test_global_alignment_is_the_equation(score):
    query, memory = _normal(2, 3, 5), _normal(2, 6, 5, seed=1)
    mask = np.arange(6) < np.array([[6], [4]])
    layer = AdditiveAttention(7) if score == "additive" else LuongAttention(score, units=7)
    context, weights = layer(query, memory, mask)
    if score == "additive":
        layer.bias.assign(_normal(7, seed=3))
        context, weights = layer(query, memory, mask)
    for b, n in ((0, 6), (1, 4)):
        for t in range(3):
            expected = _softmax(_by_hand(layer, score, query[b, t], memory[b, :n]))
            np.testing.assert_allclose(weights[b, t, :n], expected, rtol=1e-4)
            np.testing.assert_array_equal(weights[b, t, n:], 0)
            np.testing.assert_allclose(context[b, t], expected @ memory[b, :n], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("masked", [False, True])
def test_local_alignment_is_the_equation(masked):
    query, memory = _normal(2, 4, 5), _normal(2, 9, 5, seed=1)
    lengths = (9, 6) if masked else (9, 9)
    mask = np.arange(9) < np.array(lengths)[:, None] if masked else None
    for locality in ("monotonic", "predictive"):
        layer = LuongAttention("dot", locality, window=2)
        _, weights = layer(query, memory, mask)
        for b, n in enumerate(lengths):
            for t in range(4):
                places = np.arange(n)
                centre = t
                if locality == "predictive":
                    hidden = np.tanh(query[b, t] @ layer.position_kernel.numpy())
                    centre = n / (1 + np.exp(-(hidden @ layer.position_vector.numpy())[0]))
                near = np.abs(places - centre) <= 2
                expected = np.zeros(9)
                expected[:n][near] = _softmax(memory[b, :n][near] @ query[b, t])
                if locality == "predictive":
                    expected[:n] *= np.exp(-((places - centre) ** 2) / 2)  # sigma = 1
                np.testing.assert_allclose(weights[b, t], expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    "layer",
    [
        AdditiveAttention(4),
        LuongAttention("general"),
        LuongAttention("concat", "monotonic", window=1),
        LuongAttention("general", "predictive", window=2),
    ],
    ids=lambda layer: layer.name,
)
def test_one_query_equals_that_step_of_many(layer):
    query, memory, mask = _normal(2, 3, 5), _normal(2, 6, 4, seed=1), np.arange(6) < np.array([[6], [3]])
    context, weights = layer(query, memory, mask)
    for t in range(3):
        options = dict(position=t) if getattr(layer, "locality", "") == "monotonic" else {}
        one = layer(query[:, t], memory, mask, **options)
        np.testing.assert_allclose(one[0], context[:, t], atol=1e-6)
        np.testing.assert_allclose(one[1], weights[:, t], atol=1e-6)


def test_memory_without_a_kept_place_gives_zeros():
    query, memory = _normal(2, 5), _normal(2, 6, 5, seed=1)
    for layer in (AdditiveAttention(4), LuongAttention("dot"), LuongAttention("dot", "predictive")):
        context, weights = layer(query, memory, np.array([[True] * 6, [False] * 6]))
        np.testing.assert_array_equal(context[1], 0)
        np.testing.assert_array_equal(weights[1], 0)
        assert np.abs(context[0]).max() > 0


def test_memory_is_projected_once():
    query, memory = _normal(2, 5), _normal(2, 6, 4, seed=1)
    layer = AdditiveAttention(4)
    expected = layer(query, memory)
    found = layer.attend(query, memory, layer.project(memory))
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_array_equal(a, b)


# Bad input


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda x: MultiHeadAttention(2, 4)(x, x, attention_mask=np.ones((2, 5, 4), bool)),
            r"mask of shape .*\(5, 5\)",
        ),
        (
            lambda x: MultiHeadAttention(2, 4)(x, x, attention_mask=np.ones((5,), bool)),
            r"attention_mask of shape \(5,\)",
        ),
        (lambda x: MultiHeadAttention(2, 4)(x[0], x), r"query of shape \(5, 8\)"),
        (lambda x: MultiHeadAttention(2, 4)(x, x, x[:, :4]), r"must have the same length"),
        (lambda x: MultiHeadAttention(2, 4, chunk_size=2)(x, x, return_attention_scores=True), "chunk_size=2"),
        (lambda x: dot_product_attention(x, x[..., :3], x), r"query \(2, 5, 8\) and key \(2, 5, 3\)"),
        (lambda x: chunked_attention(x, x, x, chunk_size=0), "chunk_size=0"),
        (lambda x: chunked_attention(x, x[:1], x[:1]), "share the axes"),
        (lambda x: AdditiveAttention(4)(x, x[0]), r"memory of shape \(5, 8\)"),
        (lambda x: AdditiveAttention(4)(x, x, np.ones((2, 4), bool)), r"mask of shape \(2, 4\).*length\s+5"),
        (lambda x: LuongAttention("dot")(x[..., :3], x), "not 3 and 8"),
        (lambda x: LuongAttention("general", "monotonic")(x[:, 0], x), "position=None"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call(_normal(2, 5, 8))


def test_causal_mask_is_lower_triangular():
    np.testing.assert_array_equal(causal_mask(4, 6), np.tril(np.ones((4, 6), bool)))


# The recipe


def test_recipe_reverses(tmp_path):
    """Its data are sequences and their reverses, the same in each run; what it measures is 1 for the right answers."""
    from keras_dl.recipes.attention import RECIPE

    options = RECIPE.options(smoke=True, batch_size=16, data_dir=str(tmp_path))
    data = RECIPE.load_data(options, "attention")
    batch, again = (next(iter(data.train(tf.constant(3)))) for _ in range(2))
    np.testing.assert_array_equal(batch["source"], again["source"])
    assert batch["source"].shape == (16, 31)
    np.testing.assert_array_equal(batch["source"][:, 29::-1], batch["target"][:, :30])
    model = RECIPE.build_model(data, options, "attention")
    assert np.isfinite(model.train_on_batch(batch)).all()
    right = data.arrays["answers"]
    assert RECIPE.evaluate(lambda name, tokens: {"tokens": right}, data) == 1
    wrong = np.where(np.arange(31) == 30, 5, right)
    assert RECIPE.evaluate(lambda name, tokens: {"tokens": wrong}, data) == 0
