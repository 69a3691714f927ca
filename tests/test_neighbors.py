"""Sampling, grouping and interpolation of points against NumPy, also under XLA and written out."""

import functools

import numpy as np
import pytest
import tensorflow as tf

from keras_dl.ops import ball_query, farthest_points, interpolate, interpolation_weights, k_nearest, take_points
from keras_dl.tracing import unrolled


def cloud(n=60, dims=3, batch=3, seed=0):
    return np.random.default_rng(seed).normal(size=(batch, n, dims)).astype("float32")


def grid(side=5):
    """The points of a grid: of many distances, several are equal. One cloud, and one in another order."""
    places = np.stack(np.meshgrid(*[np.arange(side, dtype="float32")] * 2), -1).reshape(1, -1, 2)
    return np.concatenate([places, np.random.default_rng(0).permutation(places, axis=1)])


def slow_farthest_points(points, count, mask=None):
    found = np.zeros((len(points), count), int)
    for b, places in enumerate(points):
        kept = np.ones(len(places), bool) if mask is None else mask[b]
        distances = np.where(kept, np.inf, -1)
        for i in range(count):
            found[b, i] = distances.argmax()
            distances = np.minimum(distances, np.square(places - places[found[b, i]]).sum(-1))
    return found


def slow_ball_query(points, centers, radius, size, mask=None):
    indices, counts = np.zeros((*centers.shape[:2], size), int), np.zeros(centers.shape[:2], int)
    for b, c in np.ndindex(counts.shape):
        inside = np.square(points[b] - centers[b, c]).sum(-1) < np.float32(radius**2)
        inside = np.flatnonzero(inside & (True if mask is None else mask[b]))[:size]
        counts[b, c] = len(inside)
        if len(inside):
            indices[b, c] = inside[0]
            indices[b, c, : len(inside)] = inside
    return indices, counts


@pytest.fixture(params=["eager", "unknown sizes", "xla", "written out"])
def run(request):
    """Calls a function of tensors, and masks, in one of four ways."""

    def call(function, *tensors):
        if request.param == "eager":
            return function(*tensors)
        if request.param == "xla":
            return tf.function(function, jit_compile=True)(*tensors)
        if request.param == "written out":
            with unrolled():
                graph = tf.function(function).get_concrete_function(*map(tf.constant, tensors))
            assert not any("While" in op.type for op in graph.graph.get_operations())
            return graph(*map(tf.constant, tensors))
        specs = [tf.TensorSpec((None, None, *x.shape[2:]), tf.as_dtype(x.dtype)) for x in tensors]
        return tf.function(function, input_signature=specs)(*tensors)

    return call


MASK = np.random.default_rng(1).uniform(size=(3, 60)) < 0.6
MASK[1, :7] = False  # the first points, too


@pytest.mark.parametrize("points", [cloud(), grid(), cloud(dims=2, n=5)], ids=["cloud", "grid", "few"])
def test_farthest_points_are_numpys(run, points):
    found = run(functools.partial(farthest_points, count=17), points)
    np.testing.assert_array_equal(found, slow_farthest_points(points, 17))
    assert not np.asarray(found)[:, 0].any()


def test_farthest_points_skip_padding(run):
    points = cloud()
    padded = np.where(MASK[..., None], points, np.float32(1e5))
    found = np.asarray(run(lambda x, mask: farthest_points(x, 50, mask), padded, MASK))
    np.testing.assert_array_equal(found, slow_farthest_points(points, 50, MASK))
    for row, mask, numbers in zip(points, MASK, found, strict=True):
        kept = np.flatnonzero(mask)
        assert set(numbers) == set(kept)  # all of them, and only those
        np.testing.assert_array_equal(numbers, kept[slow_farthest_points(row[None, mask], 50)[0]])
        assert (numbers[mask.sum() :] == kept[0]).all()


def test_the_order_nests():
    """The first of a sample are a sample, and so are those of a sample of it, also where distances are equal."""
    for points in (cloud(), grid()):
        order = farthest_points(points, 25).numpy()
        np.testing.assert_array_equal(farthest_points(points, 9), order[:, :9])
        chosen = take_points(points, order)
        np.testing.assert_array_equal(farthest_points(chosen, 9), np.tile(np.arange(9), (len(points), 1)))


def test_farthest_points_spread():
    """A grid, which begins at a corner, gives its corners first; as many centers as points are a permutation."""
    points = grid()
    first = take_points(points[:1], farthest_points(points[:1], 4)).numpy()
    assert {tuple(x) for x in first[0]} == {(0, 0), (0, 4), (4, 0), (4, 4)}
    everything = farthest_points(points, 25).numpy()
    np.testing.assert_array_equal(np.sort(everything, 1), np.tile(np.arange(25), (2, 1)))


@pytest.mark.parametrize(("radius", "size"), [(0.7, 8), (1.5, 8), (0.1, 1), (9.0, 70)])
def test_balls_are_brute_force(run, radius, size):
    points = cloud()
    centers = points[:, 3:40]
    indices, counts = run(lambda x, c: ball_query(x, c, radius, size), points, centers)
    expected, found = slow_ball_query(points, centers, radius, size)
    np.testing.assert_array_equal(indices, expected)
    np.testing.assert_array_equal(counts, found)


