"""What the replicas of a training tell each other. On one device, each function returns what it was given.

A replica is a copy of the model that takes its share of each batch: see `tf.distribute`.
"""

import functools

import numpy as np
import tensorflow as tf


def in_replica() -> bool:
    """Whether what runs or is traced now is the step of one of several replicas."""
    return not tf.distribute.in_cross_replica_context() and tf.distribute.get_strategy().num_replicas_in_sync > 1


def replica_mean(x):
    """The mean of a tensor over the replicas, which all must ask for it: float, the shape of `x`.

    Use it for what a loss divides by, such as the number of tokens in a batch: the gradients are then those of the
    whole batch, also if the shares hold different numbers.
    """
    if not in_replica():
        return x
    return _reduced(tf.distribute.ReduceOp.MEAN, x)


def replica_sum(x):
    """The sum of a tensor over the replicas, which all must ask for it."""
    if not in_replica():
        return x
    return _reduced(tf.distribute.ReduceOp.SUM, x)


def _reduced(how, x):
    # An argument of a graph is on no device, and TensorFlow reduces to the device of what it is given.
    return tf.distribute.get_replica_context().all_reduce(how, tf.identity(tf.convert_to_tensor(x)))


def share_of_loss(loss):
    """What a replica adds to the loss of the whole batch: optimizers add up the gradients of the replicas.

    Keras's losses do this themselves.
    """
    count = tf.distribute.get_strategy().num_replicas_in_sync
    return loss if count == 1 else loss * tf.cast(1.0 / count, loss.dtype)


def values_of_replicas(variable) -> np.ndarray:
    """The value that each replica has of a Keras variable: `(replicas, *shape)`, equal on all workers.

    All workers must ask for it at the same place, outside of a step.
    """
    value = variable.value
    if not isinstance(value, tf.distribute.DistributedValues):
        return variable.numpy()[None]
    strategy = value.distribute_strategy
    local = strategy.experimental_local_results(value)
    if len(local) < strategy.num_replicas_in_sync:
        rows = strategy.run(_gathering(strategy), args=(value,))
        local = [strategy.experimental_local_results(row)[0] for row in rows]
    return np.stack([x.numpy() for x in local])


def local_value(variable) -> np.ndarray:
    """The value that the first replica of this process has of a Keras variable, without a word to other workers."""
    value = variable.value
    if not isinstance(value, tf.distribute.DistributedValues):
        return np.asarray(variable)
    return value.distribute_strategy.experimental_local_results(value)[0].numpy()


@functools.lru_cache
def _gathering(strategy):
    """A graph that gathers a tensor of each replica. `strategy.gather` traces a new one for each call."""

    @tf.function
    def gathered(variable):
        x, replica = tf.convert_to_tensor(variable), tf.distribute.get_replica_context()
        rows = [tf.where(replica.replica_id_in_sync_group == i, x, 0) for i in range(strategy.num_replicas_in_sync)]
        return tf.unstack(replica.all_reduce(tf.distribute.ReduceOp.SUM, tf.stack(rows)))

    return gathered
