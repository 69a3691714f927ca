"""Metrics: of generated data, of images and their segmentation, of detections, and of shapes."""

from keras_dl.metrics.detection import CocoCallback, CocoMetric, coco_scores
from keras_dl.metrics.generation import PrecisionRecall, frechet_distance, precision_recall
from keras_dl.metrics.images import PSNR, SSIM
from keras_dl.metrics.segmentation import MeanIoU
from keras_dl.metrics.shapes import OccupancyIoU

__all__ = [
    "PSNR",
    "SSIM",
    "CocoCallback",
    "CocoMetric",
    "MeanIoU",
    "OccupancyIoU",
    "PrecisionRecall",
    "coco_scores",
    "frechet_distance",
    "precision_recall",
]
