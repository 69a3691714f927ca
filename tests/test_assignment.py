"""Linear assignment against scipy's: equal sums of costs, since ties may be chosen in another way."""

import numpy as np
import pytest
import tensorflow as tf
from scipy.optimize import linear_sum_assignment

from keras_dl.ops.assignment import linear_assignment

COUNT = 200  # of each of five shapes: 1,000 matrices
SHAPES = [(1, 1), (5, 12), (12, 5), (8, 8), (20, 40)]


def total(costs, columns):
    """The sum of the costs of an assignment, which must use no column twice."""
    kept = columns >= 0
    assert len(set(columns[kept])) == kept.sum()
    return costs[np.flatnonzero(kept), columns[kept]].sum(), kept.sum()


def kinds(shape, count, seed=0):
    """Costs of several kinds: normal, all equal or few different ones (ties), and of unlike sizes."""
    random = np.random.default_rng(seed)
    costs = random.normal(size=(count, *shape))
    costs[1::4] = random.integers(0, 3, costs[1::4].shape)
    costs[2::4] = 10 ** random.uniform(-3, 3, costs[2::4].shape)
    costs[3] = 7.0
    return costs.astype("float32")


@pytest.fixture(scope="module", params=["graph", "xla"])
def assign(request):
    return tf.function(linear_assignment, jit_compile=request.param == "xla")


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_sum_is_scipys(assign, shape):
    costs = kinds(shape, COUNT)
    found = assign(tf.constant(costs)).numpy()
    for matrix, columns in zip(costs.astype("float64"), found, strict=True):
        expected = matrix[linear_sum_assignment(matrix)].sum()
        sum_, pairs = total(matrix, columns)
        assert pairs == min(shape)
        assert sum_ == pytest.approx(expected, rel=1e-12, abs=1e-12)


@pytest.mark.parametrize("shape", [(6, 9), (9, 6)], ids=str)
def test_padding_takes_no_column(assign, shape):
    costs = kinds(shape, 60, seed=1)
    random = np.random.default_rng(2)
    mask = random.uniform(size=(60, shape[0])) < random.uniform(0, 1, (60, 1))
    mask[0], mask[1] = False, True
    costs[~mask] = np.where(random.uniform(size=costs[~mask].shape) < 0.5, np.nan, -1e6)
    found = assign(tf.constant(costs), tf.constant(mask)).numpy()
    assert (found[~mask] == -1).all()
    for matrix, columns, kept in zip(costs.astype("float64"), found, mask, strict=True):
        expected = matrix[kept][linear_sum_assignment(matrix[kept])].sum()
        sum_, pairs = total(matrix[kept], columns[kept])
        assert pairs == min(kept.sum(), shape[1])
        assert sum_ == pytest.approx(expected, rel=1e-12, abs=1e-9)


@pytest.mark.parametrize("shape", [(3, 5), (5, 3)], ids=str)
def test_costs_that_are_not_finite_are_chosen_last(assign, shape):
    costs = kinds(shape, 4, seed=3)
    costs[0, 1] = np.nan
    costs[1, :, 0] = np.inf
    costs[2] = np.nan
    costs[3, 0, :] = -np.inf
    found = assign(tf.constant(costs)).numpy()
    for matrix, columns in zip(costs.astype("float64"), found, strict=True):
        replaced = np.where(np.isfinite(matrix), matrix, 1e4)
        expected = replaced[linear_sum_assignment(replaced)].sum()
        assert total(replaced, columns) == (pytest.approx(expected), min(shape))


def test_no_gradient_and_any_batch():
    function = tf.function(linear_assignment, input_signature=[tf.TensorSpec((None, 3, 4), tf.float16)])
    costs = tf.Variable(kinds((3, 4), 8).astype("float16"))
    with tf.GradientTape() as tape:
        columns = function(costs)
        value = tf.reduce_sum(tf.gather(costs, columns, batch_dims=2))
    assert np.isin(tape.gradient(value, costs).numpy(), (0, 1)).all()  # that of the costs that were chosen
    with pytest.raises(ValueError, match=r"costs has the shape \(2, 0, 4\)"):
        linear_assignment(tf.zeros((2, 0, 4)))
