"""Pure functions of tensors.

Attention, recurrence, searches, segments of graphs, symmetries, ODE solvers, points and their neighbors, rays,
resampling of images.
"""

from keras_dl.ops.activations import gelu
from keras_dl.ops.attention import causal_mask, chunked_attention, dot_product_attention, masked_softmax
from keras_dl.ops.convolution import dilated_convolution
from keras_dl.ops.decoding import beam_search, greedy, sample
from keras_dl.ops.groups import act, find_group, turn_pixels
from keras_dl.ops.neighbors import (
    ball_query,
    farthest_points,
    interpolate,
    interpolation_weights,
    k_nearest,
    squared_distances,
    take_points,
)
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
from keras_dl.ops.segments import gather, segment_max, segment_softmax, segment_sum

__all__ = [
    "SolverError",
    "act",
    "ball_query",
    "beam_search",
    "blur",
    "camera_rays",
    "causal_mask",
    "chunked_attention",
    "composite",
    "convert_cameras",
    "dilated_convolution",
    "dot_product_attention",
    "downsample",
    "downsampled_convolution",
    "farthest_points",
    "fill_padding",
    "find_group",
    "frequency_encoding",
    "gather",
    "gelu",
    "greedy",
    "importance_distances",
    "interpolate",
    "interpolation_weights",
    "k_nearest",
    "look_at",
    "masked_softmax",
    "ndc_rays",
    "odeint",
    "orbit_cameras",
    "product_scan",
    "sample",
    "scan",
    "segment_max",
    "segment_softmax",
    "segment_sum",
    "squared_distances",
    "stratified_distances",
    "take_points",
    "turn_pixels",
    "unit_ball",
    "upsample",
    "upsampled_convolution",
]
