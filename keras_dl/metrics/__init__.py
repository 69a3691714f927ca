"""Metrics: of generated data (functions of features) and of images (`keras.metrics.Metric`)."""

from keras_dl.metrics.generation import PrecisionRecall, frechet_distance, precision_recall
from keras_dl.metrics.images import PSNR, SSIM

__all__ = ["PSNR", "SSIM", "PrecisionRecall", "frechet_distance", "precision_recall"]
