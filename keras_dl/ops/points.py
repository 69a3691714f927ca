"""Clouds of points: padding, and the scale that the networks expect.

A cloud is `(points, channels)`: the coordinates of each point first, then its other features. A cloud has no order.
"""

from keras import ops


def fill_padding(points, mask):
    """Replaces padding by the first point that is kept: a point that occurs again changes no maximum over the cloud.

    Args:
        points: float, `(batch, points, channels)`. Padding can be any finite numbers.
        mask: bool, `(batch, points)`. True = a point of the cloud, False = padding. At least one is True.

    Returns:
        The dtype and shape of `points`.

    Example:

    >>> cloud = ops.array([[[9.0], [1.0], [2.0]]])
    >>> fill_padding(cloud, ops.array([[False, True, True]])).numpy().ravel()
    array([1., 1., 2.], dtype=float32)
    """
    count = points.shape[1] if points.shape[1] is not None else ops.shape(points)[1]
    first = ops.argmax(ops.cast(mask, "int32"), axis=1)[:, None]  # (batch, 1)
    chosen = ops.equal(ops.arange(count, dtype=first.dtype), first)[:, None]  # (batch, 1, points)
    kept = ops.cast(mask, points.dtype)[..., None]  # (batch, points, 1)
    # Products, and no `where`: in an int8 file that takes its scale from one of its branches, and cuts off the other.
    point = ops.matmul(ops.cast(chosen, points.dtype), points)  # (batch, 1, channels)
    return points * kept + point * (1 - kept)  # (batch, points, channels)


def unit_ball(points, num_coordinates: int | None = None):
    """Moves the mean of a cloud to the origin, and scales the farthest point to the distance 1.

    Args:
        points: float, `(..., points, channels)`.
        num_coordinates: int. The first channels, which are coordinates; the others stay as they are. None for all.

    Returns:
        The dtype and shape of `points`. A cloud whose points are all equal goes to the origin.

    Example:

    >>> unit_ball(ops.array([[1.0, 0.0], [5.0, 0.0]])).numpy()
    array([[-1.,  0.],
           [ 1.,  0.]], dtype=float32)
    """
    count = points.shape[-1] if num_coordinates is None else num_coordinates
    places = points[..., :count] - ops.mean(points[..., :count], axis=-2, keepdims=True)
    # (..., 1, 1)
    radius = ops.sqrt(ops.max(ops.sum(places * places, axis=-1, keepdims=True), axis=-2, keepdims=True))
    places = places / ops.where(radius > 0, radius, ops.ones_like(radius))
    return places if count == points.shape[-1] else ops.concatenate([places, points[..., count:]], axis=-1)
