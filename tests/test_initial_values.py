"""Initial values: measured deviations are those of the papers' code.

A deviation of n values has itself the relative deviation 1 / sqrt(2 n), of which four are allowed.
"""

import math

import keras
import numpy as np
import pytest

from keras_dl import ConvNeXt, Transformer, TransformerEncoder, TransformerLM, ViT
from keras_dl.initializers import new_initializer

WIDTH, MLP = 64, 256
SIZES = dict(num_layers=3, hidden_dim=WIDTH, mlp_dim=MLP, num_heads=4)
# A normal distribution that is cut at two deviations has the variance 1 - 4 pdf(2) / (2 cdf(2) - 1).
CUT = math.sqrt(1 - 4 * math.exp(-2) / math.sqrt(2 * math.pi) / math.erf(math.sqrt(2)))


def check(values, deviation, cut_at=None):
    values = np.asarray(values)
    assert np.std(values) == pytest.approx(deviation, rel=4 / math.sqrt(2 * values.size))
    assert abs(values.mean()) < 4 * deviation / math.sqrt(values.size)
    if cut_at is not None:
        assert np.abs(values).max() <= cut_at
    return values


def check_zeros(variables):
    for variable in variables:
        np.testing.assert_array_equal(variable, 0, err_msg=variable.path)


def kernels_of(block):
    """The matrices of a transformer's block: those that go into a sublayer, and those that end one."""
    attentions = [block.attention] + ([block.memory_attention] if block.cross_attention else [])
    into = [getattr(x, f"{name}_kernel") for x in attentions for name in ("query", "key", "value")]
    return [*into, block.expand.kernel], [*(x.output_kernel for x in attentions), block.project.kernel]


def biases_of(block):
    biases = [block.attention.query_bias, block.attention.output_bias, block.expand.bias, block.project.bias]
    return [bias for bias in biases if bias is not None]


def test_bert_is_cut_at_two_deviations():
    """google-research/bert: tf.truncated_normal_initializer(0.02), whose values have a deviation of 0.0176."""
    assert pytest.approx(0.0176, abs=5e-5) == 0.02 * CUT
    model = TransformerEncoder(500, 100, num_segments=40, pooler=True, **SIZES)
    tables = [layer.weights[0] for layer in (model.embedding, model.positions, model.segments)]
    for values in [
        *tables,
        model.pool.kernel,
        *(x for block in model.blocks for part in kernels_of(block) for x in part),
    ]:
        assert np.abs(check(values, 0.02 * CUT, cut_at=0.04)).max() > 0.035
    check_zeros([model.pool.bias, *(bias for block in model.blocks for bias in biases_of(block))])


def test_gpt2_divides_residual_branches_by_their_number():
    """openai/gpt-2: normal, 0.02, positions 0.01. The paper: 1 / sqrt(N) of the layers that end a residual branch."""
    model = TransformerLM(500, 100, **SIZES)
    check(model.embedding.embeddings, 0.02)
    check(model.positions.table, 0.01)
    for block in model.blocks:
        into, ending = kernels_of(block)
        for values in into:
            assert np.abs(check(values, 0.02)).max() > 0.05  # not cut
        for values in ending:
            check(values, 0.02 / math.sqrt(6))
        check_zeros(biases_of(block))
    first, second = kernels_of(model.blocks[0])[0][:2]
    assert np.abs(np.asarray(first) - second).max() > 0.02  # each its own draw
    assert np.abs(np.asarray(first) - kernels_of(model.blocks[1])[0][0]).max() > 0.02


def test_convnext_is_not_cut():
    """facebookresearch/ConvNeXt: trunc_normal_(std=0.02) with the absolute bounds -2 and 2, which cut nothing."""
    model = ConvNeXt((32, 32, 3), 50, num_blocks=(1, 1), filters=(48, 64), patch_size=4)
    block = model.get_layer("stage_2_block_0")
    layers = [model.get_layer(name) for name in ("patches", "downsample_2", "head")]
    layers += [block.depthwise, block.expand, block.project]
    values = [check(layer.kernel, 0.02) for layer in layers]
    assert max(np.abs(x).max() for x in values) > 0.06
    check_zeros([layer.bias for layer in layers])


def test_transformer_has_glorots_limits():
    """tensor2tensor: variance scaling of the mean of both fans, uniform; embeddings normal, 1 / sqrt(width)."""
    model = Transformer(500, source_length=8, target_length=8, attention_bias=True, **SIZES)
    check(model.embedding.embeddings, WIDTH**-0.5)
    for block in (*model.encoder, *model.decoder):
        for part in kernels_of(block):
            for kernel in part:
                rows = MLP if kernel is block.project.kernel else WIDTH
                columns = math.prod(kernel.shape) // rows
                limit = math.sqrt(6 / (rows + columns))
                assert np.abs(check(kernel, limit / math.sqrt(3), cut_at=limit)).max() > 0.98 * limit
        check_zeros(biases_of(block))


def test_vit_has_glorots_limits_and_small_biases():
    """google-research/vision_transformer: Glorot's matrices, biases of MLPs 1e-6, patches by LeCun, head at zero."""
    model = ViT((64, 64, 3), 5, patch_size=8, **SIZES)
    check(model.get_layer("positions").positions, 0.02)
    check(model.get_layer("patches").kernel, (8 * 8 * 3) ** -0.5)
    check_zeros([model.get_layer("class_token").token, *model.get_layer("head").weights])
    for i in range(3):
        block = model.get_layer(f"block_{i}")
        into, ending = kernels_of(block)
        for kernel in [*into[:3], ending[0]]:
            check(kernel, WIDTH**-0.5, cut_at=math.sqrt(3 / WIDTH))
        for kernel in (into[3], ending[1]):
            check(kernel, math.sqrt(2 / (WIDTH + MLP)), cut_at=math.sqrt(6 / (WIDTH + MLP)))
        check(np.concatenate([block.expand.bias, block.project.bias]), 1e-6)
        check_zeros([block.attention.query_bias, block.attention.output_bias])


def test_a_new_initializer_draws_other_numbers():
    for given in (keras.initializers.RandomNormal(stddev=0.5), "he_normal"):
        one, two = new_initializer(given)((40, 50)), new_initializer(given)((40, 50))
        assert np.abs(np.asarray(one) - two).max() > 0.1
        assert np.std(one) == pytest.approx(np.std(two), rel=0.1)
