"""The linear assignment problem inside of a graph: the matching of DETR, also under XLA.

Rows are matched to columns so that the sum of the costs is the smallest. The method is that of shortest augmenting
paths (Jonker and Volgenant): rows are added one after the other. With potentials `u` and `v`, for which
`cost - u - v >= 0` everywhere and 0 in the pairs so far, Dijkstra's method finds the cheapest path from the new row
over pairs so far to a free column; along it the pairs change. All matrices of a batch go side by side.

It computes in float64, since the potentials of float32 would decide between costs that are nearly equal.

References: Kuhn 1955, "The Hungarian method for the assignment problem"; Crouse 2016, "On implementing 2D rectangular
assignment algorithms", IEEE Transactions on Aerospace and Electronic Systems 52.
"""

import tensorflow as tf

INFINITY = tf.float64.max


def linear_assignment(costs, mask=None):
    """The assignment of rows to columns with the smallest sum of costs, of each matrix of a batch.

    As many pairs are made as fit: all rows that are kept, or as many as there are columns. A cost that is NaN or
    infinite is more than all others together, so that it is chosen where nothing else is left.

    Args:
        costs: float, `(batch, rows, columns)`, sizes known and above 0: such as objects and predictions.
        mask: bool, `(batch, rows)`. True = a row, False = padding. None for rows alone.

    Returns:
        int32, `(batch, rows)`: the column of each row, -1 for padding and for rows that are left over. It has no
        gradient.

    Raises:
        ValueError: if a size is not known or 0.

    Example:

    >>> costs = tf.constant([[[1.0, 2.0, 9.0], [1.0, 5.0, 9.0], [0.0, 0.0, 0.0]]])
    >>> linear_assignment(costs, tf.constant([[True, True, False]])).numpy()
    array([[ 1,  0, -1]], dtype=int32)
    """
    costs = tf.stop_gradient(tf.cast(costs, tf.float64))
    if len(costs.shape) != 3 or None in costs.shape[1:] or 0 in costs.shape[1:]:
        raise ValueError(f"costs has the shape {costs.shape}; it must be (batch, rows, columns), known and above 0.")
    rows, columns = costs.shape[1:]
    mask = tf.ones(tf.shape(costs)[:2], tf.bool) if mask is None else tf.convert_to_tensor(mask)
    counts = tf.logical_and(tf.math.is_finite(costs), tf.expand_dims(mask, -1))
    finite = tf.where(counts, costs, 0.0)
    # So much that one more pair of such a cost is never worth it.
    much = 1.0 + 2.0 * (1.0 + min(rows, columns)) * tf.reduce_max(tf.abs(finite), axis=(1, 2), keepdims=True)
    costs = tf.where(tf.math.is_finite(costs), costs, much)
    if rows <= columns:
        return _assign(costs, mask)
    # Each column gets a row. Padding costs more than a row of which nothing is finite.
    costs = tf.where(tf.expand_dims(mask, -1), costs, much * (2.0 + columns))
    found = _assign(tf.transpose(costs, (0, 2, 1)), tf.ones(tf.shape(costs)[::2], tf.bool))  # (batch, columns)
    taken = tf.equal(tf.expand_dims(tf.range(rows), 1), tf.expand_dims(found, 1))  # (batch, rows, columns)
    column = tf.reduce_max(tf.where(taken, tf.range(columns), -1), axis=-1)
    return tf.where(mask, column, -1)


