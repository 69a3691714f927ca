"""Progress of a run on stderr: a bar on a terminal, one line per epoch elsewhere."""

import sys
import time

import keras

from keras_dl.extras import require


def say(text):
    """Writes one line to stderr."""
    print(text, file=sys.stderr, flush=True)


class Progress(keras.callbacks.Callback):
    """Shows the progress of the training of one variant.

    Args:
        title: str. Start of each line.
        epochs: int. Number of all epochs.
        steps: int. Training steps per epoch.
        compiled: bool. Whether the training step is compiled already. If not, the first step is announced: under XLA it
            takes a minute or two for a deep network.
    """

    def __init__(self, title, epochs, steps, compiled=False):
        super().__init__()
        self.title = title
        self.epochs = epochs
        self.steps = steps
        self.compiled = compiled
        self.bar = None

    def on_train_begin(self, logs=None):
        if not self.compiled:
            how = "compiles the training step with XLA" if self.model.jit_compile else "traces the training step"
            say(f"{self.title}  {how}: the first step takes longer than all others")

    def on_epoch_begin(self, epoch, logs=None):
        self.started = time.perf_counter()
        console = require("rich.console", extra="recipes").Console(stderr=True)
        if console.is_terminal:
            self.bar = require("rich.progress", extra="recipes").Progress(console=console, transient=True)
            self.task = self.bar.add_task(f"{self.title}  epoch {epoch + 1}/{self.epochs}", total=self.steps)
            self.bar.start()

    def on_train_batch_end(self, batch, logs=None):
        if self.bar:
            self.bar.update(self.task, completed=batch + 1)

    def on_epoch_end(self, epoch, logs=None):
        self.close()
        values = "  ".join(f"{name} {value:.4f}" for name, value in logs.items())
        seconds = time.perf_counter() - self.started
        say(f"{self.title}  epoch {epoch + 1}/{self.epochs}  {values}  {seconds:.1f} s")

    def close(self):
        """Removes the bar from the terminal, also after an error, for which Keras calls no callback."""
        if self.bar:
            self.bar.stop()
            self.bar = None
