"""keras_dl: the landmark architectures of deep learning as Keras 3 layers and models on TensorFlow."""

import importlib as _importlib

import keras as _keras

if _keras.backend.backend() != "tensorflow":
    raise ImportError(
        f"keras_dl needs Keras on TensorFlow, and Keras runs on {_keras.backend.backend()!r}. "
        "Set the environment variable KERAS_BACKEND=tensorflow before Python starts."
    )

from keras_dl import arguments, averaging, diffusion, layers, losses, metrics, optimizers, schedules
from keras_dl.base import FunctionalModel, Layer, Model
from keras_dl.layers.attention import AdditiveAttention, LuongAttention, MultiHeadAttention
from keras_dl.layers.gru import GRU, GRUCell
from keras_dl.layers.lstm import LSTM, LSTMCell
from keras_dl.layers.rnn import SimpleRNN, SimpleRNNCell
from keras_dl.models.continuous.continuous_flow import ContinuousFlow
from keras_dl.models.continuous.latent_ode import LatentODE
from keras_dl.models.continuous.neural_ode import ODEClassifier
from keras_dl.models.detection.detr import DETR
from keras_dl.models.detection.faster_rcnn import FasterRCNN
from keras_dl.models.detection.yolo import YOLO
from keras_dl.models.detection.yolo_v1 import YOLOv1
from keras_dl.models.generative.autoencoder import Autoencoder
from keras_dl.models.generative.cyclegan import CycleGAN
from keras_dl.models.generative.dcgan import DCGAN
from keras_dl.models.generative.ddpm import DDPM
from keras_dl.models.generative.dense_ncsn import DenseNCSN
from keras_dl.models.generative.gan import GAN
from keras_dl.models.generative.ncsn import NCSN
from keras_dl.models.generative.score_sde import ScoreSDE
from keras_dl.models.generative.stylegan import StyleGAN
from keras_dl.models.generative.stylegan2 import StyleGAN2
from keras_dl.models.generative.vae import VAE
from keras_dl.models.graphs.gnn import GraphPredictor, NodeClassifier
from keras_dl.models.points.pointnet import PointNet
from keras_dl.models.points.pointnet2 import PointNet2
from keras_dl.models.points.pointnet2_segmentation import PointNet2Segmentation
from keras_dl.models.points.pointnet_segmentation import PointNetSegmentation
from keras_dl.models.pretrained import from_pretrained
from keras_dl.models.scenes.nerf import NeRF
from keras_dl.models.scenes.occupancy_network import OccupancyNetwork
from keras_dl.models.segmentation.fcn import FCN
from keras_dl.models.segmentation.fcn_resnet import FCNResNet
from keras_dl.models.segmentation.mask_rcnn import MaskRCNN
from keras_dl.models.sequence.recurrent import RecurrentNetwork
from keras_dl.models.sequence.recurrent_lm import RecurrentLM
from keras_dl.models.sequence.seq2seq import Seq2Seq
from keras_dl.models.sequence.tcn import TCN
from keras_dl.models.sequence.transformer import Transformer
from keras_dl.models.sequence.transformer_encoder import TransformerEncoder
from keras_dl.models.sequence.transformer_lm import TransformerLM
from keras_dl.models.tabular.mlp import MLP
from keras_dl.models.tabular.residual_mlp import ResidualMLP
from keras_dl.models.vision.alexnet import AlexNet
from keras_dl.models.vision.convnext import ConvNeXt
from keras_dl.models.vision.gcnn import GCNN, GroupResNet
from keras_dl.models.vision.lenet import LeNet5
from keras_dl.models.vision.resnet import ResNet
from keras_dl.models.vision.vgg import VGG
from keras_dl.models.vision.vit import ViT
from keras_dl.signatures import Signature
from keras_dl.version import __version__

__all__ = [
    "DCGAN",
    "DDPM",
    "DETR",
    "FCN",
    "GAN",
    "GCNN",
    "GRU",
    "LSTM",
    "MLP",
    "NCSN",
    "TCN",
    "VAE",
    "VGG",
    "YOLO",
    "AdditiveAttention",
    "AlexNet",
    "Autoencoder",
    "ContinuousFlow",
    "ConvNeXt",
    "CycleGAN",
    "DenseNCSN",
    "FCNResNet",
    "FasterRCNN",
    "FunctionalModel",
    "GRUCell",
    "GraphPredictor",
    "GroupResNet",
    "LSTMCell",
    "LatentODE",
    "Layer",
    "LeNet5",
    "LuongAttention",
    "MaskRCNN",
    "Model",
    "MultiHeadAttention",
    "NeRF",
    "NodeClassifier",
    "ODEClassifier",
    "OccupancyNetwork",
    "PointNet",
    "PointNet2",
    "PointNet2Segmentation",
    "PointNetSegmentation",
    "RecurrentLM",
    "RecurrentNetwork",
    "ResNet",
    "ResidualMLP",
    "ScoreSDE",
    "Seq2Seq",
    "Signature",
    "SimpleRNN",
    "SimpleRNNCell",
    "StyleGAN",
    "StyleGAN2",
    "Transformer",
    "TransformerEncoder",
    "TransformerLM",
    "ViT",
    "YOLOv1",
    "__version__",
    "arguments",
    "averaging",
    "diffusion",
    "from_pretrained",
    "layers",
    "losses",
    "metrics",
    "optimizers",
    "predict",
    "schedules",
]

# What needs an extra, by the module that has it: imported when it is asked for, since `import keras_dl` needs none.
_LAZY = {"predict": "keras_dl.recipes.prediction"}


def __getattr__(name):
    if name in _LAZY:
        return getattr(_importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'keras_dl' has no attribute {name!r}")


def __dir__():
    return sorted({*globals(), *_LAZY})
