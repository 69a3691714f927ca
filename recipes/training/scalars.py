"""`--tensorboard`: curves for TensorBoard, written by TensorFlow, so that TensorBoard need not be installed."""

import keras
import tensorflow as tf


class Scalars(keras.callbacks.Callback):
    """Writes the logs of each epoch into an event file.

    Args:
        folder: path. One folder per curve.
    """

    def __init__(self, folder):
        super().__init__()
        self.writer = tf.summary.create_file_writer(str(folder))

    def on_epoch_end(self, epoch, logs=None):
        metadata = tf.compat.v1.SummaryMetadata(
            plugin_data=tf.compat.v1.SummaryMetadata.PluginData(plugin_name="scalars"),
            data_class=tf.compat.v1.DATA_CLASS_SCALAR if hasattr(tf.compat.v1, "DATA_CLASS_SCALAR") else 1,
        )
        with self.writer.as_default():
            for name, value in logs.items():
                tf.summary.write(name, tf.constant(value, tf.float32), step=epoch + 1, metadata=metadata)
        self.writer.flush()
