"""keras_dl: the landmark architectures of deep learning as Keras 3 layers and models on TensorFlow."""

import pathlib as _pathlib

import keras as _keras

if _keras.backend.backend() != "tensorflow":
    raise ImportError(
        f"keras_dl needs Keras on TensorFlow, and Keras runs on {_keras.backend.backend()!r}. "
        "Set the environment variable KERAS_BACKEND=tensorflow before Python starts."
    )

# In a clone, export/, recipes/ and benchmarks/ stand beside this folder; an installed package holds them inside.
_root = _pathlib.Path(__file__).resolve().parent.parent
if (_root / "setup.cfg").exists() and (_root / "recipes").is_dir():
    __path__.append(str(_root))

from keras_dl import arguments, averaging, layers, losses, schedules  # noqa: E402
from keras_dl.base import FunctionalModel, Layer, Model, Signature  # noqa: E402
from keras_dl.layers.attention import AdditiveAttention, LuongAttention, MultiHeadAttention  # noqa: E402
from keras_dl.layers.gru import GRU, GRUCell  # noqa: E402
from keras_dl.layers.lstm import LSTM, LSTMCell  # noqa: E402
from keras_dl.layers.rnn import SimpleRNN, SimpleRNNCell  # noqa: E402
from keras_dl.models.continuous.continuous_flow import ContinuousFlow  # noqa: E402
from keras_dl.models.continuous.latent_ode import LatentODE  # noqa: E402
from keras_dl.models.continuous.neural_ode import ODEClassifier  # noqa: E402
from keras_dl.models.generative.autoencoder import Autoencoder  # noqa: E402
from keras_dl.models.generative.vae import VAE  # noqa: E402
from keras_dl.models.graphs.gnn import GraphPredictor, NodeClassifier  # noqa: E402
from keras_dl.models.sequence.recurrent import RecurrentNetwork  # noqa: E402
from keras_dl.models.sequence.recurrent_lm import RecurrentLM  # noqa: E402
from keras_dl.models.sequence.seq2seq import Seq2Seq  # noqa: E402
from keras_dl.models.sequence.tcn import TCN  # noqa: E402
from keras_dl.models.sequence.transformer import Transformer  # noqa: E402
from keras_dl.models.sequence.transformer_encoder import TransformerEncoder  # noqa: E402
from keras_dl.models.sequence.transformer_lm import TransformerLM  # noqa: E402
from keras_dl.models.tabular.mlp import MLP  # noqa: E402
from keras_dl.models.tabular.residual_mlp import ResidualMLP  # noqa: E402
from keras_dl.models.vision.alexnet import AlexNet  # noqa: E402
from keras_dl.models.vision.convnext import ConvNeXt  # noqa: E402
from keras_dl.models.vision.gcnn import GCNN, GroupResNet  # noqa: E402
from keras_dl.models.vision.lenet import LeNet5  # noqa: E402
from keras_dl.models.vision.resnet import ResNet  # noqa: E402
from keras_dl.models.vision.vgg import VGG  # noqa: E402
from keras_dl.models.vision.vit import ViT  # noqa: E402
from keras_dl.version import __version__  # noqa: E402

__all__ = [
    "GCNN",
    "GRU",
    "LSTM",
    "MLP",
    "TCN",
    "VAE",
    "VGG",
    "AdditiveAttention",
    "AlexNet",
    "Autoencoder",
    "ContinuousFlow",
    "ConvNeXt",
    "FunctionalModel",
    "GRUCell",
    "GraphPredictor",
    "GroupResNet",
    "LSTMCell",
    "LatentODE",
    "Layer",
    "LeNet5",
    "LuongAttention",
    "Model",
    "MultiHeadAttention",
    "NodeClassifier",
    "ODEClassifier",
    "RecurrentLM",
    "RecurrentNetwork",
    "ResNet",
    "ResidualMLP",
    "Seq2Seq",
    "Signature",
    "SimpleRNN",
    "SimpleRNNCell",
    "Transformer",
    "TransformerEncoder",
    "TransformerLM",
    "ViT",
    "__version__",
    "arguments",
    "averaging",
    "layers",
    "losses",
    "schedules",
]
