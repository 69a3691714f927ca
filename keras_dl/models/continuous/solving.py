"""Layers that solve differential equations: how they are served, and how they run when called eagerly."""

import contextlib
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from keras_dl.base import Layer
from keras_dl.compat import all_layers, is_eager, is_recording
from keras_dl.ops.odeint import checked_times, solver_error


class SolvingLayer(Layer):
    """A layer with an attribute `solver`, a `keras_dl.ops.odeint.Solver`."""

    @contextlib.contextmanager
    def fixed_steps(self):
        """Inside this context an adaptive solver is replaced by "rk4" with `num_steps`."""
        solver, self.solver = self.solver, self.solver.fixed()
        try:
            yield
        finally:
            self.solver = solver

    def _solved(self, solve: Callable, times, *tensors):
        """`solve(times, *tensors)`, as a graph if it takes adaptive steps and is called eagerly without a tape.

        From Python, adaptive steps would take a hundred times as long. The graph is traced once for each kind of
        inputs. A tape records the steps themselves, since the derivative of a graph of loops takes longer to trace.

        Args:
            solve: a method of this layer, which reads only the arguments and the weights.
            times: float, `(n,)`, as of `odeint`.
            tensors: tensors or None.

        Raises:
            SolverError: if the steps did not reach the last time.
        """
        if not self.solver.adaptive or not is_eager(tensors[0]) or is_recording():
            return solve(times, *tensors)
        key = (solve.__name__, self.solver, *(layer.compute_dtype for layer in all_layers(self)))
        graphs = self.__dict__.setdefault("_graphs", {})  # which Keras must not track
        if key not in graphs:
            graphs[key] = tf.function(solve, autograph=False, reduce_retracing=True)
        try:
            return graphs[key](checked_times(times), *tensors)  # a graph does not see the values of the times
        except tf.errors.InvalidArgumentError as error:
            given_up = solver_error(error)
            if given_up is None:
                raise
            raise given_up from None


def until(time: float):
    """The times 0 and `time`: float32, `(2,)`."""
    return np.array([0.0, time], "float32")
