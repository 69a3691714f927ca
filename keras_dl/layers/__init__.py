"""Layers: architectures that are layers, and building blocks for others.

Blocks of one architecture are in its module: `keras_dl.models.vision.resnet.ResidualBlock`, for example.
"""

from keras_dl.layers.attention import AdditiveAttention, LuongAttention, MultiHeadAttention
from keras_dl.layers.embedding import Positions, SegmentEmbedding, TokenEmbedding
from keras_dl.layers.graph import GATConv, GCNConv, GINConv, SAGEConv
from keras_dl.layers.group_convolution import (
    AlignedPooling2D,
    GroupBatchNormalization,
    GroupConv2D,
    GroupPooling,
    LiftingConv2D,
)
from keras_dl.layers.gru import GRU, GRUCell
from keras_dl.layers.lstm import LSTM, LSTMCell
from keras_dl.layers.message_passing import MPNNConv, Set2Set, SumReadout
from keras_dl.layers.norm import BatchNormalization, GroupNormalization, InstanceNormalization, LayerNormalization
from keras_dl.layers.pixels import PixelNormalization
from keras_dl.layers.pooling import AdaptivePooling2D
from keras_dl.layers.pyramid import FeaturePyramid
from keras_dl.layers.residual import LayerScale, StochasticDepth
from keras_dl.layers.rnn import SimpleRNN, SimpleRNNCell
from keras_dl.layers.sine_positions import SinePositions
from keras_dl.layers.standardization import Standardization
from keras_dl.layers.transformer import TransformerBlock
from keras_dl.layers.unet import PixelAttention, TimedResidualBlock, TimeEmbedding

__all__ = [
    "GRU",
    "LSTM",
    "AdaptivePooling2D",
    "AdditiveAttention",
    "AlignedPooling2D",
    "BatchNormalization",
    "FeaturePyramid",
    "GATConv",
    "GCNConv",
    "GINConv",
    "GRUCell",
    "GroupBatchNormalization",
    "GroupConv2D",
    "GroupNormalization",
    "GroupPooling",
    "InstanceNormalization",
    "LSTMCell",
    "LayerNormalization",
    "LayerScale",
    "LiftingConv2D",
    "LuongAttention",
    "MPNNConv",
    "MultiHeadAttention",
    "PixelAttention",
    "PixelNormalization",
    "Positions",
    "SAGEConv",
    "SegmentEmbedding",
    "Set2Set",
    "SimpleRNN",
    "SimpleRNNCell",
    "SinePositions",
    "Standardization",
    "StochasticDepth",
    "SumReadout",
    "TimeEmbedding",
    "TimedResidualBlock",
    "TokenEmbedding",
    "TransformerBlock",
]
