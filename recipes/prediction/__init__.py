"""Predictions of a trained run or an exported file, for inputs that a user has: `predict`, and `keras-dl predict`."""

from keras_dl.recipes.prediction.predicting import as_text, predict

__all__ = ["as_text", "predict"]