def test_balls_skip_padding_and_can_be_empty(run):
    points, centers = cloud(), cloud(n=9, seed=4)
    centers[0, 2] = 50.0
    indices, counts = run(lambda x, c, mask: ball_query(x, c, 1.0, 6, mask), points, centers, MASK)
    expected, found = slow_ball_query(points, centers, 1.0, 6, MASK)
    np.testing.assert_array_equal(indices, expected)
    np.testing.assert_array_equal(counts, found)
    assert counts[0, 2] == 0
    assert not np.asarray(indices)[0, 2].any()
    assert (np.asarray(counts) == 6).any()
    assert ((np.asarray(counts) > 0) & (np.asarray(counts) < 6)).any()


def test_the_radius_is_exact_far_from_the_origin():
    """Two points that differ by 0.01 at 100: by `a^2 - 2 a b + b^2` in float32, their distance would be 0 or 0.06."""
    points = np.float32([[[100.0, 100.0], [100.01, 100.0], [100.03, 100.0]]])
    _, counts = ball_query(points, points[:, :1], 0.02, 3)
    assert counts[0, 0] == 2


def test_nearest_are_numpys(run):
    points, queries = cloud(), cloud(n=20, seed=5)
    for mask in (None, MASK):
        inputs = (points, queries) if mask is None else (points, queries, mask)
        indices, found = run(lambda x, q, *mask: k_nearest(x, q, 3, *mask), *inputs)
        distances = np.square(queries[:, :, None] - points[:, None]).sum(-1)
        if mask is not None:
            distances = np.where(mask[:, None], distances, np.inf)
        np.testing.assert_array_equal(indices, np.argsort(distances, axis=-1, kind="stable")[..., :3])
        np.testing.assert_allclose(found, np.sort(distances, -1)[..., :3], rtol=1e-5)


def test_interpolation():
    """At a point it is that point's, between two equally far ones their mean; fewer points than neighbors are none."""
    points = np.float32([[[0.0, 0.0], [2.0, 0.0], [0.0, 5.0], [7.0, 7.0]]])
    features = cloud(n=4, dims=6, batch=1)
    queries = np.float32([[[0.0, 0.0], [1.0, 0.0], [7.0, 7.0]]])
    indices, distances = k_nearest(points, queries, 2)
    weights = interpolation_weights(distances)
    np.testing.assert_allclose(weights.numpy().sum(-1), 1, rtol=1e-6)
    found = interpolate(features, indices, weights).numpy()
    expected = np.stack([features[:, 0], features[:, :2].mean(1), features[:, 3]], 1)
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    mask = np.array([[False, True, False, False]])
    indices, distances = k_nearest(points, queries, 3, mask)
    weights = interpolation_weights(distances)
    np.testing.assert_array_equal(weights, np.broadcast_to(np.float32([1, 0, 0]), (1, 3, 3)))


def test_gathers_have_a_gradient(run):
    points = cloud(n=8)
    indices = np.int32([[[0, 0, 3]], [[1, 2, 1]], [[7, 7, 7]]])
    factors = cloud(n=1, dims=9, seed=2).reshape(3, 1, 3, 3)

    def gradient(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            value = tf.reduce_sum(take_points(x, indices) * factors)
        return tf.convert_to_tensor(tape.gradient(value, x))

    expected = np.zeros_like(points)
    for b, j in np.ndindex(3, 3):
        expected[b, indices[b, 0, j]] += factors[b, 0, j]
    np.testing.assert_allclose(run(gradient, tf.constant(points)), expected, rtol=1e-6)


def test_wrong_arguments_and_values_are_refused():
    points = cloud()
    for call, message in (
        (lambda: farthest_points(points, 0), "count=0"),
        (lambda: ball_query(points, points, 0.0, 4), "radius=0.0"),
        (lambda: ball_query(points, points, np.inf, 4), "radius=inf"),
        (lambda: ball_query(points, points, 1.0, 0), "size=0"),
        (lambda: k_nearest(points, points, 61), "k=61 must be at least 1, and at most the 60 points"),
        (lambda: farthest_points(points, 2, np.zeros((3, 60), bool)), r"mask\[0\] is all False"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
    broken = cloud()
    broken[2, 5, 1] = np.nan
    for call, name in (
        (lambda: farthest_points(tf.constant(broken), 4), "points"),
        (lambda: ball_query(tf.constant(broken), points, 1.0, 4), "points"),
        (lambda: ball_query(points, tf.constant(broken), 1.0, 4), "centers"),
        (lambda: k_nearest(points, tf.constant(broken), 3), "queries"),
    ):
        with pytest.raises(ValueError, match=rf"{name}\[2, 5\] = .*nan.* is not finite"):
            call()


def test_points_that_are_not_finite_give_no_wrong_index_in_a_graph():
    broken = cloud()
    broken[:, 0], broken[:, 9, 1] = np.nan, np.inf

    @tf.function
    def find(x):
        indices, _ = ball_query(x, x, 1.0, 4)
        return farthest_points(x, 20), indices, k_nearest(x, x, 3)[0]

    for indices in find(broken):
        assert np.asarray(indices).min() >= 0
        assert np.asarray(indices).max() < 60
