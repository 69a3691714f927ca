"""Memory and time of an ODE solver's gradients, by the adjoint and by backpropagation, over the number of its steps.

Peak memory of the process and time per training step, on two cores that other jobs used too
(`keras-dl benchmark neural_ode`):

    steps   adjoint           backprop
    4       709 MiB, 205 ms   728 MiB, 390 ms
    64      782 MiB, 2.7 s    1,720 MiB, 1.9 s

TensorFlow itself takes about 700 MiB. With the adjoint, the largest array of XLA's program does not grow with the
number of steps. With backpropagation it grows in proportion. A test checks both.
"""

import functools

from keras_dl.benchmarks.contenders import Task

ROWS, WIDTH = 4096, 64


def training_step(gradient, num_steps):
    """One forward and one backward solution by RK4 of a network of two layers, in a graph without XLA."""
    import keras
    import numpy as np
    import tensorflow as tf

    from keras_dl.ops.odeint import odeint

    keras.utils.set_random_seed(0)
    net = keras.Sequential([keras.Input((WIDTH,)), keras.layers.Dense(WIDTH, "tanh"), keras.layers.Dense(WIDTH)])
    state = tf.constant(np.random.default_rng(0).normal(size=(ROWS, WIDTH)), tf.float32)

    @tf.function(autograph=False)
    def step():
        with tf.GradientTape() as tape:
            end = odeint(lambda t, y: net(y), state, [0.0, 1.0], num_steps=num_steps, gradient=gradient)[-1]
            loss = tf.reduce_sum(end**2)
        return tape.gradient(loss, net.trainable_variables)

    return lambda: [gradient.numpy() for gradient in step()]


TASKS = [
    Task(
        f"{gradient}-steps",
        f"RK4 of a network {WIDTH}-{WIDTH}-{WIDTH} on {ROWS:,} rows, solution and gradients, float32",
        {f"{n} steps": functools.partial(training_step, gradient, n) for n in (4, 64)},
        steps=2,
        warmup=1,
    )
    for gradient in ("adjoint", "backprop")
]