def _assign(costs, mask):
    """`linear_assignment` of finite costs with at least as many columns as rows."""
    batch, (rows, columns) = tf.shape(costs)[0], costs.shape[1:]
    numbers, places = tf.range(rows), tf.range(columns)
    u, v = tf.zeros((batch, rows), tf.float64), tf.zeros((batch, columns), tf.float64)
    column_of, row_of = tf.fill((batch, rows), -1), tf.fill((batch, columns), -1)

    def add(row, u, v, column_of, row_of):
        active = mask[:, row]  # (batch,)

        def step(current, sink, lowest, paths, shortest, seen_rows, seen_columns):
            """Dijkstra's method: one more row of the tree, and the nearest column outside of it."""
            open_ = tf.logical_and(active, sink < 0)
            at = tf.equal(numbers, tf.expand_dims(current, 1))  # (batch, rows)
            seen_rows = tf.logical_or(seen_rows, tf.logical_and(at, tf.expand_dims(open_, 1)))
            reduced = tf.gather(costs, current, batch_dims=1) - v  # (batch, columns)
            reduced += tf.expand_dims(lowest - tf.gather(u, current, batch_dims=1), 1)
            # Those of a column that has been seen stay.
            nearer = tf.logical_and(reduced < shortest, tf.expand_dims(open_, 1))
            nearer = tf.logical_and(nearer, tf.logical_not(seen_columns))
            paths = tf.where(nearer, tf.expand_dims(current, 1), paths)
            shortest = tf.where(nearer, reduced, shortest)
            outside = tf.where(seen_columns, INFINITY, shortest)
            chosen = tf.argmin(outside, axis=-1, output_type=tf.int32)
            lowest = tf.where(open_, tf.reduce_min(outside, axis=-1), lowest)
            reached = tf.logical_and(tf.equal(places, tf.expand_dims(chosen, 1)), tf.expand_dims(open_, 1))
            seen_columns = tf.logical_or(seen_columns, reached)
            owner = tf.gather(row_of, chosen, batch_dims=1)
            sink = tf.where(tf.logical_and(open_, owner < 0), chosen, sink)
            current = tf.where(tf.logical_and(open_, owner >= 0), owner, current)
            return current, sink, lowest, paths, shortest, seen_rows, seen_columns

        state = (
            tf.fill((batch,), row),
            tf.fill((batch,), -1),
            tf.zeros((batch,), tf.float64),
            tf.fill((batch, columns), -1),
            tf.fill((batch, columns), INFINITY),
            tf.zeros((batch, rows), tf.bool),
            tf.zeros((batch, columns), tf.bool),
        )
        _, sink, lowest, paths, shortest, seen_rows, seen_columns = tf.while_loop(
            lambda current, sink, *_: tf.reduce_any(tf.logical_and(active, sink < 0)),
            step,
            state,
            maximum_iterations=rows,
        )
        # The potentials keep all reduced costs at 0 or above, and make those of the path 0.
        lowest = tf.expand_dims(lowest, 1)
        own = tf.gather(shortest, tf.maximum(column_of, 0), batch_dims=1)  # (batch, rows)
        own = tf.where(tf.equal(numbers, row), tf.zeros_like(own), own)
        u = tf.where(seen_rows, u + lowest - own, u)
        v = tf.where(seen_columns, v - lowest + shortest, v)

        def turn(column, column_of, row_of):
            """One pair of the path changes; `column` is -1 behind its end."""
            going = column >= 0
            owner = tf.where(going, tf.gather(paths, tf.maximum(column, 0), batch_dims=1), -1)
            before = tf.gather(column_of, tf.maximum(owner, 0), batch_dims=1)
            row_of = tf.where(_at(column, places, going), tf.expand_dims(owner, 1), row_of)
            column_of = tf.where(_at(owner, numbers, going), tf.expand_dims(column, 1), column_of)
            ends = tf.logical_or(tf.logical_not(going), tf.equal(owner, row))
            return tf.where(ends, -1, before), column_of, row_of

        _, column_of, row_of = tf.while_loop(
            lambda column, *_: tf.reduce_any(column >= 0), turn, (sink, column_of, row_of), maximum_iterations=rows
        )
        return row + 1, u, v, column_of, row_of

    loop = (tf.constant(0), u, v, column_of, row_of)
    return tf.while_loop(lambda row, *_: row < rows, add, loop, maximum_iterations=rows)[3]


def _at(index, numbers, where):
    """bool, `(batch, numbers)`: True at the index, where it counts."""
    return tf.logical_and(tf.equal(numbers, tf.expand_dims(index, 1)), tf.expand_dims(where, 1))
