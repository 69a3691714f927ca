"""Pure functions of tensors.

Attention, recurrence, searches, segments of graphs, symmetries, ODE solvers, points and their neighbors, rays,
resampling of images, boxes and what detectors do with them.
"""

from keras_dl.ops.activations import gelu
from keras_dl.ops.anchors import base_anchors, coverage, grid_points, level_anchors
from keras_dl.ops.assignment import linear_assignment
from keras_dl.ops.attention import causal_mask, chunked_attention, dot_product_attention, masked_softmax
from keras_dl.ops.boxes import (
    box_area,
    box_ciou,
    box_giou,
    box_iou,
    clip_boxes,
    cxcywh_to_xyxy,
    decode_boxes,
    encode_boxes,
    ltrb_to_xyxy,
    pairwise,
    xywh_to_xyxy,
    xyxy_to_cxcywh,
    xyxy_to_ltrb,
    xyxy_to_xywh,
    xyxy_to_yxyx,
    yxyx_to_xyxy,
)
from keras_dl.ops.convolution import dilated_convolution
from keras_dl.ops.decoding import beam_search, greedy, sample
from keras_dl.ops.groups import act, find_group, turn_pixels
from keras_dl.ops.letterbox import letterbox, letterbox_boxes, unletterbox_boxes
from keras_dl.ops.masks import mask_targets, paste_masks
from keras_dl.ops.matching import align_tasks, hashed_uniform, match_by_iou, sample_balanced
from keras_dl.ops.neighbors import (
    ball_query,
    farthest_points,
    interpolate,
    interpolation_weights,
    k_nearest,
    squared_distances,
    take_points,
)
from keras_dl.ops.nms import detections, nms
from keras_dl.ops.odeint import SolverError, odeint
from keras_dl.ops.points import fill_padding, unit_ball
from keras_dl.ops.rays import (
    camera_rays,
    composite,
    convert_cameras,
    frequency_encoding,
    importance_distances,
    look_at,
    ndc_rays,
    orbit_cameras,
    stratified_distances,
)
from keras_dl.ops.recurrence import product_scan, scan
from keras_dl.ops.resampling import blur, downsample, downsampled_convolution, upsample, upsampled_convolution
from keras_dl.ops.roi_align import box_levels, roi_align
from keras_dl.ops.segments import gather, segment_max, segment_softmax, segment_sum

__all__ = [
    "SolverError",
    "act",
    "align_tasks",
    "ball_query",
    "base_anchors",
    "beam_search",
    "blur",
    "box_area",
    "box_ciou",
    "box_giou",
    "box_iou",
    "box_levels",
    "camera_rays",
    "causal_mask",
    "chunked_attention",
    "clip_boxes",
    "composite",
    "convert_cameras",
    "coverage",
    "cxcywh_to_xyxy",
    "decode_boxes",
    "detections",
    "dilated_convolution",
    "dot_product_attention",
    "downsample",
    "downsampled_convolution",
    "encode_boxes",
    "farthest_points",
    "fill_padding",
    "find_group",
    "frequency_encoding",
    "gather",
    "gelu",
    "greedy",
    "grid_points",
    "hashed_uniform",
    "importance_distances",
    "interpolate",
    "interpolation_weights",
    "k_nearest",
    "letterbox",
    "letterbox_boxes",
    "level_anchors",
    "linear_assignment",
    "look_at",
    "ltrb_to_xyxy",
    "mask_targets",
    "masked_softmax",
    "match_by_iou",
    "ndc_rays",
    "nms",
    "odeint",
    "orbit_cameras",
    "pairwise",
    "paste_masks",
    "product_scan",
    "roi_align",
    "sample",
    "sample_balanced",
    "scan",
    "segment_max",
    "segment_softmax",
    "segment_sum",
    "squared_distances",
    "stratified_distances",
    "take_points",
    "turn_pixels",
    "unit_ball",
    "unletterbox_boxes",
    "upsample",
    "upsampled_convolution",
    "xywh_to_xyxy",
    "xyxy_to_cxcywh",
    "xyxy_to_ltrb",
    "xyxy_to_xywh",
    "xyxy_to_yxyx",
    "yxyx_to_xyxy",
]
